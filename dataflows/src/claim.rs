//! A report in ids, as it stands in its slot: what the index and the arrangement of reports point at, and what rules and rows read.

use crate::{
    digest::ClaimWords,
    names::{AgentId, Names},
    tally::StateId,
    vocabulary::{Millis, Offset, Report},
};

/// A report in ids. Flat, without padding: there is one for each report held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) agent: AgentId,
    pub(crate) state: StateId,
    pub(crate) ts_ms: Millis,
    pub(crate) offset: Offset,
    /// The multiple at which it expires, or [`Claim::NEVER`].
    pub(crate) due_ms: Millis,
}

impl Claim {
    /// No ttl. Not an option, so that the claim stays small.
    pub(crate) const NEVER: Millis = Millis::MAX;

    pub(crate) fn due(&self) -> Option<Millis> {
        (self.due_ms != Self::NEVER).then_some(self.due_ms)
    }

    /// What its digest is made of.
    pub(crate) fn words(&self, names: &Names) -> ClaimWords {
        ClaimWords { state: names.states.digest(self.state), ts_ms: self.ts_ms, offset: self.offset, due_ms: self.due() }
    }

    /// The claim with its name.
    pub(crate) fn report(&self, names: &Names) -> Report {
        Report { state: names.states.name(self.state).clone(), ts_ms: self.ts_ms, offset: self.offset, due_ms: self.due() }
    }
}
