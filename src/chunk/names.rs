//! A column of names, each as what it has in common with the one before it, at its start and at its end, and what stands between.
//!
//! Names of one kind look alike ("site-00012345.example.com"), so a name costs about the part that tells it from others, without sorting.

use std::borrow::Cow;

use ahash::AHashMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use statehouse_dataflows::vocabulary::Name;

use super::{
    Flaw,
    packed::{self, Packer},
};

/// The names of one column may not add up to more. A reader's memory hangs on it.
pub(super) const NAMES_BYTES_MAX: usize = 16 << 20;

/// Bytes that are written as such and read in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes<'a>(pub Cow<'a, [u8]>);

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(|bytes| Self(Cow::Borrowed(bytes)))
    }
}

/// The column, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names<'a> {
    count: u32,
    /// Bytes in common with the start of the name before.
    #[serde(borrow)]
    starts: Bytes<'a>,
    /// Bytes in common with its end, beyond those.
    #[serde(borrow)]
    ends: Bytes<'a>,
    /// Bytes between.
    #[serde(borrow)]
    lengths: Bytes<'a>,
    /// Those bytes.
    #[serde(borrow)]
    middles: Bytes<'a>,
}

impl<'a> Names<'a> {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// Reads the column, of at most `count_max` names, and hands each to `each`.
    pub(super) fn each(&self, count_max: usize, what: &'static str, mut each: impl FnMut(&str) -> Result<(), Flaw>) -> Result<(), Flaw> {
        let count = Some(self.count()).filter(|count| *count <= count_max).ok_or(Flaw(what))?;
        let lengths = |column: &Bytes<'a>| packed::unpack(&column.0, count, what);
        let (starts, ends, lengths) = (lengths(&self.starts)?, lengths(&self.ends)?, lengths(&self.lengths)?);
        let mut middles: &[u8] = &self.middles.0;
        let (mut left, mut name) = (NAMES_BYTES_MAX, Vec::new());
        for ((start, end), length) in starts.into_iter().zip(ends).zip(lengths) {
            let [start, end, length] =
                [start, end, length].map(|bytes| usize::try_from(bytes).ok().filter(|bytes| *bytes <= NAMES_BYTES_MAX));
            let (start, end, length) = (start.ok_or(Flaw(what))?, end.ok_or(Flaw(what))?, length.ok_or(Flaw(what))?);
            let (middle, rest) = middles.split_at_checked(length).ok_or(Flaw(what))?;
            middles = rest;
            if start + end > name.len() {
                return Err(Flaw(what));
            }
            left = left.checked_sub(start + end + length).ok_or(Flaw(what))?;
            next_name(&mut name, (start, end), middle);
            each(std::str::from_utf8(&name).map_err(|_| Flaw(what))?)?;
        }
        if middles.is_empty() { Ok(()) } else { Err(Flaw(what)) }
    }

    /// The same as a list.
    pub(super) fn read(&self, count_max: usize, what: &'static str) -> Result<Vec<Name>, Flaw> {
        let mut names = Vec::new();
        self.each(count_max, what, |name| {
            names.push(name.into());
            Ok(())
        })?;
        Ok(names)
    }
}

/// What stands between start and end of the name before becomes `middle`; mostly it is as long as that.
#[inline]
fn next_name(name: &mut Vec<u8>, (start, end): (usize, usize), middle: &[u8]) {
    let stop = name.len() - end;
    if stop - start == middle.len() {
        name[start..stop].copy_from_slice(middle);
    } else {
        name.splice(start..stop, middle.iter().copied());
    }
}

/// Writes a column.
#[derive(Default)]
pub(super) struct NamesWriter<'a> {
    count: u32,
    starts: Packer,
    ends: Packer,
    lengths: Packer,
    middles: Vec<u8>,
    before: &'a [u8],
    bytes: usize,
}

impl<'a> NamesWriter<'a> {
    /// One more name, of at most `u32::MAX`.
    pub(super) fn push(&mut self, name: &'a str) {
        let name = name.as_bytes();
        let (start, end) = in_common(self.before, name);
        let middle = &name[start..name.len() - end];
        self.starts.push(start as i64);
        self.ends.push(end as i64);
        self.lengths.push(middle.len() as i64);
        self.middles.extend_from_slice(middle);
        self.before = name;
        self.bytes += name.len();
        self.count += 1;
    }

    /// How long the names are together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn finish<'b>(self) -> Names<'b> {
        let Self { count, starts, ends, lengths, middles, .. } = self;
        Names { count, starts: starts.finish(), ends: ends.finish(), lengths: lengths.finish(), middles: middles.into() }
    }
}

/// How many bytes two names have in common at their starts, and beyond those at their ends.
fn in_common(one: &[u8], two: &[u8]) -> (usize, usize) {
    let start = one.iter().zip(two).take_while(|(a, b)| a == b).count();
    let (one, two) = (&one[start..], &two[start..]);
    (start, one.iter().rev().zip(two.iter().rev()).take_while(|(a, b)| a == b).count())
}

/// Gives each name a number, in order of first use.
#[derive(Debug)]
pub(super) struct Dictionary<'a> {
    ids: AHashMap<&'a str, i64>,
    names: Vec<&'a str>,
    /// (address, length, number) of names met lately: rows share the few names of agents and states, so most are known by where they
    /// are, without reading or hashing them. Sound, as all names of a dictionary are borrowed for as long as it lives.
    recent: [(usize, usize, i64); RECENT],
}

const RECENT: usize = 64;

impl Default for Dictionary<'_> {
    fn default() -> Self {
        Self { ids: AHashMap::default(), names: Vec::new(), recent: [(0, 0, 0); RECENT] } // no name is at address 0
    }
}

impl<'a> Dictionary<'a> {
    /// The name's number.
    pub(super) fn id(&mut self, name: &'a str) -> i64 {
        let (address, length) = (name.as_ptr() as usize, name.len());
        let recent = &mut self.recent[address / 16 % RECENT];
        if (recent.0, recent.1) == (address, length) {
            return recent.2;
        }
        let names = &mut self.names;
        let id = *self.ids.entry(name).or_insert_with(|| {
            names.push(name);
            names.len() as i64 - 1
        });
        *recent = (address, length, id);
        id
    }

    /// How long the names are together.
    pub(super) fn bytes(&self) -> usize {
        self.names.iter().map(|name| name.len()).sum()
    }

    /// The names, by number.
    pub(super) fn write(&self) -> Names<'static> {
        let mut column = NamesWriter::default();
        self.names.iter().for_each(|name| column.push(name));
        column.finish()
    }
}

/// From places in a list of names to numbers in a dictionary, so that the dictionary is asked once for each name, not for each row.
pub(super) struct Translation<'a> {
    names: &'a [Name],
    /// By place; -1 for a name that was not met yet.
    ids: Vec<i64>,
}

impl<'a> Translation<'a> {
    /// Of these names.
    pub(super) fn of(names: &'a [Name]) -> Self {
        Self { names, ids: vec![-1; names.len()] }
    }

    /// The number of the name at this place.
    #[inline]
    pub(super) fn id(&mut self, place: u32, dictionary: &mut Dictionary<'a>) -> i64 {
        let id = &mut self.ids[place as usize];
        if *id < 0 {
            *id = dictionary.id(&self.names[place as usize]);
        }
        *id
    }
}
