//! The order by object in which arrangements and rows want what an epoch left: sorted as small keys, since the things themselves are large.

use prefetch_index::prefetch_index;

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

/// How many things ahead of its use one is prefetched.
const AHEAD: usize = 16;

/// The things at the places of keys, in the keys' order. Each is prefetched a little ahead of its turn, as in that order they lie all over
/// their list.
pub(crate) fn in_order<'a, T>(keys: &'a [ByObject], things: &'a [T]) -> impl Iterator<Item = &'a T> {
    let prefetch = move |at: usize| keys.get(at).into_iter().for_each(|key| prefetch_index(things, key.place()));
    (0..AHEAD).for_each(prefetch);
    keys.iter().enumerate().map(move |(at, key)| {
        prefetch(at + AHEAD);
        &things[key.place()]
    })
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
