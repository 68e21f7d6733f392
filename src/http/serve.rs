//! The accept loop, and what bounds a connection: how many there are, how long a head may take (and a kept-alive connection rest), how
//! large it may be, how slowly an answer may be read.
//!
//! Known limitation: the bound on connections is common to all clients, not per address.

use std::{
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{Front, router, stall::Stalling};

/// How many headers a request may have.
const HEADERS_MAX: usize = 64;
/// How large a request's head may be: room for the longest names and a cursor, percent-encoded.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long the loop rests when connections can't be accepted (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a shutdown waits for requests that are being answered.
const GRACE: Duration = Duration::from_secs(10);
/// At most one warning about refused connections in this time.
const REFUSED_QUIET: Duration = Duration::from_secs(10);

/// The answer beyond the bound on connections.
const REFUSED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 113\r\n\r\n\
{\"type\":\"/problems/overloaded\",\"title\":\"Too much at once\",\"status\":503,\"detail\":\"too many connections are open\"}\n";

/// Answers connections until `shutdown`; then lets running requests end, for at most ten seconds.
///
/// # Errors
/// When, and only when, the listener's address can't be told.
pub async fn serve(listener: TcpListener, front: Front, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        warn!(%address, "listening beyond this machine without authentication or TLS: anybody who can reach it can read and write");
    }
    info!(%address, "http listens");
    let (close, closing) = watch::channel(());
    let mut door = Door::new(front, closing);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = door.connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => door.admit(stream),
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(close);
    let all_ended = async { while door.connections.join_next().await.is_some() {} };
    if timeout(GRACE, all_ended).await.is_err() {
        warn!("cutting off requests that did not end in time");
        door.connections.shutdown().await;
    }
    Ok(())
}

/// What connections share.
struct Door {
    front: Front,
    service: TowerToHyperService<axum::Router>,
    slots: Arc<Semaphore>,
    connections: JoinSet<()>,
    closing: watch::Receiver<()>,
    refused: Option<Instant>,
}

impl Door {
    fn new(front: Front, closing: watch::Receiver<()>) -> Self {
        let service = TowerToHyperService::new(router(front.clone()));
        let slots = Arc::new(Semaphore::new(front.limits.max_connections));
        Self { front, service, slots, connections: JoinSet::new(), closing, refused: None }
    }

    fn admit(&mut self, stream: TcpStream) {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => self.answer(stream, slot),
            Err(_) => self.refuse(&stream),
        }
    }

    /// Says no without waiting for anything: neither for what the client sends nor for it to read this.
    fn refuse(&mut self, stream: &TcpStream) {
        self.front.metrics.http_refused();
        if self.refused.is_none_or(|last| last.elapsed() > REFUSED_QUIET) {
            self.refused = Some(Instant::now());
            let max = self.front.limits.max_connections;
            warn!(max, "refusing connections: http.max_connections are open");
        }
        let _ = stream.try_write(REFUSED);
    }

    fn answer(&mut self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let limits = &self.front.limits;
        let open = self.front.metrics.http_connection();
        let _ = stream.set_nodelay(true); // only a matter of speed
        let stream = Stalling::new(stream, Duration::from_millis(limits.write_timeout_ms));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits.header_timeout_ms))
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), self.service.clone());
        let mut closing = self.closing.clone();
        self.connections.spawn(async move {
            let _held = (slot, open);
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = closing.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "a connection ended early");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::REFUSED;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), body.len());
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 503);
    }
}
