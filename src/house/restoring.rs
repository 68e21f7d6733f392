//! The loops of a restore: some read and prove partition after partition, one delivers what is read, so that the next are read meanwhile.
//!
//! Between the pump's requests and its deliveries. Who reads takes the next request when it is free, so partitions are delivered in no particular
//! order. What can't be restored now holds up nothing else: whoever tried goes on with others, and then tries again.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};
use statehouse_dataflows::vocabulary::Partition;

use super::{HouseError, ending::Ending};
use crate::{
    board::Board,
    log::LogError,
    message::{Delivery, Note, Request, RestoreProgress},
    metrics::Metrics,
    restore::{Restore, Restored},
};

/// A restore that found the log unavailable tries again after this long.
const RETRY: Duration = Duration::from_millis(500);
/// How far a restore is, is noted no more often than that,
const NOTE_EVERY: Duration = Duration::from_millis(200);
/// and said in the log no more often than that.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Reads partition after partition, as others beside it do. Each is handed to a thread that delivers it, so that the next is read meanwhile.
pub(super) struct RestoreThread {
    pub(super) restore: Restore,
    pub(super) requests: Receiver<Request>,
    /// Without room for any: besides the partition being delivered, at most one for each reader stands in memory.
    pub(super) read: Sender<Read>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Arc<Metrics>,
}

/// Delivers what is read, as the pump takes it.
pub(super) struct DeliverThread {
    pub(super) read: Receiver<Read>,
    pub(super) deliver: Sender<Delivery>,
    pub(super) metrics: Arc<Metrics>,
}

/// A partition, read and proven.
pub(super) struct Read {
    request: Request,
    restored: Restored,
    begun: Instant,
    telling: Telling,
}

/// Tells everyone how far the restore of a partition is, until it is dropped.
struct Telling {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    partition: Partition,
    begun: Instant,
    noted: Option<Instant>,
    said: Instant,
}

impl Telling {
    fn begin(board: &Arc<Board>, metrics: &Arc<Metrics>, partition: Partition) -> Self {
        tracing::info!(partition, "restoring a partition");
        let begun = Instant::now();
        Self { board: Arc::clone(board), metrics: Arc::clone(metrics), partition, begun, noted: None, said: begun }
    }

    fn tell(&mut self, progress: RestoreProgress) {
        if self.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return;
        }
        self.noted = Some(Instant::now());
        let elapsed_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let progress = RestoreProgress { elapsed_ms, ..progress };
        self.board.apply(&Note::Restore(self.partition, progress));
        self.metrics.restore_at(self.partition, &progress);
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let RestoreProgress { chunks: (chunks, chunks_total), rows, bytes, handed_rows: (handed_rows, handed_rows_total), .. } =
                progress;
            let (percent, seconds_left) = (progress.permille() / 10, progress.seconds_left());
            let partition = self.partition;
            tracing::info!(
                partition,
                percent,
                seconds_left,
                chunks,
                chunks_total,
                rows,
                bytes,
                handed_rows,
                handed_rows_total,
                "restoring"
            );
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.metrics.restore_over(self.partition);
    }
}

impl RestoreThread {
    pub(super) fn run(mut self, ending: &Ending) -> Result<(), HouseError> {
        let mut waiting: VecDeque<(Request, Instant)> = VecDeque::new();
        loop {
            let come = |request| (request, Instant::now());
            // What others could take, too, before what waits here alone.
            let next = self.requests.try_recv().ok().map(come).or_else(|| waiting.pop_front());
            let Some((request, begun)) = next.or_else(|| self.requests.recv().ok().map(come)) else { return Ok(()) };
            let is_over = request.cancelled.load(Ordering::Relaxed) || ending.is_stopping();
            if is_over {
                continue;
            }
            let mut telling = Telling::begin(&self.board, &self.metrics, request.partition);
            match self.restore.restore(&request, &mut |progress| telling.tell(progress)) {
                Ok(restored) => {
                    if self.read.send(Read { request, restored, begun, telling }).is_err() {
                        return Ok(());
                    }
                }
                Err(_) if request.cancelled.load(Ordering::Relaxed) => {} // another's by now, and nobody's concern here
                Err(LogError::Unavailable(why)) => {
                    tracing::warn!(partition = request.partition, why, "can't restore now, trying again");
                    ending.pause(RETRY);
                    waiting.push_back((request, begun)); // what can be restored is not held up by what can't
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl DeliverThread {
    pub(super) fn run(self) -> Result<(), HouseError> {
        let mut handed_over = None;
        'partitions: while let Ok(Read { request, mut restored, begun, mut telling }) = self.read.recv() {
            let (partition, records, fresh) = (request.partition, restored.records, restored.at.progress.is_none());
            while let Some(delivery) = restored.next() {
                telling.tell(restored.progress());
                if request.cancelled.load(Ordering::Relaxed) {
                    continue 'partitions; // given up half-way is not restored
                }
                if self.deliver.send(delivery).is_err() {
                    return Ok(());
                }
            }
            let turn = handed_over.map_or(begun, |before: Instant| before.max(begun));
            handed_over = Some(Instant::now());
            self.metrics.restore_read(records);
            self.metrics.partition_restored(turn.elapsed());
            let RestoreProgress { rows, bytes, handed_rows: (live_rows, _), .. } = restored.progress();
            tracing::info!(partition, records, rows, bytes, live_rows, fresh, elapsed = ?turn.elapsed(), "partition restored");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, sync::atomic::AtomicBool, thread};

    use ahash::RandomState;
    use crossbeam_channel::bounded;
    use statehouse_dataflows::vocabulary::Offset;

    use super::*;
    use crate::{
        log::{Checkpoint, Progress, Start},
        restore::RestoreSettings,
        route::Route,
    };

    /// Partition 0 can't be read, the others are fresh.
    struct Broken;

    impl Checkpoint for Broken {
        fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
            if partition == 0 { Err(LogError::Unavailable("it has no leader".to_owned())) } else { Ok(None) }
        }
        fn start_offset(&mut self, _: Partition, _: Start) -> Result<Offset, LogError> {
            Ok(0)
        }
        fn read(&mut self, _: Partition, _: Offset, _: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>) -> Result<bool, LogError> {
            unreachable!("there is nothing to read")
        }
    }

    #[test]
    fn what_cannot_be_restored_holds_up_nothing_else() {
        let settings =
            RestoreSettings { house: "h".to_owned(), start: Start::Earliest, batch_rows: 1, route: Route::new(RandomState::new(), 1) };
        let (request, requests) = bounded(3);
        let (read, proven) = bounded(0);
        let board = Arc::new(Board::default());
        let (restore, metrics) = (Restore::new(settings, Box::new(Broken)), Metrics::new());
        let restoring = RestoreThread { restore, requests, read, board: Arc::clone(&board), metrics };
        let ending = Ending::new(board);
        let request_of = |partition| Request { partition, number: 1, cancelled: Arc::new(AtomicBool::new(false)) };
        let (unreadable, readable) = (request_of(0), request_of(1));
        let cancelled = Arc::clone(&unreadable.cancelled);
        [unreadable, readable].into_iter().for_each(|one| request.send(one).unwrap());
        thread::scope(|scope| {
            let thread = scope.spawn(|| restoring.run(&ending));
            let first = proven.recv_timeout(Duration::from_secs(60)).expect("partition 1 waits for nobody");
            assert_eq!(first.request.partition, 1);
            cancelled.store(true, Ordering::Relaxed);
            drop(request);
            thread.join().unwrap().unwrap();
        });
        assert!(proven.recv().is_err(), "nothing else was read");
    }

    /// Partition 0 takes until it is told to be there, the others are fresh.
    struct Slow(Receiver<()>);

    impl Checkpoint for Slow {
        fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
            if partition == 0 {
                _ = self.0.recv();
            }
            Ok(None)
        }
        fn start_offset(&mut self, _: Partition, _: Start) -> Result<Offset, LogError> {
            Ok(0)
        }
        fn read(&mut self, _: Partition, _: Offset, _: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>) -> Result<bool, LogError> {
            unreachable!("there is nothing to read")
        }
    }

    #[test]
    fn partitions_are_read_at_the_same_time() {
        let (request, requests) = bounded(2);
        let (read, proven) = bounded(0);
        let (go_on, told) = bounded(2);
        let board = Arc::new(Board::default());
        let ending = Ending::new(Arc::clone(&board));
        let reader = || {
            let route = Route::new(RandomState::new(), 1);
            let settings = RestoreSettings { house: "h".to_owned(), start: Start::Earliest, batch_rows: 1, route };
            let restore = Restore::new(settings, Box::new(Slow(told.clone())));
            RestoreThread { restore, requests: requests.clone(), read: read.clone(), board: Arc::clone(&board), metrics: Metrics::new() }
        };
        let (one, other) = (reader(), reader());
        drop((requests, read));
        for partition in [0, 1] {
            request.send(Request { partition, number: 1, cancelled: Arc::default() }).unwrap();
        }
        drop(request);
        thread::scope(|scope| {
            let threads = [one, other].map(|reader| scope.spawn(|| reader.run(&ending)));
            let next = || proven.recv_timeout(Duration::from_secs(60)).map(|read| read.request.partition);
            assert_eq!(next(), Ok(1), "while 0 is being read");
            go_on.send(()).unwrap();
            assert_eq!(next(), Ok(0));
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
    }
}
