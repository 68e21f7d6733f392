//! The stage: a house of its own on the embedded log in a temporary directory, with its HTTP address, set up before the story begins and
//! cleared away after it. Also hears that the demo should end.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, bounded};
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

use super::{DemoError, client::Client, world};
use crate::{
    config::{Config, registry::Registry},
    decode::Decoder,
    house::{self, HouseHandle, Surroundings},
    http::{self, Access, Entrance, Front},
    log::local::{self, LocalReader},
};

/// How long a house may take to become ready: it starts empty, so this is for a slow machine.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How often it is asked.
const READY_EVERY: Duration = Duration::from_millis(20);

/// A house that runs.
pub(super) struct Stage {
    url: String,
    usual: bool,
    sink: LocalReader,
    house: HouseHandle,
    /// Closed once the demo should end.
    ended: Receiver<()>,
    close_http: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
    runtime: Runtime,
    directory: Directory,
}

impl Stage {
    /// Starts a house. Without an address it takes the usual one, or another port where that is taken.
    ///
    /// # Errors
    /// When, and only when, a directory, the address or threads can't be had.
    pub(super) fn set(listen: Option<SocketAddr>) -> Result<Self, DemoError> {
        let directory = Directory::made()?;
        let mut config = Config::parse(world::CONFIG)?;
        config.local.path.clone_from(&directory.0);
        if let Some(listen) = listen {
            config.http.listen = listen;
            config.check()?;
        }
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| DemoError::Start("threads for HTTP".to_owned(), error))?;
        let listener = runtime.block_on(bind(listen, config.http.listen))?;
        let address = listener.local_addr().map_err(|error| DemoError::Start("the HTTP address".to_owned(), error))?;

        let plan = Arc::new(config.plan(&Registry::new())?);
        let (log, sink) = local::open_readable(&config.local, &config.house)?;
        let around = Surroundings::default();
        let metrics = Arc::clone(&around.metrics);
        let house = house::start(&config, &plan, log, around)?;
        let decoder = Arc::new(Decoder::new(&config.source)?);
        let front = Front::new(house.desk().clone(), Arc::clone(&metrics), decoder, config.http.clone());
        let entrance = Entrance::new(Access::load(&config.http)?, &metrics, &config.http);
        entrance.open(front);
        let (close_http, closed) = oneshot::channel::<()>();
        let serving = runtime.spawn(http::serve(listener, entrance, async { drop(closed.await) }));
        let ended = hear_the_end(&runtime, &house);
        let (url, usual) = (format!("http://{address}"), address == config.http.listen);
        Ok(Self { url, usual, sink, house, ended, close_http, serving, runtime, directory })
    }

    /// Where the house answers.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether that is where the command-line verbs look unless told otherwise.
    pub(super) fn is_usual(&self) -> bool {
        self.usual
    }

    /// Where the house keeps its log.
    pub(super) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// What the house publishes.
    pub(super) fn sink(&self) -> LocalReader {
        self.sink.clone()
    }

    /// Closed once the demo was asked to end, or the house has ended.
    pub(super) fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Waits until the house answers in full.
    ///
    /// # Errors
    /// When, and only when, it does not in time.
    pub(super) fn wait_until_ready(&self, house: &Client) -> Result<(), DemoError> {
        let start = Instant::now();
        while !house.is_ready() {
            if start.elapsed() > READY_WAIT {
                return Err(DemoError::NotReady(READY_WAIT));
            }
            thread::sleep(READY_EVERY);
        }
        Ok(())
    }

    /// Ends the house, in order, and removes its directory.
    ///
    /// # Errors
    /// When, and only when, the house had ended for a reason of its own.
    pub(super) fn clear(self) -> Result<(), DemoError> {
        drop(self.close_http);
        // A failure to serve has shown as requests without an answer already.
        let _served = self.runtime.block_on(self.serving);
        self.house.stop();
        Ok(self.house.wait()?)
    }
}

async fn bind(asked: Option<SocketAddr>, usual: SocketAddr) -> Result<TcpListener, DemoError> {
    let bound = match TcpListener::bind(asked.unwrap_or(usual)).await {
        Err(error) if asked.is_none() && error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((usual.ip(), 0)).await,
        bound => bound,
    };
    bound.map_err(|error| DemoError::Start(format!("--listen {}", asked.unwrap_or(usual)), error))
}

/// A channel that closes at Ctrl-C, at SIGTERM, or when the house stops.
fn hear_the_end(runtime: &Runtime, house: &HouseHandle) -> Receiver<()> {
    let (going, ended) = bounded(0);
    let mut standing = house.standing();
    runtime.spawn(async move {
        tokio::select! {
            () = asked_to_end() => {}
            _ = standing.wait_for(|now| now.stopping) => {}
        }
        drop::<crossbeam_channel::Sender<()>>(going);
    });
    ended
}

async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// A directory that goes when its owner does.
struct Directory(PathBuf);

impl Directory {
    fn made() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("statehouse-demo-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).map_err(|error| DemoError::Start(format!("directory {}", path.display()), error))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    /// What can't be removed stays for whoever cleans temporary directories.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
