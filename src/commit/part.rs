//! From the workers' outputs of an epoch to its transaction: per partition the changes in order, the rows as a chunk, the rejects, the progress.

use std::collections::BTreeMap;

use statehouse_dataflows::{
    rows::Rows,
    slice::Slice,
    vocabulary::{Cause, Partition, Seq},
};

use super::{CommitSettings, Line, Sizes};
use crate::{
    chunk::{self, NO_CLOCK_MS},
    log::{Part, Progress, RejectRecord, SinkRecord, Transaction},
    message::{Cut, CutPart, Output, OutputPart},
    metrics::EpochCounts,
};

/// An epoch, ready to commit.
pub(super) struct Assembled {
    pub(super) transaction: Transaction,
    /// Of the chunks in it.
    pub(super) sizes: Vec<(Partition, Sizes)>,
    /// Whether anything is in it, or it must be committed all the same.
    pub(super) transacted: bool,
    pub(super) counts: EpochCounts,
}

/// One partition's outputs of all workers.
struct Merged {
    changes: Vec<(Seq, SinkRecord)>,
    /// Each worker's. An object has one worker, so its rows stay together.
    rows: Vec<Rows>,
    rejects: Vec<RejectRecord>,
    digest_delta: u64,
    /// Each with its worker.
    slices: Vec<(usize, Slice)>,
}

/// Puts the workers' outputs together by partition. What is said of partitions that the cut doesn't name is dropped: they were given up.
pub(super) fn assemble(settings: &CommitSettings, cut: &Cut, outputs: Vec<Output>, lines: &mut BTreeMap<Partition, Line>) -> Assembled {
    let mut counts = count(cut, &outputs);
    let mut shares: BTreeMap<Partition, Vec<(usize, OutputPart)>> = BTreeMap::new();
    for (worker, part) in outputs.into_iter().flat_map(|output| output.parts.into_iter().map(move |part| (output.worker, part))) {
        shares.entry(part.partition).or_default().push((worker, part));
    }
    let mut transacted = cut.forced;
    let (mut parts, mut sizes) = (Vec::with_capacity(cut.parts.len()), Vec::new());
    for part in &cut.parts {
        let merged = merge(shares.remove(&part.partition).unwrap_or_default());
        count_part(&mut counts, &merged);
        let line = lines.get_mut(&part.partition).expect("a line for each part");
        let (part, its_sizes) = finish(settings, part, merged, line);
        if let Some(its_sizes) = its_sizes {
            transacted = true;
            counts.checkpoint_bytes += its_sizes.changed_bytes + its_sizes.slice_bytes;
            counts.slice_bytes += its_sizes.slice_bytes;
            sizes.push((part.partition, its_sizes));
        }
        parts.push(part);
    }
    Assembled { transaction: Transaction { parts }, sizes, transacted, counts }
}

/// One partition's outputs of all workers in one, in order.
fn merge(mut shares: Vec<(usize, OutputPart)>) -> Merged {
    let slices = shares.iter_mut().filter_map(|(worker, share)| Some((*worker, share.slice.take()?))).collect();
    let mut shares: Vec<_> = shares.into_iter().map(|(_, share)| share).collect();
    let mut changes = join(shares.iter_mut().map(|share| std::mem::take(&mut share.changes)));
    let mut rejects = join(shares.iter_mut().map(|share| std::mem::take(&mut share.rejects)));
    changes.sort_by_key(|(seq, _)| *seq);
    rejects.sort_by_key(|reject| reject.offset);
    let digest_delta = shares.iter().fold(0_u64, |sum, share| sum.wrapping_add(share.digest_delta));
    let rows = shares.into_iter().map(|share| share.rows).collect();
    Merged { changes, rows, rejects, digest_delta, slices }
}

/// The lists in one; a single one as it is.
fn join<T>(lists: impl Iterator<Item = Vec<T>>) -> Vec<T> {
    let join = |mut all: Vec<T>, list| {
        all.extend(list);
        all
    };
    lists.reduce(join).unwrap_or_default()
}

impl Merged {
    fn count_rows(&self) -> usize {
        self.rows.iter().map(Rows::len).sum()
    }
}

/// Ticks that fired nothing are no output: the next record lists the clock it stands under.
fn has_output(cut: &CutPart, merged: &Merged) -> bool {
    cut.records > 0 || !merged.changes.is_empty() || merged.count_rows() > 0
}

/// A partition with output, or with a slice, gets a chunk; one without just its offset again.
fn finish(settings: &CommitSettings, cut: &CutPart, mut merged: Merged, line: &mut Line) -> (Part, Option<Sizes>) {
    let has_output = has_output(cut, &merged);
    let (slice, turn) = line.slicing.answered(std::mem::take(&mut merged.slices));
    let mut progress = line.progress;
    // What was a start stays one.
    progress.start = line.slicing.start().map_or(progress.start, |start| start.max(progress.start));
    let (mut pieces, mut sizes) = (Vec::new(), None);
    if has_output || slice.iter().any(|rows| !rows.is_empty()) {
        progress.n += 1;
        progress.digest = progress.digest.wrapping_add(merged.digest_delta);
        let chunk = chunk::encode_with_slice(&header(settings, cut, progress, turn), (&merged.rows, &slice), settings.max_piece_bytes);
        let bytes: u64 = chunk.0.iter().map(|piece| piece.len() as u64).sum();
        sizes = Some(Sizes { changed_bytes: bytes - chunk.1, slice_bytes: chunk.1 });
        pieces = chunk.0;
    } else {
        debug_assert_eq!(merged.digest_delta, 0, "the digest moves only with rows");
    }
    let changes = merged.changes.into_iter().map(|(_, record)| record).collect();
    let part = Part { partition: cut.partition, next_offset: cut.next_offset, progress, pieces, changes, rejects: merged.rejects };
    (part, sizes)
}

fn header(settings: &CommitSettings, cut: &CutPart, progress: Progress, turn: chunk::Turn) -> chunk::Header {
    chunk::Header {
        house: settings.house.clone(),
        partition: cut.partition,
        n: progress.n,
        next_offset: cut.next_offset,
        clock_ms: cut.clock_ms.unwrap_or(NO_CLOCK_MS),
        event: cut.event,
        digest: progress.digest,
        ticks: cut.ticks.clone(),
        instance: settings.instance.clone(),
        turn,
    }
}

fn count(cut: &Cut, outputs: &[Output]) -> EpochCounts {
    let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
    for (cause, count) in outputs.iter().flat_map(|output| &output.causes) {
        *causes.entry(*cause).or_default() += count;
    }
    EpochCounts {
        records: cut.parts.iter().filter(|part| part.records > 0).map(|part| (part.partition, part.records)).collect(),
        changes: causes.into_iter().collect(),
        late: outputs.iter().map(|output| output.counts.late).sum(),
        unchanged: outputs.iter().map(|output| output.counts.unchanged).sum(),
        over_limit: outputs.iter().map(|output| output.counts.over_limit).sum(),
        ..EpochCounts::default()
    }
}

fn count_part(counts: &mut EpochCounts, merged: &Merged) {
    let slice_rows = merged.slices.iter().map(|(_, slice)| slice.rows.len() as u64).sum::<u64>();
    counts.checkpoint_rows += merged.count_rows() as u64 + slice_rows;
    counts.slice_rows += slice_rows;
    for reject in &merged.rejects {
        match counts.rejects.iter_mut().find(|(reason, _)| *reason == reject.reason) {
            Some((_, count)) => *count += 1,
            None => counts.rejects.push((reject.reason, 1)),
        }
    }
}
