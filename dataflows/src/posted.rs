//! What is published of an object, with numbers for states: as publish and its slots have it (ids), and the rows of the checkpoint (places
//! in their list of states). [`Published`] is the same in names.
//!
//! Flat: the house copies and compares it without counting a reference or reading a name. Whoever keeps one in ids holds them.

use std::sync::Arc;

use crate::{
    digest::PublishedWords,
    names::Interner,
    vocabulary::{Cause, Mask, Millis, Name, Published},
};

/// What is published of an object, with numbers for states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// As in [`Published`].
    pub state: Option<u32>,
    /// As in [`Published`].
    pub behind: Option<u32>,
    /// As in [`Published`].
    pub mask: Option<PostedMask>,
    /// As in [`Published`].
    pub since_ms: Millis,
    /// As in [`Published`].
    pub cause: Cause,
    /// As in [`Published`].
    pub revision: u64,
}

/// An override that stands, with a number for its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostedMask {
    /// As in [`Mask`].
    pub state: u32,
    /// As in [`Mask`].
    pub since_ms: Millis,
    /// As in [`Mask`].
    pub until_ms: Option<Millis>,
}

impl Posted {
    /// The same with other numbers.
    #[must_use]
    pub fn renumbered(&self, mut number: impl FnMut(u32) -> u32) -> Self {
        let mask = self.mask.map(|mask| PostedMask { state: number(mask.state), ..mask });
        Self { state: self.state.map(&mut number), behind: self.behind.map(&mut number), mask, ..*self }
    }

    /// The numbers in it.
    pub(crate) fn states(self) -> impl Iterator<Item = u32> {
        [self.state, self.behind, self.mask.map(|mask| mask.state)].into_iter().flatten()
    }

    /// A row without names.
    pub(crate) fn of(published: &Published, mut number: impl FnMut(&Name) -> u32) -> Self {
        let Published { state, behind, mask, since_ms, cause, revision } = published;
        let mask = mask.as_ref().map(|mask| PostedMask { state: number(&mask.state), since_ms: mask.since_ms, until_ms: mask.until_ms });
        let (state, behind) = (state.as_ref().map(&mut number), behind.as_ref().map(&mut number));
        Self { state, behind, mask, since_ms: *since_ms, cause: *cause, revision: *revision }
    }

    /// The row with its names.
    pub(crate) fn published<'a>(&self, name: impl Fn(u32) -> &'a Name) -> Arc<Published> {
        let name = |state: u32| name(state).clone();
        let mask = self.mask.map(|mask| Mask { state: name(mask.state), since_ms: mask.since_ms, until_ms: mask.until_ms });
        let (state, behind) = (self.state.map(name), self.behind.map(name));
        Arc::new(Published { state, behind, mask, since_ms: self.since_ms, cause: self.cause, revision: self.revision })
    }

    /// What the digest of a row in ids is made of.
    pub(crate) fn words(&self, states: &Interner) -> PublishedWords {
        self.words_of(|state| states.digest(state))
    }

    /// What the digest of the row is made of, given the hash of each of its states' names.
    #[must_use]
    pub fn words_of(&self, digest: impl Fn(u32) -> u64) -> PublishedWords {
        PublishedWords {
            state: self.state.map(&digest),
            behind: self.behind.map(&digest),
            mask: self.mask.map(|mask| (digest(mask.state), mask.since_ms, mask.until_ms)),
            since_ms: self.since_ms,
            cause: self.cause,
            revision: self.revision,
        }
    }
}
