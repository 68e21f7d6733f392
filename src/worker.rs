//! A worker: decodes its records, feeds its engine, and hands out what each epoch brought. Answers questions as of L.
//!
//! Second stage of the flow: [`Feed`] in, [`Output`] out, [`Notice`] aside. Workers share nothing: each owns a whole engine for the objects
//! that hash to it. Not `Send` (the engine isn't): built on the thread that drives it, which handles every waiting notice before the next feed.

use std::{collections::BTreeMap, sync::Arc};

use statehouse_dataflows::{
    engine::{Closed, Engine, WINDOW},
    plan::Plan,
    slice::SliceAsk,
    vocabulary::{Partition, Run, Seq},
};

use crate::{
    config::OnReject,
    decode::{Decoder, Reject, Scratch},
    encode::Encoder,
    log::{Batch, Record, RejectRecord},
    message::{Feed, Notice, Output, OutputPart, Records, Refused, Routed},
    question::{Answer, Ask, Question},
};

/// What a worker is made of.
#[derive(Clone)]
pub struct WorkerSetup {
    /// Which of the workers it is.
    pub worker: usize,
    /// The rules.
    pub plan: Arc<Plan>,
    /// From records to events.
    pub decoder: Arc<Decoder>,
    /// From changes to sink records.
    pub encoder: Arc<Encoder>,
    /// What to do with rejects.
    pub on_reject: OnReject,
}

/// See the module.
pub struct Worker {
    setup: WorkerSetup,
    engine: Engine,
    scratch: Scratch,
    generation: u64,
    /// Of the open epoch, by partition.
    rejects: BTreeMap<Partition, Vec<RejectRecord>>,
    refused: Option<Refused>,
    /// What the next output is to have of rows that it leaves as they were.
    asks: Vec<SliceAsk>,
    /// Partitions that were dropped and are not whole again: from which seq on they are, once that is known.
    absent: BTreeMap<Partition, Option<Seq>>,
}

impl Worker {
    /// An empty worker.
    #[must_use]
    pub fn new(setup: WorkerSetup) -> Self {
        let engine = Engine::new(Arc::clone(&setup.plan));
        Self {
            setup,
            engine,
            scratch: Scratch::default(),
            generation: 0,
            rejects: BTreeMap::new(),
            refused: None,
            asks: Vec::new(),
            absent: BTreeMap::new(),
        }
    }

    /// Takes what the pump feeds. The end of an epoch yields its output.
    pub fn feed(&mut self, feed: Feed) -> Option<Output> {
        match feed {
            Feed::Records(records) => self.records(&records),
            Feed::Ticks(runs) => runs.iter().for_each(|run| self.engine.run(*run)),
            Feed::Chunk { run, objects } => {
                self.engine.run(run);
                objects.iter().for_each(|(hash, rows)| self.engine.follow(run.first, *hash, rows));
            }
            Feed::Rows { run, objects } => {
                self.engine.run(run);
                self.engine.restore(run.first, &objects.hashes, &objects.rows);
            }
            Feed::Compare { run, objects_max } => {
                self.engine.run(run);
                self.engine.compare(run.first, run.partition, objects_max);
                // What is not compared yet is what was published: it can be asked.
                self.absent.entry(run.partition).and_modify(|since| _ = since.get_or_insert(run.first));
            }
            Feed::GiveUp(run) => {
                self.engine.run(run);
                self.engine.give_up(run.first, run.partition);
                self.absent.remove(&run.partition);
                self.asks.retain(|ask| ask.partition != run.partition);
            }
            Feed::Seal { epoch, end } => return Some(self.seal(epoch, end)),
            Feed::Reset { generation, owned, spared } => self.reset(generation, &owned, &spared),
        }
        None
    }

    /// Takes a notice: L moves, or a question is answered as of L.
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            // Of what was there before everything was dropped: it comes too late to be of any use.
            Notice::Committed(last, _) if last < self.engine.last_committed() => {}
            Notice::Committed(last, asks) => {
                self.engine.committed(last);
                self.asks = asks;
                self.absent.retain(|_, since| since.is_none_or(|since| since > last));
            }
            Notice::Question(Question { ask, reply }) => {
                if !reply.is_closed() && self.can_answer(&ask) {
                    let _gone = reply.send(self.answer(ask)); // whoever asked may have left
                }
            }
        }
    }

    /// Whether all that is asked about is here. A question that waited while state was dropped gets no answer, rather than half of one.
    fn can_answer(&self, ask: &Ask) -> bool {
        match ask {
            Ask::Object(partition, _) | Ask::Reports(partition, _) | Ask::Explain(partition, _) => !self.absent.contains_key(partition),
            Ask::List(_, of) | Ask::Summary(of) => !self.absent.keys().any(|partition| of.contains(partition)),
        }
    }

    fn records(&mut self, records: &Records) {
        let mut runs = records.runs.iter().peekable();
        for window in records.routed.chunks(WINDOW) {
            self.engine.look_ahead(window.iter().map(|routed| routed.hash));
            for routed in window {
                while let Some(run) = runs.next_if(|run| run.first <= routed.seq) {
                    self.engine.run(*run);
                }
                self.record(&records.batch, routed);
            }
        }
        runs.for_each(|run| self.engine.run(*run));
    }

    fn record(&mut self, batch: &Batch, routed: &Routed) {
        let record = &batch.records[routed.index as usize];
        if let Some(reject) = &routed.reject {
            return self.reject(batch, record, (routed.seq, Reject::clone(reject)));
        }
        let decoder = Arc::clone(&self.setup.decoder);
        let decoded =
            decoder.key(record, &batch.bytes).and_then(|object| Ok((object, decoder.decode(record, &batch.bytes, &mut self.scratch)?)));
        match decoded {
            Ok((object, event)) => self.engine.apply(routed.seq, object, routed.hash, event),
            Err(reject) => self.reject(batch, record, (routed.seq, reject)),
        }
    }

    fn reject(&mut self, batch: &Batch, record: &Record, (seq, reject): (Seq, Reject)) {
        let bytes = |range: &Option<std::ops::Range<usize>>| range.clone().map(|range| batch.bytes[range].to_vec());
        let (reason, detail) = (reject.reason.as_str(), reject.detail);
        if self.setup.on_reject == OnReject::Stop && self.refused.is_none() {
            let (partition, offset) = (batch.partition, record.offset);
            self.refused = Some(Refused { seq, partition, offset, reason, detail: detail.clone() });
        }
        let kept = RejectRecord {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: bytes(&record.key),
            value: bytes(&record.value),
            reason,
            detail,
        };
        self.rejects.entry(batch.partition).or_default().push(kept);
    }

    fn seal(&mut self, epoch: u64, end: Seq) -> Output {
        let asks = std::mem::take(&mut self.asks);
        let Closed { changes, rows, digests, counts, slices } = self.engine.close_and_slice(end, &asks);
        let mut parts = Parts::default();
        let mut causes = BTreeMap::new();
        for change in changes.iter() {
            *causes.entry(change.cause).or_default() += 1;
            parts.of(change.partition).changes.push((change.seq, self.setup.encoder.encode(&change)));
        }
        for rows in rows {
            let part = parts.of(rows.partition());
            part.rows = rows;
        }
        for (partition, delta) in digests {
            let digest = &mut parts.of(partition).digest_delta;
            *digest = digest.wrapping_add(delta);
        }
        for slice in slices {
            let part = parts.of(slice.partition);
            part.slice = Some(slice);
        }
        for (partition, rejects) in std::mem::take(&mut self.rejects) {
            parts.of(partition).rejects = rejects;
        }
        let (worker, generation, refused) = (self.setup.worker, self.generation, self.refused.take());
        Output { worker, epoch, generation, parts: parts.0, refused, causes, counts }
    }

    fn reset(&mut self, generation: u64, owned: &[Partition], spared: &[Run]) {
        self.engine = self.engine.anew(spared);
        self.absent = owned.iter().map(|partition| (*partition, None)).collect();
        self.generation = generation;
        self.rejects.clear();
        self.asks.clear();
        self.refused = None;
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Object(partition, object) => Answer::Object(self.engine.object(partition, &object)),
            Ask::Reports(partition, object) => Answer::Reports(self.engine.reports(partition, &object)),
            Ask::Explain(partition, object) => Answer::Explain(self.engine.explain(partition, &object).map(Box::new)),
            Ask::List(query, of) => Answer::List(self.engine.list(&query, &of)),
            Ask::Summary(of) => Answer::Summary(self.engine.summary(&of)),
        }
    }
}

/// One output part for each partition; there are few.
#[derive(Default)]
struct Parts(Vec<OutputPart>);

impl Parts {
    fn of(&mut self, partition: Partition) -> &mut OutputPart {
        let at = self.0.iter().rposition(|part| part.partition == partition).unwrap_or_else(|| {
            self.0.push(OutputPart { partition, ..OutputPart::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}
