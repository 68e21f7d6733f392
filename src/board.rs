//! Where the house stands, for everyone to watch: the [`Note`]s of pump and commit, folded into one [`Standing`].

use std::{
    collections::btree_map::Entry,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::watch;

use crate::{
    message::Note,
    question::{PartitionStanding, Standing},
};

/// Publishes the standing.
#[derive(Debug)]
pub struct Board {
    standing: watch::Sender<Standing>,
    troubles: Mutex<Troubles>,
}

/// What is wrong, by who said so.
#[derive(Debug, Default)]
struct Troubles {
    commit: Option<String>,
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
            let changed = troubles.fold(note, standing);
            let trouble = troubles.sentence();
            let retold = standing.trouble != trouble;
            standing.trouble = trouble;
            changed || retold
        });
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().expect("nobody panics while holding it")
    }
}

impl Troubles {
    /// Whether the note changed anything but the trouble's sentence.
    fn fold(&mut self, note: &Note, standing: &mut Standing) -> bool {
        match note {
            Note::Restoring(partition) => {
                standing.partitions.insert(*partition, PartitionStanding::Restoring) != Some(PartitionStanding::Restoring)
            }
            Note::Gone(partitions) => partitions.iter().filter(|partition| standing.partitions.remove(partition).is_some()).count() > 0,
            Note::Committed(live) => {
                self.commit = None;
                let was_stale = standing.stale_since_ms.take().is_some();
                live.iter().fold(was_stale, |any, (partition, next_offset)| {
                    // Only partitions that are still ours: the pump may have said meanwhile that one is gone.
                    let Entry::Occupied(mut entry) = standing.partitions.entry(*partition) else { return any };
                    let now = PartitionStanding::Live { next_offset: *next_offset };
                    entry.insert(now) != now || any
                })
            }
            Note::Stale { since_ms, trouble } => {
                self.commit = Some(trouble.clone());
                standing.stale_since_ms.replace(*since_ms) != Some(*since_ms)
            }
            Note::Clock(trouble) => {
                self.clock.clone_from(trouble);
                false
            }
            Note::Stopping => !std::mem::replace(&mut standing.stopping, true),
        }
    }

    fn sentence(&self) -> Option<String> {
        let all: Vec<_> = [&self.commit, &self.clock].into_iter().flatten().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
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
    fn troubles_of_commit_and_clock_stand_side_by_side() {
        let board = Board::default();
        board.apply(&Note::Clock(Some("clock".into())));
        board.apply(&Note::Stale { since_ms: 5, trouble: "commit".into() });
        assert_eq!(board.watch().borrow().trouble.as_deref(), Some("commit; clock"));
        board.apply(&Note::Committed(vec![]));
        let standing = board.watch().borrow().clone();
        assert_eq!((standing.stale_since_ms, standing.trouble.as_deref()), (None, Some("clock")));
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
