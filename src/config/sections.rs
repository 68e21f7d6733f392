//! The sections of `statehouse.toml` with their defaults, as typed. [`super::check`] holds their ranges.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use statehouse_dataflows::vocabulary::Millis;

use super::PeerUrl;

/// Which log a house lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// The embedded log: one process, nothing else needed.
    #[default]
    Local,
    /// A Kafka cluster.
    Kafka,
}

/// `[source]`: what comes in and how it is read.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// How values are written.
    pub format: SourceFormat,
    /// Where the agent's name is.
    pub agent: AgentFrom,
    /// JSON pointer of the state.
    pub state: String,
    /// JSON pointer of the report's own time in milliseconds; empty: not read, the record's timestamp counts.
    pub ts: String,
    /// JSON pointer of how long the report is good for (`"30s"`, or milliseconds); empty: not read. Kept and shown, not obeyed yet.
    pub ttl: String,
    /// JSON pointer of the record's type (`"override"`); empty: not read, every record is a report.
    pub r#type: String,
    /// JSON pointer of an override's duration; empty: not read.
    pub r#for: String,
    /// Where a house without progress begins: `"earliest"`, `"latest"`, or a time (milliseconds since the epoch, or RFC 3339 in UTC).
    #[serde(deserialize_with = "start", serialize_with = "start_text")]
    pub start: Start,
    /// What becomes of a record that can't be used.
    pub on_reject: OnReject,
    /// Records whose timestamp is further ahead of the wall-clock are rejects; a wall-clock that steps further stops wall ticks. A report's
    /// own time is at most this far ahead of its record's timestamp; what is further ahead counts as this far.
    #[serde(deserialize_with = "duration", serialize_with = "duration_text")]
    pub max_future_skew: Duration,
    /// Longer objects' names are rejects.
    pub max_key_bytes: usize,
    /// Longer values are rejects.
    pub max_value_bytes: usize,
    /// Longer agents' names are rejects.
    pub max_agent_bytes: usize,
}

/// How source values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// A JSON object; where its fields are can be set.
    #[default]
    Json,
    /// The value is the state; the agent comes from a header or is fixed. An empty value withdraws the report.
    Text,
}

/// Where the agent's name is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a JSON pointer (\"/agent\"), { header = \"name\" } or { fixed = \"name\" }")]
pub enum AgentFrom {
    /// At this JSON pointer.
    Pointer(String),
    /// In a header of the record.
    Header {
        /// The header's name.
        header: String,
    },
    /// It is always this one.
    Fixed {
        /// The agent's name.
        fixed: String,
    },
}

/// Where reading begins in a house without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first record there is.
    Earliest,
    /// After the last record there is.
    Latest,
    /// The first record with this timestamp or a later one.
    Timestamp(Millis),
}

/// What becomes of a record that can't be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReject {
    /// It is counted, kept as a reject, and passed over.
    #[default]
    Skip,
    /// The house stops before it and commits nothing past it.
    Stop,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            format: SourceFormat::Json,
            agent: AgentFrom::Pointer("/agent".into()),
            state: "/state".into(),
            ts: "/ts".into(),
            ttl: "/ttl".into(),
            r#type: "/type".into(),
            r#for: "/for".into(),
            start: Start::Earliest,
            on_reject: OnReject::Skip,
            max_future_skew: Duration::from_secs(300),
            max_key_bytes: 4096,
            max_value_bytes: 65536,
            max_agent_bytes: 256,
        }
    }
}

/// `[sink]`: what goes out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkConfig {
    /// How changes are written.
    pub format: SinkFormat,
}

/// How changes are written. A change to "not published" is a null value in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    /// A JSON object that says what changed, since when, why, and by which votes.
    #[default]
    Full,
    /// The plain state.
    State,
}

/// `[commit]`: how much makes an epoch.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommitConfig {
    /// An epoch is open at least this long.
    pub min_interval_ms: u64,
    /// An epoch takes at most this many source records; then reading waits for the commit.
    pub max_records: usize,
    /// Where nothing changes any more, at most this many bytes of the checkpoint are repeated a second, until all of it was.
    pub idle_slice_bytes: u64,
}

impl Default for CommitConfig {
    fn default() -> Self {
        Self { min_interval_ms: 5, max_records: 100_000, idle_slice_bytes: 1 << 20 }
    }
}

/// `[topics]`: names of topics; default `<house>-reports`, `-changes`, `-checkpoint`, `-rejects`, `-instances`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopicsConfig {
    /// Reports come in here.
    pub source: Option<String>,
    /// Changes go out here.
    pub sink: Option<String>,
    /// The rolling checkpoint.
    pub checkpoint: Option<String>,
    /// Source records that can't be used.
    pub rejects: Option<String>,
    /// Who runs the house.
    pub instances: Option<String>,
}

/// `[kafka]`: the cluster. Used where `log = "kafka"`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// Whether missing topics are created; else a missing topic is an error.
    pub create_topics: bool,
    /// How many partitions a created source has; the other topics follow the source.
    pub partitions: i32,
    /// Of created topics; -1: as the cluster's default says.
    pub replication_factor: i32,
    /// How long a dead instance keeps its partitions.
    pub session_timeout_ms: u32,
    /// After this long the cluster aborts a transaction of a dead instance.
    pub transaction_timeout_ms: u32,
    /// Checkpoint records that nobody needs any more are deleted this often.
    pub trim_interval_ms: u64,
    /// How the source's producers choose partitions: for HTTP writes, and to know where an object is.
    pub partitioner: Partitioner,
    /// Passed through to the client as they are.
    #[serde(skip_serializing)] // They may be secrets; who shows them masks them.
    pub properties: BTreeMap<String, PropertyValue>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            create_topics: true,
            partitions: 4,
            replication_factor: -1,
            session_timeout_ms: 10_000,
            transaction_timeout_ms: 10_000,
            trim_interval_ms: 5_000,
            partitioner: Partitioner::Murmur2,
            properties: BTreeMap::new(),
        }
    }
}

/// `[restore]`: reading the state of partitions back from the checkpoint topic.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreConfig {
    /// So many partitions are read at a time. Each stands in memory, besides the one that is being handed over.
    pub readers: usize,
}

impl Default for RestoreConfig {
    fn default() -> Self {
        Self { readers: 2 }
    }
}

/// `[standby]`: warm copies of partitions that other instances own.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandbyConfig {
    /// How many instances keep a copy of a partition, besides its owner. None unless told: a copy takes as much memory as its partition.
    pub copies: usize,
}

/// How producers choose partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// Java's default.
    #[default]
    Murmur2,
    /// librdkafka's default (`consistent`).
    Crc32,
}

/// The value of a client property.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a string, a number, a boolean, { file = \"path\" } or { env = \"NAME\" }")]
pub enum PropertyValue {
    /// As it stands.
    Text(String),
    /// As it stands.
    Number(i64),
    /// As it stands.
    Flag(bool),
    /// A secret: the content of this file, without line breaks at its end.
    File {
        /// Its path.
        file: PathBuf,
    },
    /// A secret: the value of this environment variable.
    Env {
        /// Its name.
        env: String,
    },
}

/// Never shows a value: it may be a secret.
impl fmt::Debug for PropertyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => write!(f, "(from file {})", file.display()),
            Self::Env { env } => write!(f, "(from environment variable {env})"),
            _ => f.write_str("***"),
        }
    }
}

/// `[local]`: the embedded log. Used where `log = "local"`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// Its directory.
    pub path: PathBuf,
    /// How many partitions a new one has.
    pub partitions: i32,
    /// Sink records and rejects kept for reading back, each per partition.
    pub keep_records: u64,
    /// Writes that may wait for their commit.
    pub queue_records: usize,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { path: "statehouse-data".into(), partitions: 1, keep_records: 1_000_000, queue_records: 100_000 }
    }
}

/// `[http]`: the HTTP server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where it listens. Beyond loopback only with `tokens` and TLS.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// The file with the digests of bearer tokens; none: everyone who reaches it may read and write.
    pub tokens: Option<PathBuf>,
    /// TLS; none: plain HTTP.
    pub tls: TlsConfig,
    /// Whether plain HTTP may be spoken beyond loopback: where something in front of it does TLS.
    pub insecure: bool,
    /// Names under which it may be asked; none: on loopback those of loopback only, elsewhere any.
    pub hosts: Vec<String>,
    /// Connections at a time; further ones are refused.
    pub max_connections: usize,
    /// Connections at a time from one address (IPv6: one network of 64 bits).
    pub max_connections_per_address: usize,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// A request's headers must have come within this time.
    pub header_timeout_ms: u64,
    /// A request must be answered within this time.
    pub request_timeout_ms: u64,
    /// A reader that takes nothing for this long is cut off.
    pub write_timeout_ms: u64,
    /// The longest page of a list.
    pub max_list: usize,
    /// Questions that may wait at a worker; beyond it 503.
    pub queue_questions: usize,
    /// Where the other instances of the house, and clients that they redirect, reach this one; none: where it listens.
    pub advertise: Option<PeerUrl>,
    /// What becomes of a question about an object that another instance owns.
    pub route: RouteConfig,
    /// A file with a secret that all instances of the house share: by it they know each other's entries and questions. None: whoever can
    /// write to the instances topic is trusted.
    pub peer_secret: Option<PathBuf>,
    /// A PEM file with those that vouch for the other instances' certificates; none: those whom the machine trusts.
    pub peer_ca: Option<PathBuf>,
    /// Another instance must answer within this time.
    pub peer_timeout_ms: u64,
}

/// What becomes of a question about an object that another instance owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteConfig {
    /// It is put to the owner, and its answer passed on. Works for every client, also through a load balancer.
    #[default]
    Proxy,
    /// The client is sent to the owner (307): it must reach every instance, and send its credentials again.
    Redirect,
    /// It is refused, with the owner's address. Each instance lists and counts only what it owns.
    Local,
}

/// `[http.tls]`: who the server says it is. Both or none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// A PEM file: the server's certificate, followed by those that vouch for it.
    pub certificate: Option<PathBuf>,
    /// A PEM file: its private key.
    pub key: Option<PathBuf>,
}

impl HttpConfig {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7717).into(),
            tokens: None,
            tls: TlsConfig::default(),
            insecure: false,
            hosts: Vec::new(),
            max_connections: 1024,
            max_connections_per_address: 512,
            max_body_bytes: 8 << 20,
            header_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            max_list: 1_000,
            queue_questions: 1_024,
            advertise: None,
            route: RouteConfig::Proxy,
            peer_secret: None,
            peer_ca: None,
            peer_timeout_ms: 5_000,
        }
    }
}

/// Reads an address to listen on. Names are not looked up: where it listens decides what it asks of clients, so it must be just what it
/// says, and a name may stand for several addresses, and for others tomorrow.
///
/// # Errors
/// When, and only when, it is no IP address with a port: says what to write instead.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let usual = HttpConfig::default().listen;
        let (host, port) = if text.parse::<IpAddr>().is_ok() { (text, "") } else { text.rsplit_once(':').unwrap_or((text, text)) };
        let host = if host == "*" { "0.0.0.0" } else { host };
        let meant = SocketAddr::new(host.parse().unwrap_or(usual.ip()), port.parse().unwrap_or(usual.port())).to_string();
        format!("write an IP address and a port, such as {meant:?} (names are not looked up; 0.0.0.0 is every address of the machine)")
    })
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let value = toml::Value::deserialize(deserializer)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    listen_address(&text).map_err(D::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text =
        String::deserialize(deserializer).map_err(|_| D::Error::custom("expected a duration with a unit, such as \"5m\" or \"30s\""))?;
    humantime::parse_duration(&text).map_err(|e| D::Error::custom(format!("{e}: write a duration with a unit, such as \"5m\" or \"30s\"")))
}

fn duration_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

fn start<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
    let fix = "write \"earliest\", \"latest\", milliseconds since the epoch, or a time in UTC such as \"2026-01-31T08:00:00Z\"";
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::Integer(ms) if ms >= 0 => return Ok(Start::Timestamp(ms)),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::String(text) => text,
        _ => return Err(D::Error::custom(fix)),
    };
    match text.as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        // Digits as text come from the environment.
        _ => text.parse().ok().filter(|ms| *ms >= 0).or_else(|| time_ms(&text)).map(Start::Timestamp).ok_or_else(|| D::Error::custom(fix)),
    }
}

fn time_ms(text: &str) -> Option<Millis> {
    let time = humantime::parse_rfc3339(text).ok()?;
    i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn start_text<S: Serializer>(start: &Start, serializer: S) -> Result<S::Ok, S::Error> {
    match start {
        Start::Earliest => serializer.serialize_str("earliest"),
        Start::Latest => serializer.serialize_str("latest"),
        Start::Timestamp(ms) => serializer.serialize_i64(*ms),
    }
}
