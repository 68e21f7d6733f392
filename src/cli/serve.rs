//! `serve`: runs the HTTP server, opens the log, runs the house, and ends all in order.
//!
//! HTTP answers from the first moment on: opening the log may take as long as its brokers are away, and who asks should be told so.
//! At the first SIGTERM or SIGINT http stops taking connections and answers what it has, then the house commits what is open and leaves
//! its group. A second signal ends the process at once: what is committed stands.

use std::{
    error::Error,
    net::SocketAddr,
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
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::ConfigArgs;
use crate::{
    config::{Config, LogKind, PeerUrl, registry::Registry},
    decode::Decoder,
    house::{self, HouseHandle, Surroundings},
    http::{self, Access, Entrance, Front},
    log::{Log, LogError, directory::PeerSecret, kafka, local},
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
        let metrics = Metrics::new();
        let entrance = Entrance::new(Access::load(&config.http)?, &metrics, &config.http);
        let (close, closed) = oneshot::channel();
        let listener = runtime.block_on(bind(&config))?;
        warn_of_missing_secret(&config);
        let (here, secret) = (advertised(&config, listener.local_addr()?), PeerSecret::of(&config.http)?);
        let serving = serve_http(&runtime, listener, &entrance, stop.or(closed))?;
        let Some(log) = open(&config, &stop, &entrance)? else { return Ok(runtime.block_on(serving)??) };
        let directory = Arc::clone(&log.directory);
        let around = Surroundings { metrics: Arc::clone(&metrics), ..Surroundings::default() };
        let house = house::start(&config, &plan, log, around)?;
        tracing::info!(house = config.house, workers = config.worker_count(), "the house is open");
        directory.announce(here.clone());
        let front = Front::new(house.desk().clone(), metrics, decoder, config.http);
        let known_by = (secret, entrance.access().trust().clone());
        entrance.open(front.among(directory.watch(), here.as_ref(), known_by));
        let served = runtime.block_on(served(serving, &house, close));
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

/// Begins to answer; where access hangs on files, SIGHUP has them read again (and ends the process no more).
fn serve_http(
    runtime: &Runtime,
    listener: TcpListener,
    entrance: &Entrance,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<Serving> {
    let _inside = runtime.enter();
    if entrance.access().has_files() {
        let (mut hangup, access) = (signal(SignalKind::hangup())?, entrance.access().clone());
        runtime.spawn(async move {
            while hangup.recv().await.is_some() {
                access.renew();
            }
        });
    }
    Ok(runtime.spawn(http::serve(listener, entrance.clone(), shutdown)))
}

/// Until HTTP has ended: when asked to, or because the house did.
async fn served(mut serving: Serving, house: &HouseHandle, close: oneshot::Sender<()>) -> Result<(), Box<dyn Error>> {
    let mut standing = house.standing();
    tokio::select! {
        served = &mut serving => return Ok(served??),
        _ = standing.wait_for(|standing| standing.stopping) => drop(close),
    }
    Ok(serving.await??)
}

/// Questions between instances carry what they make of the secret, where questions need a token.
fn warn_of_missing_secret(config: &Config) {
    if config.log == LogKind::Kafka && config.http.tokens.is_some() && config.http.peer_secret.is_none() {
        tracing::warn!(
            "http.tokens is set and http.peer_secret is not: other instances are neither asked nor redirected to, and this one answers, lists \
             and counts only what it owns; set http.peer_secret to a file with a secret that all instances share"
        );
    }
}

/// Where other instances are told to ask this one.
fn advertised(config: &Config, bound: SocketAddr) -> Option<PeerUrl> {
    if config.http.advertise.is_some() {
        return config.http.advertise.clone();
    }
    match PeerUrl::of(bound, config.http.tls.certificate.is_some()) {
        Ok(url) => Some(url),
        Err(why) => {
            if config.log == LogKind::Kafka {
                tracing::warn!(
                    "http.listen = \"{bound}\": {why}, so other instances can't ask this one about what it owns; set http.advertise to where \
                     they reach it, such as \"{}://node-1:{}\"",
                    if config.http.tls.certificate.is_some() { "https" } else { "http" },
                    bound.port()
                );
            }
            None
        }
    }
}

/// None: asked to stop before the log was there.
fn open(config: &Config, stop: &Stop, entrance: &Entrance) -> Result<Option<Log>, LogError> {
    let opened = match config.log {
        LogKind::Local => local::open(&config.local, &config.house),
        LogKind::Kafka => {
            entrance.wait_for(&format!("Kafka at {} is being asked (kafka.brokers)", config.kafka.brokers));
            kafka::open_while(config, &kafka::Waiting { keep_trying: &|| !stop.is_asked(), tell: &|why| entrance.wait_for(why) })
        }
    };
    match opened {
        Ok(log) => Ok(Some(log)),
        Err(_) if stop.is_asked() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The HTTP server at its work.
type Serving = JoinHandle<std::io::Result<()>>;

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

    /// Until a signal comes, or the other end of `closed` is dropped.
    fn or(&self, closed: oneshot::Receiver<()>) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.told.clone();
        async move {
            tokio::select! {
                _ = told.changed() => {}
                _ = closed => {}
            }
        }
    }
}
