//! The verifier: what a house on Kafka must have made of its source, said by the reference; held against everything that was seen of it.
//!
//! Pure: it is told what was seen ([`Seen`]), in any order between topics and in order within a partition, and finds what is lost,
//! repeated or wrong. It shares no code with the server's way of an event: the reference is the meaning, the chunk's header (clock, ticks,
//! event number, digest) is what was recorded of time.
//!
//! What is compared: every record of the sink in every field; every reject; after every chunk the clock, the event number and the digest of
//! all live rows, so also what each new owner restored; every answer with a state that was committed at its position or later and before it
//! came, and that an instance which has lost a partition says so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use serde_json::Value;
use statehouse::chunk;
use statehouse_dataflows::{
    digest::row_hash,
    plan::Plan,
    reference::Reference,
    vocabulary::{Event, Millis, Moment, Offset, Partition, Row, RowValue, TICK_MS},
};

use super::{
    answers::{Answer, Answers, Shot},
    sink::{Places, Shown, Sink},
    told::{Told, told},
};

/// Something seen of a house from outside.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// A record of the source.
    Source(SourceRecord),
    /// A piece of a committed chunk.
    Piece { header: chunk::Header, index: u32, count: u32, times: Times },
    /// A committed record of the sink.
    Sink { partition: Partition, object: String, shown: Shown },
    /// A committed reject: the place of the source's record.
    Reject(Partition, Offset),
    /// An answer over HTTP.
    Answer(Answer),
    /// Bytes that nobody should have written.
    Foreign(String),
}

/// When a chunk was made and when it was first seen to be committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) made_ms: Millis,
    pub(crate) seen_ms: Millis,
}

/// A record of the source.
#[derive(Clone, Debug)]
pub(crate) struct SourceRecord {
    pub(crate) partition: Partition,
    pub(crate) offset: Offset,
    pub(crate) timestamp_ms: Millis,
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Changes and rejects that the reference makes and nobody saw.
    pub(crate) lost: u64,
    /// Changes and rejects that were seen and the reference does not make, or not again.
    pub(crate) repeated: u64,
    /// Answers that no committed state explains, and stale ones without their mark.
    pub(crate) wrong_answers: u64,
    /// Chunks whose number, place, clock, event number or digest is not the reference's.
    pub(crate) wrong_chunks: u64,
    /// What was wrong, in sentences: the first few of each kind.
    pub(crate) said: Vec<String>,
    pub(crate) changes: u64,
    pub(crate) chunks: u64,
    pub(crate) records: u64,
    pub(crate) rejects: u64,
    pub(crate) answers: u64,
    pub(crate) stale_answers: u64,
    pub(crate) objects: usize,
    /// How often a partition's chunks went on under another instance.
    pub(crate) handovers: u64,
}

impl Findings {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.wrong_answers + self.wrong_chunks == 0
    }

    pub(crate) fn say(&mut self, what: String) {
        const SENTENCES_MAX: usize = 40;
        if self.said.len() < SENTENCES_MAX {
            self.said.push(what);
        }
    }
}

/// See the module.
pub(crate) struct Judge {
    reference: Reference,
    rule: String,
    lanes: Vec<Lane>,
    sink: Sink,
    rejects: Places,
    answers: Answers,
    objects: HashSet<String>,
    found: Findings,
}

/// One partition as far as its chunks were read.
#[derive(Default)]
struct Lane {
    partition: Partition,
    /// Records that no chunk has reached yet.
    waiting: VecDeque<SourceRecord>,
    /// The last record read.
    read: Offset,
    /// The chunk of which some pieces were seen.
    open: Option<(chunk::Header, u32)>,
    /// Whole chunks that wait for their records.
    whole: VecDeque<(chunk::Header, Times)>,
    n: u64,
    next_offset: Offset,
    clock_ms: Option<Millis>,
    event: u64,
    instance: String,
    digest: u64,
    /// Each known object's part of the digest.
    rows: HashMap<String, u64>,
    /// When overrides end, or ended.
    dues: BTreeSet<Millis>,
    masked: BTreeSet<String>,
}

impl Judge {
    pub(crate) fn new(plan: &Plan, partitions: Partition) -> Self {
        let lane = |partition| Lane { partition, read: -1, event: 1, ..Lane::default() };
        Self {
            reference: Reference::new(plan),
            rule: plan.sets()[0].rule.name().to_owned(),
            lanes: (0..partitions).map(lane).collect(),
            sink: Sink::default(),
            rejects: Places::default(),
            answers: Answers::new(partitions),
            objects: HashSet::new(),
            found: Findings::default(),
        }
    }

    pub(crate) fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Source(record) => {
                let lane = &mut self.lanes[record.partition as usize];
                lane.read = record.offset;
                let partition = record.partition;
                lane.waiting.push_back(record);
                self.go_on(partition);
            }
            Seen::Piece { header, index, count, times } => {
                let partition = header.partition;
                self.piece(header, (index, count), times);
                self.go_on(partition);
            }
            Seen::Sink { partition, object, shown } => {
                self.found.changes += 1;
                self.sink.seen(partition, &object, shown, &mut self.found);
            }
            Seen::Reject(partition, offset) => {
                self.found.rejects += 1;
                self.rejects.seen((partition, offset), &mut self.found);
            }
            Seen::Answer(answer) => {
                self.found.answers += 1;
                self.found.stale_answers += u64::from(answer.lag_ms.is_some());
                self.answers.take(answer);
            }
            Seen::Foreign(what) => {
                self.found.repeated += 1;
                self.found.say(what);
            }
        }
    }

    /// Whether everything read so far is accounted for.
    pub(crate) fn is_even(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty() && lane.whole.is_empty()) && self.sink.is_even() && self.rejects.is_even()
    }

    /// How far each partition's chunks go.
    pub(crate) fn reached(&self) -> Vec<(Offset, Offset)> {
        self.lanes.iter().map(|lane| (lane.next_offset, lane.read + 1)).collect()
    }

    /// Nothing more comes: what is still waited for is missing.
    pub(crate) fn finish(mut self) -> Findings {
        for lane in &self.lanes {
            if !lane.waiting.is_empty() || !lane.whole.is_empty() || lane.open.is_some() {
                self.found.wrong_chunks += 1;
                self.found.say(format!("partition {} ends with {} records without a chunk", lane.partition, lane.waiting.len()));
            }
        }
        self.answers.finish(&mut self.found);
        self.sink.finish(&mut self.found);
        self.rejects.finish(&mut self.found);
        self.found.objects = self.objects.len();
        self.found
    }

    fn piece(&mut self, header: chunk::Header, (index, count): (u32, u32), times: Times) {
        let lane = &mut self.lanes[header.partition as usize];
        let (mut whole, next) = match lane.open.take() {
            Some((open, next)) => (open, next),
            None => (chunk::Header { ticks: Vec::new(), ..header.clone() }, 0),
        };
        if (whole.n, next) != (header.n, index) {
            self.found.wrong_chunks += 1;
            self.found
                .say(format!("partition {}: piece {index} of chunk {} follows piece {next} of {}", lane.partition, header.n, whole.n));
        }
        whole.ticks.extend(header.ticks);
        if index + 1 == count {
            lane.whole.push_back((whole, times));
        } else {
            lane.open = Some((whole, index + 1));
        }
    }

    /// Works off chunks whose records are there.
    fn go_on(&mut self, partition: Partition) {
        loop {
            let lane = &mut self.lanes[partition as usize];
            let Some((header, _)) = lane.whole.front() else { return };
            if lane.read < header.next_offset - 1 {
                return;
            }
            let (header, times) = lane.whole.pop_front().expect("it is there");
            self.chunk(&header, times);
        }
    }

    fn chunk(&mut self, header: &chunk::Header, times: Times) {
        self.found.chunks += 1;
        let partition = header.partition;
        let mut touched = BTreeSet::new();
        let lane = &mut self.lanes[partition as usize];
        let taken_over = lane.n > 0 && lane.instance != header.instance;
        self.found.handovers += u64::from(taken_over);
        let records = lane.waiting.iter().take_while(|record| record.offset < header.next_offset).count();
        let until_ms = (header.clock_ms >= 0).then_some(header.clock_ms);
        let first_ms = header.ticks.first().map(|(_, clock_ms)| *clock_ms);
        let aside = header.event.wrapping_sub(lane.event + records as u64 + lane.ticks_to(first_ms, until_ms));
        // Whoever restores a partition uses up one event number, to compare what was published.
        let allowed = if taken_over { 1..=1 } else { 0..=1 };
        if header.n != lane.n + 1 || header.next_offset < lane.next_offset || !allowed.contains(&aside) {
            self.found.wrong_chunks += 1;
            let (n, event, place) = (lane.n, lane.event, lane.next_offset);
            self.found.say(format!(
                "partition {partition}: chunk {} to offset {}, event {}, by {}, after chunk {n} to {place}, event {event}: {records} records, {aside} aside",
                header.n, header.next_offset, header.event, header.instance
            ));
        }
        self.lanes[partition as usize].event += aside.min(1);
        let mut ticks = header.ticks.iter().copied().peekable();
        for _ in 0..records {
            let record = self.lanes[partition as usize].waiting.pop_front().expect("it was counted");
            if let Some((_, clock_ms)) = ticks.next_if(|(offset, _)| *offset == record.offset) {
                self.tick(partition, clock_ms, &mut touched);
            }
            self.record(record, &mut touched);
        }
        if let Some(clock_ms) = until_ms {
            self.tick(partition, clock_ms, &mut touched);
        }
        let odd_ticks = ticks.next().is_some();
        self.lanes[partition as usize].stand(header);
        self.close(header, (times, odd_ticks), touched);
    }

    /// The end of a chunk: what it changed, and whether its digest is that of all live rows.
    fn close(&mut self, header: &chunk::Header, (times, odd_ticks): (Times, bool), touched: BTreeSet<String>) {
        let lane = &mut self.lanes[header.partition as usize];
        for object in touched {
            let known = self.reference.object(&object, lane.partition);
            let mut digest = 0_u64;
            if let Some((published, reports)) = &known {
                let row = |value| row_hash(&Row { partition: lane.partition, object: object.as_str().into(), value });
                digest = row(RowValue::Object(Some(published.clone().into())));
                for (agent, report) in *reports {
                    digest = digest.wrapping_add(row(RowValue::Report(agent.as_str().into(), Some(report.clone()))));
                }
                match &published.mask {
                    Some(mask) => {
                        lane.dues.extend(mask.until_ms);
                        lane.masked.insert(object.clone());
                    }
                    None => _ = lane.masked.remove(&object),
                }
            } else {
                lane.masked.remove(&object);
            }
            let before = lane.rows.insert(object.clone(), digest).unwrap_or(0);
            lane.digest = lane.digest.wrapping_add(digest.wrapping_sub(before));
            let votes = self.reference.decision(&object, lane.partition).0;
            let shot = known.map(|(published, reports)| Shot { published, votes, reports: reports.clone(), rule: self.rule.clone() });
            self.answers.changed((lane.partition, header.n, times.made_ms), &object, shot);
        }
        if lane.digest != header.digest || odd_ticks {
            self.found.wrong_chunks += 1;
            let (partition, n, own) = (lane.partition, header.n, lane.digest);
            self.found.say(format!("partition {partition}: chunk {n} by {} has digest {:016x}, the reference's rows {own:016x}; ticks of no record: {odd_ticks}", header.instance, header.digest));
            lane.digest = header.digest; // said once
        }
        self.answers.committed(lane.partition, header, times, &mut self.found);
    }

    fn record(&mut self, record: SourceRecord, touched: &mut BTreeSet<String>) {
        self.found.records += 1;
        let lane = &mut self.lanes[record.partition as usize];
        let clock_ms = lane.clock_ms.unwrap_or(0);
        if record.timestamp_ms >= clock_ms + TICK_MS {
            self.found.wrong_chunks += 1;
            let (partition, offset, time_ms) = (record.partition, record.offset, record.timestamp_ms);
            self.found
                .say(format!("partition {partition}: the record at {offset}, of {time_ms}, stands under the earlier clock {clock_ms}"));
        }
        let moment = Moment { partition: record.partition, event: lane.event, clock_ms, offset: Some(record.offset) };
        lane.event += 1;
        let told = told(record.value.as_deref(), record.timestamp_ms);
        let Some(told) = told else {
            self.rejects.expected((record.partition, record.offset), &mut self.found);
            return;
        };
        let event = match &told {
            Told::Report { agent, state, ts_ms } => Event::Report { agent, state, ts_ms: *ts_ms, ttl_ms: None },
            Told::Withdraw { agent, ts_ms } => Event::Withdraw { agent, ts_ms: *ts_ms },
            Told::Override { state, for_ms } => Event::Override { state, for_ms: *for_ms },
            Told::Lift => Event::Lift,
            Told::Purge => Event::Purge,
        };
        if let Told::Override { for_ms: Some(for_ms), .. } = told {
            lane.dues.insert(statehouse_dataflows::vocabulary::due_at(clock_ms, for_ms));
        }
        for change in self.reference.apply(moment, 0, &record.key, event) {
            self.sink.expected(&change, &mut self.found);
        }
        if !self.objects.contains(&record.key) {
            self.objects.insert(record.key.clone());
        }
        if matches!(told, Told::Override { .. }) {
            lane.masked.insert(record.key.clone());
        }
        touched.insert(record.key);
    }

    /// The clock reaches this multiple; overrides end at theirs.
    fn tick(&mut self, partition: Partition, clock_ms: Millis, touched: &mut BTreeSet<String>) {
        let lane = &mut self.lanes[partition as usize];
        let from_ms = lane.clock_ms.unwrap_or(clock_ms - TICK_MS);
        if clock_ms < from_ms {
            self.found.wrong_chunks += 1;
            self.found.say(format!("partition {partition}: its clock runs back from {from_ms} to {clock_ms}"));
        }
        if clock_ms <= from_ms {
            return;
        }
        let due: Vec<Millis> = lane.dues.range(from_ms + 1..=clock_ms).copied().collect();
        lane.dues.retain(|due_ms| *due_ms > clock_ms);
        for due_ms in due {
            let event = lane.event + ((due_ms - from_ms) / TICK_MS) as u64 - 1;
            touched.extend(lane.masked.iter().cloned());
            for change in self.reference.tick(partition, event, due_ms) {
                self.sink.expected(&change, &mut self.found);
            }
        }
        lane.event += lane.ticks_to(None, Some(clock_ms));
        lane.clock_ms = Some(clock_ms);
    }
}

impl Lane {
    /// How many ticks lead to this clock. A first clock is set in one, here or at the first of the listed ones.
    fn ticks_to(&self, first_ms: Option<Millis>, clock_ms: Option<Millis>) -> u64 {
        let Some(to_ms) = clock_ms else { return 0 };
        let crossed = |from_ms: Millis| ((to_ms - from_ms).max(0) / TICK_MS) as u64;
        self.clock_ms.map_or_else(|| 1 + first_ms.map_or(0, crossed), crossed)
    }

    fn stand(&mut self, header: &chunk::Header) {
        self.n = header.n;
        self.next_offset = header.next_offset;
        self.event = header.event;
        self.instance.clone_from(&header.instance);
    }
}

/// A JSON value's text.
pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Texts by name.
pub(crate) type Named = BTreeMap<String, i64>;
