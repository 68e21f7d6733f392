//! Several programs of one house on a real Kafka, most of them from one and the same configuration file: whoever is asked gives the same
//! answer, also while owners die, leave and come, or says why there is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use ureq::Agent;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/program.rs"]
mod program;

use broker::shared;
use program::{Program, agent};

const PATIENCE: Duration = Duration::from_secs(90);
const OBJECTS: usize = 40;

/// What one request brought.
#[derive(Debug)]
struct Answer {
    status: u16,
    retry_after: bool,
    body: Value,
}

fn get(agent: &Agent, program: &Program, target: &str) -> Answer {
    let mut answer = agent.get(format!("http://{}{target}", program.address)).call().expect("an answer");
    let retry_after = answer.headers().contains_key("retry-after");
    let body = answer.body_mut().read_json().unwrap_or_default();
    Answer { status: answer.status().as_u16(), retry_after, body }
}

impl Answer {
    /// It is the right one, or an honest refusal for now: then false.
    #[track_caller]
    fn is_or_will_be(&self, expected: &Value) -> bool {
        if self.status == 200 {
            assert_eq!(&self.body, expected);
            return true;
        }
        let (reason, detail) = (self.body["type"].as_str().unwrap_or_default(), self.body["detail"].as_str().unwrap_or_default());
        let reasons = ["instance-unavailable", "joining", "no-owner", "partition-restoring", "stopping"];
        assert!(reasons.iter().any(|known| reason == format!("/problems/{known}")) && !detail.is_empty(), "{self:?}");
        assert!(self.status == 503 && self.retry_after, "{self:?}");
        false
    }
}

/// Tries until it holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A house, and the directory of its configuration files.
struct House {
    name: String,
    directory: tempfile::TempDir,
}

impl House {
    fn new(what: &str) -> Self {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        Self { name: format!("{what}-{nanos}"), directory: tempfile::tempdir().expect("a directory") }
    }

    /// A configuration file.
    fn file(&self, partitions: u32, (http, rule): (&str, &str)) -> PathBuf {
        let toml = format!(
            "house = \"{}\"\nlog = \"kafka\"\nworkers = 1\n[kafka]\nbrokers = \"{}\"\npartitions = {partitions}\nsession_timeout_ms = 4000\n\
             [http]\nlisten = \"127.0.0.1:0\"\n{http}\n[[rule]]\nrule = \"{rule}\"\n",
            self.name,
            shared().address
        );
        let file = self.directory.path().join(format!("{}.toml", toml.len() + fs::read_dir(self.directory.path()).unwrap().count()));
        fs::write(&file, toml).expect("written");
        file
    }
}

/// Whether this one knows of so many instances, and of owners of all partitions.
fn knows(agent: &Agent, program: &Program, count: usize) -> bool {
    let Answer { body, .. } = get(agent, program, "/v1/instances");
    let instances = body["instances"].as_array().expect("a list");
    let owners = instances.iter().filter(|instance| instance["partitions"] != serde_json::json!([])).count();
    instances.len() == count && owners == count && body["without_owner"] == serde_json::json!([])
}

fn start(agent: &Agent, file: &Path, count: usize) -> Vec<Program> {
    let programs: Vec<_> = (0..count).map(|_| Program::serve(file)).collect();
    programs.iter().for_each(|program| program.wait_until_ready(agent));
    settle(agent, &programs);
    programs
}

/// Waits until all know of each other, and nothing moves any more.
fn settle(agent: &Agent, programs: &[Program]) {
    for program in programs {
        until("all know of each other", || knows(agent, program, programs.len()) && get(agent, program, "/v1/summary").status == 200);
    }
}

/// Has everyone take some reports; returns what every object's answer must be from now on.
fn reported(agent: &Agent, programs: &[Program]) -> BTreeMap<String, Value> {
    for n in 0..OBJECTS {
        let target = format!("/v1/objects/site-{n:02}/reports/a?wait=20s");
        let url = format!("http://{}{target}", programs[n % programs.len()].address);
        let state = ["up", "down"][n % 2];
        let mut answer = agent.put(url).send_json(serde_json::json!({ "state": state })).expect("an answer");
        let body: Value = answer.body_mut().read_json().expect("JSON");
        assert_eq!((answer.status().as_u16(), &body["applied"]), (200, &Value::Bool(true)), "{body}");
    }
    let names = (0..OBJECTS).map(|n| format!("/v1/objects/site-{n:02}"));
    names.map(|target| (target.clone(), get(agent, &programs[0], &target).body)).collect()
}

/// Everyone gives these answers, and the same lists.
fn all_answer(agent: &Agent, programs: &[Program], expected: &BTreeMap<String, Value>) {
    for program in programs {
        for (target, body) in expected {
            until(target, || get(agent, program, target).is_or_will_be(body));
        }
        let list = serde_json::json!({ "items": expected.values().collect::<Vec<_>>(), "cursor": null });
        until("a list", || get(agent, program, "/v1/objects?limit=1000").is_or_will_be(&list));
        let summary = serde_json::json!({ "objects": OBJECTS, "by_state": { "up": OBJECTS / 2, "down": OBJECTS / 2 }, "without_state": 0 });
        until("a summary", || get(agent, program, "/v1/summary").is_or_will_be(&summary));
    }
}

#[test]
fn started_from_one_file_they_are_one_house() {
    let (house, agent) = (House::new("one"), agent());
    let file = house.file(6, ("", "latest"));
    let mut programs = start(&agent, &file, 3);
    let expected = reported(&agent, &programs);
    all_answer(&agent, &programs, &expected);
    let states: BTreeSet<_> = expected.values().map(|object| object["state"].to_string()).collect();
    assert_eq!(states.len(), 2, "the answers are of objects: {states:?}");

    // kill -9: until somebody else serves, no answer is wrong, and each refusal has its reason.
    let mut killed = programs.remove(0);
    let at = Instant::now();
    killed.kill();
    all_answer(&agent, &programs, &expected);
    println!("after kill -9 (session timeout 4 s) all objects answer again after {:?}", at.elapsed());
    settle(&agent, &programs);

    // Others join, which answer in other ways.
    for route in ["redirect", "local"] {
        let other = Program::serve(&house.file(6, (&format!("route = \"{route}\""), "latest")));
        other.wait_until_ready(&agent);
        programs.push(other);
    }
    settle(&agent, &programs);
    let local = programs.pop().expect("the last one");
    all_answer(&agent, &programs, &expected); // the client follows where it is sent
    let mut elsewhere = 0;
    for (target, body) in &expected {
        let answer = get(&agent, &local, target);
        elsewhere += usize::from(answer.status == 421);
        let owner = answer.body["url"].as_str().unwrap_or_default();
        assert!(answer.status == 421 && owner.starts_with("http://127.0.0.1:") || answer.body == *body, "{answer:?}");
    }
    assert!(elsewhere > 0 && elsewhere < OBJECTS, "it owns some objects, and says so of {elsewhere}");
}

#[test]
fn a_planned_stop_hands_over_at_once() {
    let agent = agent();
    for partitions in [4, 12] {
        let house = House::new("stop");
        let file = house.file(partitions, ("", "latest"));
        let mut programs = start(&agent, &file, 2);
        let expected = reported(&agent, &programs);
        let leaving = programs.remove(0);
        let at = Instant::now();
        let ended = thread::spawn(move || leaving.terminate());
        for (target, body) in &expected {
            until(target, || get(&agent, &programs[0], target).is_or_will_be(body));
        }
        println!("{partitions} partitions: after a planned stop all objects answer after {:?}", at.elapsed());
        ended.join().expect("a clean end");
        settle(&agent, &programs);
    }
}

#[test]
fn another_configuration_is_noticed() {
    let (house, agent) = (House::new("differs"), agent());
    let one = Program::serve(&house.file(2, ("", "latest")));
    one.wait_until_ready(&agent);
    let same = Program::serve(&house.file(2, ("max_list = 10", "latest")));
    same.wait_until_ready(&agent);
    let other = Program::serve(&house.file(2, ("", "majority")));
    until("all know of each other", || get(&agent, &other, "/v1/instances").body["instances"].as_array().is_some_and(|all| all.len() == 3));
    for (program, differing) in [(&one, 1), (&other, 2)] {
        let text = |target: &str| {
            let mut answer = agent.get(format!("http://{}{target}", program.address)).call().expect("an answer");
            answer.body_mut().read_to_string().expect("text")
        };
        until("the other configuration is noticed", || {
            let shown = get(&agent, program, "/v1/instances").body;
            let differs = shown["instances"].as_array().expect("a list").iter().filter(|instance| instance["differs"] == true);
            differs.count() == differing
        });
        assert!(text("/readyz?verbose").contains("known: 3, CONFIGURED DIFFERENTLY: "), "{}", text("/readyz?verbose"));
        assert!(text("/metrics").contains(&format!("statehouse_instances_differing {differing}\n")));
        until("it is warned about", || {
            program.complaints().iter().filter(|line| line.contains("configured differently")).count() == differing
        });
    }
}
