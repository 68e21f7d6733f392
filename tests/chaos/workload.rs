//! An ordinary producer: reports, most of them of what is known already, withdrawals, overrides, purges, and some that can't be used.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::config::Config;

use super::{dice::Dice, instances::now_ms};

/// Who reports.
pub(crate) const AGENTS: u64 = 5;
const STATES: [&str; 3] = ["normal", "under_attack", "degraded"];

/// How much is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) objects: u64,
    pub(crate) records_per_s: u64,
}

/// The name of an object.
pub(crate) fn object(number: u64) -> String {
    format!("site-{number}.example")
}

impl Workload {
    /// Tells on until it is over, at an even pace; what an outage held up is caught up with, as far as the client's queue keeps it.
    pub(crate) fn tell(self, config: &Config, mut dice: Dice, (over, told): (&AtomicBool, &AtomicU64)) {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.kafka.brokers).set("partitioner", "murmur2_random");
        // Batches that come faster than they are acknowledged fill the five places in flight, and the client then polls without a pause until
        // one is free: with 10 ms it takes more than a processor of those that all share.
        client.set("linger.ms", "100");
        client.set("enable.idempotence", "true").set("compression.codec", "lz4").set("message.timeout.ms", "300000");
        client.set("queue.buffering.max.messages", "200000").set("log_level", "2");
        let producer: BaseProducer = client.create().expect("a producer");
        let topic = config.topics().source;
        let mut claims = vec![0_u8; (self.objects * AGENTS) as usize];
        let (begun, mut count) = (Instant::now(), 0);
        while !over.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * self.records_per_s as f64) as u64;
            // After an outage no storm: at most a second's worth at once.
            count = count.max(due.saturating_sub(self.records_per_s));
            while count < due {
                count += 1;
                let (key, value) = self.record(&mut claims, &mut dice);
                let mut record = BaseRecord::to(&topic).key(&key);
                if let Some(value) = &value {
                    record = record.payload(value);
                }
                while let Err((_, again)) = producer.send(record) {
                    producer.poll(Duration::from_millis(10)); // its queue is full
                    record = again;
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                told.fetch_add(1, Ordering::Relaxed);
            }
            producer.poll(Duration::ZERO);
            thread::sleep(Duration::from_millis(20));
        }
        let _whatever_is_in_the_source_counts = producer.flush(Duration::from_secs(60));
    }

    fn record(self, claims: &mut [u8], dice: &mut Dice) -> (String, Option<String>) {
        // Some objects are spoken of all the time.
        let number = if dice.roll(4) == 0 { dice.roll(self.objects / 100 + 1) } else { dice.roll(self.objects) };
        let agent = dice.roll(AGENTS);
        let claim = &mut claims[(number * AGENTS + agent) as usize];
        let (state, ts) = (STATES[dice.roll(3) as usize], now_ms());
        let value = match dice.roll(1_000) {
            0..5 => None,
            5..12 => Some(format!(r#"{{"type":"override","state":"{state}","for":{}}}"#, 300 + dice.roll(4_000))),
            12..15 => Some(format!(r#"{{"type":"override","state":"{state}"}}"#)),
            15..25 => Some(r#"{"type":"override","state":null}"#.to_owned()),
            25..50 => Some(format!(r#"{{"agent":"agent-{agent}","state":null,"ts":{ts}}}"#)),
            50..51 => Some("not JSON".to_owned()),
            51..52 => Some(format!(r#"{{"agent":"agent-{agent}","ts":{ts}}}"#)),
            52..53 => Some(r#"{"state":"normal"}"#.to_owned()),
            roll => {
                if roll < 200 {
                    *claim = dice.roll(3) as u8;
                }
                Some(format!(r#"{{"agent":"agent-{agent}","state":"{}","ts":{ts}}}"#, STATES[*claim as usize]))
            }
        };
        (object(number), value)
    }
}
