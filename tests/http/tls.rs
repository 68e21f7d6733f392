//! TLS on real sockets: who gets through, who is cut off in the handshake, certificates that change, and the verbs over it with a token.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use statehouse::{
    config::{HttpConfig, TlsConfig},
    http::{self, FreshToken, Scope},
};
use tempfile::TempDir;
use ureq::tls::{PemItem, RootCerts, TlsProvider, parse_pem};

use crate::{
    certificate::Certificate,
    client::{PATIENCE, connect},
    server::Server,
};

const SHORT_MS: u64 = 300;

struct Secret {
    server: Server,
    directory: TempDir,
}

impl Secret {
    fn start() -> Self {
        Self::with(HttpConfig::default())
    }

    fn with(limits: HttpConfig) -> Self {
        let directory = TempDir::new().unwrap();
        let made = Certificate::make(directory.path());
        let tls = TlsConfig { certificate: Some(made.certificate), key: Some(made.key) };
        Self { server: Server::with(HttpConfig { tls, ..limits }), directory }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.server.address.port())
    }

    /// Asks as one who trusts this certificate; on a connection of its own.
    fn ask(&self, trusted: &[u8]) -> Result<u16, ureq::Error> {
        let roots = parse_pem(trusted).filter_map(|item| if let Ok(PemItem::Certificate(root)) = item { Some(root) } else { None });
        let tls = ureq::tls::TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(RootCerts::from(roots));
        let tls = tls.unversioned_rustls_crypto_provider(http::cryptography()).build();
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE)).tls_config(tls);
        let agent: ureq::Agent = config.build().into();
        agent.get(format!("{}/livez", self.url())).call().map(|answer| answer.status().as_u16())
    }

    fn certificate(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("certificate.pem")).unwrap()
    }
}

#[test]
fn who_trusts_the_certificate_gets_an_answer_and_nobody_else() {
    let secret = Secret::start();
    assert_eq!(secret.ask(&secret.certificate()).unwrap(), 200);
    let other = TempDir::new().unwrap();
    let other = fs::read(Certificate::make(other.path()).certificate).unwrap();
    assert!(secret.ask(&other).is_err(), "another one's certificate was taken for it");
    let mut plain = connect(secret.server.address);
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _reset_or_not = plain.read_to_end(&mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/"), "it speaks plain HTTP, too");
}

#[test]
fn a_renewed_certificate_holds_for_new_connections() {
    let secret = Secret::start();
    let old = secret.certificate();
    assert_eq!(secret.ask(&old).unwrap(), 200);
    Certificate::make(secret.directory.path());
    let began = Instant::now();
    while secret.ask(&secret.certificate()).is_err() {
        assert!(began.elapsed() < PATIENCE, "the new certificate is not noticed");
        std::thread::sleep(Duration::from_millis(50)); // between two looks at the condition
    }
    assert!(secret.ask(&old).is_err(), "the old one is still shown");
    fs::write(secret.directory.path().join("key.pem"), "no key").unwrap();
    secret.server.entrance.access().renew();
    assert_eq!(secret.ask(&secret.certificate()).unwrap(), 200, "half a change changes nothing");
}

fn short() -> HttpConfig {
    HttpConfig { header_timeout_ms: SHORT_MS, max_connections: 1, ..HttpConfig::default() }
}

/// Writes the bytes one by one until the server has had enough.
fn dribble(stream: &mut TcpStream, bytes: impl Iterator<Item = u8>) -> Duration {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for byte in bytes {
        assert!(began.elapsed() < PATIENCE, "the server still listens");
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        match stream.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    began.elapsed()
}

#[test]
fn a_handshake_that_dribbles_is_cut_off_and_its_place_is_free_again() {
    let secret = Secret::with(short());
    // A record that says that 16,384 bytes of a client's hello follow, and then a byte now and then.
    let hello = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(0));
    let took = dribble(&mut connect(secret.server.address), hello);
    assert!(took >= Duration::from_millis(SHORT_MS - 50), "cut off after {took:?}, before its time");
    let mut silent = connect(secret.server.address);
    assert_eq!(silent.read(&mut [0; 64]).unwrap_or(0), 0, "a handshake that does not begin");
    assert_eq!(secret.ask(&secret.certificate()).unwrap(), 200, "the one place is free");
}

#[test]
fn handshakes_count_as_connections() {
    let secret = Secret::with(HttpConfig { max_connections: 1, ..HttpConfig::default() });
    let holding = connect(secret.server.address);
    let began = Instant::now();
    // The first may not be taken in yet when the second comes; both are open until one is refused.
    while secret.ask(&secret.certificate()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "a second connection is taken");
    }
    drop(holding);
    while secret.ask(&secret.certificate()).is_err() {
        assert!(began.elapsed() < PATIENCE, "the place is not free again");
        std::thread::sleep(Duration::from_millis(20)); // between two looks at the condition
    }
}

/// A verb as a process of its own, with these variables.
fn verb(arguments: &[&str], variables: &[(&str, &Path)], url: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statehouse"));
    command.args(arguments).env("STATEHOUSE_URL", url).envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn verbs_speak_it_with_a_token() {
    let tokens = TempDir::new().unwrap();
    let path = |name: &str| tokens.path().join(name);
    let [read, write] = [(); 2].map(|()| FreshToken::draw().unwrap());
    fs::write(path("tokens.toml"), read.entry("r", Scope::Read, None) + &write.entry("w", Scope::Write, None)).unwrap();
    fs::write(path("read.token"), format!("{}\n", *read.token)).unwrap();
    fs::write(path("write.token"), &*write.token).unwrap();
    fs::write(path("none.token"), "\n").unwrap();
    let secret = Secret::with(HttpConfig { tokens: Some(path("tokens.toml")), ..HttpConfig::default() });
    let (url, ca) = (secret.url(), secret.directory.path().join("certificate.pem"));
    let report = ["report", "o", "up", "--agent", "a"];
    let said = verb(&report, &[("STATEHOUSE_CA", &ca), ("STATEHOUSE_TOKEN_FILE", &path("write.token"))], &url);
    assert_eq!(said, (0, "applied, at offset 0 of partition 1\n".to_owned(), String::new()));
    let shown = verb(&["get", "o", "--ca", ca.to_str().unwrap(), "--token-file", path("read.token").to_str().unwrap()], &[], &url);
    assert!(shown.0 == 0 && shown.1.starts_with("o: up\n"), "{shown:?}");

    let with = |token: &Path| verb(&report, &[("STATEHOUSE_CA", &ca), ("STATEHOUSE_TOKEN_FILE", token)], &url);
    let unknown = verb(&report, &[("STATEHOUSE_CA", &ca)], &url);
    assert_eq!(unknown.0, 1, "{unknown:?}");
    assert!(unknown.2.contains("a valid bearer token is needed; name the file with yours in --token-file"), "{unknown:?}");
    let reader = with(&path("read.token"));
    assert!(reader.0 == 1 && reader.2.contains("the token has not the scope write (403)"), "{reader:?}");
    for token in ["none.token", "absent.token"] {
        let refused = with(&path(token));
        assert!(refused.0 == 2 && refused.2.contains("--token-file"), "{refused:?}");
    }
    let stranger = verb(&["get", "o", "--token-file", path("read.token").to_str().unwrap()], &[], &url);
    assert!(stranger.0 == 2 && stranger.2.contains("--ca"), "{stranger:?}");
    let no_certificate = verb(&["get", "o"], &[("STATEHOUSE_CA", &path("none.token"))], &url);
    assert!(no_certificate.0 == 2 && no_certificate.2.contains("there is no certificate in it"), "{no_certificate:?}");
    let clear = verb(&["get", "o"], &[("STATEHOUSE_TOKEN_FILE", &path("read.token"))], "http://house.invalid:7717");
    assert!(clear.0 == 2 && clear.2.contains("could be read on the way"), "{clear:?}");
}

#[test]
fn the_token_verb_keeps_the_secret_from_the_terminal() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agents.token");
    let make = |more: &[&str]| verb(&[&["token", "--scope", "write", "--save", path.to_str().unwrap()], more].concat(), &[], "");
    let made = make(&["--for", "90days"]);
    let token = fs::read_to_string(&path).unwrap();
    assert_eq!((made.0, made.2.as_str()), (0, ""));
    assert!(
        made.1.starts_with("[[token]]\nname = \"agents\"\nscope = \"write\"\nsha256 = \"") && made.1.contains("\nexpires = 20"),
        "{made:?}"
    );
    assert!(!made.1.contains(token.trim()) && token.len() > 64);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = make(&[]);
    assert!(again.0 == 1 && again.1.is_empty() && again.2.contains("--save "), "{again:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), token, "it is still the first");
    assert_eq!(verb(&["token", "--scope", "all", "--save", "x"], &[], "").0, 2);
    assert_eq!(make(&["--for", "1000years"]).0, 1);

    fs::write(directory.path().join("tokens.toml"), &made.1).unwrap();
    let server = Server::with(HttpConfig { tokens: Some(directory.path().join("tokens.toml")), ..HttpConfig::default() });
    let url = format!("http://{}", server.address);
    assert_eq!(verb(&["list"], &[("STATEHOUSE_TOKEN_FILE", &path)], &url).0, 0, "what it makes goes together");
    assert_eq!(verb(&["list"], &[], &url).0, 1);
}
