//! The desk over a few made-up workers: what it gathers, what it refuses, and that it never answers from half a state.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use statehouse::{
    board::{CopyStanding, PartitionStanding, Standing},
    desk::{Busy, Desk, DeskParts, Unavailable},
    log::{AppendDone, AppendError, Appender},
    question::{Answer, Ask, Question},
};
use statehouse_dataflows::{
    query::{ListQuery, ObjectView},
    vocabulary::{Cause, Published, Votes},
};
use tokio::sync::watch;

const RESTORING_1: Unavailable = Unavailable::Restoring { partition: 1, seconds_left: None };

/// Takes records and answers as told.
#[derive(Default)]
struct Notebook {
    taken: Mutex<Vec<(Vec<u8>, Option<Vec<u8>>)>>,
    /// Drops what it should call.
    silent: bool,
}

impl Appender for Notebook {
    fn append(&self, key: &[u8], value: Option<&[u8]>, done: AppendDone) {
        if self.silent {
            return;
        }
        let mut taken = self.taken.lock().unwrap();
        taken.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        done(Ok((0, taken.len() as i64 - 1)));
    }
}

/// What the house's clock shows.
const NOW_MS: i64 = 90_000;

type Asked = mpsc::Receiver<(usize, Question)>;

struct House {
    desk: Desk,
    asked: Asked,
    standing: watch::Sender<Standing>,
}

fn standing(partitions: &[(i32, Option<i64>)]) -> Standing {
    let how = |next: Option<i64>| next.map_or(PartitionStanding::Restoring, |next_offset| PartitionStanding::Live { next_offset });
    Standing { partitions: partitions.iter().map(|&(partition, next)| (partition, how(next))).collect(), ..Standing::default() }
}

/// Two workers: objects of partition p are with worker p % 2; an object's partition is the number it begins with.
fn house(begin: Standing, appender: Notebook) -> House {
    let (ask, asked) = mpsc::channel();
    let (standing, watch) = watch::channel(begin);
    let desk = Desk::new(DeskParts { appender: Arc::new(appender), ..parts(ask, watch) });
    House { desk, asked, standing }
}

fn parts(ask: mpsc::Sender<(usize, Question)>, standing: watch::Receiver<Standing>) -> DeskParts {
    DeskParts {
        workers: 2,
        ask: Arc::new(move |worker, question| ask.send((worker, question)).map_err(|_| Busy::Gone)),
        worker_of: Arc::new(|partition, _| partition as usize % 2),
        partition_of: Arc::new(|key| i32::from(key[0] - b'0')),
        standing,
        appender: Arc::new(Notebook::default()),
        lapsed_since_ms: Arc::new(|| None),
        wall_ms: Arc::new(|| NOW_MS),
    }
}

fn view(object: &str, partition: i32) -> ObjectView {
    let published = Published { state: None, behind: None, mask: None, since_ms: 0, cause: Cause::Vote, revision: 0 };
    ObjectView { object: object.into(), partition, published: published.into(), rule: "majority".into(), votes: Votes::default() }
}

/// Runs the asking with a thread that answers (or drops) each question.
fn with_worker<T>(
    asked: Asked,
    mut answer: impl FnMut(usize, &Ask) -> Option<Answer> + Send,
    asking: impl Future<Output = T>,
) -> (T, Asked) {
    std::thread::scope(|threads| {
        let (stop, stopped) = mpsc::channel::<()>();
        let worker = threads.spawn(move || {
            loop {
                match asked.recv_timeout(Duration::from_millis(5)) {
                    Ok((worker, question)) => {
                        if let Some(answer) = answer(worker, &question.ask) {
                            let _ = question.reply.send(answer);
                        }
                    }
                    Err(_) if stopped.try_recv().is_ok() => return asked,
                    Err(_) => {}
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let result = runtime.block_on(asking);
        stop.send(()).unwrap();
        (result, worker.join().unwrap())
    })
}

#[test]
fn one_object_is_asked_of_its_worker_with_its_position() {
    let House { desk, asked, .. } = house(standing(&[(1, Some(70)), (2, Some(9))]), Notebook::default());
    let answer = |worker, ask: &Ask| {
        assert_eq!(worker, 1);
        let Ask::Object(1, name) = ask else { panic!("{ask:?}") };
        Some(Answer::Object(Some(view(name, 1))))
    };
    let (answered, _) = with_worker(asked, answer, desk.object("1a"));
    let answered = answered.unwrap();
    assert_eq!(answered.value, Some(view("1a", 1)));
    assert_eq!((answered.position, answered.stale_ms), (BTreeMap::from([(1, 70)]), None));
}

#[test]
fn lists_are_merged_in_order_and_cut() {
    let House { desk, asked, .. } = house(standing(&[(0, Some(1)), (1, Some(2))]), Notebook::default());
    let answer = |worker, _: &Ask| {
        let names = if worker == 0 { ["a", "c", "e"] } else { ["a", "b", "d"] };
        Some(Answer::List(names.map(|name| view(name, worker as i32)).to_vec()))
    };
    let (answered, _) = with_worker(asked, answer, desk.list(ListQuery { limit: 4, ..ListQuery::default() }));
    let answered = answered.unwrap();
    let names: Vec<_> = answered.value.iter().map(|view| (&*view.object, view.partition)).collect();
    assert_eq!(names, [("a", 0), ("a", 1), ("b", 1), ("c", 0)]);
    assert_eq!(answered.position, BTreeMap::from([(0, 1), (1, 2)]));
}

#[test]
fn summaries_are_added_up() {
    let House { desk, asked, .. } = house(standing(&[(0, Some(1))]), Notebook::default());
    let answer = |worker, _: &Ask| {
        let own = if worker == 0 { (Some("x".into()), 2) } else { (None, 7) };
        Some(Answer::Summary(vec![own, (Some("y".into()), 1)]))
    };
    let (answered, _) = with_worker(asked, answer, desk.summary());
    assert_eq!(answered.unwrap().value, [(None, 7), (Some("x".into()), 2), (Some("y".into()), 2)]);
}

#[test]
fn what_is_not_all_there_is_not_asked() {
    let House { desk, asked, standing: now } = house(Standing::default(), Notebook::default());
    let ask = |asked| with_worker(asked, |_, ask| panic!("{ask:?} was asked"), async { (desk.object("1a").await, desk.summary().await) });
    let (refused, asked) = ask(asked);
    assert_eq!((refused.0.unwrap_err(), refused.1.unwrap_err()), (Unavailable::Joining, Unavailable::Joining));
    now.send_replace(standing(&[(1, None), (2, Some(5))]));
    let (refused, asked) = ask(asked);
    assert_eq!((refused.0.unwrap_err(), refused.1.unwrap_err()), (RESTORING_1, RESTORING_1));
    now.send_replace(Standing { stopping: true, ..Standing::default() });
    let (refused, _) = ask(asked);
    assert_eq!((refused.0.unwrap_err(), refused.1.unwrap_err()), (Unavailable::Stopping, Unavailable::Stopping));
}

#[test]
fn another_instances_object_is_not_asked() {
    let House { desk, asked, .. } = house(standing(&[(2, Some(5))]), Notebook::default());
    let (refused, _) = with_worker(asked, |_, ask| panic!("{ask:?} was asked"), desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::NotOwner(1));
}

/// Partition 2 is live; of 1 there is this copy.
fn beside_a_copy(copy: Option<CopyStanding>) -> Standing {
    Standing { copies: BTreeMap::from([(1, copy)]), ..standing(&[(2, Some(5))]) }
}

const COPY: CopyStanding = CopyStanding { next_offset: 70, level_ms: NOW_MS - 250 };

#[test]
fn a_copy_answers_where_it_may_and_says_how_old_it_is() {
    let House { desk, asked, standing: now } = house(beside_a_copy(Some(COPY)), Notebook::default());
    let answer = |_, _: &Ask| Some(Answer::Object(None));
    let (refused, asked) = with_worker(asked, answer, desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::NotOwner(1), "not unless asked to");
    let desk = desk.with_copies();
    let (answered, asked) = with_worker(asked, answer, desk.object("1a"));
    let answered = answered.unwrap();
    assert_eq!((answered.position, answered.stale_ms), (BTreeMap::from([(1, 70)]), Some(250)));
    let (answered, asked) = with_worker(asked, answer, desk.object("2a"));
    assert_eq!(answered.unwrap().stale_ms, None, "what is live is not stale");
    now.send_modify(|standing| _ = standing.partitions.insert(1, PartitionStanding::Restoring));
    let (answered, asked) = with_worker(asked, answer, desk.object("1a"));
    assert_eq!(answered.unwrap().stale_ms, Some(250), "while it is taken over, too");
    now.send_replace(beside_a_copy(None));
    let (refused, _) = with_worker(asked, answer, desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::NotOwner(1), "not before it is whole");
}

#[test]
fn a_list_is_of_owned_partitions_alone_and_as_old_as_the_oldest() {
    let being_taken = Standing { copies: BTreeMap::from([(1, Some(COPY)), (3, Some(COPY))]), ..standing(&[(1, None), (2, Some(5))]) };
    let House { desk, asked, .. } = house(being_taken, Notebook::default());
    let answer = |_, ask: &Ask| {
        let Ask::List(_, of) = ask else { panic!("{ask:?}") };
        assert_eq!(of.iter().copied().collect::<Vec<_>>(), [1, 2], "3 is another's");
        Some(Answer::List(Vec::new()))
    };
    let (answered, _) = with_worker(asked, answer, desk.with_copies().list(ListQuery { limit: 1, ..ListQuery::default() }));
    let answered = answered.unwrap();
    assert_eq!((answered.position, answered.stale_ms), (BTreeMap::from([(1, 70), (2, 5)]), Some(250)));
}

#[test]
fn an_answer_from_a_copy_that_was_begun_anew_is_no_answer() {
    let House { desk, asked, standing: now } = house(beside_a_copy(Some(COPY)), Notebook::default());
    let answer = |_, _: &Ask| {
        now.send_modify(|standing| _ = standing.upheavals.insert(1, 2)); // it looks the same and is not
        Some(Answer::Object(None))
    };
    let (refused, _) = with_worker(asked, answer, desk.with_copies().object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::Unanswered);
}

#[test]
fn an_answer_from_a_state_that_went_away_is_no_answer() {
    for (afterwards, expected) in [
        (standing(&[(1, None)]), RESTORING_1),
        (standing(&[(2, Some(1))]), Unavailable::NotOwner(1)),
        (Standing::default(), Unavailable::Joining),
    ] {
        let House { desk, asked, standing: now } = house(standing(&[(1, Some(1))]), Notebook::default());
        let answer = |_, _: &Ask| {
            now.send_replace(afterwards.clone());
            Some(Answer::Object(None))
        };
        let (refused, _) = with_worker(asked, answer, desk.object("1a"));
        assert_eq!(refused.unwrap_err(), expected, "standing afterwards: {afterwards:?}");
    }
}

#[test]
fn a_list_after_which_a_partition_is_gone_asks_to_try_again() {
    let House { desk, asked, standing: now } = house(standing(&[(0, Some(1)), (1, Some(1))]), Notebook::default());
    let answer = |_, _: &Ask| {
        now.send_replace(standing(&[(0, Some(1))]));
        Some(Answer::List(Vec::new()))
    };
    let (refused, _) = with_worker(asked, answer, desk.list(ListQuery { limit: 1, ..ListQuery::default() }));
    assert_eq!(refused.unwrap_err(), Unavailable::Unanswered);
}

#[test]
fn a_dropped_question_says_why_as_far_as_is_known() {
    let House { desk, asked, standing: now } = house(standing(&[(1, Some(1))]), Notebook::default());
    let (refused, asked) = with_worker(asked, |_, _| None, desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::Unanswered);
    let stop = |_, _: &Ask| {
        now.send_modify(|standing| standing.stopping = true);
        None
    };
    let (refused, asked) = with_worker(asked, stop, desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::Stopping);
    drop(asked);
    let (refused, _) = with_worker(mpsc::channel().1, |_, _| None, desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::Stopping, "the workers are gone");
}

#[test]
fn a_full_queue_is_overload() {
    let (_standing, watch) = watch::channel(standing(&[(1, Some(1))]));
    let desk = Desk::new(DeskParts {
        workers: 1,
        ask: Arc::new(|_, _| Err(Busy::Full)),
        worker_of: Arc::new(|_, _| 0),
        partition_of: Arc::new(|_| 1),
        standing: watch,
        appender: Arc::new(Notebook::default()),
        lapsed_since_ms: Arc::new(|| None),
        wall_ms: Arc::new(|| NOW_MS),
    });
    let (refused, _) = with_worker(mpsc::channel().1, |_, _| None, desk.object("1a"));
    assert_eq!(refused.unwrap_err(), Unavailable::Overloaded);
}

#[test]
fn stale_answers_say_since_when() {
    for (since_ms, stale_ms) in [(NOW_MS - 70, 70), (NOW_MS + 5, 0)] {
        let stale = Standing { stale_since_ms: Some(since_ms), ..standing(&[(1, Some(1))]) };
        let House { desk, asked, .. } = house(stale, Notebook::default());
        let (answered, _) = with_worker(asked, |_, _| Some(Answer::Object(None)), desk.object("1a"));
        assert_eq!(answered.unwrap().stale_ms, Some(stale_ms), "by the house's clock");
    }
}

#[test]
fn whoever_sleeps_over_a_question_knows_it_before_the_answer_leaves() {
    let asleep = Arc::new(AtomicBool::new(false));
    let (seen, (ask, asked)) = (Arc::clone(&asleep), mpsc::channel());
    let (_standing, watch) = watch::channel(standing(&[(1, Some(7))]));
    let desk = Desk::new(DeskParts {
        lapsed_since_ms: Arc::new(move || seen.load(Ordering::Acquire).then_some(NOW_MS - 9_000)),
        ..parts(ask, watch)
    });
    let sleeping = |_, ask: &Ask| {
        asleep.store(true, Ordering::Release);
        Some(if let Ask::Object(..) = ask { Answer::Object(None) } else { Answer::Summary(Vec::new()) })
    };
    let (answered, asked) = with_worker(asked, sleeping, desk.object("1a"));
    assert_eq!(answered.unwrap().stale_ms, Some(9_000));
    asleep.store(false, Ordering::Release);
    let (answered, asked) = with_worker(asked, sleeping, desk.summary());
    assert_eq!(answered.unwrap().stale_ms, Some(9_000));
    let standing = desk.standing();
    assert_eq!((desk.stale_ms(&standing), standing.trouble.is_some()), (Some(9_000), true), "readiness and metrics say the same");
    let awake = |_, ask: &Ask| sleeping(0, ask).inspect(|_| asleep.store(false, Ordering::Release));
    let (answered, asked) = with_worker(asked, awake, desk.object("1a"));
    assert_eq!(answered.unwrap().stale_ms, Some(9_000), "what was made while that was not known stays marked");
    let (answered, _) = with_worker(asked, awake, desk.object("1a"));
    assert_eq!(answered.unwrap().stale_ms, None);
}

#[test]
fn appends_have_a_place_and_are_applied_when_the_standing_passes_it() {
    let House { desk, asked, standing: now } = house(standing(&[(0, Some(0))]), Notebook::default());
    let work = async {
        let place = desk.append("0a", Some(b"x")).await.unwrap();
        assert_eq!(place, (0, 0));
        assert_eq!(desk.applied(place, Duration::from_millis(20)).await, Ok(false), "nothing was applied yet");
        now.send_replace(standing(&[(0, None)]));
        let (applied, ()) = tokio::join!(desk.applied(place, Duration::from_secs(60)), async {
            tokio::task::yield_now().await;
            now.send_replace(standing(&[(0, Some(1))]));
        });
        assert_eq!(applied, Ok(true));
        assert_eq!(desk.applied(place, Duration::ZERO).await, Ok(true), "it was applied before");
    };
    let _ = with_worker(asked, |_, _| None, work);
}

#[test]
fn nobody_waits_for_what_another_instance_applies() {
    let House { desk, asked, standing: now } = house(standing(&[(1, Some(9))]), Notebook::default());
    let work = async {
        assert_eq!(desk.applied((0, 5), Duration::from_secs(3_600)).await, Err(Unavailable::NotOwner(0)));
        let (moved, ()) = tokio::join!(desk.applied((1, 9), Duration::from_secs(3_600)), async {
            tokio::task::yield_now().await;
            now.send_replace(standing(&[(0, Some(5))]));
        });
        assert_eq!(moved, Err(Unavailable::NotOwner(1)), "it went to another instance while we waited");
        now.send_replace(Standing::default());
        assert_eq!(desk.applied((1, 9), Duration::from_millis(20)).await, Ok(false), "without any partition nothing is known yet");
    };
    let _ = with_worker(asked, |_, _| None, work);
}

#[test]
fn a_log_that_goes_away_leaves_the_outcome_open() {
    let House { desk, asked, .. } = house(standing(&[(0, Some(0))]), Notebook { silent: true, ..Notebook::default() });
    let (result, _) = with_worker(asked, |_, _| None, desk.append("0a", None));
    assert!(matches!(result, Err(AppendError::Maybe(_))), "{result:?}");
}

#[test]
fn an_answer_across_an_upheaval_counts_for_nothing() {
    // The partition was given up and restored while the question was on its way: the worker knew nothing of the object then.
    let live = |upheavals| Standing { upheavals: BTreeMap::from([(1, upheavals)]), ..standing(&[(1, Some(70))]) };
    let House { desk, asked, standing: now } = house(live(1), Notebook::default());
    let answer = |_, ask: &Ask| {
        now.send_replace(live(3));
        Some(if let Ask::Object(..) = ask { Answer::Object(None) } else { Answer::Summary(Vec::new()) })
    };
    let (answered, asked) = with_worker(asked, answer, desk.object("1a"));
    assert_eq!(answered.unwrap_err(), Unavailable::Unanswered);
    now.send_replace(live(1));
    let (answered, _) = with_worker(asked, answer, desk.summary());
    assert_eq!(answered.unwrap_err(), Unavailable::Unanswered);
}
