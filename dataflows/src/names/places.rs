//! Places for ids: 0, 1, 2, ... in order of first use, for what leaves the engine with a short list of the names it uses.
//!
//! Ids become places through a table by id, so that nothing is hashed; of that table only what was used is cleared, so that many known
//! names cost an epoch nothing that does not name them.

use super::Interner;
use crate::vocabulary::Name;

/// Gives ids places. Lives as long as its engine, for the table.
#[derive(Default)]
pub(crate) struct Places {
    /// By id; [`Places::NONE`] for what is not used in the epoch.
    by_id: Vec<u32>,
    /// Ids by place.
    used: Vec<u32>,
}

impl Places {
    const NONE: u32 = u32::MAX;

    #[inline]
    pub(crate) fn of(&mut self, id: u32) -> u32 {
        match self.by_id.get(id as usize) {
            Some(&place) if place != Self::NONE => place,
            _ => self.add(id),
        }
    }

    #[cold]
    fn add(&mut self, id: u32) -> u32 {
        let at = id as usize;
        self.by_id.resize(self.by_id.len().max(at + 1), Self::NONE);
        self.by_id[at] = self.used.len() as u32; // fewer than there are ids
        self.used.push(id);
        self.by_id[at]
    }

    /// The names, by place. Starts anew.
    pub(crate) fn take(&mut self, names: &Interner) -> Vec<Name> {
        let Self { by_id, used } = self;
        let name = |id: u32| {
            by_id[id as usize] = Self::NONE;
            names.name(id).clone()
        };
        used.drain(..).map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_start_anew_with_every_epoch() {
        let mut interner = Interner::default();
        let ids: Vec<u32> = ["a", "b", "c"].iter().map(|name| interner.intern(name).0).collect();
        let mut places = Places::default();
        assert_eq!([2, 0, 2].map(|at| places.of(ids[at])), [0, 1, 0]);
        assert_eq!(places.take(&interner).iter().map(|name| &**name).collect::<Vec<_>>(), ["c", "a"]);
        assert_eq!([1, 2, 2].map(|at| places.of(ids[at])), [0, 1, 1]);
        assert_eq!(places.take(&interner).len(), 2);
        assert!(places.take(&interner).is_empty());
    }
}
