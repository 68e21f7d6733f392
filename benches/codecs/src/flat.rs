//! A row as codecs take it that know tuples, options and strings only; and back.

use std::{collections::HashMap, sync::Arc};

use statehouse_dataflows::vocabulary::{Cause, Mask, Name, Published, Report, Row, RowValue};

/// State, ts, offset, due.
type FlatReport = (String, i64, i64, Option<i64>);
/// (State, behind), mask, (since, cause, revision).
type FlatPublished = ((Option<String>, Option<String>), Option<(String, i64, Option<i64>)>, (i64, u8, u64));
/// Object; agent with its report, if it has one; or what is published, if anything.
pub(crate) type Flat = (String, Option<(String, Option<FlatReport>)>, Option<FlatPublished>);

/// The same, with names borrowed from wherever they are.
pub(crate) struct Borrowed<'a> {
    pub(crate) object: &'a str,
    pub(crate) report: Option<(&'a str, Option<(&'a str, i64, i64, Option<i64>)>)>,
    pub(crate) published: Option<BorrowedPublished<'a>>,
}

pub(crate) struct BorrowedPublished<'a> {
    pub(crate) state: Option<&'a str>,
    pub(crate) behind: Option<&'a str>,
    pub(crate) mask: Option<(&'a str, i64, Option<i64>)>,
    pub(crate) since_ms: i64,
    pub(crate) cause: u8,
    pub(crate) revision: u64,
}

/// The causes that the workload has, by number.
const CAUSES: [Cause; 2] = [Cause::Vote, Cause::Override];

pub(crate) fn of(row: &Row) -> Flat {
    let object = row.object.to_string();
    match &row.value {
        RowValue::Report(agent, report) => {
            let report = report.as_ref().map(|report| (report.state.to_string(), report.ts_ms, report.offset, report.due_ms));
            (object, Some((agent.to_string(), report)), None)
        }
        RowValue::Object(published) => (object, None, published.as_ref().map(|published| flat_published(published))),
    }
}

fn flat_published(published: &Published) -> FlatPublished {
    let text = |name: &Option<Name>| name.as_ref().map(ToString::to_string);
    let mask = published.mask.as_ref().map(|mask| (mask.state.to_string(), mask.since_ms, mask.until_ms));
    let cause = CAUSES.iter().position(|cause| *cause == published.cause).expect("a cause of the workload") as u8;
    ((text(&published.state), text(&published.behind)), mask, (published.since_ms, cause, published.revision))
}

pub(crate) fn borrowed((object, report, published): &Flat) -> Borrowed<'_> {
    let report = report.as_ref().map(|(agent, report)| {
        (agent.as_str(), report.as_ref().map(|(state, ts_ms, offset, due_ms)| (state.as_str(), *ts_ms, *offset, *due_ms)))
    });
    let published = published.as_ref().map(|((state, behind), mask, (since_ms, cause, revision))| BorrowedPublished {
        state: state.as_deref(),
        behind: behind.as_deref(),
        mask: mask.as_ref().map(|(state, since_ms, until_ms)| (state.as_str(), *since_ms, *until_ms)),
        since_ms: *since_ms,
        cause: *cause,
        revision: *revision,
    });
    Borrowed { object, report, published }
}

/// What columnar hands out for a row.
pub(crate) fn of_columns<'a>((object, report, published): columnar::Ref<'a, Flat>) -> Borrowed<'a> {
    let text = |bytes: &'a [u8]| str::from_utf8(bytes).expect("just written");
    let report = report
        .map(|(agent, report)| (text(agent), report.map(|(state, ts_ms, offset, due_ms)| (text(state), *ts_ms, *offset, due_ms.copied()))));
    let published = published.map(|((state, behind), mask, (since_ms, cause, revision))| BorrowedPublished {
        state: state.map(text),
        behind: behind.map(text),
        mask: mask.map(|(state, since_ms, until_ms)| (text(state), *since_ms, until_ms.copied())),
        since_ms: *since_ms,
        cause: *cause,
        revision: *revision,
    });
    Borrowed { object: text(object), report, published }
}

/// Rows with their names shared, as the chunk's own reader shares them: an object's among its rows, agents' and states' among all.
pub(crate) fn rows<'a>(flat: impl Iterator<Item = Borrowed<'a>>) -> Vec<Row> {
    let (mut names, mut last): (HashMap<&'a str, Name>, Name) = (HashMap::new(), "".into());
    let mut shared = |text: &'a str| Arc::clone(names.entry(text).or_insert_with(|| text.into()));
    let row = |flat: Borrowed<'a>| {
        if *last != *flat.object {
            last = flat.object.into();
        }
        let value = match flat.report {
            Some((agent, report)) => {
                let report = report.map(|(state, ts_ms, offset, due_ms)| Report { state: shared(state), ts_ms, offset, due_ms });
                RowValue::Report(shared(agent), report)
            }
            None => RowValue::Object(flat.published.map(|published| Arc::new(published_of(&published, &mut shared)))),
        };
        Row { partition: 0, object: Arc::clone(&last), value }
    };
    flat.map(row).collect()
}

fn published_of<'a>(published: &BorrowedPublished<'a>, shared: &mut impl FnMut(&'a str) -> Name) -> Published {
    Published {
        state: published.state.map(&mut *shared),
        behind: published.behind.map(&mut *shared),
        mask: published.mask.map(|(state, since_ms, until_ms)| Mask { state: shared(state), since_ms, until_ms }),
        since_ms: published.since_ms,
        cause: CAUSES[usize::from(published.cause)],
        revision: published.revision,
    }
}
