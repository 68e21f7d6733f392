//! `serve`: opens the log, runs the house and its HTTP server, and ends both in order.
//!
//! At the first SIGTERM or SIGINT http stops taking connections and answers what it has, then the house commits what is open and leaves
//! its group. A second signal ends the process at once: what is committed stands.

use std::{
    error::Error,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::ConfigArgs;
use crate::{
    config::{Config, LogKind, registry::Registry},
    decode::Decoder,
    house::{self, HouseHandle, Surroundings},
    http::{self, Front},
    log::{Log, LogError, kafka, local},
    metrics::Metrics,
};

/// HTTP's own threads: they only pass questions and answers on.
const HTTP_THREADS: usize = 2;
/// What a shell shows for a process ended by SIGINT.
const INTERRUPTED: i32 = 130;

#[derive(Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Serve {
    pub(super) fn run(&self, registry: &Registry) -> Result<(), Box<dyn Error>> {
        let config = self.config.load()?;
        let plan = Arc::new(config.plan(registry)?);
        let decoder = Arc::new(Decoder::new(&config.source)?);
        let runtime = Builder::new_multi_thread().worker_threads(HTTP_THREADS).thread_name("http").enable_all().build()?;
        let stop = Stop::listen(&runtime)?;
        // Before the log is opened, which may take long: an address that is taken should be known at once.
        let listener = runtime.block_on(bind(&config))?;
        let Some(log) = open(&config, &stop)? else { return Ok(()) };
        let metrics = Metrics::new();
        let around = Surroundings { metrics: Arc::clone(&metrics), ..Surroundings::default() };
        let house = house::start(&config, &plan, log, around)?;
        tracing::info!(house = config.house, workers = config.worker_count(), "the house is open");
        let front = Front::new(house.desk().clone(), metrics, decoder, config.http);
        let served = runtime.block_on(http::serve(listener, front, stop.or_end_of(&house)));
        house.stop();
        house.wait()?;
        served?;
        tracing::info!("the house is closed; everything is committed");
        Ok(())
    }
}

async fn bind(config: &Config) -> Result<TcpListener, String> {
    let address = config.http.listen;
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("http.listen = \"{address}\": {error}; choose an address that is free and of this machine"))
}

/// None: asked to stop before the log was there.
fn open(config: &Config, stop: &Stop) -> Result<Option<Log>, LogError> {
    let opened = match config.log {
        LogKind::Local => local::open(&config.local, &config.house),
        LogKind::Kafka => kafka::open_while(config, &|| !stop.is_asked()),
    };
    match opened {
        Ok(log) => Ok(Some(log)),
        Err(_) if stop.is_asked() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a signal asked the process to end.
struct Stop {
    asked: Arc<AtomicBool>,
    told: watch::Receiver<()>,
}

impl Stop {
    fn listen(runtime: &Runtime) -> Result<Self, std::io::Error> {
        let _inside = runtime.enter();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let asked = Arc::new(AtomicBool::new(false));
        let (tell, told) = watch::channel(());
        let flag = Arc::clone(&asked);
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    process::exit(INTERRUPTED);
                }
                tracing::info!("stopping; a second signal ends the process at once");
                tell.send_replace(());
            }
        });
        Ok(Self { asked, told })
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Until a signal comes, or the house ends by itself.
    fn or_end_of(&self, house: &HouseHandle) -> impl Future<Output = ()> + use<> {
        let (mut told, mut standing) = (self.told.clone(), house.standing());
        async move {
            tokio::select! {
                _ = told.changed() => {}
                _ = standing.wait_for(|standing| standing.stopping) => {}
            }
        }
    }
}
