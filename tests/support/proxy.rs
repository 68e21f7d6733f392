//! A TCP proxy in front of a broker, to cut connections, to swallow what is sent, and to be late.
//!
//! Include it with `#[path = "support/proxy.rs"] mod proxy;`. The broker's listener must send its clients here (`Broker::start_behind`).
#![allow(dead_code, reason = "every test program includes the whole module and uses a part of it")]
#![allow(unreachable_pub, reason = "a module of test programs")]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// They are passed on.
    Open,
    /// Connections are closed, also new ones.
    Cut,
    /// Connections stand, and new ones are taken, and nothing comes out at the other end: a half-open connection.
    Swallow,
    /// What clients ask reaches the broker, its answers get lost.
    SwallowAnswers,
}

const NO_TRAP: i32 = -1;

/// Listens as long as the test program runs.
pub struct Proxy {
    /// Where clients find it.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    target: OnceLock<String>,
    /// As a number.
    way: AtomicU8,
    /// The kind of request with which [`Way::SwallowAnswers`] begins; none: negative.
    trap: AtomicI32,
    delay_ms: AtomicU64,
    /// Both ends of every connection.
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens at a free port.
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            target: OnceLock::new(),
            way: AtomicU8::new(Way::Open as u8),
            trap: AtomicI32::new(NO_TRAP),
            delay_ms: AtomicU64::new(0),
            streams: Mutex::default(),
        });
        let here = Arc::clone(&shared);
        thread::spawn(move || listener.incoming().flatten().for_each(|client| here.connect(client)));
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("host:port")
    }

    /// Where to pass everything on to; said once.
    pub fn forward_to(&self, target: &str) {
        self.shared.target.set(target.to_owned()).expect("said once");
    }

    /// From now on. Connections of which anything was swallowed are of no use any more, so each change to [`Way::Open`] ends those that stand.
    pub fn set(&self, way: Way) {
        self.shared.trap.store(NO_TRAP, Ordering::SeqCst);
        let before = self.shared.way.swap(way as u8, Ordering::SeqCst);
        if way == Way::Cut || (way == Way::Open && before != Way::Open as u8) {
            self.shared.end_all();
        }
    }

    /// From the next request of this kind (its API key) on no answer comes back: what it asks is done, and nobody hears of it. Takes requests that
    /// are sent by themselves, as those that end a transaction are.
    pub fn swallow_answers_from(&self, api_key: i16) {
        self.shared.trap.store(api_key.into(), Ordering::SeqCst);
    }

    /// From now on each piece of what is sent is this late.
    pub fn delay(&self, ms: u64) {
        self.shared.delay_ms.store(ms, Ordering::SeqCst);
    }
}

impl Shared {
    fn spring(&self, request: &[u8]) {
        // Length, then the API key.
        if let [_, _, _, _, key @ ..] = request
            && let Some(key) = key.first_chunk()
            && i32::from(i16::from_be_bytes(*key)) == self.trap.load(Ordering::SeqCst)
        {
            self.way.store(Way::SwallowAnswers as u8, Ordering::SeqCst);
        }
    }

    fn is(&self, way: Way) -> bool {
        self.way.load(Ordering::SeqCst) == way as u8
    }

    fn end_all(&self) {
        for stream in self.streams.lock().expect("no panic while it was held").drain(..) {
            let _ended_already = stream.shutdown(Shutdown::Both);
        }
    }

    /// Passes on in both directions, on a thread each, until either end closes.
    fn connect(self: &Arc<Self>, client: TcpStream) {
        // To drop it closes it; a broker that is not there looks like that, too.
        let Some(target) = self.target.get().filter(|_| !self.is(Way::Cut)) else { return };
        let Ok(broker) = TcpStream::connect(target) else { return };
        let both = |stream: &TcpStream| {
            stream.set_nodelay(true).expect("an option");
            [stream.try_clone().expect("a handle"), stream.try_clone().expect("a handle")]
        };
        let ([from_client, kept_client], [from_broker, kept_broker]) = (both(&client), both(&broker));
        self.streams.lock().expect("no panic while it was held").extend([kept_client, kept_broker]);
        if self.is(Way::Cut) {
            self.end_all(); // it was cut in between
        }
        for (from, to, is_answers) in [(from_client, broker, false), (from_broker, client, true)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pass(from, to, is_answers));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, is_answers: bool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let delay_ms = self.delay_ms.load(Ordering::SeqCst);
            if delay_ms > 0 {
                thread::sleep(Duration::from_millis(delay_ms));
            }
            if !is_answers {
                self.spring(&bytes[..count]);
            }
            if self.is(Way::Swallow) || (is_answers && self.is(Way::SwallowAnswers)) {
                continue;
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        for stream in [from, to] {
            let _ended_already = stream.shutdown(Shutdown::Both);
        }
    }
}
