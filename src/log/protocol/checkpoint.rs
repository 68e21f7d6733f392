//! What a restore reads: committed offsets and progress, and the checkpoint partition's committed records.
//!
//! Owned by the restore thread. Nothing waits longer than one question to the brokers for a partition that is not ours any more, which is
//! every partition once the group is left. The order is the proof: first the committed offset, whose fetch waits until no transaction that could
//! still change it is open; only then the end of the checkpoint, asked without regard to transactions, because a transaction's markers
//! reach the checkpoint later than the offsets; and reading waits until everything before that end is resolved.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    client::{ReadFrom, Reader, Roll, Seen, View},
    ownership::Ownership,
    register::Register,
};
use crate::log::{Checkpoint, LogError, Progress, Start};

/// After this a caller hears that it has to ask again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at an end that does not move yet.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two lines about it.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What messages call things.
#[derive(Debug)]
pub(crate) struct Names {
    /// The group, too.
    pub(crate) house: String,
    pub(crate) source: String,
    pub(crate) checkpoint: String,
}

/// See the module's header.
pub(crate) struct GroupCheckpoint<R, L> {
    names: Names,
    ownership: Arc<Ownership>,
    reader: R,
    register: Register<L>,
}

impl<R: Reader, L: Roll> GroupCheckpoint<R, L> {
    /// Nothing read yet.
    pub(crate) fn new(names: Names, ownership: Arc<Ownership>, reader: R, register: Register<L>) -> Self {
        Self { names, ownership, reader, register }
    }

    /// The committed offset and its metadata, once nothing can change them any more.
    fn committed_offset(&mut self, partition: Partition) -> Result<Option<(Offset, String)>, LogError> {
        let began = self.reader.now();
        loop {
            check_ours(&self.ownership, partition)?;
            if let Err(reason) = self.register.end_the_dead() {
                tracing::warn!(reason, "lost instances' transactions can't be ended; offsets may have to wait for their timeout");
            }
            let reason = match self.reader.committed_offset(partition, View::Stable) {
                Ok(answer) => return Ok(answer),
                Err(reason) => reason,
            };
            tracing::info!(partition, %reason, "the committed offset is not known yet");
            if self.reader.now().saturating_sub(began) > PATIENCE {
                return Err(LogError::Unavailable(format!("the committed offset of partition {partition} is not known: {reason}")));
            }
        }
    }

    /// Without a committed offset there must be no committed chunk either.
    fn check_fresh(&mut self, partition: Partition) -> Result<(), LogError> {
        let mut found = None;
        let (low, _) = self.reader.ends(partition, View::Uncommitted)?;
        self.read(partition, low, &mut |offset, _| {
            found = Some(offset);
            ControlFlow::Break(())
        })?;
        let Some(offset) = found else { return Ok(()) };
        let Names { house, source, checkpoint } = &self.names;
        Err(LogError::Corrupt(format!(
            "partition {partition} of {checkpoint} holds committed state (offset {offset}), but the group \"{house}\" has no committed offset for \
             {source} [{partition}]: the group's offsets have expired (offsets.retention.minutes) or were deleted, or another house uses this \
             topic. Restore the group's offsets, or start a new house with new topics"
        )))
    }

    /// Waits until every transaction that wrote before `end` is resolved.
    fn wait_resolved(&mut self, partition: Partition, end: Offset) -> Result<(), LogError> {
        let began = self.reader.now();
        let mut said = began;
        loop {
            check_ours(&self.ownership, partition)?;
            let (_, stable) = self.reader.ends(partition, View::Stable)?;
            if stable >= end {
                return Ok(());
            }
            let now = self.reader.now();
            if now.saturating_sub(began) > PATIENCE {
                return Err(LogError::Unavailable(format!(
                    "a transaction that is still open holds {} [{partition}] at offset {stable}, before its end {end}",
                    self.names.checkpoint
                )));
            }
            if now.saturating_sub(said) > SAY_EVERY {
                said = now;
                tracing::warn!(partition, stable, end, "the restore waits for an open transaction on the checkpoint");
            }
            self.reader.pause(LOOK_EVERY);
        }
    }

    fn gone(&self, partition: Partition, from: Offset) -> LogError {
        LogError::Corrupt(format!(
            "{} [{partition}] must be read from offset {from}, which is not there any more: something deleted records that the state is \
             restored from",
            self.names.checkpoint
        ))
    }
}

fn check_ours(ownership: &Ownership, partition: Partition) -> Result<(), LogError> {
    if ownership.holds(partition) {
        return Ok(());
    }
    Err(LogError::Unavailable(format!("partition {partition} is not ours any more")))
}

impl<R: Reader, L: Roll> Checkpoint for GroupCheckpoint<R, L> {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        let Some((offset, metadata)) = self.committed_offset(partition)? else {
            self.check_fresh(partition)?;
            return Ok(None);
        };
        let progress = metadata.parse().map_err(|reason| {
            LogError::Corrupt(format!(
                "the group \"{}\" has an offset for {} [{partition}] that is not of this house: {reason}. Is the group used by another program?",
                self.names.house, self.names.source
            ))
        })?;
        Ok(Some((offset, progress)))
    }

    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError> {
        self.reader.start_offset(partition, start)
    }

    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        let (low, end) = self.reader.ends(partition, View::Uncommitted)?;
        if from < low {
            return Err(self.gone(partition, from));
        }
        if from >= end {
            return Ok(false);
        }
        self.wait_resolved(partition, end)?;
        let span = Span { ownership: &self.ownership, topic: &self.names.checkpoint, partition, from, end };
        let (mut heard, mut outcome) = (self.reader.now(), None);
        self.reader.read(ReadFrom { partition, offset: from, view: View::Stable }, &mut |seen, now| {
            if matches!(seen, Seen::Record(..)) {
                heard = now;
            }
            outcome = span.see(seen, each).or_else(|| span.check_patience(now.saturating_sub(heard)));
            if outcome.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match outcome.unwrap_or(Sight::End) {
            Sight::Broken => Ok(true),
            Sight::End => Ok(false),
            Sight::Gone => Err(self.gone(partition, from)),
            Sight::Never(error) => Err(error),
        }
    }
}

/// What is being read. Everything before `end` is resolved: the first end-of-partition is behind all of it.
struct Span<'a> {
    ownership: &'a Ownership,
    topic: &'a str,
    partition: Partition,
    from: Offset,
    end: Offset,
}

/// Why reading ended.
enum Sight {
    /// Whoever asked has enough.
    Broken,
    End,
    Gone,
    Never(LogError),
}

impl Span<'_> {
    fn see(&self, seen: Seen<'_>, each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>) -> Option<Sight> {
        match seen {
            Seen::Record(partition, offset, _) if partition != self.partition || offset < self.from => None,
            Seen::Record(_, offset, _) if offset >= self.end => Some(Sight::End),
            Seen::Record(_, offset, bytes) => each(offset, bytes).is_break().then_some(Sight::Broken),
            Seen::End => Some(Sight::End),
            Seen::Gone => Some(Sight::Gone),
            // Outages end, or run into the patience.
            Seen::Nothing => check_ours(self.ownership, self.partition).err().map(Sight::Never),
        }
    }

    fn check_patience(&self, silent: Duration) -> Option<Sight> {
        let silence = || LogError::Unavailable(format!("{} [{}] does not answer", self.topic, self.partition));
        (silent > PATIENCE).then(|| Sight::Never(silence()))
    }
}
