//! The words of the dataflow: what goes in (events, numbered by runs) and what comes out (changes and rows).
//!
//! Input of every stage of this crate. Times are milliseconds of the partition's clock unless a name says otherwise; names are shared,
//! immutable UTF-8. Nothing here does more than hold values and the
//! arithmetic that gives them their meaning: when something is due ([`due_at`]), what stands where in a run ([`Run::at`]).

use std::sync::Arc;

/// Dataflow time: one number per event, given in arrival order by whoever feeds the engine. Rises over the life of a process, starts
/// anew with it, and never leaves it.
pub type Seq = u64;
/// A partition of the source.
pub type Partition = i32;
/// The place of a record in its partition.
pub type Offset = i64;
/// Milliseconds since the Unix epoch (clocks, timestamps) or of duration, as the name says.
pub type Millis = i64;
/// An object's, agent's or state's name.
pub type Name = Arc<str>;

/// Clocks stand at multiples of this many milliseconds; due times round up to one.
pub const TICK_MS: Millis = 100;

/// The first multiple of [`TICK_MS`] at or after `time_ms`.
#[must_use]
pub fn next_multiple(time_ms: Millis) -> Millis {
    time_ms.saturating_add(TICK_MS - 1).div_euclid(TICK_MS) * TICK_MS
}

/// The multiple at which something is due `after_ms` from a clock. Rounds up; never the clock's own multiple, whose tick is over.
#[must_use]
pub fn due_at(clock_ms: Millis, after_ms: Millis) -> Millis {
    next_multiple(clock_ms.saturating_add(after_ms.max(1)))
}

/// What one source record asks for, decoded. The object, and with it the partition, stand beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// An agent claims a state.
    Report {
        /// Who claims.
        agent: &'a str,
        /// The state claimed.
        state: &'a str,
        /// The report's own time: orders reports where the rule set says `order = timestamp`, and is shown. Never the clock.
        ts_ms: Millis,
        /// How long the report is good for, counted from the clock; kept with the report.
        ttl_ms: Option<Millis>,
    },
    /// An agent takes its report back.
    Withdraw {
        /// Who withdraws.
        agent: &'a str,
        /// As in a report: a late withdrawal is ignored like a late report.
        ts_ms: Millis,
    },
    /// The object is pinned to a state, over whatever stands behind the pin.
    Override {
        /// The state shown while the override stands.
        state: &'a str,
        /// How long the pin holds, counted from the clock; for good if absent.
        for_ms: Option<Millis>,
    },
    /// The pin is taken off.
    Lift,
    /// Everything known of the object goes: reports, override, published state.
    Purge,
}

/// Consecutive seqs of one partition: records at consecutive offsets under one clock, or ticks at consecutive multiples.
///
/// Runs cover every seq exactly once, in rising order; every worker gets all of them, so that seq → (partition, offset, clock, event
/// number) is arithmetic and records need not carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first seq.
    pub first: Seq,
    /// How many seqs.
    pub count: u64,
    /// Whose events they are.
    pub partition: Partition,
    /// The number of the first event among all events of its partition (records and ticks), across restarts: a change's revision.
    pub event: u64,
    /// Records: the clock under which they stand. Ticks: the multiple of the first; each further tick stands [`TICK_MS`] later.
    pub clock_ms: Millis,
    /// Records: the offset of the first. Ticks have none.
    pub offset: Option<Offset>,
}

impl Run {
    /// The first seq after the run.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.first + self.count
    }

    /// What is known of the event at `seq`, which must lie in the run.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Moment {
        debug_assert!((self.first..self.end()).contains(&seq), "seq {seq} outside of its run");
        let nth = seq - self.first;
        let (clock_ms, offset) = match self.offset {
            Some(first) => (self.clock_ms, Some(first + nth as Offset)),
            None => (self.clock_ms + nth as Millis * TICK_MS, None),
        };
        Moment { partition: self.partition, event: self.event + nth, clock_ms, offset }
    }
}

/// Where and when an event stands in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Whose event it is.
    pub partition: Partition,
    /// The event's number in its partition.
    pub event: u64,
    /// The partition's clock at the event.
    pub clock_ms: Millis,
    /// The record's offset; none for a tick.
    pub offset: Option<Offset>,
}

/// Why a published state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// A report or withdrawal.
    Vote,
    /// An override began, ended or was lifted.
    Override,
    /// A held verdict stood long enough.
    Hold,
    /// A report's time ran out.
    Expiry,
    /// The object was purged.
    Purge,
    /// An unchanged state was repeated.
    Reminder,
    /// Neither report nor change for too long.
    Forget,
    /// A task asked for it.
    Task,
    /// The house's rules are others than when the state was stored.
    Rule,
}

impl Cause {
    /// All there are, for whoever reads names back.
    pub const ALL: [Self; 9] =
        [Self::Vote, Self::Override, Self::Hold, Self::Expiry, Self::Purge, Self::Reminder, Self::Forget, Self::Task, Self::Rule];

    /// The cause's name on the sink, in the API and in the checkpoint.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Override => "override",
            Self::Hold => "hold",
            Self::Expiry => "expiry",
            Self::Purge => "purge",
            Self::Reminder => "reminder",
            Self::Forget => "forget",
            Self::Task => "task",
            Self::Rule => "rule",
        }
    }
}

/// The weight that each state has, and how many reports are live, as shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Votes {
    /// Weight by state, by falling weight, then by name; no zero weights.
    pub weights: Vec<(Name, i64)>,
    /// Live reports, counted whatever their weight.
    pub live: i64,
}

/// One record of the sink: an object's published state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The event that caused it.
    pub seq: Seq,
    /// The object's partition.
    pub partition: Partition,
    /// The object.
    pub object: Name,
    /// What is published from now on; none: not published (a tombstone).
    pub state: Option<Name>,
    /// What was published before.
    pub previous: Option<Name>,
    /// The clock since which the state stands.
    pub since_ms: Millis,
    /// The clock at which it was published.
    pub at_ms: Millis,
    /// Why.
    pub cause: Cause,
    /// The name of the object's rule.
    pub rule: Name,
    /// The tally at the event.
    pub tally: Votes,
    /// The causing event's number in its partition: rises per object, has gaps, never resets.
    pub revision: u64,
    /// The causing record's offset; none where a tick or a changed rule caused it.
    pub offset: Option<Offset>,
}

/// An override that stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mask {
    /// The state shown.
    pub state: Name,
    /// The clock since which the pin stands.
    pub since_ms: Millis,
    /// The multiple at which it ends; none: until lifted.
    pub until_ms: Option<Millis>,
}

/// What is published of an object, with or without a state: a row of the checkpoint and of the API (the arrangement `published` has its slot).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Published {
    /// What the sink and the API show: the mask's state if there is one, else `behind`.
    pub state: Option<Name>,
    /// What stands behind the mask (equal to `state` where there is none).
    pub behind: Option<Name>,
    /// The override, if one stands.
    pub mask: Option<Mask>,
    /// The clock since which `state` stands.
    pub since_ms: Millis,
    /// Why `state` was published last.
    pub cause: Cause,
    /// The revision of the last change; 0 if there was none.
    pub revision: u64,
}

/// An agent's latest report: a row of the checkpoint and of the API (the arrangement `reports` has its slot).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Report {
    /// The state claimed.
    pub state: Name,
    /// The report's own time. Where neither rule nor schedule looks at recency: of the report that last changed the claim.
    pub ts_ms: Millis,
    /// Its offset, likewise.
    pub offset: Offset,
    /// The multiple at which it expires; none without a ttl.
    pub due_ms: Option<Millis>,
}

/// One row of the checkpoint: the last word on its key as of the end of an epoch. No value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The object's partition.
    pub partition: Partition,
    /// The object.
    pub object: Name,
    /// Which row of the object it is, and its value.
    pub value: RowValue,
}

/// The kinds of rows of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowValue {
    /// An agent's latest report; none: it has none any more.
    Report(Name, Option<Report>),
    /// What is published of the object; none: the object is not known any more.
    Object(Option<Arc<Published>>),
}
