//! What must be so in every history, whatever happened in it. Each finding begins with its invariant's name.
//!
//! * **S1** the state of a partition is the fold of its source up to the committed offset: rows and digest of every chunk, against the reference.
//! * **S2** the sink, read committed, is per object what the reference publishes: nothing lost, repeated, reordered or different.
//! * **S3** committed offset, chunk number and digest agree; chunk numbers rise by one, whole and in order.
//! * **S4** one member commits a partition in one generation, under a generation.
//! * **S5** an answer that is not marked as stale is committed, as of the place it says, rises per process, and is not older than a session where another has gone on.
//! * **S6** a restored state is the one before: what a new owner's first chunk says, under S1, and that it counts events on.
//! * **S7** nothing is left at who gave a partition up, once that is committed.
//! * **S8** damage is found: nothing is restored from it.
//! * **L1** once faults have stopped, every partition is live at exactly one process, and all of the source is committed, within the bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use statehouse::{
    chunk,
    log::{
        Progress,
        simulated::{Cluster, Stored, Topic},
    },
};
use statehouse_dataflows::{
    digest::row_hash,
    plan::Plan,
    reference::Reference,
    vocabulary::{Change, Event, Millis, Moment, Name, Offset, Partition, Published, Row, RowValue, TICK_MS},
};

use crate::{
    agents::{Meant, Script},
    house::Seen,
};

/// What the history says.
pub(crate) struct History<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) plan: &'a Plan,
    pub(crate) partitions: Partition,
    pub(crate) script: &'a Script,
    pub(crate) seen: &'a Seen,
    /// A process that was stopped may not have noticed yet that it was; then its answers are older.
    pub(crate) lease_us: u64,
    /// When each process went on after it was stopped.
    pub(crate) resumed_us: &'a BTreeMap<usize, Vec<u64>>,
}

/// What a partition comes to.
struct Fold {
    partition: Partition,
    reference: Reference,
    clock_ms: Option<Millis>,
    event: u64,
    next_offset: Offset,
    digest: u64,
    n: u64,
    changes: Vec<Change>,
    rejects: Vec<Offset>,
    /// After each chunk: its place, who wrote it, and what was published.
    after: Vec<After>,
}

struct After {
    place: (Offset, Option<Millis>),
    published: BTreeMap<String, Published>,
}

/// All that is wrong.
pub(crate) fn verify(history: &History<'_>) -> Vec<String> {
    let mut wrong = history.seen.violations.clone();
    for partition in 0..history.partitions {
        match history.fold(partition) {
            Ok(fold) => {
                wrong.extend(history.check_sink(&fold));
                wrong.extend(history.check_offset(&fold));
                wrong.extend(history.check_samples(&fold));
            }
            Err(finding) => wrong.push(finding),
        }
        wrong.extend(history.check_commits(partition));
    }
    wrong
}

impl History<'_> {
    fn fold(&self, partition: Partition) -> Result<Fold, String> {
        let mut fold = Fold {
            partition,
            reference: Reference::new(self.plan),
            clock_ms: None,
            event: 1,
            next_offset: 0,
            digest: 0,
            n: 0,
            changes: Vec::new(),
            rejects: Vec::new(),
            after: vec![After { place: (0, None), published: BTreeMap::new() }],
        };
        let mut ticks: Vec<(Offset, Millis)> = Vec::new();
        let mut index = 0;
        for record in self.cluster.committed(Topic::Checkpoint, partition) {
            let at = |what: &str| format!("S3: checkpoint {partition}, offset {}: {what}", record.offset);
            let piece = chunk::decode(record.value.as_deref().unwrap_or_default()).map_err(|error| at(&error.to_string()))?;
            if (piece.header.n, piece.index) != (fold.n + 1, index) {
                return Err(at(&format!("piece {} of chunk {}, after chunk {} and {index} pieces", piece.index, piece.header.n, fold.n)));
            }
            ticks.extend(&piece.header.ticks);
            index += 1;
            if index == piece.count {
                fold.chunk(&piece.header, &std::mem::take(&mut ticks), self.script)?;
                index = 0;
            }
        }
        if index > 0 {
            return Err(format!("S3: checkpoint {partition} ends within chunk {}", fold.n + 1));
        }
        Ok(fold)
    }

    fn check_sink(&self, fold: &Fold) -> Vec<String> {
        let partition = fold.partition;
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for change in &fold.changes {
            expected.entry(change.object.to_string()).or_default().push(shown(change));
        }
        let mut sunk: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in self.cluster.committed(Topic::Sink, partition) {
            let key = String::from_utf8(record.key.clone().unwrap_or_default()).unwrap_or_default();
            sunk.entry(key).or_default().push(read_shown(&record));
        }
        let objects: BTreeSet<_> = expected.keys().chain(sunk.keys()).collect();
        let none = Vec::new();
        let differs = |object: &&&String| expected.get(**object).unwrap_or(&none) != sunk.get(**object).unwrap_or(&none);
        let mut wrong: Vec<_> = objects
            .iter()
            .filter(differs)
            .map(|object| {
                let (expected, sunk) = (expected.get(*object).unwrap_or(&none), sunk.get(*object).unwrap_or(&none));
                let at = expected.iter().zip(sunk).take_while(|(expected, sunk)| expected == sunk).count();
                let (want, got) = (expected.get(at), sunk.get(at));
                format!(
                    "S2: sink {partition}, {object}: change {at} should be {want:?}, is {got:?} ({} should be there, {} are)",
                    expected.len(),
                    sunk.len()
                )
            })
            .collect();
        let rejects: Vec<_> = self.cluster.committed(Topic::Rejects, partition).iter().map(|record| record.key.clone()).collect();
        let expected: Vec<_> = fold.rejects.iter().map(|offset| Some(offset.to_string().into_bytes())).collect();
        if rejects != expected {
            wrong.push(format!("S2: rejects {partition}: {} should be there, {} are", expected.len(), rejects.len()));
        }
        wrong
    }

    fn check_offset(&self, fold: &Fold) -> Vec<String> {
        let partition = fold.partition;
        let Some((offset, metadata)) = self.cluster.offset(partition) else {
            return if fold.n == 0 { Vec::new() } else { vec![format!("S3: partition {partition} has chunks and no committed offset")] };
        };
        let Ok(progress) = metadata.parse::<Progress>() else { return vec![format!("S3: partition {partition}: {metadata}")] };
        if (progress.n, progress.digest, offset) == (fold.n, fold.digest, fold.next_offset) {
            return Vec::new();
        }
        let (n, digest, next) = (fold.n, fold.digest, fold.next_offset);
        vec![format!("S3: partition {partition} is committed to {offset} with {metadata}; its chunks say {n}, {digest:016x}, {next}")]
    }

    fn check_commits(&self, partition: Partition) -> Vec<String> {
        let (mut wrong, mut by, mut last) = (Vec::new(), BTreeMap::new(), (0, 0));
        for fact in self.cluster.facts().into_iter().filter(|fact| fact.partition == partition) {
            if fact.generation < 0 {
                wrong.push(format!("S4: partition {partition} was committed under no generation"));
            }
            let member = by.entry(fact.generation).or_insert_with(|| fact.member.clone());
            if *member != fact.member {
                wrong.push(format!(
                    "S4: {member} and {} both committed partition {partition} in generation {}",
                    fact.member, fact.generation
                ));
            }
            let n = fact.metadata.parse::<Progress>().map_or(0, |progress| progress.n);
            if (n, fact.next_offset) < last || n > last.0 + 1 {
                wrong.push(format!("S3: partition {partition} went from chunk, offset {last:?} to {:?}", (n, fact.next_offset)));
            }
            last = (n, fact.next_offset);
        }
        wrong
    }

    fn check_samples(&self, fold: &Fold) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut last: BTreeMap<(usize, u64), (Offset, Option<Millis>)> = BTreeMap::new();
        for sample in self.seen.samples.iter().filter(|sample| sample.partition == fold.partition) {
            let (process, object, place) = (sample.process, &sample.object, sample.place);
            let at = |what: &str| format!("S5: process {process} answers for {object} as of {place:?}: {what}");
            let Some(after) = fold.after.iter().rfind(|after| after.place <= place) else { continue };
            if after.published.get(object) != sample.published.as_ref() {
                wrong.push(at(&format!("{:?}, should be {:?}", sample.published, after.published.get(object))));
            }
            let before = last.insert((process, sample.upheavals), place);
            if before.is_some_and(|before| before > place) {
                wrong.push(at(&format!("after one as of {before:?}")));
            }
            let resumed_us = self.resumed_us.get(&process).into_iter().flatten().filter(|us| **us <= sample.at_us).max().copied();
            let since_us = resumed_us.unwrap_or(0);
            let facts = self.cluster.facts();
            let passed = facts.iter().find(|fact| {
                fact.partition == fold.partition && fact.next_offset > place.0 && fact.at_us.max(since_us) + self.lease_us < sample.at_us
            });
            if let Some(fact) = passed {
                wrong.push(at(&format!("long after {} committed {}", fact.member, fact.next_offset)));
            }
        }
        wrong
    }
}

impl Fold {
    fn chunk(&mut self, header: &chunk::Header, ticks: &[(Offset, Millis)], script: &Script) -> Result<(), String> {
        let (partition, from) = (self.partition, self.next_offset);
        let at = |what: String| format!("S1: chunk {} of partition {partition}: {what}", header.n);
        let records: Vec<_> = script.range((partition, from)..(partition, header.next_offset)).collect();
        let clock_ms = (header.clock_ms >= 0).then_some(header.clock_ms);
        let targets = ticks.iter().map(|(_, clock_ms)| *clock_ms).chain(clock_ms);
        // A restore counts one event of its own.
        let counted = self.count_ticks(targets) + records.len() as u64;
        if header.event < self.event + counted || header.event > self.event + counted + 1 {
            return Err(format!("S6: {}", at(format!("event {} after {} and {counted} more", header.event, self.event))));
        }
        self.event = header.event - counted;
        for ((_, offset), written) in records {
            if let Some((_, clock_ms)) = ticks.iter().find(|(before, _)| before == offset) {
                self.tick_to(*clock_ms);
            }
            let moment = Moment { partition, event: self.event, clock_ms: self.clock_ms.unwrap_or(0), offset: Some(*offset) };
            self.event += 1;
            match event(&written.meant, written.timestamp_ms) {
                Some(event) => self.changes.extend(self.reference.apply(moment, 0, &written.object, event)),
                None => self.rejects.push(*offset),
            }
        }
        if let Some(clock_ms) = clock_ms {
            self.tick_to(clock_ms);
        }
        (self.next_offset, self.n, self.digest) = (header.next_offset, header.n, header.digest);
        let digest = self.digest_now();
        if digest != header.digest {
            return Err(at(format!(
                "its digest is {:016x}, and that of the source up to offset {} is {digest:016x}",
                header.digest, self.next_offset
            )));
        }
        let published = self.reference.published().into_iter().map(|((object, _), published)| (object, published)).collect();
        self.after.push(After { place: (self.next_offset, self.clock_ms), published });
        Ok(())
    }

    fn count_ticks(&self, targets: impl Iterator<Item = Millis>) -> u64 {
        let (mut clock_ms, mut count) = (self.clock_ms, 0);
        for target_ms in targets {
            count += clock_ms.map_or(1, |clock_ms| ((target_ms - clock_ms) / TICK_MS) as u64);
            clock_ms = Some(target_ms);
        }
        count
    }

    fn tick_to(&mut self, target_ms: Millis) {
        loop {
            let next_ms = self.clock_ms.map_or(target_ms, |clock_ms| clock_ms + TICK_MS);
            if next_ms > target_ms {
                return;
            }
            self.clock_ms = Some(next_ms);
            let mut fired = self.reference.tick(self.partition, self.event, next_ms);
            self.changes.append(&mut fired);
            self.event += 1;
            if next_ms == target_ms {
                return;
            }
        }
    }

    fn digest_now(&self) -> u64 {
        let partition = self.partition;
        let published = self.reference.published().into_iter().map(|((object, _), published)| Row {
            partition,
            object: Name::from(object.as_str()),
            value: RowValue::Object(Some(Arc::new(published))),
        });
        let reports = self.reference.reports().into_iter().flat_map(|((object, _), reports)| {
            reports.into_iter().map(move |(agent, report)| Row {
                partition,
                object: Name::from(object.as_str()),
                value: RowValue::Report(Name::from(agent.as_str()), Some(report)),
            })
        });
        published.chain(reports).fold(0, |digest: u64, row| digest.wrapping_add(row_hash(&row)))
    }
}

fn event(meant: &Meant, ts_ms: Millis) -> Option<Event<'_>> {
    Some(match meant {
        Meant::Report { agent, state } => Event::Report { agent, state, ts_ms, ttl_ms: None },
        Meant::Withdraw { agent } => Event::Withdraw { agent, ts_ms },
        Meant::Override { state, for_ms } => Event::Override { state, for_ms: *for_ms },
        Meant::Lift => Event::Lift,
        Meant::Purge => Event::Purge,
        Meant::Nothing => return None,
    })
}

/// A change in one line; a tombstone says nothing but that it is one.
fn shown(change: &Change) -> String {
    let Change { previous, since_ms, at_ms, cause, revision, offset, .. } = change;
    let Some(state) = &change.state else { return "gone".to_owned() };
    let previous = previous.as_deref().unwrap_or("-");
    format!("{state} after {previous} since {since_ms} at {at_ms} by {} as {revision} from {offset:?}", cause.as_str())
}

fn read_shown(record: &Stored) -> String {
    let Some(value) = &record.value else { return "gone".to_owned() };
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(value) else { return "not JSON".to_owned() };
    let text = |name: &str| json[name].as_str().unwrap_or("-").to_owned();
    let number = |name: &str| json[name].as_i64().unwrap_or(-1);
    let offset = json["source"]["offset"].as_i64();
    let (state, previous, cause) = (text("state"), text("previous"), text("cause"));
    let (since_ms, at_ms, revision) = (number("since"), number("at"), number("revision"));
    format!("{state} after {previous} since {since_ms} at {at_ms} by {cause} as {revision} from {offset:?}")
}
