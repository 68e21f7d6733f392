//! The real program while its Kafka is away: HTTP answers from the first moment on and says what is waited for, verbs end in the time they
//! were given, and all is well once the broker is there.

use std::{
    fs,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/program.rs"]
mod program;

use broker::Broker;
use program::Program;

const PATIENCE: Duration = Duration::from_secs(60);

/// Status, body and whether it says when to ask again.
fn ask(agent: &Agent, house: &Program, target: &str) -> (u16, String, bool) {
    let mut answer = agent.get(format!("http://{}{target}", house.address)).call().expect("an answer");
    let again = answer.headers().contains_key("retry-after");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"), again)
}

/// Exit code and what was said of a report that may take a second.
fn report(house: &Program) -> (i32, String) {
    let mut verb = Command::new(env!("CARGO_BIN_EXE_statehouse"));
    verb.args(["report", "o", "up", "--agent", "a", "--wait", "1s", "--url", &format!("http://{}", house.address)]);
    let Output { status, stdout, stderr } = verb.output().expect("it runs");
    (status.code().expect("it ends"), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(began.elapsed() < PATIENCE, "not in time: {what}; last: {seen}"),
        }
        thread::sleep(Duration::from_millis(20)); // between two looks at the condition
    }
}

#[test]
fn http_answers_before_there_is_a_broker_and_verbs_end_in_time() {
    let broker = Broker::start();
    broker.kill();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("statehouse.toml");
    let brokers = &broker.address;
    fs::write(&file, format!("house = \"away\"\nlog = \"kafka\"\n[kafka]\nbrokers = \"{brokers}\"\n[http]\nlisten = \"127.0.0.1:0\"\n"))
        .unwrap();
    let mut house = Program::serve(&file);
    let agent = program::agent();

    assert_eq!(ask(&agent, &house, "/livez"), (200, "ok\n".to_owned(), false));
    assert_eq!((ask(&agent, &house, "/version").0, ask(&agent, &house, "/metrics").0), (200, 200));
    let why = format!("Kafka at {brokers} can't be reached (kafka.brokers)");
    until("the reason", || {
        let (status, body, _) = ask(&agent, &house, "/readyz");
        assert_eq!(status, 503, "{body}");
        if body.starts_with(&format!("[-]start failed: {why}")) { Ok(()) } else { Err(body) }
    });
    let (status, body, says_when) = ask(&agent, &house, "/v1/objects/o");
    assert!((status, says_when) == (503, true) && body.contains(&why), "{status} {body}");
    let refused = report(&house);
    assert!(refused.0 == 1 && refused.1.contains("The house is not open yet: Kafka at "), "{refused:?}");
    assert!(house.runs());

    broker.start_again();
    house.wait_until_ready(&agent);
    until("a report that is applied", || {
        let (code, said) = report(&house);
        if code == 0 { Ok(()) } else { Err(said) }
    });
    let (status, body, _) = ask(&agent, &house, "/v1/objects/o");
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()["state"]), (200, &Value::from("up")), "{body}");

    broker.kill();
    let (code, said) = report(&house);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no answer within 2s: it may be written, and applied later, or not"), "{said}");
    assert_eq!(ask(&agent, &house, "/livez").0, 200);
    assert!(house.runs());
}

#[test]
fn a_start_that_waits_for_a_broker_ends_when_asked_to() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("statehouse.toml");
    fs::write(&file, "house = \"away\"\nlog = \"kafka\"\nkafka.brokers = \"127.0.0.1:1\"\nhttp.listen = \"127.0.0.1:0\"\n").unwrap();
    let house = Program::serve(&file);
    assert_eq!(ask(&program::agent(), &house, "/readyz").0, 503);
    house.terminate();
}
