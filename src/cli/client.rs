//! The verbs that ask a running house over HTTP: get, list, explain, report, override, purge.
//!
//! Outside the flow, as any client. What is asked goes to stdout, as text for people or as the house's own JSON; what went wrong goes to
//! stderr. Exit codes: 0, it is done; 1, the house said no, or did not apply a write in time, or can't tell; 2, it could not be asked.

mod house;
mod show;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use self::house::{Answer, Failure, House, segment};

/// What can be asked of a running house.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Show an object's state.
    Get(Get),
    /// List objects by name.
    List(List),
    /// Show why an object is in its state: reports, weights, tally, rule, override.
    Explain(Explain),
    /// Report what an agent sees of an object.
    Report(Report),
    /// Pin an object to a state until lifted, over whatever its agents report.
    Override(Override),
    /// Remove an object with its reports and override.
    Purge(Purge),
}

/// Which house, and how its answer is shown.
#[derive(Args, Clone, Debug)]
pub(super) struct Ask {
    /// Where the house listens.
    #[arg(long, env = "STATEHOUSE_URL", default_value = "http://127.0.0.1:7717", value_name = "URL")]
    url: String,
    /// A file with a bearer token, where the house wants one.
    #[arg(long, env = "STATEHOUSE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A PEM file with the certificate that vouches for the house's, for https; default: whom this machine trusts.
    #[arg(long, env = "STATEHOUSE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Send the token over plain http to another machine, too.
    #[arg(long)]
    insecure: bool,
    /// Show the house's JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// How long a write may take.
#[derive(Args, Clone, Debug)]
pub(super) struct Patience {
    /// How long to wait until the write is applied and committed; 0s: not at all. A house with default settings takes at most 24s. All of the
    /// write takes at most a second longer (6s for 0s); whether it is written is not known then.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    wait: Duration,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Get {
    /// Its name, as it is.
    #[arg(value_parser = object_name)]
    object: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args, Clone, Debug)]
pub(super) struct List {
    /// Only objects whose names start with it.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only objects in this state; an empty one: those without a state.
    #[arg(long)]
    state: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100, conflicts_with = "all")]
    limit: usize,
    /// All there are.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Explain {
    /// Its name, as it is.
    #[arg(value_parser = object_name)]
    object: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Report {
    /// What is reported on.
    #[arg(value_parser = object_name)]
    object: String,
    /// What the agent sees.
    #[arg(required_unless_present = "withdraw", value_parser = |state: &str| not_empty(state, "it is empty: name a state, or --withdraw the report"))]
    state: Option<String>,
    /// Who reports.
    #[arg(long, value_parser = |name: &str| not_empty(name, "it is empty: name who reports"))]
    agent: String,
    /// Take the agent's report back instead.
    #[arg(long, conflicts_with_all = ["state", "ttl"])]
    withdraw: bool,
    /// How long the report is good for, such as 30s. Kept and shown, but not obeyed yet: the report counts until the next one.
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// The report's own time, in milliseconds since the epoch; default: now.
    #[arg(long, value_name = "MS")]
    ts: Option<i64>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Override {
    /// What is pinned.
    #[arg(value_parser = object_name)]
    object: String,
    /// The state to pin it to.
    #[arg(required_unless_present = "lift", value_parser = |state: &str| not_empty(state, "it is empty: name a state, or --lift the override"))]
    state: Option<String>,
    /// How long, such as 1h; default: until lifted.
    #[arg(long = "for", value_name = "DURATION")]
    for_: Option<String>,
    /// Take the override off instead.
    #[arg(long, conflicts_with_all = ["state", "for_"])]
    lift: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Purge {
    /// Its name, as it is.
    #[arg(value_parser = object_name)]
    object: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    ask: Ask,
}

fn object_name(name: &str) -> Result<String, &'static str> {
    not_empty(name, "it is empty: name an object")
}

fn not_empty(name: &str, fix: &'static str) -> Result<String, &'static str> {
    if name.is_empty() { Err(fix) } else { Ok(name.to_owned()) }
}

/// Asks, shows the answer, and says how it went.
#[must_use]
pub(super) fn run(command: &ClientCommand) -> ExitCode {
    let done = match command {
        ClientCommand::Get(get) => get.run(),
        ClientCommand::List(list) => list.run(),
        ClientCommand::Explain(explain) => explain.run(),
        ClientCommand::Report(report) => report.run(),
        ClientCommand::Override(mask) => mask.run(),
        ClientCommand::Purge(purge) => purge.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("statehouse: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

impl Get {
    fn run(&self) -> Result<(), Failure> {
        let answer = House::at(&self.ask)?.get(&format!("/v1/objects/{}", segment(&self.object)))?;
        self.ask.show(&answer, show::object)
    }
}

impl Explain {
    fn run(&self) -> Result<(), Failure> {
        let answer = House::at(&self.ask)?.get(&format!("/v1/objects/{}/explain", segment(&self.object)))?;
        self.ask.show(&answer, show::explanation)
    }
}

/// How many objects are asked for at a time.
const PAGE: usize = 100;

impl List {
    /// Shows each page as it comes. As JSON: one object per line.
    fn run(&self) -> Result<(), Failure> {
        let house = House::at(&self.ask)?;
        let mut filter = format!("/v1/objects?prefix={}", segment(&self.prefix));
        if let Some(state) = &self.state {
            filter += &format!("&state={}", segment(state));
        }
        let mut left = if self.all { usize::MAX } else { self.limit };
        let mut cursor = String::new();
        while left > 0 {
            let answer = house.get(&format!("{filter}&limit={}{cursor}", left.min(PAGE)))?;
            let page: show::Page = answer.parsed()?;
            left = left.saturating_sub(page.items.len());
            let lines = if self.ask.json { page.as_json_lines() } else { show::objects(&page)? };
            answer.warn_if_stale();
            print(&lines)?;
            let Some(next) = page.cursor else { return Ok(()) };
            cursor = format!("&cursor={next}");
        }
        eprintln!("there are more; --limit or --all shows them");
        Ok(())
    }
}

impl Report {
    fn run(&self) -> Result<(), Failure> {
        let house = House::for_write(&self.ask, &self.patience)?;
        let wait = self.patience.param();
        let target = format!("/v1/objects/{}/reports/{}?{wait}", segment(&self.object), segment(&self.agent));
        let Some(state) = &self.state else {
            let ts = self.ts.map_or(String::new(), |ts_ms| format!("&ts={ts_ms}"));
            return self.ask.written(&house.delete(&format!("{target}{ts}"))?, &self.patience);
        };
        let mut body = Map::from_iter([("state".to_owned(), Value::from(state.as_str()))]);
        body.extend(self.ts.map(|ts_ms| ("ts".to_owned(), ts_ms.into())));
        body.extend(self.ttl.as_ref().map(|ttl| ("ttl".to_owned(), ttl.as_str().into())));
        self.ask.written(&house.put(&target, &body.into())?, &self.patience)
    }
}

impl Override {
    fn run(&self) -> Result<(), Failure> {
        let house = House::for_write(&self.ask, &self.patience)?;
        let target = format!("/v1/objects/{}/override?{}", segment(&self.object), self.patience.param());
        let Some(state) = &self.state else { return self.ask.written(&house.delete(&target)?, &self.patience) };
        let mut body = Map::from_iter([("state".to_owned(), Value::from(state.as_str()))]);
        body.extend(self.for_.as_ref().map(|time| ("for".to_owned(), time.as_str().into())));
        self.ask.written(&house.put(&target, &body.into())?, &self.patience)
    }
}

impl Purge {
    fn run(&self) -> Result<(), Failure> {
        let house = House::for_write(&self.ask, &self.patience)?;
        let answer = house.delete(&format!("/v1/objects/{}?{}", segment(&self.object), self.patience.param()))?;
        self.ask.written(&answer, &self.patience)
    }
}

impl Patience {
    /// As a query parameter; none where nobody waits.
    fn param(&self) -> String {
        if self.wait.is_zero() { String::new() } else { format!("wait={}ms", self.wait.as_millis()) }
    }
}

impl Ask {
    fn show(&self, answer: &Answer, text: impl FnOnce(&Answer) -> Result<String, Failure>) -> Result<(), Failure> {
        answer.warn_if_stale();
        if self.json { print(&answer.line()) } else { print(&text(answer)?) }
    }

    fn written(&self, answer: &Answer, patience: &Patience) -> Result<(), Failure> {
        let place: show::Place = answer.parsed()?;
        if self.json {
            print(&answer.line())?;
        } else {
            print(&show::place(&place))?;
        }
        match place.applied {
            Some(true) => Ok(()),
            _ if patience.wait.is_zero() => Ok(()),
            Some(false) => Err(Failure::NotApplied(patience.wait)),
            None => Err(Failure::NotTold(show::safe(place.detail.as_deref().unwrap_or("the house does not tell")).into_owned())),
        }
    }
}

/// Whoever reads the output may stop at any time (`list | head`); that is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}
