//! Where a list goes on: the last object shown, and which list it was of, as one opaque text.
//!
//! Hexadecimal, because a name may hold anything. Not signed: it grants nothing that `prefix` would not.
//!
//! Known limitation: each page is as of its own position. An object that is there all the while is shown exactly once; one that comes or
//! goes in between may or may not be.

use statehouse_dataflows::{query::ListQuery, vocabulary::Name, vocabulary::Partition};
use xxhash_rust::xxh3::xxh3_64;

use super::problem::Problem;

/// The first byte. A cursor of another version is refused rather than misread.
const VERSION: u8 = 1;
/// Version, filters, partition.
const HEAD_BYTES: usize = 1 + 8 + 4;

/// The cursor of the page after this object, in the list with these filters.
pub(super) fn encode(query: &ListQuery, (name, partition): (&str, Partition)) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(filters(query).to_le_bytes());
    bytes.extend(partition.to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The object that a cursor of the list with these filters stands for.
pub(super) fn decode(query: &ListQuery, cursor: &str) -> Result<(Name, Partition), Problem> {
    let refused = |why: &str| Problem::invalid(format!("the cursor {why}: list again from the start")).with("parameter", "cursor");
    let bytes = unhex(cursor).ok_or_else(|| refused("is not one of this server"))?;
    if bytes.first() != Some(&VERSION) || bytes.len() < HEAD_BYTES {
        return Err(refused("is not one of this version"));
    }
    let (head, name) = bytes.split_at(HEAD_BYTES);
    if head[1..9] != filters(query).to_le_bytes() {
        return Err(refused("belongs to a list with another prefix or state"));
    }
    let partition = Partition::from_le_bytes(head[9..].try_into().expect("the head ends with four bytes"));
    let name = std::str::from_utf8(name).map_err(|_| refused("is damaged"))?;
    Ok((name.into(), partition))
}

fn filters(query: &ListQuery) -> u64 {
    xxh3_64(format!("{:?}", (&query.prefix, &query.state)).as_bytes())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let (pairs, []) = digits.as_ref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(prefix: &str, state: Option<Option<&str>>) -> ListQuery {
        ListQuery { prefix: prefix.into(), state: state.map(|state| state.map(Into::into)), ..ListQuery::default() }
    }

    #[test]
    fn a_cursor_says_where_the_list_goes_on() {
        let query = list("a", Some(None));
        for name in ["a", "a/b", "a\0ü☃", ""] {
            let cursor = encode(&query, (name, 7));
            assert!(cursor.bytes().all(|byte| byte.is_ascii_hexdigit()), "{cursor}");
            assert_eq!(decode(&query, &cursor).unwrap(), (name.into(), 7));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let query = list("a", None);
        let cursor = encode(&query, ("a1", 0));
        assert!(decode(&list("b", None), &cursor).is_err(), "another prefix");
        assert!(decode(&list("a", Some(None)), &cursor).is_err(), "another state");
        let other_version = format!("02{}", &cursor[2..]);
        let not_utf8 = format!("{cursor}ff");
        for text in ["", "x", "0", "01", "zz", "ü", &cursor[..cursor.len() - 1], &cursor[..20], &other_version, &not_utf8] {
            assert!(decode(&query, text).is_err(), "{text:?} was taken");
        }
    }
}
