//! Why a source record can't be used: a closed list, as the reasons are labels of a metric and headers of the kept record.

use std::fmt;

/// A record that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Which kind of wrong.
    pub reason: Reason,
    /// What exactly, in a sentence; at most 300 characters.
    pub detail: String,
}

impl Reject {
    /// A reject. Details are cut to 300 characters.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        const DETAIL_CHARS_MAX: usize = 300;
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
        }
        Self { reason, detail }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The kinds of wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason's name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// No key, or an empty one.
    NoKey = "no_key",
    /// The key is not UTF-8.
    KeyNotUtf8 = "key_not_utf8",
    /// The key is longer than `source.max_key_bytes`.
    KeyTooLarge = "key_too_large",
    /// The record's timestamp is negative or absent.
    NegativeTimestamp = "negative_timestamp",
    /// The record's timestamp is further ahead of the wall-clock than `source.max_future_skew`. Found by the pump.
    FutureTimestamp = "future_timestamp",
    /// The value is longer than `source.max_value_bytes`.
    TooLarge = "too_large",
    /// The value is not UTF-8.
    NotUtf8 = "not_utf8",
    /// The value is not a JSON object.
    NotJson = "not_json",
    /// No state, or an empty one.
    NoState = "no_state",
    /// The state is longer than [`crate::config::STATE_BYTES_MAX`].
    StateTooLarge = "state_too_large",
    /// No agent, or an empty one.
    NoAgent = "no_agent",
    /// The agent is not a string or number, or its header is not UTF-8.
    BadAgent = "bad_agent",
    /// The agent's name is longer than `source.max_agent_bytes`.
    AgentTooLarge = "agent_too_large",
    /// The report's time is not a number of milliseconds, or negative.
    BadTs = "bad_ts",
    /// The ttl is neither a positive duration nor a positive number of milliseconds.
    BadTtl = "bad_ttl",
    /// The override's duration is neither a positive duration nor a positive number of milliseconds.
    BadFor = "bad_for",
    /// The type is neither "report" nor "override".
    BadType = "bad_type",
}
