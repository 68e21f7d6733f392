//! What can be asked of the arrangements, and the answers. An answer is as of L, the last committed seq, inclusive.

use std::sync::Arc;

use crate::{
    plan::OnEmpty,
    vocabulary::{Name, Partition, Published, Report, Votes},
};

/// One known object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectView {
    /// Its name.
    pub object: Name,
    /// Its partition.
    pub partition: Partition,
    /// What is published of it.
    pub published: Arc<Published>,
    /// The name of its rule.
    pub rule: Name,
    /// Its tally.
    pub votes: Votes,
}

/// One agent's latest report on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportView {
    /// Who reports.
    pub agent: Name,
    /// The report.
    pub report: Report,
    /// The weight it counts with under the object's rule.
    pub weight: u32,
}

/// Everything that leads to what is published of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The object, its published state, its tally.
    pub object: ObjectView,
    /// Its live reports, by agent.
    pub reports: Vec<ReportView>,
    /// What the rule (with `min_reports` and `on_none`) decides now; none: no verdict.
    pub verdict: Option<Name>,
    /// The rule set's prefix.
    pub prefix: String,
    /// The rule set in words: the rule and its settings.
    pub rule_text: String,
    /// Its `min_reports`.
    pub min_reports: u32,
    /// Its `on_empty`.
    pub on_empty: OnEmpty,
    /// Why it is what it is: one sentence.
    pub why: String,
}

/// Which objects a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Names that start with it.
    pub prefix: String,
    /// Only objects published with this state; the inner none asks for objects without one.
    pub state: Option<Option<String>>,
    /// Only names (and partitions) after this one.
    pub after: Option<(Name, Partition)>,
    /// At most so many.
    pub limit: usize,
}

/// Objects by published state, by name of state; the first may be none: known objects without a state.
pub type Summary = Vec<(Option<Name>, i64)>;
