//! Known objects in the order of their names, partition by partition, out of their arrangement.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    rc::Rc,
};

use differential_dataflow::trace::{
    BatchCursor, Cursor,
    cursor::{CursorList, cursor_list},
};

use super::build::KnownTrace;
use crate::{
    flat::{Flat, batches},
    names::ObjectId,
    vocabulary::{Name, Partition, Seq},
};

/// The objects of one partition, by rising name.
pub(super) struct Known {
    cursor: CursorList<BatchCursor<KnownTrace>>,
    storage: Vec<Rc<Flat<(Partition, Name), ObjectId, i32>>>,
    partition: Partition,
    last: Seq,
}

impl Known {
    /// Those at or after `from`, as of `last`, inclusive.
    pub(super) fn open(trace: &mut KnownTrace, (partition, from): (Partition, &Name), last: Seq) -> Self {
        let (mut cursor, storage) = cursor_list(batches(trace));
        cursor.seek_key(&storage, &(partition, from.clone()));
        Self { cursor, storage, partition, last }
    }
}

impl Iterator for Known {
    type Item = (Name, ObjectId);

    fn next(&mut self) -> Option<Self::Item> {
        let Self { cursor, storage, partition, last } = self;
        while let Some(name) = cursor.get_key(storage).filter(|key| key.0 == *partition).map(|key| key.1.clone()) {
            let mut found = None;
            while let Some(id) = cursor.get_val(storage).copied() {
                let mut count = 0;
                cursor.map_times(storage, |seq, diff| count += if *seq <= *last { *diff } else { 0 });
                found = found.or((count > 0).then_some(id));
                cursor.step_val(storage);
            }
            cursor.step_key(storage);
            if let Some(id) = found {
                return Some((name, id));
            }
        }
        None
    }
}

/// The objects of these partitions at or after `from`, by name and partition, as of `last`, inclusive.
pub(super) fn merged(
    trace: &mut KnownTrace,
    (of, from): (&BTreeSet<Partition>, &Name),
    last: Seq,
) -> impl Iterator<Item = (Name, Partition, ObjectId)> + use<> {
    let mut each: Vec<_> = of.iter().map(|partition| Known::open(trace, (*partition, from), last)).collect();
    let next = |known: &mut Known, at: usize| known.next().map(|(name, id)| Reverse((name, known.partition, id, at)));
    let mut heads: BinaryHeap<_> = each.iter_mut().enumerate().filter_map(|(at, known)| next(known, at)).collect();
    std::iter::from_fn(move || {
        let Reverse((name, partition, id, at)) = heads.pop()?;
        heads.extend(next(&mut each[at], at));
        Some((name, partition, id))
    })
}
