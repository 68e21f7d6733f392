//! The demo: a small world of sites and agents, a story of attacks that goes on until you stop it, and a view of what the house makes of
//! it.
//!
//! ```text
//!  story ─▶ cast ─▶ HTTP ─▶ house on the embedded log ─▶ sink ─▶ view
//!   what happens    reports                              changes   lines
//! ```
//! It stands outside of the flow, as any user would: the cast only knows the HTTP address, and the view shows what is read back from the
//! sink and asked of the API, nothing else. The story is pure, so that a seed always tells the same one.

mod cast;
mod client;
mod stage;
mod story;
mod view;
mod world;

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use statehouse_dataflows::vocabulary::Offset;

pub use self::client::ClientError;
use self::{
    cast::{Cast, Heard, Pace},
    client::Client,
    stage::Stage,
    story::Story,
    view::View,
    world::{AGENTS, PARTITION, SITES, UNDER_ATTACK},
};
use crate::{
    config::{self, ConfigError},
    house::HouseError,
    http::AccessError,
    log::{LogError, local::LocalReader},
};

/// How often the sink is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the API is asked for objects by state.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);
/// Sink records read at a time.
const CHANGES_MAX: usize = 1_000;
/// What the cast may be ahead of the view.
const HEARD_MAX: usize = 1_024;

/// How the demo is to go.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which story: the same seed tells the same one.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Reports per second, most of them renewals of what was said before.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub rate: u32,
    /// How many times faster than told.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub speed: u32,
    /// Ends by itself after this many seconds; otherwise with Ctrl-C.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// The HTTP address, on loopback as it asks for no token; without it 127.0.0.1:7717, or another port if that is taken.
    #[arg(long, value_parser = config::listen_address)]
    pub listen: Option<SocketAddr>,
}

/// Why the demo ended though nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Something that the demo needs can't be had.
    #[error("{0}: {1}")]
    Start(String, io::Error),
    /// The lines can't be written.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// The demo's own configuration does not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What guards its HTTP can't be had.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The embedded log does not work.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The house ended.
    #[error(transparent)]
    House(#[from] HouseError),
    /// The house did not become ready.
    #[error("the house was not ready within {0:?}")]
    NotReady(Duration),
    /// The house does not take or tell what it must.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs the demo until Ctrl-C (or SIGTERM), or as long as the options say, and leaves nothing behind.
///
/// # Errors
/// When, and only when, it ends for another reason. A closed standard output is no error: nobody looks any more.
pub fn run(options: &Options) -> Result<(), DemoError> {
    let stage = Stage::set(options.listen)?;
    let performed = perform(options, &stage);
    stage.clear()?; // what ended the house says more than that it did not answer
    match performed {
        Err(DemoError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        performed => performed,
    }
}

fn perform(options: &Options, stage: &Stage) -> Result<(), DemoError> {
    let house = Client::new(stage.url());
    stage.wait_until_ready(&house)?;
    let story = Story::new(options.seed);
    let (tell, heard) = bounded(HEARD_MAX);
    let mut show = Show::new(house.clone(), stage.sink(), heard);
    show.greet(options, stage, SITES[story.first_victim()])?;

    let (go_on, stop) = bounded(0);
    let cast = Cast::new(house, Pace { rate: options.rate, speed: options.speed }, tell);
    let playing = thread::Builder::new().name("cast".to_owned()).spawn(move || cast.play(story, &stop));
    let playing = playing.map_err(|error| DemoError::Start("a thread".to_owned(), error))?;
    let shown = show.run(stage.ended(), options.seconds.map(Duration::from_secs));
    drop(go_on);
    let played = playing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    shown?;
    show.end()?;
    Ok(played?)
}

/// The view, and where it gets from what it shows.
struct Show {
    house: Client,
    sink: LocalReader,
    /// The sink offset after the last change shown.
    next: Offset,
    heard: Receiver<Heard>,
    view: View<io::Stdout>,
}

impl Show {
    fn new(house: Client, sink: LocalReader, heard: Receiver<Heard>) -> Self {
        let live = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { house, sink, next: 0, heard, view: View::new(io::stdout(), live) }
    }

    /// Says what is to be seen, and what to try next.
    fn greet(&mut self, options: &Options, stage: &Stage, site: &str) -> Result<(), DemoError> {
        let program = std::env::args().next().unwrap_or_else(|| "statehouse".to_owned());
        let url = stage.url();
        let elsewhere = if stage.is_usual() { String::new() } else { format!(" --url {url}") };
        let Options { seed, rate, .. } = options;
        let (sites, agents) = (SITES.len(), AGENTS.len());
        let lines = [
            format!("Statehouse demo: {agents} agents vote on {sites} sites; {rate} reports/s, seed {seed}. Ctrl-C ends it."),
            format!("The house listens on {url} and keeps its log in {} until then.", stage.directory().display()),
            String::new(),
            "In another terminal, try:".to_owned(),
            format!("  {program} get {site}{elsewhere}"),
            format!("  curl '{url}/v1/objects?state={UNDER_ATTACK}'"),
            format!("  {program} explain {site}{elsewhere}"),
            String::new(),
        ];
        lines.iter().try_for_each(|line| self.view.line(line)).map_err(DemoError::Output)
    }

    /// Shows what comes until the demo is asked to end, the time is over, or the cast has stopped.
    fn run(&mut self, ended: &Receiver<()>, time: Option<Duration>) -> Result<(), DemoError> {
        let start = Instant::now();
        let mut counted = None;
        loop {
            let playing = self.look()?;
            if counted.is_none_or(|at: Instant| at.elapsed() >= SUMMARY_EVERY) {
                self.view.summary(self.house.summary()?);
                counted = Some(Instant::now());
            }
            self.view.status().map_err(DemoError::Output)?;
            let over = time.is_some_and(|time| start.elapsed() >= time);
            let asked = ended.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout);
            if over || asked || !playing {
                return Ok(());
            }
        }
    }

    /// Takes what the cast said and what the house published since. Returns whether the cast still plays.
    fn look(&mut self) -> Result<bool, DemoError> {
        let playing = loop {
            match self.heard.try_recv() {
                Ok(heard) => self.view.heard(heard).map_err(DemoError::Output)?,
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        let changes = self.sink.changes(PARTITION, self.next, CHANGES_MAX)?;
        if let Some((last, _)) = changes.last() {
            self.next = last + 1;
        }
        self.view.changes(changes.iter().map(|(_, record)| record)).map_err(DemoError::Output)?;
        Ok(playing)
    }

    /// What the cast did last is applied by now: its requests waited for it.
    fn end(&mut self) -> Result<(), DemoError> {
        self.look()?;
        self.view.end().map_err(DemoError::Output)
    }
}
