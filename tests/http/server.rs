//! The shipped server on a port of its own, over the made-up house.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use statehouse::{
    config::{HttpConfig, SourceConfig},
    decode::Decoder,
    http::{self, Access, Entrance, Front},
    metrics::Metrics,
};
use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};

use crate::backend::Backend;

/// Runs until stopped or dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) house: Backend,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) entrance: Entrance,
    front: Front,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(HttpConfig::default())
    }

    pub(crate) fn with(limits: HttpConfig) -> Self {
        Self::made(Backend::new(), limits, |front| front).opened()
    }

    /// With a house, and a front to it that is made more of.
    pub(crate) fn of(house: Backend, limits: HttpConfig, more: impl FnOnce(Front) -> Front) -> Self {
        Self::made(house, limits, more).opened()
    }

    /// With no house behind it until [`Server::open`].
    pub(crate) fn before_the_house(limits: HttpConfig) -> Self {
        Self::made(Backend::new(), limits, |front| front)
    }

    pub(crate) fn open(&self) {
        self.entrance.open(self.front.clone());
    }

    fn opened(self) -> Self {
        self.open();
        self
    }

    fn made(house: Backend, limits: HttpConfig, more: impl FnOnce(Front) -> Front) -> Self {
        let metrics = Metrics::new();
        let decoder = Arc::new(Decoder::new(&SourceConfig::default()).unwrap());
        let entrance = Entrance::new(Access::load(&limits).unwrap(), &metrics, &limits);
        let front = more(Front::new(house.desk(), Arc::clone(&metrics), decoder, limits));
        let way_in = entrance.clone();
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                http::serve(listener, way_in, async { drop(stopped.await) }).await.unwrap();
            });
        });
        Self { address: address.recv().unwrap(), house, metrics, entrance, front, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells it to shut down, without waiting.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has ended; it must have been told.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.begin_stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}
