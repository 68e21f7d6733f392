//! The loop of the copies over a made-up log: what it delivers, and when it doubts.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use crossbeam_channel::{bounded, unbounded};
use statehouse_dataflows::{
    digest::row_hash,
    rows::Rows,
    vocabulary::{Offset, Report, Row, RowValue},
};

use super::*;
use crate::{
    chunk,
    house::{Clock, SystemClock},
    log::{self, Checkpoint, LogError, Peer, Peers, Progress, Start, Tail, Tailed},
    message::{Delivered, Request},
    restore::RestoreSettings,
    route::Route,
    standby::StandbySettings,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITION: Partition = 3;
/// Where the partition ends at first.
const END: Offset = 8;

/// What comes of the tail.
enum Come {
    Record(Vec<u8>),
    /// The record at this offset.
    At(Offset, Vec<u8>),
    End,
    Lost,
    /// From now on the partition ends there.
    Grow(Offset),
}

/// A log that brings what it is told, and notes what is asked of it.
struct Scripted {
    come: Receiver<Come>,
    asked: Sender<String>,
    end: Offset,
    place: Option<Offset>,
}

impl Tail for Scripted {
    fn follow(&mut self, partition: Partition) -> Result<(), LogError> {
        self.note(format!("follow {partition}"));
        Ok(())
    }
    fn leave(&mut self, partition: Partition) -> Result<(), LogError> {
        self.note(format!("leave {partition}"));
        Ok(())
    }
    fn poll(&mut self, wait: Duration, each: &mut dyn FnMut(Tailed<'_>)) {
        match self.come.recv_timeout(wait) {
            Ok(Come::Record(bytes)) => self.bring(7, &bytes, each),
            Ok(Come::At(offset, bytes)) => self.bring(offset, &bytes, each),
            Ok(Come::Grow(end)) => self.end = end,
            Ok(Come::End) => each(Tailed::End(PARTITION)),
            Ok(Come::Lost) => each(Tailed::Lost(PARTITION)),
            Err(_) => {}
        }
    }
    fn end(&mut self, _: Partition) -> Option<Offset> {
        if self.end != END {
            self.note(format!("end {}", self.end));
        }
        Some(self.end)
    }
    fn place(&self, _: Partition) -> Option<Offset> {
        self.place
    }
}

impl Scripted {
    fn note(&self, asked: String) {
        _ = self.asked.send(asked); // at its end, the story hears no more
    }
    fn bring(&mut self, offset: Offset, bytes: &[u8], each: &mut dyn FnMut(Tailed<'_>)) {
        self.place = Some(offset + 1);
        each(Tailed::Record(PARTITION, offset, bytes));
    }
}

/// What is committed: as often as it is asked, the next answer.
type Answers = Arc<Mutex<Vec<Result<Option<(Offset, Progress)>, LogError>>>>;
struct Committed(Answers);

impl Checkpoint for Committed {
    fn progress(&mut self, _: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        self.0.lock().unwrap().remove(0)
    }
    fn start_offset(&mut self, _: Partition, _: Start) -> Result<Offset, LogError> {
        unreachable!("nothing starts")
    }
    fn read(&mut self, _: Partition, _: Offset, _: &mut dyn FnMut(Offset, &[u8]) -> std::ops::ControlFlow<()>) -> Result<bool, LogError> {
        unreachable!("nothing is restored")
    }
}

/// Two instances: this one, and the owner of the partition.
struct Two;

impl Peers for Two {
    fn me(&self) -> &'static str {
        "me"
    }
    fn look(&mut self) -> Result<Vec<Peer>, LogError> {
        let peer = |instance: &str, owned| Peer { instance: instance.to_owned(), owned };
        Ok(vec![peer("me", vec![0]), peer("other", vec![1, 2, PARTITION])])
    }
}

struct Bench {
    orders: Sender<Order>,
    come: Sender<Come>,
    asked: Receiver<String>,
    wanted: Receiver<BTreeSet<Partition>>,
    deliveries: Receiver<Delivery>,
    committed: Answers,
    cancelled: Arc<AtomicBool>,
}

impl Bench {
    /// Runs the loop for as long as the story takes.
    fn run(story: impl FnOnce(&Self)) {
        let (orders, ordered) = bounded(4);
        let (come, comes) = unbounded();
        let (ask, asked) = unbounded();
        let (wanted, wants) = bounded(1);
        let (deliver, deliveries) = unbounded();
        let committed = Answers::default();
        let restore =
            RestoreSettings { house: "test".into(), start: Start::Latest, batch_rows: 10, route: Route::new(RandomState::new(), 1) };
        let log = log::StandbyLog {
            tail: Box::new(Scripted { come: comes, asked: ask, end: END, place: None }),
            peers: Box::new(Two),
            checkpoint: Box::new(Committed(Arc::clone(&committed))),
        };
        let clock = SystemClock::default();
        let (look_every, doubt_pause) = (Duration::from_secs(2), Duration::from_secs(5));
        let settings = StandbySettings { restore, partitions: 4, copies: 1, look_every, doubt_pause };
        let standby = Standby::new(settings, log, Box::new(move || clock.now()));
        let thread = StandbyThread { standby, orders: ordered, wanted, deliver, metrics: Metrics::new() };
        let thread = std::thread::spawn(move || thread.run());
        let bench = Self { orders, come, asked, wanted: wants, deliveries, committed, cancelled: Arc::default() };
        story(&bench);
        drop(bench);
        thread.join().unwrap().unwrap();
    }

    fn order_copy(&self) {
        let request = Request { partition: PARTITION, number: 5, cancelled: Arc::clone(&self.cancelled) };
        self.orders.send(Order::Copy(request)).unwrap();
        assert_eq!(self.asked(), "follow 3");
    }

    /// The copy is whole after chunk 1.
    fn make_whole(&self) {
        self.order_copy();
        self.come.send(Come::Record(chunk(1))).unwrap();
        self.come.send(Come::End).unwrap();
        assert!(matches!(self.next(), Delivered::Begin(at) if at.next_offset == 10));
        assert!(matches!(self.next(), Delivered::Rows(shares) if shares[0].hashes.len() == 1));
        assert!(matches!(self.next(), Delivered::End));
        assert!(matches!(self.deliveries.recv_timeout(PATIENCE).unwrap().what, Delivered::Level(_)), "it is known to be level at once");
    }

    fn take_over(&self) {
        self.orders.send(Order::TakeOver { partition: PARTITION, number: 5 }).unwrap();
    }

    fn asked(&self) -> String {
        self.asked.recv_timeout(PATIENCE).expect("something is asked")
    }

    fn delivery(&self) -> Delivered {
        self.deliveries.recv_timeout(PATIENCE).expect("a delivery").what
    }

    fn await_level(&self) {
        while !matches!(self.delivery(), Delivered::Level(_)) {}
    }

    /// What is delivered next, but how level it is.
    fn next(&self) -> Delivered {
        loop {
            let Delivery { partition, number, what } = self.deliveries.recv_timeout(PATIENCE).expect("a delivery");
            assert_eq!((partition, number), (PARTITION, 5));
            if !matches!(what, Delivered::Level(_)) {
                return what;
            }
        }
    }
}

/// Chunk n says that agent n reports, too.
fn rows(n: u64) -> Vec<Row> {
    let report = |agent: u64| {
        let report = Report { state: "x".into(), ts_ms: 1, offset: 2, due_ms: None };
        Row { partition: PARTITION, object: "o".into(), value: RowValue::Report(format!("a{agent}").into(), Some(report)) }
    };
    (1..=n).map(report).collect()
}

fn digest(n: u64) -> u64 {
    rows(n).iter().fold(0, |digest, row| digest.wrapping_add(row_hash(row)))
}

fn chunk(n: u64) -> Vec<u8> {
    let header = chunk::Header {
        house: "test".into(),
        partition: PARTITION,
        n,
        next_offset: n as Offset * 10,
        clock_ms: 100,
        event: 7,
        digest: digest(n),
        ..chunk::Header::default()
    };
    let rows = Rows::of(&rows(n)[n as usize - 1..]);
    chunk::encode(&header, &[rows], 1_000_000).remove(0)
}

fn progress(n: u64) -> (Offset, Progress) {
    (n as Offset * 10, Progress { n, digest: digest(n), start: 4 })
}

#[test]
fn what_is_wanted_is_told_once() {
    Bench::run(|bench| {
        assert_eq!(bench.wanted.recv_timeout(PATIENCE).unwrap(), [1, 2, 3].into());
    });
}

#[test]
fn a_copy_follows_and_is_handed_over_when_it_is_proven() {
    Bench::run(|bench| {
        bench.make_whole();
        bench.come.send(Come::Record(chunk(2))).unwrap();
        assert!(matches!(bench.next(), Delivered::Chunk(at, _) if at.next_offset == 20));
        let later = LogError::Unavailable("a transaction is pending".into());
        *bench.committed.lock().unwrap() = vec![Err(later), Ok(Some(progress(3)))];
        bench.take_over();
        bench.come.send(Come::Record(chunk(3))).unwrap(); // what its owner committed last
        assert!(matches!(bench.next(), Delivered::Chunk(at, _) if at.next_offset == 30));
        assert!(matches!(bench.next(), Delivered::Begin(at) if at.progress == Some(progress(3).1) && at.next_offset == 30));
        assert!(matches!(bench.next(), Delivered::End));
        assert_eq!(bench.asked(), "leave 3");
    });
}

#[test]
fn a_copy_that_is_not_what_is_committed_is_doubted() {
    let other = Progress { digest: 1, ..progress(1).1 };
    for answer in [Ok(Some((10, other))), Ok(Some((11, progress(1).1))), Ok(None), Err(LogError::Corrupt("worse".into()))] {
        Bench::run(|bench| {
            bench.make_whole();
            bench.committed.lock().unwrap().push(answer);
            bench.take_over();
            assert_eq!(bench.asked(), "leave 3");
            assert!(matches!(bench.next(), Delivered::Doubt));
        });
    }
}

#[test]
fn a_copy_behind_what_is_committed_waits_only_so_long() {
    Bench::run(|bench| {
        bench.make_whole();
        bench.committed.lock().unwrap().push(Ok(Some(progress(2))));
        bench.take_over();
        assert!(matches!(bench.next(), Delivered::Doubt), "chunk 2 never comes");
    });
}

#[test]
fn a_copy_is_whole_and_level_though_chunks_come_without_end() {
    Bench::run(|bench| {
        bench.order_copy();
        // Chunks at every other offset, as the end of each transaction takes one. Nobody ever says that nothing is left.
        bench.come.send(Come::At(0, chunk(1))).unwrap();
        for n in 2..=5 {
            bench.come.send(Come::At(n as Offset * 2 - 2, chunk(n))).unwrap();
        }
        assert!(matches!(bench.next(), Delivered::Begin(at) if at.next_offset == 50), "all before offset 8 has come");
        assert!(matches!(bench.next(), Delivered::Rows(_)) && matches!(bench.next(), Delivered::End));
        bench.come.send(Come::At(10, chunk(6))).unwrap();
        bench.await_level();
    });
}

#[test]
fn a_copy_is_not_level_before_what_was_committed_when_that_was_asked_has_come() {
    Bench::run(|bench| {
        bench.make_whole();
        bench.come.send(Come::Grow(11)).unwrap(); // chunks 2 and 3 are committed
        bench.come.send(Come::End).unwrap(); // of before
        assert_eq!(bench.asked(), "end 11");
        bench.deliveries.try_iter().for_each(drop); // level as of before
        let committed_ms = SystemClock::default().now().wall_ms;
        bench.come.send(Come::At(8, chunk(2))).unwrap();
        assert!(matches!(bench.delivery(), Delivered::Chunk(at, _) if at.next_offset == 20));
        bench.come.send(Come::At(10, chunk(3))).unwrap();
        assert!(matches!(bench.delivery(), Delivered::Chunk(at, _) if at.next_offset == 30), "not level yet");
        let Delivered::Level(wall_ms) = bench.delivery() else { panic!("it is level") };
        assert!(wall_ms <= committed_ms, "as of when that was asked");
    });
}

#[test]
fn what_went_wrong_on_the_way_is_doubted() {
    for come in [Come::Record(chunk(3)), Come::Record(b"nonsense".to_vec()), Come::Lost] {
        Bench::run(|bench| {
            bench.make_whole();
            bench.come.send(come).unwrap();
            assert!(matches!(bench.next(), Delivered::Doubt));
            bench.take_over();
            assert!(matches!(bench.next(), Delivered::Doubt), "and there is nothing to take over");
        });
    }
}

#[test]
fn a_copy_that_nobody_wants_any_more_is_left() {
    Bench::run(|bench| {
        bench.make_whole();
        bench.cancelled.store(true, Ordering::Relaxed);
        assert_eq!(bench.asked(), "leave 3");
    });
}
