//! The configuration: what was typed (this file's structs, one per section of `statehouse.toml`), and what it means.
//!
//! Every setting has its unit in its name or takes a duration with a unit ("5m"), a default, and a reason here. Errors name the setting,
//! the value and the fix. `main` reads it; every stage gets just its own section.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::Deserialize;

/// `statehouse.toml`, as typed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The application id: names the consumer group and, unless told otherwise, the topics.
    pub house: String,
    /// Worker threads; default: the cores.
    pub workers: Option<usize>,
    /// Which log.
    #[serde(default)]
    pub log: LogKind,
    #[serde(default)]
    pub source: SourceConfig,
    #[serde(default)]
    pub sink: SinkConfig,
    #[serde(default)]
    pub commit: CommitConfig,
    #[serde(default)]
    pub topics: TopicsConfig,
    #[serde(default)]
    pub kafka: KafkaConfig,
    #[serde(default)]
    pub local: LocalConfig,
    #[serde(default)]
    pub http: HttpConfig,
    /// `[[rule]]`: by prefix; the longest matching prefix wins.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleConfig>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    #[default]
    Local,
    Kafka,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// json | text (the value is the state).
    pub format: SourceFormat,
    /// Where the agent is: a JSON pointer, or a header, or fixed.
    pub agent: AgentFrom,
    /// JSON pointers.
    pub state: String,
    pub ts: String,
    pub ttl: String,
    /// JSON pointer of the record's type (`"override"`).
    pub r#type: String,
    /// JSON pointer of an override's duration.
    pub r#for: String,
    /// "earliest" | "latest" | a time as milliseconds since the epoch or RFC 3339.
    pub start: toml::Value,
    pub on_reject: OnReject,
    /// Timestamps further ahead of the wall-clock are rejects; a wall-clock that steps further stops wall ticks.
    pub max_future_skew: String,
    pub max_key_bytes: usize,
    pub max_value_bytes: usize,
    pub max_agent_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    #[default]
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum AgentFrom {
    Pointer(String),
    Header { header: String },
    Fixed { fixed: String },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReject {
    #[default]
    Skip,
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
            start: toml::Value::String("earliest".into()),
            on_reject: OnReject::Skip,
            max_future_skew: "5m".into(),
            max_key_bytes: 4096,
            max_value_bytes: 65536,
            max_agent_bytes: 256,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkConfig {
    pub format: SinkFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    #[default]
    Full,
    State,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommitConfig {
    /// An epoch is open at least this long. Default 5.
    pub min_interval_ms: u64,
    /// An epoch takes at most this many source records; then reading waits for the commit.
    pub max_records: usize,
}

impl Default for CommitConfig {
    fn default() -> Self {
        Self { min_interval_ms: 5, max_records: 100_000 }
    }
}

/// Topic names; default `<house>-reports`, `-changes`, `-checkpoint`, `-rejects`, `-instances`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopicsConfig {
    pub source: Option<String>,
    pub sink: Option<String>,
    pub checkpoint: Option<String>,
    pub rejects: Option<String>,
    pub instances: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    pub brokers: String,
    /// Topics that are missing are created with these.
    pub create_topics: bool,
    pub partitions: i32,
    pub replication_factor: i32,
    /// Default 10 s: how long a dead instance keeps its partitions.
    pub session_timeout_ms: u32,
    pub transaction_timeout_ms: u32,
    /// The source producers' partitioner, for HTTP writes and routing: murmur2 (Java's default) | crc32 (librdkafka's "consistent").
    pub partitioner: Partitioner,
    /// Passed through to the client as they are. Values `{ file = "path" }` or `{ env = "NAME" }` are secrets read from there.
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
            partitioner: Partitioner::Murmur2,
            properties: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    #[default]
    Murmur2,
    Crc32,
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PropertyValue {
    Text(String),
    Number(i64),
    Flag(bool),
    File { file: PathBuf },
    Env { env: String },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// The directory of the embedded log.
    pub path: PathBuf,
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

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub header_timeout_ms: u64,
    pub request_timeout_ms: u64,
    /// A reader that takes nothing for this long is cut off.
    pub write_timeout_ms: u64,
    pub max_list: usize,
    /// Questions that may wait at a worker; beyond it 503.
    pub queue_questions: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7717).into(),
            max_connections: 1024,
            max_body_bytes: 8 << 20,
            header_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            max_list: 1_000,
            queue_questions: 1_024,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    #[serde(default)]
    pub prefix: String,
    /// latest | majority | plurality | any | quorum | unanimous | a registered rule's name.
    pub rule: String,
    #[serde(default)]
    pub weights: toml::Table,
    pub min_reports: Option<u32>,
    /// "live" | N.
    pub of: Option<toml::Value>,
    /// "keep" | "latest" | { state = "unknown" }.
    pub on_none: Option<toml::Value>,
    /// "remove" | "keep".
    pub on_empty: Option<String>,
    /// "arrival" | "timestamp".
    pub order: Option<String>,
    /// any: states by falling priority, and what else.
    pub priority: Option<Vec<String>>,
    pub otherwise: Option<String>,
    /// quorum: one of the two.
    pub k: Option<u32>,
    /// "60 %".
    pub share: Option<String>,
}

/// Never shows a value: it may be a secret.
impl std::fmt::Debug for PropertyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { file } => write!(f, "(from file {})", file.display()),
            Self::Env { env } => write!(f, "(from environment variable {env})"),
            _ => f.write_str("***"),
        }
    }
}
