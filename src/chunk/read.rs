//! Reads the body of a piece. Trusts nothing: counts are bounded before memory is taken for them, numbers of names are looked up, columns
//! must be just as long as what they describe.

use std::{sync::Arc, vec};

use serde::Deserialize;
use statehouse_dataflows::{
    rows::{Line, Named, Posted, PostedMask, Rows},
    vocabulary::{Cause, Name},
};

use super::{
    Flaw, Header, Turn,
    body::{Body, ITEMS_MAX, NO_OBJECT, NO_REPORT, OBJECT, REPORT, Turned},
    names::Bytes,
    packed::unpack,
};

/// Reads a body of this version: the header with the piece's ticks, whether the rows are a slice's, and the rows.
pub(super) fn read(version: u8, bytes: &[u8]) -> Result<(Header, bool, Rows), Flaw> {
    if version == 1 {
        let body: Body<'_> = whole(bytes)?;
        return Ok((header(&body, Turn::default())?, false, rows(&body)?));
    }
    let Turned { rotation, ahead, cursor, ends, advances, owed_bytes, advance_bytes, is_slice, body } = whole(bytes)?;
    let (ahead, cursor) = (ahead.map(Name::from), cursor.map(Name::from));
    let turn = Turn { rotation, ahead, cursor, ends, advances, owed_bytes, advance_bytes };
    Ok((header(&body, turn)?, is_slice, rows(&body)?))
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Flaw> {
    let (read, rest) = postcard::take_from_bytes(bytes).map_err(|_| Flaw("layout"))?;
    if rest.is_empty() { Ok(read) } else { Err(Flaw("length")) }
}

fn header(body: &Body<'_>, turn: Turn) -> Result<Header, Flaw> {
    let count = bounded(body.ticks, "number of ticks")?;
    let offsets = unpack(&body.tick_offsets.0, count, "column of ticks' offsets")?;
    let multiples = unpack(&body.tick_multiples.0, count, "column of ticks")?;
    Ok(Header {
        house: body.house.to_owned(),
        partition: body.partition,
        n: body.n,
        next_offset: body.next_offset,
        clock_ms: body.clock_ms,
        event: body.event,
        digest: body.digest,
        ticks: offsets.into_iter().zip(multiples).collect(),
        instance: body.instance.to_owned(),
        turn,
    })
}

fn rows(body: &Body<'_>) -> Result<Rows, Flaw> {
    const OBJECT_ROWS: Flaw = Flaw("column of objects' rows");
    let count = bounded(body.rows, "number of rows")?;
    let kinds = unpack(&body.kinds.0, count, "column of kinds")?;
    let mut object_rows = unpack(&body.object_rows.0, body.objects.count().min(count), "column of objects' rows")?.into_iter();
    let (named, mut values) = Values::of(body, &kinds)?;
    let mut kinds = kinds.into_iter();
    let mut rows = Rows::naming(body.partition, &named);
    body.objects.each(count, "column of objects", |object| {
        let its_rows = object_rows.next().and_then(|its_rows| usize::try_from(its_rows).ok());
        let its_rows = its_rows.filter(|its_rows| (1..=kinds.len()).contains(its_rows)).ok_or(OBJECT_ROWS)?;
        rows.begin(object);
        kinds.by_ref().take(its_rows).try_for_each(|kind| values.next(kind, &mut rows))
    })?;
    if kinds.len() > 0 { Err(OBJECT_ROWS) } else { Ok(rows) }
}

fn bounded(count: u32, what: &'static str) -> Result<usize, Flaw> {
    usize::try_from(count).ok().filter(|count| *count <= ITEMS_MAX).ok_or(Flaw(what))
}

/// A column, being read.
struct Column {
    values: vec::IntoIter<i64>,
    what: &'static str,
}

impl Column {
    fn of(bytes: &Bytes<'_>, count: usize, what: &'static str) -> Result<Self, Flaw> {
        unpack(&bytes.0, count, what).map(|values| Self { values: values.into_iter(), what })
    }

    /// How many of the values to come are not 0.
    fn count_some(&self) -> usize {
        self.values.as_slice().iter().filter(|value| **value != 0).count()
    }

    fn next(&mut self) -> Result<i64, Flaw> {
        self.values.next().ok_or(Flaw(self.what))
    }

    /// The value of `column` if the next one here is 1.
    fn next_of(&mut self, column: &mut Self) -> Result<Option<i64>, Flaw> {
        match self.next()? {
            0 => Ok(None),
            1 => column.next().map(Some),
            _ => Err(Flaw(self.what)),
        }
    }

    /// The number of one of so many names.
    #[inline]
    fn name(&mut self, names: usize) -> Result<u32, Flaw> {
        let id = self.next()?;
        usize::try_from(id).ok().filter(|id| *id < names).map(|id| id as u32).ok_or(Flaw(self.what))
    }

    /// The same, one higher; or 0: none.
    fn name_or_none(&mut self, names: usize) -> Result<Option<u32>, Flaw> {
        match self.next()? {
            0 => Ok(None),
            id => {
                let id = id.checked_sub(1).and_then(|id| usize::try_from(id).ok());
                id.filter(|id| *id < names).map(|id| Some(id as u32)).ok_or(Flaw(self.what))
            }
        }
    }
}

/// What rows hold, column by column.
struct Values {
    clock_ms: i64,
    /// How many names there are.
    agents: usize,
    /// How many names there are.
    states: usize,
    causes: Vec<Cause>,
    report_agents: Column,
    report_states: Column,
    report_ts: Column,
    report_offsets: Column,
    report_has_due: Column,
    report_dues: Column,
    published_states: Column,
    published_behinds: Column,
    published_since: Column,
    published_causes: Column,
    published_revisions: Column,
    published_masks: Column,
    mask_since: Column,
    mask_has_until: Column,
    mask_until: Column,
}

impl Values {
    fn of(body: &Body<'_>, kinds: &[i64]) -> Result<(Arc<Named>, Self), Flaw> {
        let count = |kind: i64| kinds.iter().filter(|other| **other == kind).count();
        let (reports, published) = (count(REPORT), count(OBJECT));
        let keys = reports + count(NO_REPORT);
        let has_due = Column::of(&body.report_has_due, reports, "column of due flags")?;
        let masks = Column::of(&body.published_masks, published, "column of masks")?;
        let has_until = Column::of(&body.mask_has_until, masks.count_some(), "column of masks' end flags")?;
        let agents = body.agents.read(keys, "names of agents")?;
        let states = body.states.read(reports + 3 * published, "names of states")?;
        let values = Self {
            clock_ms: body.clock_ms,
            agents: agents.len(),
            states: states.len(),
            causes: causes(&body.causes.read(published, "names of causes")?)?,
            report_agents: Column::of(&body.report_agents, keys, "column of agents")?,
            report_states: Column::of(&body.report_states, reports, "column of states")?,
            report_ts: Column::of(&body.report_ts, reports, "column of times")?,
            report_offsets: Column::of(&body.report_offsets, reports, "column of offsets")?,
            report_dues: Column::of(&body.report_dues, has_due.count_some(), "column of due times")?,
            report_has_due: has_due,
            published_states: Column::of(&body.published_states, published, "column of published states")?,
            published_behinds: Column::of(&body.published_behinds, published, "column of states behind masks")?,
            published_since: Column::of(&body.published_since, published, "column of since")?,
            published_causes: Column::of(&body.published_causes, published, "column of causes")?,
            published_revisions: Column::of(&body.published_revisions, published, "column of revisions")?,
            mask_since: Column::of(&body.mask_since, masks.count_some(), "column of masks' since")?,
            mask_until: Column::of(&body.mask_until, has_until.count_some(), "column of masks' ends")?,
            mask_has_until: has_until,
            published_masks: masks,
        };
        Ok((Arc::new(Named { agents, states }), values))
    }

    #[inline]
    fn next(&mut self, kind: i64, rows: &mut Rows) -> Result<(), Flaw> {
        match kind {
            REPORT => rows.push_report(self.report()?),
            NO_REPORT => rows.push_report(Line::NoReport(self.report_agents.name(self.agents)?)),
            OBJECT => rows.push_object(Some(self.published()?)),
            NO_OBJECT => rows.push_object(None),
            _ => return Err(Flaw("column of kinds")),
        }
        Ok(())
    }

    #[inline]
    fn report(&mut self) -> Result<Line, Flaw> {
        let due = self.report_has_due.next_of(&mut self.report_dues)?;
        Ok(Line::Report {
            agent: self.report_agents.name(self.agents)?,
            state: self.report_states.name(self.states)?,
            ts_ms: self.report_ts.next()?,
            offset: self.report_offsets.next()?,
            due_ms: due.map(|after| self.clock_ms.wrapping_add(after)),
        })
    }

    fn published(&mut self) -> Result<Posted, Flaw> {
        let cause = usize::try_from(self.published_causes.next()?).ok();
        Ok(Posted {
            state: self.published_states.name_or_none(self.states)?,
            behind: self.published_behinds.name_or_none(self.states)?,
            mask: self.mask()?,
            since_ms: self.published_since.next()?,
            cause: *cause.and_then(|id| self.causes.get(id)).ok_or(Flaw("column of causes"))?,
            revision: self.published_revisions.next()? as u64,
        })
    }

    fn mask(&mut self) -> Result<Option<PostedMask>, Flaw> {
        let Some(state) = self.published_masks.name_or_none(self.states)? else { return Ok(None) };
        let (since_ms, until_ms) = (self.mask_since.next()?, self.mask_has_until.next_of(&mut self.mask_until)?);
        Ok(Some(PostedMask { state, since_ms, until_ms }))
    }
}

fn causes(names: &[Name]) -> Result<Vec<Cause>, Flaw> {
    let known = |name: &Name| Cause::ALL.into_iter().find(|cause| cause.as_str() == name.as_ref());
    names.iter().map(|name| known(name).ok_or(Flaw("cause"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_no_name_are_flaws() {
        for id in [i64::MIN, -1, 2, i64::MAX] {
            let column = || Column { values: vec![id].into_iter(), what: "test" };
            assert!(column().name(1).is_err() && column().name_or_none(1).is_err(), "{id}");
        }
    }
}
