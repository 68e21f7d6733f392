//! Who runs the house, and who owns which partition: what the instances tell each other.
//!
//! Beside the flow, between the register (a topic, where there is one) and http, which asks the owner. Each instance writes one entry about
//! itself and reads everybody's, in the one order in which they stand in the register. So all of them see the same claims, and of two
//! instances that claim a partition all believe the one that began to claim it later; no clock decides. What is told here is a hint: a
//! wrong one costs a question that is not answered, never a wrong answer, as only an owner answers.
//!
//! Entries come from a topic that others may be able to write to: only addresses that could be an instance's are taken, and with a secret
//! that the instances share only entries that were sealed with it. An old entry of an instance can be written again by who may write there;
//! the instance sees that and writes what holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    sync::Mutex,
};

use ring::hmac;
use serde::{Deserialize, Serialize};
use statehouse_dataflows::vocabulary::{Millis, Partition};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::Directory;
use crate::config::{HttpConfig, PeerUrl};

/// How many instances are remembered; whoever fills a topic can't fill the memory.
const INSTANCES_MAX: usize = 1_000;
/// A secret shorter than this could be guessed.
const SECRET_BYTES_MIN: usize = 32;

/// One instance, as its entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Fresh at every start.
    pub id: String,
    /// Where it can be asked; none: nowhere.
    pub url: Option<PeerUrl>,
    /// What it says it owns.
    pub partitions: BTreeSet<Partition>,
    /// As in [`crate::config::Config::config_digest`]; none: not told yet.
    pub config_digest: Option<String>,
    /// The program's version.
    pub version: String,
    /// When it started, by its own clock.
    pub started_ms: Millis,
}

/// All instances that are known.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    here: String,
    partitions: Partition,
    known: BTreeMap<String, Instance>,
    /// By partition: who claims it, the newest claim last.
    claims: BTreeMap<Partition, Vec<String>>,
}

impl Instances {
    /// None yet, as seen by the instance `here`, in a house of so many partitions.
    #[must_use]
    pub fn new(here: &str, partitions: Partition) -> Self {
        Self { here: here.to_owned(), partitions, ..Self::default() }
    }

    /// The id of this instance.
    #[must_use]
    pub fn here(&self) -> &str {
        &self.here
    }

    /// How many partitions the house has.
    #[must_use]
    pub fn partitions(&self) -> Partition {
        self.partitions
    }

    /// By id.
    pub fn all(&self) -> impl Iterator<Item = &Instance> {
        self.known.values()
    }

    /// All but this one.
    pub fn others(&self) -> impl Iterator<Item = &Instance> {
        self.all().filter(|instance| instance.id != self.here)
    }

    /// The instance with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Instance> {
        self.known.get(id)
    }

    /// Who owns a partition: of those who claim it the one that began to last.
    #[must_use]
    pub fn owner(&self, partition: Partition) -> Option<&Instance> {
        self.known.get(self.claims.get(&partition)?.last()?)
    }

    /// Those that are configured differently from this one: the same records could give other changes there.
    pub fn differing(&self) -> impl Iterator<Item = &Instance> {
        let digest = self.known.get(&self.here).and_then(|here| here.config_digest.as_ref());
        self.others().filter(move |other| digest.is_some() && other.config_digest.is_some() && other.config_digest.as_ref() != digest)
    }

    /// Takes the next entry of the register; none: the instance has ended.
    pub fn take(&mut self, id: &str, told: Option<Instance>) {
        let Some(told) = told else {
            self.forget(id);
            return;
        };
        if self.known.len() >= INSTANCES_MAX && !self.known.contains_key(id) {
            return;
        }
        // Where another one answers now, the earlier one has ended, whether or not that was told.
        let predecessor = self.known.values().find(|other| other.id != id && other.url.is_some() && other.url == told.url);
        if let Some(predecessor) = predecessor.map(|other| other.id.clone()) {
            self.forget(&predecessor);
        }
        let before = self.known.get(id).map(|known| known.partitions.clone()).unwrap_or_default();
        for given_up in before.difference(&told.partitions) {
            self.unclaim(*given_up, id);
        }
        for claimed in told.partitions.difference(&before) {
            self.claims.entry(*claimed).or_default().push(id.to_owned());
        }
        self.known.insert(id.to_owned(), told);
    }

    fn forget(&mut self, id: &str) {
        let Some(gone) = self.known.remove(id) else { return };
        gone.partitions.iter().for_each(|partition| self.unclaim(*partition, id));
    }

    fn unclaim(&mut self, partition: Partition, id: &str) {
        if let Some(claims) = self.claims.get_mut(&partition) {
            claims.retain(|claimer| claimer != id);
        }
    }
}

/// What the instances share to know each other by; none: they trust whoever can write to the register.
#[derive(Clone, Default)]
pub struct PeerSecret(Option<Keys>);

/// Made of the secret, so that what is sent with a question does not seal entries.
#[derive(Clone)]
struct Keys {
    seal: hmac::Key,
    bearer: String,
}

impl PeerSecret {
    /// The secret in the file `http.peer_secret`, if one is configured.
    ///
    /// # Errors
    /// When, and only when, it can't be read or is too short: says why, and the fix.
    pub fn of(http: &HttpConfig) -> Result<Self, String> {
        let Some(path) = &http.peer_secret else { return Ok(Self::default()) };
        let refused = |why: String| format!("{why}: put a random text of {SECRET_BYTES_MIN} bytes or more into it");
        let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
        let secret = text.trim();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(refused(format!("it holds only {} bytes", secret.len())));
        }
        Ok(Self::new(secret.as_bytes()))
    }

    /// With the secret's bytes.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose: &str| hmac::sign(&secret, purpose.as_bytes());
        let seal = hmac::Key::new(hmac::HMAC_SHA256, derived("statehouse: seals of entries").as_ref());
        Self(Some(Keys { seal, bearer: hex(derived("statehouse: questions between instances").as_ref()) }))
    }

    /// What a question to another instance carries, as a bearer token; none without a secret.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        self.0.as_ref().map(|keys| keys.bearer.as_str())
    }

    /// Whether this is what a question of another instance carries; takes as long for a text that is nearly right as for any other.
    #[must_use]
    pub fn is_bearer(&self, presented: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|keys| keys.bearer.as_bytes().ct_eq(presented).into())
    }

    /// The seal of an entry's bytes under this key of the register, in hexadecimal; none without a secret.
    #[must_use]
    pub fn seal(&self, key: &str, value: &[u8]) -> Option<String> {
        self.0.as_ref().map(|keys| hex(hmac::sign(&keys.seal, &sealed(key, value)).as_ref()))
    }

    /// Whether an entry may be followed.
    #[must_use]
    pub fn admits(&self, key: &str, value: &[u8], seal: Option<&[u8]>) -> bool {
        let Some(keys) = &self.0 else { return true };
        let tag = seal.and_then(unhex);
        tag.is_some_and(|tag| hmac::verify(&keys.seal, &sealed(key, value), &tag).is_ok())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "PeerSecret(***)" } else { "PeerSecret(none)" })
    }
}

/// What is sealed: nobody can move an entry under another key.
fn sealed(key: &str, value: &[u8]) -> Vec<u8> {
    let head = format!("statehouse instance v1\n{}\n{key}\n", key.len());
    [head.as_bytes(), value].concat()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text.iter().map(|digit| char::from(*digit).to_digit(16)).collect();
    let (pairs, []) = digits.as_ref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
}

/// An entry's value, as JSON; its key is the instance.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Whoever takes over from the instance ends what it left open under this id.
    pub transactional_id: String,
    /// When it started, by its own clock.
    pub started_ms: Millis,
    /// Where it can be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it owns.
    #[serde(default)]
    pub partitions: BTreeSet<Partition>,
    /// The digest of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The program's version.
    #[serde(default)]
    pub version: String,
}

impl Entry {
    /// What it tells. An address that no instance can have is left out: nobody is asked there.
    #[must_use]
    pub fn instance(self, id: &str) -> Instance {
        Instance {
            id: id.to_owned(),
            url: self.url.and_then(|url| PeerUrl::parse(&url).ok()),
            partitions: self.partitions,
            config_digest: self.config,
            version: self.version,
            started_ms: self.started_ms,
        }
    }
}

/// The directory of a house that has one instance.
#[derive(Debug)]
pub struct Alone {
    entry: Mutex<Instance>,
    view: watch::Sender<Instances>,
}

impl Alone {
    /// This instance owns whatever it says it does.
    #[must_use]
    pub fn new(partitions: Partition) -> Self {
        Self::named(&uuid::Uuid::new_v4().to_string(), partitions)
    }

    /// The same with an id that is told.
    #[must_use]
    pub fn named(here: &str, partitions: Partition) -> Self {
        let entry = Entry { version: env!("CARGO_PKG_VERSION").to_owned(), ..Entry::default() };
        let view = watch::Sender::new(Instances::new(here, partitions));
        Self { entry: Mutex::new(entry.instance(here)), view }
    }

    fn tell(&self, change: impl FnOnce(&mut Instance)) {
        let mut entry = self.entry.lock().expect("nobody panics while holding it");
        change(&mut entry);
        self.view.send_modify(|instances| instances.take(&entry.id, Some(entry.clone())));
    }
}

impl Directory for Alone {
    fn watch(&self) -> watch::Receiver<Instances> {
        self.view.subscribe()
    }

    fn announce(&self, url: Option<PeerUrl>) {
        self.tell(|entry| entry.url = url);
    }

    fn owns(&self, partitions: BTreeSet<Partition>) {
        self.tell(|entry| entry.partitions = partitions);
    }

    fn leave(&self) {
        self.view.send_modify(|instances| instances.take(&instances.here.clone(), None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: &str, url: &str, partitions: &[Partition]) -> Instance {
        let entry = Entry { url: Some(url.to_owned()), partitions: partitions.iter().copied().collect(), ..Entry::default() };
        entry.instance(id)
    }

    /// An entry: id, port, partitions; a port of 0 is an end.
    type Told<'a> = (&'a str, u16, &'a [Partition]);

    fn instances(entries: &[Told<'_>]) -> Instances {
        let mut instances = Instances::new("a", 4);
        for (id, port, partitions) in entries {
            instances.take(id, (*port > 0).then(|| told(id, &format!("http://10.0.0.1:{port}"), partitions)));
        }
        instances
    }

    fn owners(instances: &Instances) -> Vec<Option<&str>> {
        (0..instances.partitions()).map(|partition| instances.owner(partition).map(|owner| owner.id.as_str())).collect()
    }

    #[test]
    fn of_two_claims_the_newer_one_is_believed() {
        let rows: [(&[Told<'_>], [Option<&str>; 4]); 13] = [
            (&[], [None, None, None, None]),
            (&[("a", 1, &[0, 1, 2, 3])], [Some("a"); 4]),
            // A handover, in either order of the two entries that tell of it.
            (&[("a", 1, &[0, 1, 2, 3]), ("a", 1, &[0, 1]), ("b", 2, &[2, 3])], [Some("a"), Some("a"), Some("b"), Some("b")]),
            (&[("a", 1, &[0, 1, 2, 3]), ("b", 2, &[2, 3]), ("a", 1, &[0, 1])], [Some("a"), Some("a"), Some("b"), Some("b")]),
            // A dead one's claims are stale: they lose, and go with its entry.
            (&[("c", 3, &[0, 1]), ("b", 2, &[1])], [Some("c"), Some("b"), None, None]),
            (&[("c", 3, &[0, 1]), ("b", 2, &[1]), ("c", 0, &[])], [None, Some("b"), None, None]),
            // Who repeats an old claim claims nothing anew.
            (&[("c", 3, &[0]), ("b", 2, &[0]), ("c", 3, &[0])], [Some("b"), None, None, None]),
            (&[("c", 3, &[0]), ("b", 2, &[0]), ("c", 3, &[0, 3])], [Some("b"), None, None, Some("c")]),
            // A newer claim that is taken back leaves the older one.
            (&[("b", 2, &[0]), ("c", 3, &[0]), ("c", 3, &[])], [Some("b"), None, None, None]),
            // Given up, and claimed again.
            (&[("b", 2, &[0]), ("c", 3, &[0]), ("b", 2, &[]), ("b", 2, &[0])], [Some("b"), None, None, None]),
            // Duplicates, and the end of somebody unknown.
            (&[("b", 2, &[0]), ("b", 2, &[0]), ("d", 0, &[])], [Some("b"), None, None, None]),
            // Started again at the same address.
            (&[("b", 2, &[0, 1]), ("c", 2, &[])], [None; 4]),
            (&[("b", 2, &[0, 1]), ("c", 2, &[1])], [None, Some("c"), None, None]),
        ];
        for (entries, expected) in rows {
            assert_eq!(owners(&instances(entries)), expected, "{entries:?}");
        }
    }

    #[test]
    fn who_reads_only_the_last_entries_believes_the_same() {
        // What compaction leaves of a handover and of a death.
        let all = instances(&[("a", 1, &[0, 1, 2]), ("b", 2, &[2]), ("a", 1, &[0, 1]), ("c", 3, &[1]), ("a", 1, &[0])]);
        let left = instances(&[("b", 2, &[2]), ("c", 3, &[1]), ("a", 1, &[0])]);
        assert_eq!(owners(&all), owners(&left));
    }

    #[test]
    fn nobody_fills_the_memory() {
        let mut instances = Instances::new("a", 1);
        for n in 0..2 * INSTANCES_MAX {
            let id = format!("i{n}");
            instances.take(&id, Some(told(&id, &format!("http://10.0.0.1:{}", n + 1), &[0])));
        }
        assert_eq!((instances.all().count(), instances.claims[&0].len()), (INSTANCES_MAX, INSTANCES_MAX));
    }

    #[test]
    fn another_configuration_is_noticed_when_both_are_known() {
        let with = |id: &str, config: Option<&str>| Entry { config: config.map(str::to_owned), ..Entry::default() }.instance(id);
        let differing = |entries: &[(&str, Option<&str>)]| {
            let mut instances = Instances::new("a", 1);
            entries.iter().for_each(|(id, config)| instances.take(id, Some(with(id, *config))));
            instances.differing().map(|instance| instance.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(differing(&[("a", Some("1")), ("b", Some("1")), ("c", Some("2")), ("d", None)]), ["c"]);
        assert!(differing(&[("a", None), ("c", Some("2"))]).is_empty());
    }

    #[test]
    fn an_entry_tells_what_is_known_and_no_more() {
        let minimal: Entry = serde_json::from_str(r#"{"transactional_id":"t","started_ms":7,"of_the_future":1}"#).unwrap();
        assert_eq!(minimal, Entry { transactional_id: "t".into(), started_ms: 7, ..Entry::default() });
        for (url, taken) in
            [("http://10.0.0.1:7717", true), ("http://169.254.169.254", false), ("http://u:p@10.0.0.1", false), ("x", false)]
        {
            assert_eq!(told("a", url, &[]).url.is_some(), taken, "{url}");
        }
    }

    #[test]
    fn only_sealed_entries_are_admitted_where_there_is_a_secret() {
        let secret = PeerSecret::new(b"of the house");
        let seal = secret.seal("a", b"value").unwrap();
        let seal = Some(seal.as_bytes());
        assert!(secret.admits("a", b"value", seal));
        assert!(!secret.admits("a", b"value", None), "no seal");
        assert!(!secret.admits("a", b"other", seal), "another value");
        assert!(!secret.admits("b", b"value", seal), "another instance's");
        assert!(!secret.admits("a", b"value", Some(b"zz")) && !secret.admits("a", b"value", Some(b"")), "no seal at all");
        assert!(!PeerSecret::new(b"of another").admits("a", b"value", seal), "another secret");
        let none = PeerSecret::default();
        assert_eq!(none.bearer(), None);
        assert_ne!(secret.bearer(), PeerSecret::new(b"of another").bearer());
        assert!(none.seal("a", b"value").is_none() && none.admits("a", b"value", None) && none.admits("a", b"value", seal));
        assert_eq!(format!("{secret:?}"), "PeerSecret(***)");
    }
}
