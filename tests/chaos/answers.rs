//! Answers over HTTP, held against what was committed: an answer with a position must be the reference's state at that position or at a
//! later committed one, of before it came. One of an instance that has lost the partition must say that it is stale.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::{Value, json};
use statehouse::chunk;
use statehouse_dataflows::vocabulary::{Millis, Offset, Partition, Published, Report, Votes};

use super::judge::{Findings, Times};

/// How long a partition's past is kept. Whoever was paused answers from before.
const PAST_MS: Millis = 120_000;

/// An answer, and when it was asked for and came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) object: String,
    pub(crate) partition: Partition,
    /// None: the answer has none.
    pub(crate) position: Option<Offset>,
    pub(crate) lag_ms: Option<Millis>,
    pub(crate) sent_ms: Millis,
    pub(crate) received_ms: Millis,
    /// Who answered, by its id.
    pub(crate) instance: String,
    pub(crate) what: What,
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Object(Value),
    Reports(Value),
    NotKnown,
}

/// All that is known of one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shot {
    pub(crate) published: Published,
    pub(crate) votes: Votes,
    pub(crate) reports: BTreeMap<String, Report>,
    pub(crate) rule: String,
}

/// See the module.
pub(crate) struct Answers {
    lanes: Vec<Past>,
}

/// A partition's committed past, and answers that wait until everything of before them is known.
struct Past {
    cuts: VecDeque<Cut>,
    /// What each object was from which chunk on.
    objects: HashMap<String, VecDeque<(u64, Millis, Option<Shot>)>>,
    waiting: VecDeque<Answer>,
}

/// The end of a chunk.
struct Cut {
    n: u64,
    next_offset: Offset,
    times: Times,
    instance: String,
}

impl Answers {
    pub(crate) fn new(partitions: Partition) -> Self {
        let first = || Cut { n: 0, next_offset: 0, times: Times { made_ms: 0, seen_ms: 0 }, instance: String::new() };
        let past = || Past { cuts: VecDeque::from([first()]), objects: HashMap::new(), waiting: VecDeque::new() };
        Self { lanes: (0..partitions).map(|_| past()).collect() }
    }

    pub(crate) fn take(&mut self, answer: Answer) {
        self.lanes[answer.partition as usize].waiting.push_back(answer);
    }

    /// What the chunk made of an object.
    pub(crate) fn changed(&mut self, (partition, n, timestamp_ms): (Partition, u64, Millis), object: &str, shot: Option<Shot>) {
        let objects = &mut self.lanes[partition as usize].objects;
        if !objects.contains_key(object) {
            objects.insert(object.to_owned(), VecDeque::new());
        }
        let shots = objects.get_mut(object).expect("it is there now");
        if shots.back().is_none_or(|(_, _, before)| *before != shot) {
            shots.push_back((n, timestamp_ms, shot));
        }
        while shots.get(1).is_some_and(|(_, since_ms, _)| *since_ms < timestamp_ms - PAST_MS) {
            shots.pop_front();
        }
    }

    /// The chunk ends; answers of before it can be judged.
    pub(crate) fn committed(&mut self, partition: Partition, header: &chunk::Header, times: Times, found: &mut Findings) {
        let past = &mut self.lanes[partition as usize];
        let (n, next_offset, instance) = (header.n, header.next_offset, header.instance.clone());
        past.cuts.push_back(Cut { n, next_offset, times, instance });
        while past.cuts.get(1).is_some_and(|cut| cut.times.made_ms < times.made_ms - PAST_MS) {
            past.cuts.pop_front();
        }
        // Times are of one clock: all are of one machine.
        while past.waiting.front().is_some_and(|answer| answer.received_ms < times.made_ms) {
            let answer = past.waiting.pop_front().expect("it is there");
            past.judge(&answer, found);
        }
    }

    /// Nothing is committed any more.
    pub(crate) fn finish(&mut self, found: &mut Findings) {
        for past in &mut self.lanes {
            for answer in std::mem::take(&mut past.waiting) {
                past.judge(&answer, found);
            }
        }
    }
}

impl Past {
    fn judge(&self, answer: &Answer, found: &mut Findings) {
        let Some(position) = answer.position else {
            found.wrong_answers += 1;
            found.say(format!("an answer without position: {answer:?}"));
            return;
        };
        let candidates = self.cuts.partition_point(|cut| cut.next_offset < position);
        let known = self.cuts.iter().skip(candidates).take_while(|cut| cut.times.made_ms <= answer.received_ms);
        // What stands at the first of them, and every later state of the object.
        let (Some(first), last) = (self.cuts.get(candidates), known.last()) else {
            found.wrong_answers += 1;
            found.say(format!("{answer:?}: its position was never committed"));
            return;
        };
        let last_n = last.map_or(first.n, |last| last.n);
        let shots = self.objects.get(&answer.object);
        let from = shots.map_or(0, |shots| shots.partition_point(|(n, _, _)| *n <= first.n).saturating_sub(1));
        let begun = shots.and_then(|shots| shots.front()).is_none_or(|(n, _, _)| *n > first.n);
        let states = shots.into_iter().flatten().skip(from).take_while(|(n, _, _)| *n <= last_n);
        let mut states = states.map(|(_, _, shot)| shot.as_ref()).collect::<Vec<_>>();
        if begun {
            states.push(None);
        }
        if !states.iter().any(|shot| answer.shows(*shot)) {
            found.wrong_answers += 1;
            found.say(format!("no committed state from offset {position} on explains it: {answer:?}; there are {states:?}"));
            return;
        }
        if answer.lag_ms.is_none() && self.is_overtaken(candidates, answer) {
            found.wrong_answers += 1;
            found.say(format!("stale and not marked: {answer:?}"));
        }
    }

    /// Whether another instance had gone on before the answer was asked for.
    fn is_overtaken(&self, at: usize, answer: &Answer) -> bool {
        // At the same offset two may stand, of whom one took over from the other: they are as good as each other.
        let mut later = self.cuts.iter().skip(at + 1).take_while(|cut| cut.times.seen_ms < answer.sent_ms);
        later.any(|cut| cut.instance != answer.instance && Some(cut.next_offset) > answer.position)
    }
}

impl Answer {
    fn shows(&self, shot: Option<&Shot>) -> bool {
        match (&self.what, shot) {
            (What::NotKnown, shot) => shot.is_none(),
            (What::Object(value), Some(shot)) => holds(value, &shot.object(&self.object, self.partition)),
            (What::Reports(value), Some(shot)) => {
                let (reports, expected) = (value["reports"].as_array(), shot.reports());
                reports.is_some_and(|reports| {
                    reports.len() == expected.len() && reports.iter().zip(&expected).all(|(report, expected)| holds(report, expected))
                })
            }
            (_, None) => false,
        }
    }
}

/// Whether the value has all these fields; it may have more.
fn holds(value: &Value, fields: &Value) -> bool {
    fields.as_object().is_some_and(|fields| fields.iter().all(|(name, expected)| value.get(name) == Some(expected)))
}

impl Shot {
    fn object(&self, object: &str, partition: Partition) -> Value {
        let Published { state, behind, mask, since_ms, cause, revision } = &self.published;
        let changed = *revision > 0;
        let votes: BTreeMap<&str, i64> = self.votes.weights.iter().map(|(state, weight)| (&**state, *weight)).collect();
        let mut fields = json!({
            "object": object,
            "partition": partition,
            "state": state.as_deref(),
            "since": changed.then_some(since_ms),
            "cause": changed.then(|| cause.as_str()),
            "revision": revision,
            "rule": self.rule,
            "tally": { "votes": votes, "live": self.votes.live },
            "override": mask.as_ref().map(|mask| json!({ "state": &*mask.state, "since": mask.since_ms, "until": mask.until_ms })),
        });
        if mask.is_some() {
            fields["behind"] = json!(behind.as_deref());
        }
        fields
    }

    fn reports(&self) -> Vec<Value> {
        let reports = self.reports.iter();
        let fields = |(agent, report): (&String, &Report)| json!({ "agent": agent, "state": &*report.state, "ts": report.ts_ms, "offset": report.offset });
        reports.map(fields).collect()
    }
}
