//! Flat arrangements: each batch one sorted vector of updates. The traces of the dataflow, and the batcher in front of them.
//!
//! Made for what this house does and a general batch cannot know: times are numbers, updates are small, an epoch is closed as a whole,
//! and most keys have one update or two. So an epoch is sorted once instead of merged from pieces, a merge of batches is one pass over two
//! vectors, and a lookup is a search in each of a few vectors. The spine that decides what is merged when is differential dataflow's own.
//!
//! Assumes that a spine's logical compaction never goes back, so that of two neighbours in it the earlier one's times, once advanced,
//! come before the later one's. Known limit: an arrangement costs a full update (key, value, time, difference) for every row it holds.

mod cursor;

use std::{marker::PhantomData, rc::Rc};

use differential_dataflow::{
    batcher::{Batcher, Extract},
    difference::Semigroup,
    operators::arrange::TraceAgent,
    trace::{
        TraceReader,
        implementations::spine_fueled::{Merger, Spine, SpineBatch},
    },
};
use timely::progress::frontier::{Antichain, AntichainRef};

use crate::vocabulary::Seq;

/// The spine of a flat arrangement.
pub(crate) type FlatSpine<K, V, R> = Spine<Rc<Flat<K, V, R>>>;
/// Its shared handle.
pub(crate) type FlatTrace<K, V, R> = TraceAgent<FlatSpine<K, V, R>>;

/// A difference of one (key, value) at one seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Update<K, V, R> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) seq: Seq,
    pub(crate) diff: R,
}

/// What updates are made of: ordered, cheap to clone.
pub(crate) trait Part: Ord + Clone + 'static {}
impl<T: Ord + Clone + 'static> Part for T {}

/// What differences are: a sum with a zero.
pub(crate) trait Diff: Semigroup + Ord + 'static {}
impl<T: Semigroup + Ord + 'static> Diff for T {}

/// A batch: updates sorted by key, value and seq, no two alike in these, none zero.
pub(crate) struct Flat<K, V, R> {
    updates: Vec<Update<K, V, R>>,
}

impl<K: Part, V: Part, R: Diff> Flat<K, V, R> {
    pub(crate) fn updates(&self) -> &[Update<K, V, R>] {
        &self.updates
    }

    /// The updates of one key.
    pub(crate) fn of(&self, key: &K) -> &[Update<K, V, R>] {
        let first = self.updates.partition_point(|update| update.key < *key);
        let count = self.updates[first..].iter().take_while(|update| update.key == *key).count();
        &self.updates[first..first + count]
    }
}

/// All batches of a trace.
pub(crate) fn batches<K: Part, V: Part, R: Diff>(trace: &mut FlatTrace<K, V, R>) -> Vec<Rc<Flat<K, V, R>>> {
    trace.batches_through(Antichain::new().borrow()).expect("all batches can be had")
}

/// A key's values as of `last`, inclusive: those whose differences add up to more than nothing.
pub(crate) fn held<K: Part, V: Part>(batches: &[Rc<Flat<K, V, i32>>], key: &K, last: Seq) -> Vec<V> {
    let of_key = batches.iter().flat_map(|batch| batch.of(key)).filter(|update| update.seq <= last);
    let mut updates: Vec<_> = of_key.map(|update| (&update.value, update.diff)).collect();
    updates.sort_unstable_by_key(|(value, _)| *value);
    let values = updates.chunk_by(|a, b| a.0 == b.0);
    values.filter(|alike| alike.iter().map(|(_, diff)| diff).sum::<i32>() > 0).map(|alike| alike[0].0.clone()).collect()
}

/// Reads keys in rising order out of some batches, each from where it stood.
pub(crate) struct Rising<K, V, R> {
    batches: Vec<(usize, Rc<Flat<K, V, R>>)>,
}

impl<K: Part, V: Part, R: Diff> Rising<K, V, R> {
    pub(crate) fn new(batches: Vec<Rc<Flat<K, V, R>>>) -> Self {
        Self { batches: batches.into_iter().map(|batch| (0, batch)).collect() }
    }

    /// Hands every update of a key, which is above the last one asked for, to `each`.
    pub(crate) fn of(&mut self, key: &K, mut each: impl FnMut(&Update<K, V, R>)) {
        for (at, batch) in &mut self.batches {
            *at = gallop(&batch.updates, *at, |update| update.key < *key);
            while let Some(update) = batch.updates.get(*at).filter(|update| update.key == *key) {
                each(update);
                *at += 1;
            }
        }
    }
}

/// The first place from `start` on at which `is_before`, true of a prefix, is not: found in steps that double, then halve.
fn gallop<T>(all: &[T], start: usize, is_before: impl Fn(&T) -> bool) -> usize {
    let (mut low, mut step) = (start, 1);
    while low + step <= all.len() && is_before(&all[low + step - 1]) {
        low += step;
        step *= 2;
    }
    low + all[low..all.len().min(low + step)].partition_point(is_before)
}

/// Gathers the updates of an epoch and sorts them once, when it is closed.
pub(crate) struct EpochBatcher<K, V, R> {
    updates: Vec<Update<K, V, R>>,
    /// Below all kept updates.
    kept: Antichain<Seq>,
}

impl<K, V, R> Default for EpochBatcher<K, V, R> {
    fn default() -> Self {
        Self { updates: Vec::new(), kept: Antichain::new() }
    }
}

impl<K: Part, V: Part, R: Diff> Batcher<Vec<Update<K, V, R>>> for EpochBatcher<K, V, R> {
    fn insert(&mut self, container: &mut Vec<Update<K, V, R>>) {
        match self.updates.is_empty() {
            true => std::mem::swap(&mut self.updates, container),
            false => self.updates.append(container),
        }
    }
}

impl<K: Part, V: Part, R: Diff> Extract for EpochBatcher<K, V, R> {
    type Time = Seq;
    type Output = Rc<Flat<K, V, R>>;

    fn extract<'a>(&'a mut self, upper: AntichainRef<'_, Seq>) -> (Option<Self::Output>, AntichainRef<'a, Seq>) {
        let is_ready = |update: &Update<K, V, R>| !upper.less_equal(&update.seq);
        let later: Vec<_> = self.updates.extract_if(.., |update| !is_ready(update)).collect();
        let ready = std::mem::replace(&mut self.updates, later);
        self.kept = self.updates.iter().map(|update| update.seq).min().into_iter().collect();
        let updates = consolidated(ready);
        ((!updates.is_empty()).then(|| Rc::new(Flat { updates })), self.kept.borrow())
    }
}

/// Sorted, with like updates added up.
fn consolidated<K: Part, V: Part, R: Diff>(mut updates: Vec<Update<K, V, R>>) -> Vec<Update<K, V, R>> {
    let is_before = |a: &Update<K, V, R>, b: &Update<K, V, R>| (&a.key, &a.value, a.seq) < (&b.key, &b.value, b.seq);
    if updates.iter().all(|update| !update.diff.is_zero()) && updates.is_sorted_by(is_before) {
        return updates; // as it mostly comes
    }
    updates.sort_unstable_by(|a, b| (&a.key, &a.value, a.seq).cmp(&(&b.key, &b.value, b.seq)));
    updates.dedup_by(|later, first| {
        let is_like = later.seq == first.seq && later.key == first.key && later.value == first.value;
        if is_like {
            first.diff.plus_equals(&later.diff);
        }
        is_like
    });
    updates.retain(|update| !update.diff.is_zero());
    if updates.len() < updates.capacity() / 2 {
        updates.shrink_to_fit();
    }
    updates
}

impl<K: Part, V: Part, R: Diff> SpineBatch for Flat<K, V, R> {
    type Time = Seq;
    type Merger = FlatMerger<K, V, R>;

    fn len(&self) -> usize {
        self.updates.len()
    }
}

/// Two batches becoming one, a step at a time.
pub(crate) struct FlatMerger<K, V, R> {
    /// How much of each is merged.
    done: (usize, usize),
    merged: Vec<Update<K, V, R>>,
    /// Times are advanced to this.
    since: Seq,
    parts: PhantomData<(K, V)>,
}

impl<K: Part, V: Part, R: Diff> Merger<Flat<K, V, R>> for FlatMerger<K, V, R> {
    fn new(earlier: &Flat<K, V, R>, later: &Flat<K, V, R>, since: AntichainRef<'_, Seq>) -> Self {
        let since = since.iter().next().copied().unwrap_or(Seq::MAX); // an empty frontier: nobody will tell times apart
        let merged = Vec::with_capacity(earlier.len() + later.len());
        Self { done: (0, 0), merged, since, parts: PhantomData }
    }

    fn work(&mut self, earlier: &Flat<K, V, R>, later: &Flat<K, V, R>, fuel: &mut isize) {
        let (a, b) = (&earlier.updates, &later.updates);
        let (mut at_a, mut at_b) = self.done;
        // Which one is next nobody can predict, so the choice is made without a branch on it.
        while let (true, Some(from_a), Some(from_b)) = (*fuel > 0, a.get(at_a), b.get(at_b)) {
            let is_a = (&from_a.key, &from_a.value) <= (&from_b.key, &from_b.value);
            self.push(std::hint::select_unpredictable(is_a, from_a, from_b));
            at_a += usize::from(is_a);
            at_b += usize::from(!is_a);
            *fuel -= 1;
        }
        // With fuel left, one of the two is at its end.
        for (rest, at) in [(a, &mut at_a), (b, &mut at_b)] {
            while let (true, Some(next)) = (*fuel > 0, rest.get(*at)) {
                self.push(next);
                *at += 1;
                *fuel -= 1;
            }
        }
        self.done = (at_a, at_b);
    }

    fn done(mut self) -> Option<Flat<K, V, R>> {
        self.merged.shrink_to_fit();
        (!self.merged.is_empty()).then_some(Flat { updates: self.merged })
    }
}

impl<K: Part, V: Part, R: Diff> FlatMerger<K, V, R> {
    #[inline]
    fn push(&mut self, update: &Update<K, V, R>) {
        let seq = update.seq.max(self.since);
        if let Some(last) = self.merged.last_mut().filter(|last| last.seq == seq && last.key == update.key && last.value == update.value) {
            last.diff.plus_equals(&update.diff);
            if last.diff.is_zero() {
                self.merged.pop();
            }
            return;
        }
        self.merged.push(Update { seq, ..update.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Flat<u32, u32, i32>;

    fn batch(updates: &[(u32, u32, Seq, i32)]) -> Small {
        let updates = updates.iter().map(|&(key, value, seq, diff)| Update { key, value, seq, diff }).collect();
        Flat { updates: consolidated(updates) }
    }

    fn merged(earlier: &Small, later: &Small, since: Seq, step: isize) -> Vec<(u32, u32, Seq, i32)> {
        let mut merger = FlatMerger::new(earlier, later, AntichainRef::new(&[since]));
        loop {
            let mut fuel = step;
            merger.work(earlier, later, &mut fuel);
            if fuel > 0 {
                break;
            }
        }
        let updates = merger.done().map(|batch| batch.updates).unwrap_or_default();
        updates.into_iter().map(|update| (update.key, update.value, update.seq, update.diff)).collect()
    }

    #[test]
    fn an_epoch_is_sorted_and_added_up() {
        let mut batcher = EpochBatcher::default();
        let updates = [(2, 1, 5, 1), (1, 1, 7, 1), (1, 1, 3, 1), (1, 1, 3, 1), (2, 1, 5, -1), (1, 0, 9, 1)];
        batcher.insert(&mut updates.iter().map(|&(key, value, seq, diff)| Update { key, value, seq, diff }).collect());
        let (out, kept) = batcher.extract(AntichainRef::new(&[8]));
        assert_eq!(kept.to_owned(), Antichain::from_elem(9));
        let out: Vec<_> = out.unwrap().updates().iter().map(|update| (update.key, update.value, update.seq, update.diff)).collect();
        assert_eq!(out, [(1, 1, 3, 2), (1, 1, 7, 1)]);
        let (out, kept) = batcher.extract(AntichainRef::new(&[10]));
        assert_eq!((out.unwrap().updates().len(), kept.is_empty()), (1, true));
        assert!(batcher.extract(AntichainRef::new(&[11])).0.is_none());
    }

    #[test]
    fn merging_adds_up_what_no_reader_can_tell_apart() {
        let earlier = batch(&[(1, 1, 1, 1), (1, 1, 2, 1), (2, 5, 1, 1), (4, 0, 2, 1)]);
        let later = batch(&[(1, 1, 4, 1), (2, 5, 3, -1), (2, 6, 3, 1), (3, 0, 5, 1)]);
        for step in [1, 3, 100] {
            assert_eq!(merged(&earlier, &later, 3, step), [(1, 1, 3, 2), (1, 1, 4, 1), (2, 6, 3, 1), (3, 0, 5, 1), (4, 0, 3, 1)]);
            assert_eq!(merged(&earlier, &later, 0, step).len(), 8);
        }
        let undone = batch(&[(1, 1, 9, -2), (2, 5, 9, -1), (4, 0, 9, -1)]);
        assert_eq!(merged(&earlier, &undone, 9, 2), []);
    }

    #[test]
    fn what_is_held_depends_on_when() {
        let batches = [batch(&[(1, 7, 1, 1), (1, 8, 2, 1), (2, 7, 1, 1)]), batch(&[(1, 7, 5, -1), (1, 9, 5, 1)])].map(Rc::new);
        for (last, values) in [(0, vec![]), (1, vec![7]), (4, vec![7, 8]), (5, vec![8, 9])] {
            assert_eq!(held(&batches, &1, last), values, "as of {last}");
        }
        assert_eq!(held(&batches, &3, 9), []);
    }

    #[test]
    fn keys_are_found_in_every_batch() {
        let batches = [batch(&[(1, 0, 1, 1), (5, 0, 1, 1), (9, 0, 1, 1)]), batch(&[(5, 0, 2, 1), (5, 1, 2, 1), (7, 0, 2, 1)])];
        let mut rising = Rising::new(batches.into_iter().map(Rc::new).collect());
        for (key, count) in [(0, 0), (1, 1), (4, 0), (5, 3), (8, 0), (9, 1), (10, 0)] {
            let mut found = 0;
            rising.of(&key, |_| found += 1);
            assert_eq!(found, count, "key {key}");
        }
    }
}
