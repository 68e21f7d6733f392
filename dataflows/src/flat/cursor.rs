//! A cursor over a flat batch, for the operators and answers that read arrangements the general way.

use std::marker::PhantomData;

use differential_dataflow::trace::{Navigable, cursor::Cursor};

use super::{Diff, Flat, Part, gallop};
use crate::vocabulary::Seq;

/// Where a reader stands: at the first update of a key, and at the first of one of its values.
pub(crate) struct FlatCursor<K, V, R> {
    key_at: usize,
    value_at: usize,
    parts: PhantomData<(K, V, R)>,
}

impl<K: Part, V: Part, R: Diff> Navigable for Flat<K, V, R> {
    type Cursor = FlatCursor<K, V, R>;

    fn cursor(&self) -> Self::Cursor {
        FlatCursor { key_at: 0, value_at: 0, parts: PhantomData }
    }
}

impl<K: Part, V: Part, R: Diff> Cursor for FlatCursor<K, V, R> {
    type Storage = Flat<K, V, R>;
    type Key<'a> = &'a K;
    type ValOwn = V;
    type Val<'a> = &'a V;
    type Time = Seq;
    type TimeGat<'a> = &'a Seq;
    type Diff = R;
    type DiffGat<'a> = &'a R;
    type KeyContainer = Vec<K>;
    type ValContainer = Vec<V>;
    type TimeContainer = Vec<Seq>;
    type DiffContainer = Vec<R>;

    fn key_valid(&self, batch: &Self::Storage) -> bool {
        self.key_at < batch.updates.len()
    }

    fn val_valid(&self, batch: &Self::Storage) -> bool {
        batch.updates.get(self.value_at).is_some_and(|update| update.key == batch.updates[self.key_at].key)
    }

    fn key<'a>(&self, batch: &'a Self::Storage) -> &'a K {
        &batch.updates[self.key_at].key
    }

    fn val<'a>(&self, batch: &'a Self::Storage) -> &'a V {
        &batch.updates[self.value_at].value
    }

    fn get_key<'a>(&self, batch: &'a Self::Storage) -> Option<&'a K> {
        self.key_valid(batch).then(|| self.key(batch))
    }

    fn get_val<'a>(&self, batch: &'a Self::Storage) -> Option<&'a V> {
        self.val_valid(batch).then(|| self.val(batch))
    }

    fn map_times<L: FnMut(&Seq, &R)>(&mut self, batch: &Self::Storage, mut logic: L) {
        let Some(first) = batch.updates.get(self.value_at).filter(|_| self.val_valid(batch)) else { return };
        let alike = batch.updates[self.value_at..].iter().take_while(|update| update.key == first.key && update.value == first.value);
        alike.for_each(|update| logic(&update.seq, &update.diff));
    }

    fn step_key(&mut self, batch: &Self::Storage) {
        let Some(first) = batch.updates.get(self.key_at) else { return };
        self.key_at += batch.updates[self.key_at..].iter().take_while(|update| update.key == first.key).count();
        self.value_at = self.key_at;
    }

    fn seek_key(&mut self, batch: &Self::Storage, key: &K) {
        self.key_at = gallop(&batch.updates, self.key_at, |update| update.key < *key);
        self.value_at = self.key_at;
    }

    fn step_val(&mut self, batch: &Self::Storage) {
        let Some(first) = batch.updates.get(self.value_at).filter(|_| self.val_valid(batch)) else { return };
        let alike = batch.updates[self.value_at..].iter().take_while(|update| update.key == first.key && update.value == first.value);
        self.value_at += alike.count();
    }

    fn seek_val(&mut self, batch: &Self::Storage, value: &V) {
        let Some(first) = batch.updates.get(self.key_at) else { return };
        self.value_at = gallop(&batch.updates, self.value_at, |update| (&update.key, &update.value) < (&first.key, value));
    }

    fn rewind_keys(&mut self, _: &Self::Storage) {
        (self.key_at, self.value_at) = (0, 0);
    }

    fn rewind_vals(&mut self, _: &Self::Storage) {
        self.value_at = self.key_at;
    }
}
