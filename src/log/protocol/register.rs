//! The register of instances: the compacted topic `<house>-instances`, in which each process start has an entry. Others see by it who owns
//! what ([`crate::log::directory`]); here only its transactional id counts.
//!
//! An instance that dies in the middle of a transaction leaves it open until its timeout, and its partitions' offsets can't be read that
//! long. Whoever takes over ends it at once: every registered id whose instance is no member of the group (any more) is fenced, which ends
//! its transaction, and its entry is removed. Fencing one that lives after all costs it one recovery and nothing else, so an outdated
//! list of members does no harm; and without the register everything still holds, only slower.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::client::{RawEntry, Roll};
use crate::log::directory::Entry;

/// A look at who is alive holds so long: whoever takes over asks for every partition, all of those come at once, and each look is a question to
/// all brokers. Whoever dies within that time is found when an offset does not come.
const LOOK_HOLDS: Duration = Duration::from_millis(500);

/// Writes an instance's entry.
///
/// # Errors
/// When it is not known to be written.
pub(crate) fn enter(roll: &mut impl Roll, instance: &str, entry: &Entry) -> Result<(), String> {
    let value = serde_json::to_vec(entry).map_err(|error| error.to_string())?;
    roll.write(instance, Some(&value))
}

/// Reads the register on and on, and ends the dead.
pub(crate) struct Register<R> {
    roll: R,
    /// This process start.
    own: String,
    entries: Entries,
    /// When all that were dead were ended.
    looked: Option<Duration>,
}

#[derive(Default)]
struct Entries {
    /// By instance: its transactional id.
    ids: BTreeMap<String, String>,
    /// Whose end is done; an entry comes back at most as its own tombstone.
    ended: BTreeSet<String>,
}

impl<R: Roll> Register<R> {
    /// Nothing read yet.
    pub(crate) fn new(roll: R, own: String) -> Self {
        Self { roll, own, entries: Entries::default(), looked: None }
    }

    /// Ends every open transaction of instances that are no members of the group.
    ///
    /// # Errors
    /// When that can't be known or done now. Nothing depends on it but the time until offsets can be read.
    pub(crate) fn end_the_dead(&mut self) -> Result<(), String> {
        let now = self.roll.now();
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_HOLDS) {
            return Ok(());
        }
        let entries = &mut self.entries;
        self.roll.read_on(&mut |entry| entries.take(entry))?;
        let strangers: Vec<_> = self.entries.open().filter(|(instance, _)| *instance != self.own).collect();
        if !strangers.is_empty() {
            let members = self.roll.members().map_err(|error| format!("the group's members are not known: {error}"))?;
            for (instance, id) in strangers.into_iter().filter(|(instance, _)| !members.contains(instance)) {
                self.end(&instance, &id)?;
            }
        }
        self.looked = Some(now);
        Ok(())
    }

    fn end(&mut self, instance: &str, transactional_id: &str) -> Result<(), String> {
        let began = self.roll.now();
        self.roll.fence(transactional_id).map_err(|error| format!("the transaction of {instance} can't be ended: {error}"))?;
        // Only after the fence: the entry must stand as long as there may be something to end.
        self.roll.write(instance, None)?;
        self.entries.ended.insert(instance.to_owned());
        let ms = self.roll.now().saturating_sub(began).as_millis();
        tracing::info!(instance, ms, "made sure that an earlier instance left nothing open");
        Ok(())
    }
}

impl Entries {
    /// Those that may have something open: (instance, transactional id).
    fn open(&self) -> impl Iterator<Item = (String, String)> {
        self.ids.iter().filter(|(instance, _)| !self.ended.contains(*instance)).map(|(instance, id)| (instance.clone(), id.clone()))
    }

    fn take(&mut self, (key, value): RawEntry<'_>) {
        let Some(instance) = key.and_then(|key| str::from_utf8(key).ok()) else { return };
        // An entry: it lives (again), as it registers anew after each recovery.
        self.ended.remove(instance);
        match value.and_then(|value| serde_json::from_slice::<Entry>(value).ok()) {
            Some(entry) => _ = self.ids.insert(instance.to_owned(), entry.transactional_id),
            None => _ = self.ids.remove(instance),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::client::Time, *};

    /// A register with one entry, whose instance is dead from some time on.
    #[derive(Default)]
    struct Told {
        now: Duration,
        shown: bool,
        dead_from: Duration,
        looks: usize,
        fenced: Vec<String>,
    }

    impl Time for Told {
        fn now(&self) -> Duration {
            self.now
        }
        fn pause(&self, _: Duration) {}
    }

    impl Roll for Told {
        fn read_on(&mut self, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<(), String> {
            if !std::mem::replace(&mut self.shown, true) {
                let entry = serde_json::to_vec(&Entry { transactional_id: "its-id".to_owned(), ..Entry::default() }).unwrap();
                each((Some(b"other"), Some(&entry)));
            }
            Ok(())
        }
        fn write(&mut self, _: &str, _: Option<&[u8]>) -> Result<(), String> {
            Ok(())
        }
        fn members(&mut self) -> Result<BTreeSet<String>, String> {
            self.looks += 1;
            Ok((self.now < self.dead_from).then(|| "other".to_owned()).into_iter().collect())
        }
        fn fence(&mut self, id: &str) -> Result<(), String> {
            self.fenced.push(id.to_owned());
            Ok(())
        }
    }

    #[test]
    fn one_look_does_for_all_partitions_of_a_takeover_and_the_next_one_finds_who_died_meanwhile() {
        let mut register = Register::new(Told { dead_from: Duration::from_millis(100), ..Told::default() }, "own".to_owned());
        for (now_ms, looks, fenced) in [(0, 1, 0), (200, 1, 0), (499, 1, 0), (500, 2, 1), (600, 2, 1), (1_000, 2, 1)] {
            register.roll.now = Duration::from_millis(now_ms);
            register.end_the_dead().unwrap();
            assert_eq!((register.roll.looks, register.roll.fenced.len()), (looks, fenced), "at {now_ms} ms");
        }
    }
}
