//! A real Kafka broker for tests, started by `scripts/kafka` in a directory of its own and stopped when this test program ends, however it
//! ends. Needs Java; without it the tests fail and say so.
//!
//! Include it with `#[path = "support/broker.rs"] mod broker;`. [`shared`] is one broker for a whole test program.
#![allow(dead_code, reason = "every test program includes the whole module and uses a part of it")]
#![allow(unreachable_pub, reason = "a module of test programs")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// The user of the listener that wants one, and its password.
pub const USER: &str = "alice";
/// See [`USER`].
pub const PASSWORD: &str = "open sesame 42";

/// A running broker, or one that was killed and can be started again.
pub struct Broker {
    dir: PathBuf,
    /// Where it listens for everybody.
    pub address: String,
    /// Where it listens for [`USER`] (SASL_PLAINTEXT: SCRAM-SHA-256, SCRAM-SHA-512, PLAIN).
    pub sasl_address: String,
    /// Where it speaks TLS, with the certificate of [`certificate_file`].
    pub tls_address: String,
    /// Where it listens for the proxy that it sends the clients of that listener to, if it does.
    pub behind_address: Option<String>,
}

/// The broker that all tests of this program share. Don't stop it.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(Broker::start)
}

/// The file with [`PASSWORD`], the same for all.
pub fn password_file() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("password")
}

/// The certificate (PEM) that brokers show.
pub fn certificate_file() -> PathBuf {
    kafka(Path::new(env!("CARGO_TARGET_TMPDIR")), &["certificate"]).trim().into()
}

impl Broker {
    /// Starts a fresh one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a fresh one with one more listener, whose clients it sends to this port of 127.0.0.1.
    pub fn start_behind(port: u16) -> Self {
        Self::start_with(&["--behind", &port.to_string()])
    }

    fn start_with(more: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let brokers = Path::new(env!("CARGO_TARGET_TMPDIR")).join("brokers");
        let dir = brokers.join(name);
        fs::create_dir_all(&brokers).expect("a directory for the brokers");
        let password = password_file();
        fs::write(&password, PASSWORD).expect("the password's file");
        let pid = process::id().to_string();
        let started = kafka(&dir, &[&["start", "--while", &pid, "--scram", USER, &text(&password), "--tls"], more].concat());
        let mut addresses = started.lines().map(str::to_owned);
        let mut next = || addresses.next().unwrap_or_else(|| panic!("scripts/kafka start printed no three addresses: {started:?}"));
        Self { address: next(), sasl_address: next(), tls_address: next(), behind_address: addresses.next(), dir }
    }

    /// Kills it without notice.
    pub fn kill(&self) {
        kafka(&self.dir, &["kill"]);
    }

    /// Stops its process: it is there, and connections to it stand, and it does not answer.
    pub fn pause(&self) {
        kafka(&self.dir, &["pause"]);
    }

    /// Lets its process go on.
    pub fn resume(&self) {
        kafka(&self.dir, &["resume"]);
    }

    /// Starts it again where it was, with its data.
    pub fn start_again(&self) {
        kafka(&self.dir, &["start"]);
    }

    /// Makes a topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        kafka(&self.dir, &["topics", "--create", "--topic", topic, "--partitions", &partitions.to_string()]);
    }

    /// Fills a topic with the reference workload: reports on objects by agents.
    pub fn fill(&self, topic: &str, (reports, objects, agents): (u64, i32, i32)) {
        let shape = [reports.to_string(), objects.to_string(), agents.to_string()];
        kafka(&self.dir, &["gen", &self.address, topic, &shape[0], &shape[1], &shape[2], "1", "0.1"]);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        kafka(&self.dir, &["stop"]);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a UTF-8 path").to_owned()
}

/// Acts on the broker in this directory.
fn kafka(dir: &Path, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let mut command = Command::new(&script);
    let output = command.args(arguments).env("KAFKA_DIR", dir).output();
    let output = output.unwrap_or_else(|error| panic!("{} can't run: {error}", script.display()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/kafka {arguments:?} failed (these tests need a real broker): {complaint}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
