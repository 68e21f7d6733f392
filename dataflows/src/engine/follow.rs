//! A partition that another house owns, followed: what its owner's chunks say, without a change or a row of our own.
//!
//! Whoever feeds the engine hands over every committed chunk, or first all rows there are and then every chunk, and may give the partition up at
//! any time. Taken over, it goes on like a restored one: [`Engine::compare`] compares once.

use super::Engine;
use crate::{
    posted::Posted,
    publish::Control,
    reports::Subject,
    vocabulary::{Row, RowValue, Seq},
};

impl Engine {
    /// Rows of one object, each in the place of the one before it; tombstones for what is gone. Of what did not change nothing need be there,
    /// and what is there changes nothing. From the first row on the partition is held still until [`Engine::compare`]. A chunk's rows
    /// share a seq, whose run is a tick at the clock that the chunk names.
    pub fn follow(&mut self, seq: Seq, hash: u64, rows: &[Row]) {
        let Some(Row { object, partition, .. }) = rows.first() else { return };
        if self.still.insert(*partition) {
            self.control(seq, Control::Still(*partition));
        }
        let subject = Subject { name: object, hash };
        let is_live = |row: &Row| !matches!(row.value, RowValue::Report(_, None) | RowValue::Object(None));
        let found = if rows.iter().any(is_live) { Some(self.known(seq, subject)) } else { self.find(seq, subject) };
        let Some(id) = found else { return };
        for row in rows {
            match &row.value {
                RowValue::Report(agent, report) => {
                    self.with_reports(seq, |reports, context| reports.follow(id, agent, report.as_ref(), context));
                }
                RowValue::Object(Some(published)) => {
                    self.reports.object_mut(id).touched = seq; // it may have been given up in this very epoch
                    let posted = Posted::of(published, |state| self.stores.names.borrow_mut().states.intern_held(state));
                    let slot = self.stores.posted.borrow_mut().take(posted);
                    self.control(seq, Control::Restore(id, slot));
                }
                RowValue::Object(None) => self.control(seq, Control::Remove(id)),
            }
        }
    }
}
