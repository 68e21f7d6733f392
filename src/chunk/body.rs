//! The body of a piece, version 1: rows turned into columns, and back.
//!
//! Objects' names stand once for each run of adjacent rows, agents' and states' once for each piece. Reports and objects have columns of their
//! own; a tombstone has no more than its key.

use serde::{Deserialize, Serialize};
use statehouse_dataflows::vocabulary::{Mask, Millis, Offset, Partition, Published, Report, Row, RowValue};

use super::{
    Header,
    names::{Bytes, Dictionary, NAMES_BYTES_MAX, Names},
    packed::pack,
};

/// A piece has at most so many rows, and so many ticks. A reader's memory hangs on it.
pub(super) const ITEMS_MAX: usize = 1 << 18;

/// What can't be.
#[derive(Debug)]
pub(super) struct Flaw(pub &'static str);

/// The kinds of rows, as written.
pub(super) const REPORT: i64 = 0;
pub(super) const NO_REPORT: i64 = 1;
pub(super) const OBJECT: i64 = 2;
pub(super) const NO_OBJECT: i64 = 3;

/// The body as postcard writes it: field after field, integers as varints, bytes with their length before them. Columns without a comment
/// hold one number for each item of the kind they are named after; the number of a name that may be absent is one higher, 0 being absent.
#[derive(Serialize, Deserialize)]
pub(super) struct Body<'a> {
    pub(super) house: &'a str,
    pub(super) instance: &'a str,
    pub(super) partition: Partition,
    pub(super) n: u64,
    pub(super) next_offset: Offset,
    pub(super) clock_ms: Millis,
    pub(super) event: u64,
    pub(super) digest: u64,
    pub(super) ticks: u32,
    #[serde(borrow)]
    pub(super) tick_offsets: Bytes<'a>,
    #[serde(borrow)]
    pub(super) tick_multiples: Bytes<'a>,
    pub(super) rows: u32,
    #[serde(borrow)]
    pub(super) objects: Names<'a>,
    /// For each of `objects`: how many rows it has.
    #[serde(borrow)]
    pub(super) object_rows: Bytes<'a>,
    /// For each row.
    #[serde(borrow)]
    pub(super) kinds: Bytes<'a>,
    #[serde(borrow)]
    pub(super) agents: Names<'a>,
    #[serde(borrow)]
    pub(super) states: Names<'a>,
    #[serde(borrow)]
    pub(super) causes: Names<'a>,
    /// For each report and each tombstone of one.
    #[serde(borrow)]
    pub(super) report_agents: Bytes<'a>,
    #[serde(borrow)]
    pub(super) report_states: Bytes<'a>,
    #[serde(borrow)]
    pub(super) report_ts: Bytes<'a>,
    #[serde(borrow)]
    pub(super) report_offsets: Bytes<'a>,
    /// 0: has no due time.
    #[serde(borrow)]
    pub(super) report_has_due: Bytes<'a>,
    /// For each report that has a due time: how far it is after the clock.
    #[serde(borrow)]
    pub(super) report_dues: Bytes<'a>,
    #[serde(borrow)]
    pub(super) published_states: Bytes<'a>,
    #[serde(borrow)]
    pub(super) published_behinds: Bytes<'a>,
    #[serde(borrow)]
    pub(super) published_since: Bytes<'a>,
    #[serde(borrow)]
    pub(super) published_causes: Bytes<'a>,
    #[serde(borrow)]
    pub(super) published_revisions: Bytes<'a>,
    /// The mask's state.
    #[serde(borrow)]
    pub(super) published_masks: Bytes<'a>,
    /// For each mask.
    #[serde(borrow)]
    pub(super) mask_since: Bytes<'a>,
    /// For each mask; 0: has no end.
    #[serde(borrow)]
    pub(super) mask_has_until: Bytes<'a>,
    /// For each mask that has an end.
    #[serde(borrow)]
    pub(super) mask_until: Bytes<'a>,
}

/// Whether a reader would take so much.
pub(super) fn is_readable(ticks: &[(Offset, Millis)], rows: &[Row]) -> bool {
    let states = |published: &Published| {
        let mask = published.mask.as_ref().map(|mask| &mask.state);
        [published.state.as_ref(), published.behind.as_ref(), mask].into_iter().flatten().map(|state| state.len()).sum()
    };
    let bytes = |row: &Row| {
        row.object.len()
            + match &row.value {
                RowValue::Report(agent, report) => agent.len() + report.as_ref().map_or(0, |report| report.state.len()),
                RowValue::Object(published) => published.as_deref().map_or(0, states),
            }
    };
    ticks.len() <= ITEMS_MAX && rows.len() <= ITEMS_MAX && rows.iter().map(bytes).sum::<usize>() <= NAMES_BYTES_MAX
}

/// Writes a body.
pub(super) fn write(header: &Header, ticks: &[(Offset, Millis)], rows: &[Row]) -> Vec<u8> {
    let Sorted { objects, object_rows, kinds, agents, report_agents, reports, published } = Sorted::of(rows);
    let (mut states, mut causes) = (Dictionary::default(), Dictionary::default());
    let masks: Vec<&Mask> = published.iter().filter_map(|published| published.mask.as_ref()).collect();
    let body = Body {
        house: &header.house,
        instance: &header.instance,
        partition: header.partition,
        n: header.n,
        next_offset: header.next_offset,
        clock_ms: header.clock_ms,
        event: header.event,
        digest: header.digest,
        ticks: ticks.len() as u32,
        tick_offsets: column(ticks, |(offset, _)| *offset),
        tick_multiples: column(ticks, |(_, multiple)| *multiple),
        rows: rows.len() as u32,
        objects: Names::write(&objects),
        object_rows: column(&object_rows, |rows| *rows),
        kinds: column(&kinds, |kind| *kind),
        agents: agents.write(),
        report_agents: column(&report_agents, |agent| *agent),
        report_states: column(&reports, |report| states.id(&report.state)),
        report_ts: column(&reports, |report| report.ts_ms),
        report_offsets: column(&reports, |report| report.offset),
        report_has_due: column(&reports, |report| i64::from(report.due_ms.is_some())),
        report_dues: some_column(&reports, |report| report.due_ms.map(|due_ms| due_ms.wrapping_sub(header.clock_ms))),
        published_states: column(&published, |published| states.id_or_0(published.state.as_ref())),
        published_behinds: column(&published, |published| states.id_or_0(published.behind.as_ref())),
        published_since: column(&published, |published| published.since_ms),
        published_causes: column(&published, |published| causes.id(published.cause.as_str())),
        published_revisions: column(&published, |published| published.revision as i64),
        published_masks: column(&published, |published| states.id_or_0(published.mask.as_ref().map(|mask| &mask.state))),
        mask_since: column(&masks, |mask| mask.since_ms),
        mask_has_until: column(&masks, |mask| i64::from(mask.until_ms.is_some())),
        mask_until: some_column(&masks, |mask| mask.until_ms),
        states: states.write(),
        causes: causes.write(),
    };
    postcard::to_extend(&body, Vec::with_capacity(rows.len() * 12 + 256)).expect("memory takes whatever postcard writes")
}

fn column<'b, T>(items: &[T], value: impl FnMut(&T) -> i64) -> Bytes<'b> {
    pack(items.iter().map(value)).into()
}

fn some_column<'b, T>(items: &[T], value: impl FnMut(&T) -> Option<i64>) -> Bytes<'b> {
    pack(items.iter().filter_map(value).collect::<Vec<_>>().into_iter()).into()
}

/// Rows, sorted by what they are.
#[derive(Default)]
struct Sorted<'a> {
    objects: Vec<&'a str>,
    object_rows: Vec<i64>,
    kinds: Vec<i64>,
    agents: Dictionary<'a>,
    report_agents: Vec<i64>,
    reports: Vec<&'a Report>,
    published: Vec<&'a Published>,
}

impl<'a> Sorted<'a> {
    fn of(rows: &'a [Row]) -> Self {
        let mut sorted = Self::default();
        for row in rows {
            match sorted.object_rows.last_mut() {
                Some(count) if sorted.objects.last() == Some(&row.object.as_ref()) => *count += 1,
                _ => {
                    sorted.objects.push(&row.object);
                    sorted.object_rows.push(1);
                }
            }
            sorted.add(&row.value);
        }
        sorted
    }

    fn add(&mut self, value: &'a RowValue) {
        self.kinds.push(match value {
            RowValue::Report(_, Some(_)) => REPORT,
            RowValue::Report(_, None) => NO_REPORT,
            RowValue::Object(Some(_)) => OBJECT,
            RowValue::Object(None) => NO_OBJECT,
        });
        match value {
            RowValue::Report(agent, report) => {
                self.report_agents.push(self.agents.id(agent));
                self.reports.extend(report);
            }
            RowValue::Object(published) => self.published.extend(published.as_deref()),
        }
    }
}
