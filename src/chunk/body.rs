//! The body of a piece: rows turned into columns, and back.
//!
//! Objects' names stand once for each run of adjacent rows, agents' and states' once for each piece. Reports and objects have columns of their
//! own; a tombstone has no more than its key.

use serde::{Deserialize, Serialize};
use statehouse_dataflows::{
    rows::{Line, Posted, Rows},
    vocabulary::{Millis, Offset, Partition},
};

use super::{
    Header,
    cut::Cut,
    names::{Bytes, Dictionary, NAMES_BYTES_MAX, Names, NamesWriter, Translation},
    packed::{Packer, pack},
};

/// A piece has at most so many rows, and so many ticks. A reader's memory hangs on it.
pub(super) const ITEMS_MAX: usize = 1 << 18;

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

/// A body since version 2: where the rotation stands, then the same as in version 1.
#[derive(Serialize, Deserialize)]
pub(super) struct Turned<'a> {
    pub(super) rotation: u64,
    pub(super) ahead: Option<&'a str>,
    pub(super) cursor: Option<&'a str>,
    pub(super) ends: bool,
    pub(super) advances: bool,
    pub(super) owed_bytes: i64,
    pub(super) advance_bytes: u64,
    pub(super) is_slice: bool,
    #[serde(borrow)]
    pub(super) body: Body<'a>,
}

/// Writes a body; none if a reader would not take so much.
pub(super) fn write(header: &Header, ticks: &[(Offset, Millis)], rows: &Cut<'_>) -> Option<Vec<u8>> {
    if ticks.len().max(rows.len()) > ITEMS_MAX {
        return None;
    }
    let columns = Columns::of(header.clock_ms, rows)?;
    let Columns { reports, published, states, .. } = columns;
    if columns.agents.bytes().max(states.bytes()) > NAMES_BYTES_MAX {
        return None;
    }
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
        tick_offsets: pack(ticks.iter().map(|(offset, _)| *offset)),
        tick_multiples: pack(ticks.iter().map(|(_, multiple)| *multiple)),
        rows: rows.len() as u32,
        objects: columns.objects.finish(),
        object_rows: columns.object_rows.finish(),
        kinds: columns.kinds.finish(),
        agents: columns.agents.write(),
        states: states.write(),
        causes: published.causes.write(),
        report_agents: reports.agents.finish(),
        report_states: reports.states.finish(),
        report_ts: reports.ts.finish(),
        report_offsets: reports.offsets.finish(),
        report_has_due: reports.has_due.finish(),
        report_dues: reports.dues.finish(),
        published_states: published.states.finish(),
        published_behinds: published.behinds.finish(),
        published_since: published.since.finish(),
        published_causes: published.cause_ids.finish(),
        published_revisions: published.revisions.finish(),
        published_masks: published.masks.finish(),
        mask_since: published.mask_since.finish(),
        mask_has_until: published.mask_has_until.finish(),
        mask_until: published.mask_until.finish(),
    };
    let turn = &header.turn;
    let turned = Turned {
        rotation: turn.rotation,
        ahead: turn.ahead.as_deref(),
        cursor: turn.cursor.as_deref(),
        ends: turn.ends,
        advances: turn.advances,
        owed_bytes: turn.owed_bytes,
        advance_bytes: turn.advance_bytes,
        is_slice: rows.is_slice(),
        body,
    };
    Some(postcard::to_extend(&turned, Vec::with_capacity(rows.len() * 12 + 256)).expect("memory takes whatever postcard writes"))
}

/// What rows are made of.
#[derive(Default)]
struct Columns<'a> {
    objects: NamesWriter<'a>,
    object_rows: Packer,
    kinds: Packer,
    agents: Dictionary<'a>,
    states: Dictionary<'a>,
    reports: ReportColumns,
    published: PublishedColumns,
}

#[derive(Default)]
struct ReportColumns {
    agents: Packer,
    states: Packer,
    ts: Packer,
    offsets: Packer,
    has_due: Packer,
    dues: Packer,
}

impl<'a> Columns<'a> {
    /// None if the objects' names are more than a reader would take.
    fn of(clock_ms: Millis, cut: &Cut<'a>) -> Option<Self> {
        let mut columns = Self::default();
        for (rows, range) in cut.shares() {
            let (mut agents, mut states) = (Translation::of(rows.agents()), Translation::of(rows.states()));
            for (object, lines) in rows.runs(range) {
                columns.objects.push(object);
                if columns.objects.bytes() > NAMES_BYTES_MAX {
                    return None;
                }
                columns.object_rows.push(lines.len() as i64);
                for line in lines {
                    columns.add(*line, rows, (&mut agents, &mut states), clock_ms);
                }
            }
        }
        Some(columns)
    }

    #[inline]
    fn add(&mut self, line: Line, rows: &'a Rows, (agents, states): (&mut Translation<'a>, &mut Translation<'a>), clock_ms: Millis) {
        match line {
            Line::Report { agent, state, ts_ms, offset, due_ms } => {
                self.kinds.push(REPORT);
                self.reports.agents.push(agents.id(agent, &mut self.agents));
                self.reports.states.push(states.id(state, &mut self.states));
                self.reports.ts.push(ts_ms);
                self.reports.offsets.push(offset);
                self.reports.has_due.push(i64::from(due_ms.is_some()));
                due_ms.into_iter().for_each(|due_ms| self.reports.dues.push(due_ms.wrapping_sub(clock_ms)));
            }
            Line::NoReport(agent) => {
                self.kinds.push(NO_REPORT);
                self.reports.agents.push(agents.id(agent, &mut self.agents));
            }
            Line::Object(place) => {
                self.kinds.push(OBJECT);
                self.published.add(rows.published(place), |state| states.id(state, &mut self.states));
            }
            Line::NoObject => self.kinds.push(NO_OBJECT),
        }
    }
}

/// What objects' rows say.
#[derive(Default)]
struct PublishedColumns {
    states: Packer,
    behinds: Packer,
    since: Packer,
    causes: Dictionary<'static>,
    cause_ids: Packer,
    revisions: Packer,
    masks: Packer,
    mask_since: Packer,
    mask_has_until: Packer,
    mask_until: Packer,
}

impl PublishedColumns {
    /// `number`: of a state, by its place.
    fn add(&mut self, posted: &Posted, mut number: impl FnMut(u32) -> i64) {
        let mut number_or_0 = |state: Option<u32>| state.map_or(0, |state| number(state) + 1);
        let Posted { state, behind, mask, since_ms, cause, revision } = *posted;
        self.states.push(number_or_0(state));
        self.behinds.push(number_or_0(behind));
        self.since.push(since_ms);
        self.cause_ids.push(self.causes.id(cause.as_str()));
        self.revisions.push(revision as i64);
        self.masks.push(number_or_0(mask.map(|mask| mask.state)));
        let Some(mask) = mask else { return };
        self.mask_since.push(mask.since_ms);
        self.mask_has_until.push(i64::from(mask.until_ms.is_some()));
        mask.until_ms.iter().for_each(|until_ms| self.mask_until.push(*until_ms));
    }
}
