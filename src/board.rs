//! Where the house stands, for everyone to watch: the [`Note`]s of pump and commit, folded into one [`Standing`].

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};
use tokio::sync::watch;

use crate::message::{CopyPart, Note, RestoreProgress};

/// Where the house stands, published by the flow for everyone to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// By owned partition: how far it is.
    pub partitions: BTreeMap<Partition, PartitionStanding>,
    /// How far the restores are that have begun.
    pub restores: BTreeMap<Partition, RestoreProgress>,
    /// By partition of another instance, or that is being taken over: its copy, once it is whole.
    pub copies: BTreeMap<Partition, Option<CopyStanding>>,
    /// How often the state of each partition was dropped or given up: an answer across such an upheaval counts for nothing.
    pub upheavals: BTreeMap<Partition, u64>,
    /// Since when commits fail or are being recovered from; answers are at L and stale. None: all is well.
    pub stale_since_ms: Option<i64>,
    /// What is wrong, in a sentence, while stale.
    pub trouble: Option<String>,
    /// Whether the house is shutting down.
    pub stopping: bool,
}

impl Standing {
    /// Adds that the group has not been known to have us since then, and that this is too long ago.
    pub fn lapse(&mut self, since_ms: Millis) {
        if self.partitions.is_empty() {
            return;
        }
        self.stale_since_ms = Some(self.stale_since_ms.map_or(since_ms, |known_ms| known_ms.min(since_ms)));
        let before = self.trouble.take().map(|trouble| trouble + "; ").unwrap_or_default();
        self.trouble = Some(format!("{before}the group has not answered for a session: another instance may own the partitions"));
    }
}

/// How far one owned partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionStanding {
    /// Its state is being restored: it can't be asked.
    Restoring,
    /// Its records before this offset are applied and committed.
    Live {
        /// The first offset not applied and committed.
        next_offset: Offset,
    },
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyStanding {
    /// Its owner's records before this offset are in it.
    pub next_offset: Offset,
    /// When, by the wall-clock, that was last known to be all that is committed.
    pub level_ms: Millis,
}

/// Publishes the standing.
#[derive(Debug)]
pub struct Board {
    standing: watch::Sender<Standing>,
    troubles: Mutex<Troubles>,
}

/// What is wrong, by who said so.
#[derive(Debug, Default)]
struct Troubles {
    /// Commits fail, since then.
    commit: Option<(Millis, String)>,
    /// The consumer group was lost, since then.
    group: Option<(Millis, String)>,
    clock: Option<String>,
}

impl Default for Board {
    fn default() -> Self {
        Self { standing: watch::Sender::new(Standing::default()), troubles: Mutex::default() }
    }
}

impl Board {
    /// A new watcher.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Publishes a note; watchers wake only if it changes anything.
    pub fn apply(&self, note: &Note) {
        let mut troubles = self.troubles();
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            troubles.fold(note, standing);
            standing.stale_since_ms = troubles.stale_since_ms(standing);
            standing.trouble = troubles.sentence();
            *standing != before
        });
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().expect("nobody panics while holding it")
    }
}

impl Troubles {
    fn fold(&mut self, note: &Note, standing: &mut Standing) {
        match note {
            Note::Restoring(partition) => {
                standing.partitions.insert(*partition, PartitionStanding::Restoring);
                standing.copies.remove(partition);
                standing.restores.remove(partition);
                upheaval(standing, *partition);
            }
            Note::Copying(partition) => {
                standing.copies.insert(*partition, None);
                upheaval(standing, *partition);
            }
            Note::TakingOver(partition) => _ = standing.partitions.insert(*partition, PartitionStanding::Restoring),
            Note::Copied(copies) => {
                for CopyPart { partition, next_offset, level_ms } in copies {
                    let known = standing.copies.entry(*partition); // it may be gone meanwhile
                    known.and_modify(|copy| *copy = Some(CopyStanding { next_offset: *next_offset, level_ms: *level_ms }));
                }
            }
            // A restore that was given up may be told of a little longer.
            Note::Restore(partition, progress) if standing.partitions.get(partition) == Some(&PartitionStanding::Restoring) => {
                standing.restores.insert(*partition, *progress);
            }
            Note::Restore(..) => {}
            Note::Gone(partitions) => {
                standing.restores.retain(|partition, _| !partitions.contains(partition));
                standing.partitions.retain(|partition, _| !partitions.contains(partition));
                standing.copies.retain(|partition, _| !partitions.contains(partition));
                partitions.iter().for_each(|partition| upheaval(standing, *partition));
            }
            Note::Committed(live) => {
                self.commit = None;
                for (partition, next_offset) in live {
                    // Only partitions that are still ours: the pump may have said meanwhile that one is gone.
                    let known = standing.partitions.entry(*partition);
                    known.and_modify(|known| *known = PartitionStanding::Live { next_offset: *next_offset });
                    standing.copies.remove(partition); // it is taken over, and that is no upheaval
                    standing.restores.remove(partition);
                }
            }
            Note::Stale { since_ms, trouble } => self.commit = Some((*since_ms, trouble.clone())),
            Note::Adrift(trouble) => self.group.clone_from(trouble),
            Note::Clock(trouble) => self.clock.clone_from(trouble),
            Note::Stopping => standing.stopping = true,
        }
    }

    /// Without partitions there is nothing to be stale.
    fn stale_since_ms(&self, standing: &Standing) -> Option<Millis> {
        let since = [&self.commit, &self.group].into_iter().flatten().map(|(since_ms, _)| *since_ms).min();
        since.filter(|_| !standing.partitions.is_empty())
    }

    fn sentence(&self) -> Option<String> {
        let stale = [&self.commit, &self.group].into_iter().flatten().map(|(_, trouble)| trouble.as_str());
        let all: Vec<_> = stale.chain(self.clock.as_deref()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

fn upheaval(standing: &mut Standing, partition: Partition) {
    *standing.upheavals.entry(partition).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_never_brings_back_a_partition_that_is_gone() {
        let board = Board::default();
        board.apply(&Note::Restoring(0));
        board.apply(&Note::Restoring(1));
        board.apply(&Note::Gone(vec![1]));
        board.apply(&Note::Committed(vec![(0, 7), (1, 9)]));
        let standing = board.watch().borrow().clone();
        assert_eq!(standing.partitions.into_iter().collect::<Vec<_>>(), [(0, PartitionStanding::Live { next_offset: 7 })]);
    }

    #[test]
    fn a_copy_is_there_once_it_is_whole_and_until_it_is_taken_over() {
        let board = Board::default();
        let copied = |next_offset| Note::Copied(vec![CopyPart { partition: 3, next_offset, level_ms: 9 }]);
        let of = |board: &Board| board.watch().borrow().copies.get(&3).copied();
        board.apply(&copied(5));
        assert_eq!(of(&board), None, "nobody makes one");
        board.apply(&Note::Copying(3));
        assert_eq!(of(&board), Some(None));
        board.apply(&copied(7));
        let whole = Some(Some(CopyStanding { next_offset: 7, level_ms: 9 }));
        assert_eq!(of(&board), whole);
        let before = board.watch().borrow().upheavals.clone();
        board.apply(&Note::TakingOver(3));
        assert_eq!(of(&board), whole, "it answers while it is proven");
        board.apply(&Note::Committed(vec![(3, 8)]));
        let standing = board.watch().borrow().clone();
        assert_eq!((standing.copies.len(), &standing.partitions[&3]), (0, &PartitionStanding::Live { next_offset: 8 }));
        assert_eq!(standing.upheavals, before, "its state was there all the time");
        board.apply(&Note::Gone(vec![3]));
        board.apply(&Note::Copying(3));
        board.apply(&copied(9));
        board.apply(&Note::Restoring(3));
        assert_eq!(of(&board), None, "a plain restore begins with nothing");
    }

    #[test]
    fn a_restore_is_told_of_until_it_is_over() {
        let board = Board::default();
        let restores = || board.watch().borrow().restores.keys().copied().collect::<Vec<_>>();
        let told = |partition| board.apply(&Note::Restore(partition, RestoreProgress { rows: 5, ..RestoreProgress::default() }));
        [0, 1, 2].into_iter().for_each(|partition| board.apply(&Note::Restoring(partition)));
        [0, 1, 2, 3].into_iter().for_each(told);
        assert_eq!(restores(), [0, 1, 2], "3 is not ours");
        board.apply(&Note::Committed(vec![(0, 7)]));
        board.apply(&Note::Gone(vec![1]));
        [0, 1].into_iter().for_each(told);
        assert_eq!(restores(), [2], "what is over stays over");
        board.apply(&Note::Restoring(2));
        assert_eq!(restores(), Vec::<Partition>::new(), "it begins anew");
    }

    #[test]
    fn troubles_of_commit_and_clock_stand_side_by_side() {
        let board = Board::default();
        board.apply(&Note::Restoring(0));
        board.apply(&Note::Clock(Some("clock".into())));
        board.apply(&Note::Adrift(Some((7, "group".into()))));
        board.apply(&Note::Stale { since_ms: 5, trouble: "commit".into() });
        let standing = board.watch().borrow().clone();
        assert_eq!((standing.stale_since_ms, standing.trouble.as_deref()), (Some(5), Some("commit; group; clock")));
        board.apply(&Note::Committed(vec![]));
        assert_eq!(board.watch().borrow().stale_since_ms, Some(7), "a commit of before the loss does not heal it");
        board.apply(&Note::Adrift(None));
        let standing = board.watch().borrow().clone();
        assert_eq!((standing.stale_since_ms, standing.trouble.as_deref()), (None, Some("clock")));
    }

    #[test]
    fn a_lapsed_lease_makes_stale_what_there_is() {
        let mut nothing = Standing::default();
        nothing.lapse(3);
        assert_eq!(nothing, Standing::default());
        for (known_ms, trouble, since_ms, said) in [
            (None, None, 3, "the group has not answered"),
            (Some(2), Some("no broker"), 2, "no broker; the group has not answered"),
            (Some(4), Some("no broker"), 3, "no broker; the group has not answered"),
        ] {
            let partitions = BTreeMap::from([(0, PartitionStanding::Restoring)]);
            let trouble = trouble.map(str::to_owned);
            let mut standing = Standing { partitions, stale_since_ms: known_ms, trouble, ..Standing::default() };
            standing.lapse(3);
            assert_eq!(standing.stale_since_ms, Some(since_ms));
            assert!(standing.trouble.is_some_and(|trouble| trouble.starts_with(said)));
        }
    }

    #[test]
    fn every_upheaval_of_a_partition_counts() {
        let board = Board::default();
        let upheavals = || board.watch().borrow().upheavals.get(&0).copied();
        board.apply(&Note::Restoring(0));
        board.apply(&Note::Committed(vec![(0, 7)]));
        let live = board.watch().borrow().partitions.clone();
        assert_eq!(upheavals(), Some(1));
        board.apply(&Note::Gone(vec![0]));
        board.apply(&Note::Restoring(0));
        board.apply(&Note::Committed(vec![(0, 7)]));
        assert_eq!((board.watch().borrow().partitions.clone(), upheavals()), (live, Some(3)), "it looks the same and is not");
    }

    #[test]
    fn watchers_sleep_through_notes_that_change_nothing() {
        let board = Board::default();
        board.apply(&Note::Restoring(0));
        board.apply(&Note::Committed(vec![(0, 7)]));
        let mut watch = board.watch();
        watch.mark_unchanged();
        board.apply(&Note::Committed(vec![(0, 7)]));
        assert!(!watch.has_changed().expect("the board is there"));
    }
}
