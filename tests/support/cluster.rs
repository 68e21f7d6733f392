//! A cluster of real brokers for tests, started by `scripts/kafka` in a directory of its own and stopped when this program ends, however
//! it ends. Brokers have numbers from 1.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, Command},
};

/// Three brokers and as many clients share few processors: what compiles little starts soon.
const JVM: &str = "-Xms96m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";

/// Running brokers.
pub(crate) struct Cluster {
    dir: PathBuf,
    /// Where they listen, for everybody.
    pub(crate) addresses: String,
    /// Where each listens for those who come through a proxy.
    pub(crate) routes: Vec<SocketAddr>,
}

impl Cluster {
    /// Starts as many as there are ports; each tells clients of its second listener to come to its port.
    pub(crate) fn start(dir: PathBuf, route_ports: &[u16]) -> Self {
        let ports = route_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let (count, pid, path) = (route_ports.len().to_string(), process::id().to_string(), text(&dir));
        let started = kafka(&["cluster", &count, &path, "--while", &pid, "--behind", &ports]);
        let mut lines = started.lines();
        let mut next = || lines.next().unwrap_or_else(|| panic!("scripts/kafka cluster printed no two lines: {started:?}"));
        let (addresses, routes) = (next().to_owned(), next());
        let routes = routes.split(',').map(|address| address.parse().expect("an address")).collect();
        Self { dir, addresses, routes }
    }

    pub(crate) fn count(&self) -> usize {
        self.routes.len()
    }

    /// kill -9.
    pub(crate) fn kill(&self, number: usize) {
        self.act("kill", number);
    }

    /// Starts one that was killed.
    pub(crate) fn start_again(&self, number: usize) {
        self.act("start", number);
    }

    /// In order, with its data.
    pub(crate) fn restart(&self, number: usize) {
        self.act("restart", number);
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self, number: usize) {
        self.act("pause", number);
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self, number: usize) {
        self.act("resume", number);
    }

    /// Keeps their logs beside `to`.
    pub(crate) fn keep_logs(&self, to: &Path) {
        for number in 1..=self.count() {
            let _kept = std::fs::copy(self.broker(number).join("log"), to.join(format!("broker-{number}.log")));
        }
    }

    fn act(&self, what: &str, number: usize) {
        kafka(&[what, &text(&self.broker(number))]);
    }

    fn broker(&self, number: usize) -> PathBuf {
        self.dir.join(number.to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        kafka(&["stop-cluster", &text(&self.dir)]);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a UTF-8 path").to_owned()
}

fn kafka(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let output = Command::new(&script).args(arguments).env("KAFKA_JVM", JVM).output();
    let output = output.unwrap_or_else(|error| panic!("{} can't run: {error}", script.display()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/kafka {arguments:?} failed (these tests need a real Kafka): {complaint}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
