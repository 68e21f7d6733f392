//! Whoever was asleep for longer than its session, on a real Kafka: the real program is stopped (SIGSTOP) while it owns an object, another
//! takes the object over and changes it, and the first goes on (SIGCONT) with questions waiting in its sockets.
//!
//! What must hold: from the first moment on, an answer of the woken one is marked as stale, or the new state, or none; also when it is that the
//! object is not known. Without the lease the questions that waited are answered with the old state, unmarked, before the client has
//! found out that its session is over.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;
use uuid::Uuid;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;
#[path = "support/program.rs"]
mod program;

use broker::shared;
use kafka_house::{SESSION, poll_until};
use program::{Program, agent};

const PATIENCE: Duration = Duration::from_secs(60);
/// Questions that wait, and for how many objects each: more than the sleeper has threads.
const WAITING: usize = 8;

/// A house of its own, and one who asks it.
struct House {
    directory: TempDir,
    agent: Agent,
}

impl House {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let toml = format!(
            "house = \"lease-{}\"\nlog = \"kafka\"\nworkers = 1\n[http]\nlisten = \"127.0.0.1:0\"\nroute = \"local\"\n\
             [kafka]\nbrokers = \"{}\"\npartitions = 2\nsession_timeout_ms = 3000\n",
            Uuid::new_v4(),
            shared().address
        );
        std::fs::write(directory.path().join("statehouse.toml"), toml).unwrap();
        Self { directory, agent: agent() }
    }

    fn serve(&self) -> Program {
        let program = Program::serve(&self.directory.path().join("statehouse.toml"));
        program.wait_until_ready(&self.agent);
        program
    }

    /// The answer's status, and whether it is marked.
    fn ask(&self, of: &Program, object: &str) -> (u16, bool) {
        let answer = self.agent.get(format!("http://{}/v1/objects/{object}", of.address)).call().expect("an answer");
        (answer.status().as_u16(), answer.headers().contains_key("statehouse-lag-ms"))
    }

    /// An object that nobody knows, and of whose partition this instance is the owner beyond doubt.
    fn owned(&self, by: &Program, kind: &str) -> Option<String> {
        (0..20).map(|nth| format!("{kind}-{nth}")).find(|object| self.ask(by, object) == (404, false))
    }

    /// Says that the object is in this state, and waits until it is.
    fn report(&self, to: &Program, object: &str, state: &str) {
        let at = format!("http://{}/v1/objects/{object}/reports/tester?wait=20s", to.address);
        let answer = self.agent.put(at).content_type("application/json").send(format!("{{\"state\":\"{state}\"}}")).expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "it is applied");
    }

    fn wait_for(&self, what: &str, mut come: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !come() {
            assert!(begun.elapsed() < PATIENCE, "{what} did not come");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn signal(name: &str, to: &Program) {
    let kill = format!("kill -{name} {}", to.id()); // the shell's own: small machines have no program of that name
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("kill runs").success());
}

/// A question that lies in the sleeper's socket.
fn put_question(of: &Program, object: &str) -> TcpStream {
    let mut connection = TcpStream::connect(&of.address).expect("its kernel is awake");
    connection.set_read_timeout(Some(PATIENCE)).expect("a time");
    let question = format!("GET /v1/objects/{object} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", of.address);
    connection.write_all(question.as_bytes()).expect("it is taken");
    connection
}

/// What came of it: the status, whether the answer is marked, its body.
fn answer_to(mut connection: TcpStream) -> (u16, bool, Value) {
    let mut text = String::new();
    connection.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase().contains("statehouse-lag-ms"), serde_json::from_str(body).expect("JSON"))
}

#[test]
fn one_who_slept_over_its_session_marks_every_answer() {
    let house = House::new();
    let sleeper = house.serve();
    let heir = house.serve();
    house.wait_for("a partition for each", || {
        house.owned(&sleeper, "known").is_some_and(|object| house.ask(&heir, &object).0 == 421) && house.owned(&heir, "any").is_some()
    });
    let (known, unknown) = (house.owned(&sleeper, "known").expect("it is"), house.owned(&sleeper, "unknown").expect("as well"));
    house.report(&sleeper, &known, "before");
    assert_eq!(house.ask(&sleeper, &known), (200, false), "it owns it, and is not in doubt");

    signal("STOP", &sleeper);
    house.wait_for("the heir to take over", || house.ask(&heir, &known) == (200, false));
    house.report(&heir, &known, "after");
    house.report(&heir, &unknown, "after");
    let waiting: Vec<_> = (0..WAITING).flat_map(|_| [put_question(&sleeper, &known), put_question(&sleeper, &unknown)]).collect();
    signal("CONT", &sleeper);
    let woken = Instant::now();
    let mut answered = [0, 0];
    let mut check = |(status, marked, body): (u16, bool, Value)| {
        let old = status == 404 || (status == 200 && body["state"] != "after");
        assert!(!old || marked, "{:?} after it woke: {status} {body}", woken.elapsed());
        answered[usize::from(marked)] += 1;
        status
    };
    waiting.into_iter().for_each(|connection| _ = check(answer_to(connection)));
    house.wait_for("the sleeper to know", || check(answer_to(put_question(&sleeper, &known))) == 421);
    println!("unmarked and marked: {answered:?}");

    house.wait_for("the sleeper to own something again", || house.owned(&sleeper, "again").is_some());
    heir.terminate();
    sleeper.terminate();
}

#[test]
fn a_member_is_heard_of_again_and_again_and_each_proof_is_younger() {
    let mut log = kafka_house::House { session: SESSION, ..kafka_house::House::new() }.open();
    assert_eq!(log.lease, Some(SESSION));
    let begun = Instant::now();
    let (mut heard, mut oldest) = (vec![log.source.heard().expect("it joined after this")], Duration::ZERO);
    poll_until(&mut log, |_| true);
    while heard.len() < 12 {
        assert!(begun.elapsed() < PATIENCE, "heard {} times", heard.len());
        poll_until(&mut log, |_| true);
        let Some(at) = log.source.heard() else { continue };
        oldest = oldest.max(at.elapsed());
        assert!(at <= Instant::now() && heard.iter().all(|before| *before < at), "{heard:?}, then {at:?}");
        heard.push(at);
    }
    let gaps = heard.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    println!("at most {oldest:?} old when heard, apart by {gaps:?}");
    log.source.leave();
}
