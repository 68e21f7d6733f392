//! What the tests of the dataflow share: events that own their names, and a small pump that numbers them as the real one does.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod answers;
pub(crate) mod generate;
pub(crate) mod known;
pub(crate) mod store;
pub(crate) mod world;

use std::collections::BTreeMap;

use statehouse_dataflows::{
    reference::Reference,
    vocabulary::{Change, Event, Millis, Offset, Partition, Run, Seq, TICK_MS},
};

/// The clock of every partition before its first event.
const CLOCK_START_MS: Millis = -TICK_MS;

/// An [`Event`] that owns its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Report { agent: String, state: String, ts_ms: Millis, ttl_ms: Option<Millis> },
    Withdraw { agent: String, ts_ms: Millis },
    Override { state: String, for_ms: Option<Millis> },
    Lift,
    Purge,
}

impl Told {
    pub(crate) fn event(&self) -> Event<'_> {
        match self {
            Self::Report { agent, state, ts_ms, ttl_ms } => Event::Report { agent, state, ts_ms: *ts_ms, ttl_ms: *ttl_ms },
            Self::Withdraw { agent, ts_ms } => Event::Withdraw { agent, ts_ms: *ts_ms },
            Self::Override { state, for_ms } => Event::Override { state, for_ms: *for_ms },
            Self::Lift => Event::Lift,
            Self::Purge => Event::Purge,
        }
    }
}

/// What happens next in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Record(Partition, String, Told),
    /// So many multiples of the clock are reached.
    Ticks(Partition, u64),
}

impl Step {
    pub(crate) fn partition(&self) -> Partition {
        let (Self::Record(partition, ..) | Self::Ticks(partition, _)) = self;
        *partition
    }
}

/// A run, and what happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Fed {
    pub(crate) run: Run,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A record at every seq: object and event.
    Records(Vec<(String, Told)>),
    Ticks,
    /// The partition is restored, and compared with what the rules make of it.
    Compared,
}

impl Fed {
    /// The steps that this was.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let partition = self.run.partition;
        match &self.what {
            What::Records(records) => records.iter().map(|(object, told)| Step::Record(partition, object.clone(), told.clone())).collect(),
            What::Ticks => vec![Step::Ticks(partition, self.run.count)],
            What::Compared => Vec::new(),
        }
    }
}

/// Numbers steps: seq over all partitions; event, clock and offset in each.
#[derive(Clone, Debug)]
pub(crate) struct Pump {
    pub(crate) next: Seq,
    places: BTreeMap<Partition, Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    event: u64,
    clock_ms: Millis,
    offset: Offset,
}

const PLACE_START: Place = Place { event: 1, clock_ms: CLOCK_START_MS, offset: 0 };

impl Pump {
    pub(crate) fn new(next: Seq) -> Self {
        Self { next, places: BTreeMap::new() }
    }

    /// The steps as runs; neighbours of one kind and partition share a run. A partition's first event is a tick.
    pub(crate) fn feed(&mut self, steps: &[Step]) -> Vec<Fed> {
        let mut fed = Vec::new();
        for step in steps {
            match step {
                Step::Ticks(partition, count) => fed.extend(self.ticks(*partition, *count)),
                Step::Record(partition, object, told) => {
                    if !self.places.contains_key(partition) {
                        fed.extend(self.ticks(*partition, 1));
                    }
                    self.record(&mut fed, *partition, (object.clone(), told.clone()));
                }
            }
        }
        fed
    }

    /// A partition's clock.
    pub(crate) fn clock_ms(&self, partition: Partition) -> Millis {
        self.places.get(&partition).map_or(CLOCK_START_MS, |place| place.clock_ms)
    }

    /// A seq for something that is no event of the source: at the clock, with the next event's number, which it doesn't use up.
    pub(crate) fn aside(&mut self, partition: Partition) -> Run {
        let place = self.places.get(&partition).copied().unwrap_or(PLACE_START);
        self.next += 1;
        Run { first: self.next - 1, count: 1, partition, event: place.event, clock_ms: place.clock_ms, offset: None }
    }

    /// A seq with an event number of its own, for the comparison after a restore; a partition without events keeps its first number.
    pub(crate) fn compared(&mut self, partition: Partition) -> Fed {
        let run = self.aside(partition);
        if let Some(place) = self.places.get_mut(&partition) {
            place.event += 1;
        }
        Fed { run, what: What::Compared }
    }

    /// The partition stands where it stood in `other`.
    pub(crate) fn rewind(&mut self, partition: Partition, other: &Self) {
        match other.places.get(&partition) {
            Some(place) => _ = self.places.insert(partition, *place),
            None => _ = self.places.remove(&partition),
        }
    }

    fn ticks(&mut self, partition: Partition, count: u64) -> Option<Fed> {
        let place = self.places.entry(partition).or_insert(PLACE_START);
        let (event, clock_ms) = (place.event, place.clock_ms + TICK_MS);
        place.event += count;
        place.clock_ms += count as Millis * TICK_MS;
        let run = Run { first: self.next, count, partition, event, clock_ms, offset: None };
        self.next += count;
        (count > 0).then_some(Fed { run, what: What::Ticks })
    }

    fn record(&mut self, fed: &mut Vec<Fed>, partition: Partition, record: (String, Told)) {
        let place = self.places.get_mut(&partition).expect("a partition's first event is a tick");
        let Place { event, clock_ms, offset } = *place;
        (place.event, place.offset, self.next) = (event + 1, offset + 1, self.next + 1);
        match fed.last_mut() {
            Some(Fed { run, what: What::Records(records) }) if run.partition == partition => {
                run.count += 1;
                records.push(record);
            }
            _ => {
                let run = Run { first: self.next - 1, count: 1, partition, event, clock_ms, offset: Some(offset) };
                fed.push(Fed { run, what: What::Records(vec![record]) });
            }
        }
    }
}

/// Feeds the reference; its changes carry the seqs of the runs.
pub(crate) fn tell(reference: &mut Reference, fed: &[Fed]) -> Vec<Change> {
    let mut changes = Vec::new();
    for Fed { run, what } in fed {
        for seq in run.first..run.end() {
            let moment = run.at(seq);
            let caused = match what {
                What::Ticks => reference.tick(run.partition, moment.event, moment.clock_ms),
                What::Compared => reference.compare(moment),
                What::Records(records) => {
                    let (object, told) = &records[(seq - run.first) as usize];
                    reference.apply(moment, seq, object, told.event())
                }
            };
            changes.extend(caused.into_iter().map(|change| Change { seq, ..change }));
        }
    }
    changes
}
