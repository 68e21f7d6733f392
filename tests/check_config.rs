//! `check-config` as users run it: what `serve` would refuse it refuses, in the same words, and it connects to nobody.

use std::{
    fs,
    io::ErrorKind,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A configuration file, and what was set in it.
struct File {
    directory: TempDir,
}

impl File {
    fn with(text: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("statehouse.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, verb: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_statehouse")).arg(verb).current_dir(self.path()).output().unwrap()
    }

    /// What the verb says when it refuses: the last line on stderr.
    #[track_caller]
    fn refusal(&self, verb: &str) -> String {
        let Output { status, stdout, stderr } = self.run(verb);
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), String::from_utf8(stdout).unwrap().as_str()), (Some(1), ""), "{verb}: {said}");
        said.lines().last().unwrap_or_default().to_owned()
    }
}

fn kafka(properties: &str) -> String {
    format!("house = \"h\"\nlog = \"kafka\"\nhttp.listen = \"127.0.0.1:0\"\n[kafka.properties]\n{properties}\n")
}

#[test]
fn what_serve_refuses_it_refuses_in_the_same_words() {
    for (text, refusal) in [
        (kafka("\"sokcet.timeout.ms\" = 5"), "kafka.properties: \"sokcet.timeout.ms\" was refused: No such configuration property"),
        (kafka("\"security.protocol\" = \"sesame\""), "kafka.properties: \"security.protocol\" was refused: "),
        (kafka("\"group.id\" = \"x\""), "kafka.properties: \"group.id\" can't be set: "),
        (kafka("\"sasl.password\" = { file = \"none\" }"), "kafka.properties: \"sasl.password\": can't read none: "),
        (
            kafka("\"sasl.password\" = { env = \"NO_SUCH_VARIABLE\" }"),
            "kafka.properties: \"sasl.password\": the environment variable NO_SUCH_VARIABLE is not set",
        ),
        (kafka("\"ssl.ca.location\" = \"none.pem\"\n\"security.protocol\" = \"ssl\""), "the Kafka client can't be made: "),
        ("house = \"h\"\nhttp.listen = \"0.0.0.0:0\"".to_owned(), "http.listen = \"0.0.0.0:0\": beyond this machine everyone could read"),
        ("house = \"h\"\nhttp.tokens = \"none.toml\"".to_owned(), "http.tokens = \"none.toml\": can't read it: No such file"),
        (
            "house = \"h\"\nhttp.tokens = \"statehouse.toml\"".to_owned(),
            "http.tokens = \"statehouse.toml\": not a file of tokens: unknown field `house`",
        ),
        (
            "house = \"h\"\nhttp.tls = { certificate = \"statehouse.toml\", key = \"statehouse.toml\" }".to_owned(),
            "http.tls.certificate = \"statehouse.toml\": there is no certificate in it",
        ),
        (
            "house = \"h\"\nhttp.peer_ca = \"statehouse.toml\"".to_owned(),
            "http.peer_ca = \"statehouse.toml\": there is no certificate in it: name a PEM file that has those that vouch for the other instances",
        ),
        ("house = \"h\"\n[[rule]]\nrule = \"any\"".to_owned(), "rule[0].priority = (missing): "),
        ("house = \"h\"\nlog = \"kafak\"".to_owned(), "log = \"kafak\": did you mean \"kafka\"? "),
    ] {
        let file = File::with(&text);
        let said = file.refusal("check-config");
        assert!(said.starts_with(&format!("statehouse: {refusal}")) && !said.contains("sesame"), "{text}: {said}");
        assert_eq!(said, file.refusal("serve"), "{text}");
    }
}

#[test]
fn it_connects_to_nobody_unless_asked_to() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    broker.set_nonblocking(true).unwrap();
    let brokers = format!("kafka.brokers = \"{}\"\n", broker.local_addr().unwrap());
    let file = File::with(&(brokers + &kafka("\"sasl.password\" = { file = \"statehouse.toml\" }")));
    let Output { status, stdout, stderr } = file.run("check-config");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    assert!(String::from_utf8(stdout).unwrap().contains("log = \"kafka\""));
    assert_eq!(broker.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody connected");
    let kept: Vec<_> = fs::read_dir(file.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept, ["statehouse.toml"], "it left something behind");
}
