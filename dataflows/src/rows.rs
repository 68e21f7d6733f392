//! Rows of the checkpoint, out and in: what an epoch left of one partition, or what comes back of it, in numbers instead of names.
//!
//! On the way out made by the engine as it closes an epoch (`make`), read by whoever writes the checkpoint; on the way back made by whoever
//! reads it, taken by the engine. The name of an object stands once for each run of its rows, all such names in one string; agents and
//! states are numbers in the lists of those that the rows name, which may be shared by several rows. So a row counts no reference and looks
//! up no string, and many rows move between threads, and go, as a few blocks of memory. [`Row`] is the same in names, for tests.

pub(crate) mod make;

use std::{collections::HashMap, ops::Range, sync::Arc};

pub use crate::posted::{Posted, PostedMask};
use crate::vocabulary::{Millis, Name, Offset, Partition, Report, Row, RowValue};

/// Rows of one partition, those of one object adjacent. Equal where the numbers are, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    partition: Partition,
    lines: Vec<Line>,
    /// In the order of their rows. Not empty, unless there is no row.
    objects: Vec<Begin>,
    /// The objects' names, one after the other.
    object_names: String,
    published: Vec<Posted>,
    named: Arc<Named>,
}

/// One row, without its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// An agent's latest report.
    Report {
        /// Its place in [`Rows::agents`].
        agent: u32,
        /// Its place in [`Rows::states`].
        state: u32,
        /// As in [`Report`].
        ts_ms: Millis,
        /// As in [`Report`].
        offset: Offset,
        /// As in [`Report`].
        due_ms: Option<Millis>,
    },
    /// An agent, by its place in [`Rows::agents`], has no report any more.
    NoReport(u32),
    /// What is published of the object, by its place: see [`Rows::published`].
    Object(u32),
    /// The object is not known any more.
    NoObject,
}

/// Where the rows of an object begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    /// In `lines`.
    row: usize,
    /// In `object_names`.
    name: usize,
}

/// What rows name: agents and states, by the numbers that stand for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Agents.
    pub agents: Vec<Name>,
    /// States.
    pub states: Vec<Name>,
}

impl Rows {
    /// No rows yet, of this partition, with numbers for these names.
    #[must_use]
    pub fn naming(partition: Partition, named: &Arc<Named>) -> Self {
        Self { partition, named: Arc::clone(named), ..Self::default() }
    }

    /// The same as these rows, which must be of one partition.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let mut made = Self { partition: rows.first().map_or(0, |row| row.partition), ..Self::default() };
        let (mut agents, mut states) = (Numbered::default(), Numbered::default());
        for run in rows.chunk_by(|one, two| one.object == two.object) {
            made.begin(&run[0].object);
            for row in run {
                debug_assert_eq!(row.partition, made.partition, "rows of one partition");
                match &row.value {
                    RowValue::Report(agent, Some(report)) => {
                        let (agent, state) = (agents.of(agent), states.of(&report.state));
                        let Report { ts_ms, offset, due_ms, .. } = *report;
                        made.lines.push(Line::Report { agent, state, ts_ms, offset, due_ms });
                    }
                    RowValue::Report(agent, None) => made.lines.push(Line::NoReport(agents.of(agent))),
                    RowValue::Object(published) => {
                        made.push_object(published.as_ref().map(|published| Posted::of(published, |state| states.of(state))));
                    }
                }
            }
        }
        made.named = Arc::new(Named { agents: agents.names, states: states.names });
        made
    }

    /// The same in names.
    #[must_use]
    pub fn to_rows(&self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.len());
        for (object, lines) in self.runs(0..self.len()) {
            let object = Name::from(object);
            rows.extend(lines.iter().map(|line| Row { partition: self.partition, object: object.clone(), value: self.value(*line) }));
        }
        rows
    }

    /// Whose rows they are.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many runs of rows of one object.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The agents that rows may name. Not every one is named here: other partitions' rows have the same list.
    #[must_use]
    pub fn agents(&self) -> &[Name] {
        &self.named.agents
    }

    /// The states that rows may name, as [`Rows::agents`].
    #[must_use]
    pub fn states(&self) -> &[Name] {
        &self.named.states
    }

    /// What a [`Line::Object`] of these rows says, its states as places in [`Rows::states`].
    ///
    /// # Panics
    /// If there is no such place.
    #[must_use]
    pub fn published(&self, place: u32) -> &Posted {
        &self.published[place as usize]
    }

    /// These of the rows, by object.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = (&str, &[Line])> {
        let first = self.objects.partition_point(|object| object.row <= rows.start).saturating_sub(1);
        let end = if rows.is_empty() { first } else { self.objects.partition_point(|object| object.row < rows.end) };
        (first..end).map(move |at| {
            let begin = self.objects[at];
            let next = self.objects.get(at + 1).copied().unwrap_or(Begin { row: self.len(), name: self.object_names.len() });
            (&self.object_names[begin.name..next.name], &self.lines[begin.row.max(rows.start)..next.row.min(rows.end)])
        })
    }

    /// The first row from this one on with which the rows of an object begin.
    #[must_use]
    pub fn begin_from(&self, row: usize) -> Option<usize> {
        let after = self.objects.partition_point(|object| object.row < row);
        self.objects.get(after).map(|object| object.row)
    }

    fn value(&self, line: Line) -> RowValue {
        let agent = |place: u32| self.named.agents[place as usize].clone();
        let state = |place: u32| &self.named.states[place as usize];
        match line {
            Line::Report { agent: by, state: claimed, ts_ms, offset, due_ms } => {
                RowValue::Report(agent(by), Some(Report { state: state(claimed).clone(), ts_ms, offset, due_ms }))
            }
            Line::NoReport(by) => RowValue::Report(agent(by), None),
            Line::Object(place) => RowValue::Object(Some(self.published(place).published(state))),
            Line::NoObject => RowValue::Object(None),
        }
    }

    /// The rows that follow, at least one, are this object's.
    pub fn begin(&mut self, object: &str) {
        self.objects.push(Begin { row: self.lines.len(), name: self.object_names.len() });
        self.object_names.push_str(object);
    }

    /// A row of an agent's report, or of none.
    pub fn push_report(&mut self, line: Line) {
        debug_assert!(matches!(line, Line::Report { .. } | Line::NoReport(_)), "objects' rows are pushed as what they say");
        self.lines.push(line);
    }

    /// What is published of the object.
    pub fn push_object(&mut self, published: Option<Posted>) {
        let place = u32::try_from(self.published.len()).expect("fewer than 2^32 rows in an epoch");
        self.lines.push(if published.is_some() { Line::Object(place) } else { Line::NoObject });
        self.published.extend(published);
    }
}

/// Names with numbers, in order of first use.
#[derive(Default)]
struct Numbered {
    numbers: HashMap<Name, u32>,
    names: Vec<Name>,
}

impl Numbered {
    fn of(&mut self, name: &Name) -> u32 {
        *self.numbers.entry(name.clone()).or_insert_with(|| {
            self.names.push(name.clone());
            u32::try_from(self.names.len() - 1).expect("fewer than 2^32 names in an epoch")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Cause, Published};

    fn every_row() -> Vec<Row> {
        let row = |object: &str, value| Row { partition: 3, object: object.into(), value };
        let report = |state: &str, due_ms| Some(Report { state: state.into(), ts_ms: 5, offset: 6, due_ms });
        let published = Published { state: None, behind: None, mask: None, since_ms: 7, cause: Cause::Vote, revision: 8 };
        vec![
            row("a", RowValue::Report("x".into(), report("up", None))),
            row("a", RowValue::Report("y".into(), report("down", Some(9)))),
            row("a", RowValue::Object(Some(published.clone().into()))),
            row("", RowValue::Report("x".into(), None)),
            row("ß", RowValue::Object(None)),
            row("ß", RowValue::Object(Some(published.into()))),
            row("a", RowValue::Report("x".into(), report("up", Some(Millis::MAX)))),
        ]
    }

    #[test]
    fn rows_come_back_in_names() {
        let rows = Rows::of(&every_row());
        assert_eq!((rows.to_rows(), rows.len(), rows.partition()), (every_row(), 7, 3));
        assert_eq!((rows.agents().len(), rows.states().len()), (2, 2));
        assert!(Rows::of(&[]).is_empty() && Rows::of(&[]).to_rows().is_empty());
        assert_eq!(size_of::<Line>(), 40, "it is copied more than anything else of a row");
    }

    #[test]
    fn any_range_of_rows_has_its_objects() {
        let (rows, named) = (Rows::of(&every_row()), every_row());
        for start in 0..=rows.len() {
            for end in start..=rows.len() {
                let runs: Vec<_> = rows.runs(start..end).collect();
                assert!(runs.iter().all(|(_, lines)| !lines.is_empty()), "{start}..{end}");
                let found: Vec<_> = runs.iter().flat_map(|(object, lines)| lines.iter().map(|line| (*object, rows.value(*line)))).collect();
                let expected: Vec<_> = named[start..end].iter().map(|row| (&*row.object, row.value.clone())).collect();
                assert_eq!(found, expected, "{start}..{end}");
            }
        }
        let begins: Vec<_> = (0..=rows.len()).map(|row| rows.begin_from(row)).collect();
        assert_eq!(begins, [Some(0), Some(3), Some(3), Some(3), Some(4), Some(6), Some(6), None]);
    }
}
