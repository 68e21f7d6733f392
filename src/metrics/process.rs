//! The process's own numbers, read from `/proc` when scraped, under the names that Prometheus clients commonly use.
//!
//! Known limitation: Linux only; elsewhere they are left out.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Clock ticks per second in `/proc/self/stat`: fixed at 100 in Linux's interface to programs, whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// Registered without the house's prefix, so that dashboards for processes work.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put = |name: &str, help: &str, value: Option<Number>| -> Result<(), fmt::Error> {
            match value {
                Some(Number::Counter(value)) => {
                    let metric = ConstCounter::new(value);
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
                }
                Some(Number::Gauge(value)) => {
                    let metric = ConstGauge::new(value);
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
                }
                None => Ok(()),
            }
        };
        put("process_cpu_seconds", "User and system CPU time", cpu_seconds().map(Number::Counter))?;
        put("process_resident_memory_bytes", "Resident memory", status_value("VmRSS:").map(|kib| Number::Gauge(kib * 1024)))?;
        put("process_resident_memory_max_bytes", "Peak of resident memory", status_value("VmHWM:").map(|kib| Number::Gauge(kib * 1024)))?;
        put("process_threads", "Threads", status_value("Threads:").map(Number::Gauge))?;
        put("process_open_fds", "Open file descriptors", open_files().map(Number::Gauge))
    }
}

enum Number {
    Counter(f64),
    Gauge(i64),
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything, so counting starts after the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn status_value(name: &str) -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<i64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as i64)
}
