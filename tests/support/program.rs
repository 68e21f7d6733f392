//! The real program, run as users run it, and killed as no user should. `STATEHOUSE_SHOW_LOG=1` shows all of its log.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use ureq::Agent;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, serving. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    /// Where its HTTP listens.
    pub(crate) address: String,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts it with this configuration and waits until it listens; `http.listen` may have port 0.
    pub(crate) fn serve(config: &Path) -> Self {
        let mut child = spawn(config);
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let (address, said) = listening(&mut lines);
        let complaints = Arc::new(Mutex::new(said.lines().filter(|line| is_complaint(line)).map(str::to_owned).collect()));
        let kept = Arc::clone(&complaints);
        thread::spawn(move || drain(lines, &kept));
        Self { child, address, complaints }
    }

    /// Starts it and kills it `after` that, however far it came.
    pub(crate) fn serve_shortly(config: &Path, after: Duration) {
        let mut child = spawn(config);
        thread::sleep(after);
        end(&mut child);
    }

    pub(crate) fn wait_until_ready(&self, agent: &Agent) {
        let begun = Instant::now();
        loop {
            let answer = agent.get(format!("http://{}/readyz?verbose", self.address)).call();
            if answer.as_ref().is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let said = answer.map(|mut answer| answer.body_mut().read_to_string());
                panic!("not ready in time: {said:?}\n{}", self.complaints().join("\n"));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it can be looked at").is_none()
    }

    /// Its log's lines that are warnings or worse.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("no panic while it was held").clone()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Asks it to stop; it must end well.
    pub(crate) fn terminate(mut self) {
        let kill = format!("kill -TERM {}", self.child.id()); // the shell's own: small machines have no program of that name
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("kill runs").success());
        assert!(self.child.wait().expect("it ends").success(), "a clean end");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// An HTTP client whose answers are answers, whatever their status.
pub(crate) fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

fn spawn(config: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statehouse"));
    command.args(["serve", "--log", "json", "--config"]).arg(config).stderr(Stdio::piped()).stdout(Stdio::null());
    command.spawn().expect("the program starts")
}

/// Reads on, so that the program can go on writing.
fn drain(lines: BufReader<ChildStderr>, complaints: &Mutex<Vec<String>>) {
    let shown = env::var_os("STATEHOUSE_SHOW_LOG").is_some();
    for line in lines.lines().map_while(Result::ok) {
        if shown {
            eprintln!("{line}");
        }
        if is_complaint(&line) {
            complaints.lock().expect("no panic while it was held").push(line);
        }
    }
}

fn is_complaint(line: &str) -> bool {
    let level = serde_json::from_str::<Value>(line).ok().and_then(|line| line["level"].as_str().map(str::to_owned));
    level.is_none_or(|level| level == "WARN" || level == "ERROR") // what is not of the log is a panic's message
}

fn end(child: &mut Child) {
    let _ended_already = child.kill();
    child.wait().expect("it ends");
}

/// Where it listens, and what it said before.
fn listening(lines: &mut BufReader<ChildStderr>) -> (String, String) {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("text") > 0, "the program ended before it listened:\n{said}");
        if let Some(address) = serde_json::from_str::<Value>(&line).ok().and_then(|line| line["address"].as_str().map(str::to_owned)) {
            return (address, said);
        }
        said.push_str(&line);
    }
}
