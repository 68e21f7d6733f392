//! The accept loop, and what bounds a connection: how many there are, how long a handshake and a head may take (and a kept-alive connection
//! rest), how large a head may be, how slowly an answer may be read. What access hangs on is looked at again every few seconds.

use std::{
    io,
    net::IpAddr,
    pin::pin,
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Entrance,
    slots::{Full, Slot, Slots},
    stall::Stalling,
};

/// How long a TLS handshake may take; less where heads must come sooner.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How often files with tokens and certificates are looked at.
const RENEW_EVERY: Duration = Duration::from_secs(2);
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
pub async fn serve(listener: TcpListener, entrance: Entrance, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() && entrance.access().acceptor().is_none() {
        warn!(%address, "plain HTTP beyond this machine (http.insecure): something in front of it must keep tokens secret");
    }
    info!(%address, "http listens");
    let (close, closing) = watch::channel(());
    let mut renewal = interval(RENEW_EVERY);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut door = Door::new(entrance, closing);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = door.connections.join_next() => {}
            _ = renewal.tick() => door.entrance.access().renew(),
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => door.admit(stream, from.ip()),
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
    entrance: Entrance,
    slots: Slots,
    connections: JoinSet<()>,
    closing: watch::Receiver<()>,
    refused: Option<Instant>,
}

impl Door {
    fn new(entrance: Entrance, closing: watch::Receiver<()>) -> Self {
        let limits = &entrance.bounds().limits;
        let slots = Slots::new(limits.max_connections, limits.max_connections_per_address);
        Self { entrance, slots, connections: JoinSet::new(), closing, refused: None }
    }

    fn admit(&mut self, stream: TcpStream, from: IpAddr) {
        match self.slots.take(from) {
            Ok(slot) => self.answer(stream, from, slot),
            Err(full) => self.refuse(&stream, from, full),
        }
    }

    /// Says no without waiting for anything: neither for what the client sends nor for it to read this. Where it speaks TLS, without a word.
    fn refuse(&mut self, stream: &TcpStream, from: IpAddr, Full(setting): Full) {
        let bounds = self.entrance.bounds();
        bounds.metrics.http_refused();
        if self.refused.is_none_or(|last| last.elapsed() > REFUSED_QUIET) {
            self.refused = Some(Instant::now());
            warn!(%from, setting, "refusing connections: as many as that setting allows are open");
        }
        if self.entrance.access().acceptor().is_none() {
            let _ = stream.try_write(REFUSED);
        }
    }

    fn answer(&mut self, stream: TcpStream, from: IpAddr, slot: Slot) {
        let bounds = self.entrance.bounds();
        let open = bounds.metrics.http_connection();
        let _ = stream.set_nodelay(true); // only a matter of speed
        let stream = Stalling::new(stream, Duration::from_millis(bounds.limits.write_timeout_ms));
        let handshake = HANDSHAKE_MAX.min(Duration::from_millis(bounds.limits.header_timeout_ms));
        let acceptor = self.entrance.access().acceptor();
        let connection = Connection { entrance: self.entrance.clone(), from, closing: self.closing.clone() };
        self.connections.spawn(async move {
            let _held = (slot, open);
            let Some(acceptor) = acceptor else { return connection.serve(stream).await };
            let mut closing = connection.closing.clone();
            let shaken = tokio::select! {
                shaken = timeout(handshake, acceptor.accept(stream)) => shaken,
                _ = closing.changed() => return,
            };
            match shaken {
                Ok(Ok(stream)) => connection.serve(stream).await,
                Ok(Err(error)) => debug!(%from, %error, "a TLS handshake failed"),
                Err(_) => debug!(%from, "a TLS handshake took too long"),
            }
        });
    }
}

/// One client's.
struct Connection {
    entrance: Entrance,
    from: IpAddr,
    closing: watch::Receiver<()>,
}

impl Connection {
    /// Answers its requests until either side has enough.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Self { entrance, from, mut closing } = self;
        let header_timeout = Duration::from_millis(entrance.bounds().limits.header_timeout_ms);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service_fn(move |request| entrance.answer(from, request)));
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
