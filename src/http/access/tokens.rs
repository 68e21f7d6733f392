//! Tokens: 256 random bits each. Their file holds SHA-256 digests with scopes, never a token, so that whoever reads it can't use it.
//!
//! ```toml
//! [[token]]
//! name = "agents"                    # for people
//! scope = "write"                    # read | write (and read) | peer (all)
//! sha256 = "…"                       # 64 hexadecimal digits
//! expires = 2027-01-31T08:00:00Z     # optional, in UTC
//! ```
//! Several tokens may have one scope: a new one is added, clients change to it, then the old one is taken out or expires.

use std::{fmt, fs, path::Path, str::FromStr, time::SystemTime};

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use serde::Deserialize;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeGreater};
use toml::Value;
use zeroize::Zeroizing;

use super::{AccessError, kept::Content};

const SETTING: &str = "http.tokens";
/// What every token begins with, so that scanners for lost secrets know it.
const PREFIX: &str = "sth_";
const TOKEN_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;
/// Longer ones are nobody's.
const PRESENTED_BYTES_MAX: usize = 512;

/// What a token is good for. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Questions, metrics, version.
    Read = 1,
    /// Reports, overrides, purges.
    Write = 2,
    /// What instances of a house ask of each other.
    Peer = 3,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Peer];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Peer => "peer",
        })
    }
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scope| scope.to_string() == text).ok_or("write \"read\", \"write\" (which may read, too) or \"peer\"")
    }
}

/// The tokens of a file.
pub(super) struct TokenSet {
    tokens: Vec<Token>,
}

struct Token {
    digest: [u8; DIGEST_BYTES],
    scope: Scope,
    expires: Option<SystemTime>,
}

/// Reads the file.
///
/// # Errors
/// When, and only when, it can't be read or has an entry that is no token. Never shows a value: it may be a token by mistake.
pub(super) fn read(path: &Path) -> Result<Content<TokenSet>, AccessError> {
    let refused = |problem: String| AccessError::new(SETTING, path, problem);
    let text = fs::read_to_string(path).map_err(|error| {
        refused(format!("can't read it: {error}; make it with `statehouse token --scope write --save NAME.token >> FILE`"))
    })?;
    let file: File = toml::from_str(&text).map_err(|error| refused(format!("not a file of tokens: {}", plain(&error))))?;
    let tokens = (0..).zip(&file.token).map(|(nth, entry)| {
        entry.token().map_err(|(field, fix)| refused(format!("token[{nth}].{field}: {fix}; `statehouse token` makes whole entries")))
    });
    Ok(Content::new(TokenSet { tokens: tokens.collect::<Result<_, _>>()? }, &[text.as_bytes()]))
}

/// Where TOML is wrong, without what stands there.
fn plain(error: &toml::de::Error) -> String {
    if error.message().starts_with("invalid type") { "a value has the wrong type".to_owned() } else { error.message().to_owned() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "name")]
    _name: Option<String>,
    scope: String,
    sha256: String,
    expires: Option<Value>,
}

impl Entry {
    fn token(&self) -> Result<Token, (&'static str, &'static str)> {
        let scope = self.scope.parse().map_err(|fix| ("scope", fix))?;
        let digest = unhex(&self.sha256).ok_or(("sha256", "write the 64 hexadecimal digits of the token's SHA-256, not the token"))?;
        let time =
            self.expires.as_ref().map(|expires| time(expires).ok_or(("expires", "write a time in UTC such as 2027-01-31T08:00:00Z")));
        Ok(Token { digest, scope, expires: time.transpose()? })
    }
}

fn time(value: &Value) -> Option<SystemTime> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    humantime::parse_rfc3339(&text).ok()
}

impl TokenSet {
    /// What a token is good for now; none: nothing. Takes as long for a token that is nearly right as for any other: digests are compared,
    /// each to its end, and all of them whichever fits.
    pub(super) fn scope_of(&self, presented: &[u8], now: SystemTime) -> Option<Scope> {
        if presented.len() > PRESENTED_BYTES_MAX {
            return None;
        }
        let presented = sha256(presented);
        let best = self.tokens.iter().fold(0, |best, token| {
            let is_live = Choice::from(u8::from(token.expires.is_none_or(|expires| now < expires)));
            let scope = token.scope as u8;
            let is_better = token.digest.ct_eq(&presented) & is_live & scope.ct_gt(&best);
            u8::conditional_select(&best, &scope, is_better)
        });
        Scope::ALL.into_iter().find(|scope| *scope as u8 == best)
    }
}

/// A new token, for the client's file, and its entry, for the server's.
pub struct FreshToken {
    /// The token: a secret.
    pub token: Zeroizing<String>,
    digest: [u8; DIGEST_BYTES],
}

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoRandomness;

impl fmt::Debug for FreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreshToken(***)")
    }
}

impl FreshToken {
    /// Draws one.
    ///
    /// # Errors
    /// When, and only when, there is no randomness to be had.
    pub fn draw() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| NoRandomness)?;
        let token = Zeroizing::new(format!("{PREFIX}{}", &*Zeroizing::new(hex(&*bytes))));
        let digest = sha256(token.as_bytes());
        Ok(Self { token, digest })
    }

    /// The entry for the file of tokens.
    #[must_use]
    pub fn entry(&self, name: &str, scope: Scope, expires: Option<SystemTime>) -> String {
        let expires = expires.map_or_else(String::new, |time| format!("expires = {}\n", humantime::format_rfc3339_seconds(time)));
        format!("[[token]]\nname = {}\nscope = \"{scope}\"\nsha256 = \"{}\"\n{expires}\n", Value::from(name), hex(&self.digest))
    }
}

fn sha256(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    digest(&SHA256, bytes).as_ref().try_into().expect("as long as its name says")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn unhex(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let digits: Vec<_> = text.chars().map(|char| char.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1])).collect::<Result<_, _>>().ok()?;
    if digits.len() % 2 == 0 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn set(text: &str) -> Result<TokenSet, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read(file.path()).map(Content::into_value).map_err(|error| error.to_string())
    }

    fn fresh() -> FreshToken {
        FreshToken::draw().unwrap()
    }

    #[test]
    fn a_digest_is_what_others_say_it_is() {
        assert_eq!(hex(&sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(unhex(&hex(&sha256(b"abc"))), Some(sha256(b"abc")));
        for wrong in ["", "0", "zz", &"0".repeat(63), &"0".repeat(66), &"é".repeat(32)] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_has_the_scope_of_its_entry_until_it_expires() {
        let now = SystemTime::now();
        let [old, new, read, peer] = [(); 4].map(|()| fresh());
        let until = now + Duration::from_secs(10);
        let text = [
            old.entry("old", Scope::Write, Some(until)),
            new.entry("new", Scope::Write, None),
            read.entry("a \"reader\"", Scope::Read, None),
            peer.entry("", Scope::Peer, None),
        ];
        let set = set(&text.concat()).unwrap();
        let at = |token: &FreshToken, time| set.scope_of(token.token.as_bytes(), time);
        assert_eq!((at(&old, now), at(&new, now)), (Some(Scope::Write), Some(Scope::Write)), "both, while one takes over from the other");
        assert_eq!((at(&old, until), at(&new, until)), (None, Some(Scope::Write)));
        assert_eq!((at(&read, now), at(&peer, now)), (Some(Scope::Read), Some(Scope::Peer)));
        assert_eq!((at(&fresh(), now), set.scope_of(b"", now), set.scope_of(&[b'x'; 600], now)), (None, None, None));
        assert!(Scope::Read < Scope::Write && Scope::Write < Scope::Peer);
        assert!(old.token.starts_with(PREFIX) && old.token.len() == PREFIX.len() + 64 && *old.token != *new.token);
    }

    #[test]
    fn a_file_without_tokens_admits_nobody() {
        assert_eq!(set("").unwrap().scope_of(b"", SystemTime::now()), None);
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let secret = fresh().token;
        for (text, said) in [
            (format!("[[token]]\nscope = \"read\"\nsha256 = \"{}\"", &*secret), "token[0].sha256: write the 64 hexadecimal digits"),
            (format!("[[token]]\nscope = \"{}\"\nsha256 = \"\"", &*secret), "token[0].scope: write \"read\", \"write\""),
            (format!("{}expires = \"{}\"", fresh().entry("x", Scope::Read, None), &*secret), "token[0].expires: write a time in UTC"),
            (format!("[[token]]\ntoken = \"{}\"", &*secret), "unknown field `token`"),
            ("[[token]]\nscope = \"read\"".to_owned(), "missing field `sha256`"),
            (format!("{}expires = 5", fresh().entry("x", Scope::Read, None)), "token[0].expires: "),
            (format!("token = \"{}\"", &*secret), "a value has the wrong type"),
            (format!("{} =", &*secret), "not a file of tokens: "),
        ] {
            let Err(refusal) = set(&text) else { panic!("{text} was taken") };
            assert!(refusal.starts_with("http.tokens = ") && refusal.contains(said), "{text}: {refusal}");
            assert!(!refusal.contains(&**secret), "{refusal}");
        }
    }
}
