//! The plan of a house: which rule decides which objects, and what happens where a rule decides nothing.
//!
//! Declarative, validated once at start and then shared by all workers; the engine compiles it to ids, the reference fold
//! ([`crate::reference`]) reads it as it stands.

use std::{collections::BTreeSet, fmt, sync::Arc};

use crate::rule::{ReportsRule, TallyRule};

/// The greatest weight of one agent. Keeps the sum over [`AGENTS_PER_OBJECT_MAX`] agents within an `i32`.
pub const WEIGHT_MAX: u32 = 1_000;
/// The most agents that may report on one object.
pub const AGENTS_PER_OBJECT_MAX: usize = 1_000_000;
const _: () = assert!(WEIGHT_MAX as u64 * AGENTS_PER_OBJECT_MAX as u64 <= i32::MAX as u64);

/// Rule sets by object prefix; the longest matching prefix wins.
#[derive(Clone, Debug)]
pub struct Plan {
    sets: Vec<RuleSet>,
}

/// What decides the objects of one prefix.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// Objects whose names start with it; empty: all.
    pub prefix: String,
    /// The rule.
    pub rule: Rule,
    /// Weights by agent name or glob (`*` any characters, `?` one); the first that matches counts, 1 where none does; 0 is heard but not counted.
    pub weights: Vec<(String, u32)>,
    /// Fewer live reports (of whatever weight) give no verdict.
    pub min_reports: u32,
    /// What shares are counted against.
    pub of: Of,
    /// Where the rule gives no verdict.
    pub on_none: OnNone,
    /// Where no live report is left.
    pub on_empty: OnEmpty,
    /// Which of an agent's reports is its latest.
    pub order: Order,
}

/// The rules. What each decides in which case is written down in the files of `tests/transcripts`.
#[derive(Clone)]
pub enum Rule {
    /// The state of the newest live report; weights don't apply.
    Latest,
    /// The state with more than half of the weight (of all live reports, or of N).
    Majority,
    /// The state with strictly the most weight.
    Plurality,
    /// The first state of the list that a counted report claims; else `otherwise`, if there are counted reports.
    Any {
        /// States by falling priority.
        priority: Vec<String>,
        /// The state where none of the list is claimed; none: no verdict.
        otherwise: Option<String>,
    },
    /// The heaviest state with enough weight; on a draw of the heaviest none.
    Quorum(Quorum),
    /// The state that all counted reports agree on (with `of = N`: of at least weight N).
    Unanimous,
    /// A rule of one's own over the tally.
    Tally(Arc<str>, Arc<dyn TallyRule>),
    /// A rule of one's own over all live reports.
    Reports(Arc<str>, Arc<dyn ReportsRule>),
}

/// How much is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorum {
    /// At least this weight.
    Count(u32),
    /// At least this share, in parts of ten thousand (6000 = 60 %), of the weight of all live reports, or of N.
    ShareBasisPoints(u32),
}

/// What shares are counted against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The weight of the live reports.
    Live,
    /// This many expected agents.
    Expected(u32),
}

/// What becomes of the published state where a rule gives no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnNone {
    /// It stays; what never was stays unpublished.
    Keep,
    /// Of the heaviest states the one reported last. Reports of weight 0 don't count.
    Latest,
    /// This state.
    State(String),
}

/// What becomes of the published state where no live report is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEmpty {
    /// It is removed.
    Remove,
    /// It stays.
    Keep,
}

/// Which of two reports is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The one that arrived later (by offset).
    Arrival,
    /// The one with the higher `ts`; of equal ones the later offset. A report older than its agent's latest is late: ignored, counted.
    Timestamp,
}

/// A plan that can't be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// No rule set has the empty prefix, so some objects would have no rule.
    NoDefault,
    /// Two rule sets have this prefix.
    TwicePrefix(String),
    /// A setting of the rule set with this prefix is out of its range.
    Setting {
        /// The rule set's prefix.
        prefix: String,
        /// The setting, the value and the fix.
        problem: String,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDefault => write!(f, "no rule for objects in general: one rule must have prefix = \"\""),
            Self::TwicePrefix(prefix) if prefix.is_empty() => {
                write!(f, "two rules have prefix = \"\" (which is that of a rule without a prefix): keep one, or give one a prefix")
            }
            Self::TwicePrefix(prefix) => write!(f, "two rules have prefix = {prefix:?}: keep one"),
            Self::Setting { prefix, problem } => write!(f, "rule with prefix {prefix:?}: {problem}"),
        }
    }
}

impl std::error::Error for PlanError {}

impl RuleSet {
    /// The rule for all objects, with the defaults of every setting.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            prefix: String::new(),
            rule,
            weights: Vec::new(),
            min_reports: 1,
            of: Of::Live,
            on_none: OnNone::Keep,
            on_empty: OnEmpty::Remove,
            order: Order::Arrival,
        }
    }

    fn check(&self) -> Result<(), PlanError> {
        let problem = match (&self.rule, self.of) {
            _ if self.weights.iter().any(|(_, weight)| *weight > WEIGHT_MAX) => format!("a weight is above {WEIGHT_MAX}: lower it"),
            (Rule::Quorum(Quorum::Count(0)), _) => "quorum k = 0 is always met: set 1 or more".to_owned(),
            (Rule::Quorum(Quorum::ShareBasisPoints(share)), _) if !(1..=10_000).contains(share) => {
                "quorum share is outside of 0.01 % to 100 %: set one within".to_owned()
            }
            (Rule::Any { priority, .. }, _) if priority.is_empty() => "any has an empty list of states: name at least one".to_owned(),
            (_, Of::Expected(0)) => "of = 0 expects nobody: set 1 or more, or \"live\"".to_owned(),
            _ => return Ok(()),
        };
        Err(PlanError::Setting { prefix: self.prefix.clone(), problem })
    }
}

impl Plan {
    /// A plan of these rule sets.
    ///
    /// # Errors
    /// When, and only when, a setting is out of range, a prefix stands twice, or no set has the empty prefix.
    pub fn new(mut sets: Vec<RuleSet>) -> Result<Self, PlanError> {
        let mut seen = BTreeSet::new();
        for set in &sets {
            set.check()?;
            if !seen.insert(set.prefix.clone()) {
                return Err(PlanError::TwicePrefix(set.prefix.clone()));
            }
        }
        if !seen.contains("") {
            return Err(PlanError::NoDefault);
        }
        sets.sort_by_key(|set| std::cmp::Reverse(set.prefix.len())); // so that the first match is the longest
        Ok(Self { sets })
    }

    /// A plan with one rule for all objects.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn of(set: RuleSet) -> Result<Self, PlanError> {
        Self::new(vec![set])
    }

    /// All rule sets, longest prefix first.
    #[must_use]
    pub fn sets(&self) -> &[RuleSet] {
        &self.sets
    }

    /// The place in [`Plan::sets`] of the set that decides this object.
    #[must_use]
    pub fn set_of(&self, object: &str) -> usize {
        self.sets.iter().position(|set| object.starts_with(set.prefix.as_str())).expect("a plan has a set with the empty prefix")
    }
}

impl Rule {
    /// The rule's name, as configured and as the sink shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Latest => "latest",
            Self::Majority => "majority",
            Self::Plurality => "plurality",
            Self::Any { .. } => "any",
            Self::Quorum(_) => "quorum",
            Self::Unanimous => "unanimous",
            Self::Tally(name, _) | Self::Reports(name, _) => name,
        }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { priority, otherwise } => write!(f, "any {priority:?} otherwise {otherwise:?}"),
            Self::Quorum(quorum) => write!(f, "{quorum:?}"),
            other => f.write_str(other.name()),
        }
    }
}
