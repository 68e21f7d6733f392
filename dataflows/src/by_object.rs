//! The order by object in which arrangements and rows want what an epoch left: sorted as small keys, since the things themselves are large.

use crate::names::ObjectId;

/// An object, and the place in its list of something about it: in one number, as that is sorted fastest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByObject(u64);

impl ByObject {
    /// For the thing at this place.
    #[inline]
    pub(crate) fn new(object: ObjectId, place: usize) -> Self {
        let place = u32::try_from(place).expect("fewer than 2^32 things of a kind in an epoch");
        Self(u64::from(object) << 32 | u64::from(place))
    }

    #[inline]
    pub(crate) fn object(self) -> ObjectId {
        (self.0 >> 32) as ObjectId
    }

    #[inline]
    pub(crate) fn place(self) -> usize {
        self.0 as u32 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_first_then_places() {
        let mut keys = [(7, 1), (u32::MAX, 0), (0, u32::MAX as usize), (7, 0)].map(|(object, place)| ByObject::new(object, place));
        keys.sort_unstable();
        assert_eq!(keys.map(|key| (key.object(), key.place())), [(0, u32::MAX as usize), (7, 0), (7, 1), (u32::MAX, 0)]);
    }
}
