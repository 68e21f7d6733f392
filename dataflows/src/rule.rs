//! Rules: from what agents claim of one object to a verdict. Plain functions of their arguments; the operators hold the plumbing.

pub(crate) mod decide;

use crate::vocabulary::{Millis, Offset};

/// A rule of one's own over the tally. Must be a pure function: called at every change of the tally, on any worker, again after a restart.
pub trait TallyRule: Send + Sync {
    /// States that the rule may decide though no report claims them.
    fn named_states(&self) -> Vec<String> {
        Vec::new()
    }

    /// The decided state, or none. `votes` holds each state with weight, in no particular order; `live` counts the live reports.
    /// A state that is neither in `votes` nor named counts as none.
    fn decide<'a>(&'a self, votes: &[Vote<'a>], live: u32) -> Option<&'a str>;
}

/// A rule of one's own over all live reports of an object: sees agents and times. Must be a pure function, as [`TallyRule`].
pub trait ReportsRule: Send + Sync {
    /// As in [`TallyRule`].
    fn named_states(&self) -> Vec<String> {
        Vec::new()
    }

    /// The decided state, or none. `reports` is not empty and in no particular order.
    fn decide<'a>(&'a self, reports: &[Ballot<'a>]) -> Option<&'a str>;
}

/// A state and the weight it has; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote<'a> {
    /// The state.
    pub state: &'a str,
    /// Its weight.
    pub weight: u32,
}

/// One live report, as a rule over reports sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot<'a> {
    /// Who claims.
    pub agent: &'a str,
    /// What.
    pub state: &'a str,
    /// The agent's weight; 0 is heard but not counted.
    pub weight: u32,
    /// The report's own time.
    pub ts_ms: Millis,
    /// The report's place in its partition.
    pub offset: Offset,
}
