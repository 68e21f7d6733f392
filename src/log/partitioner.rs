//! Which partition a key goes to, computed as the source's producers compute it.
//!
//! Used by both logs: Kafka's Java producers take murmur2 by default, so the embedded log takes it too, and an object lies in the same
//! partition on either. Pure functions; the number of partitions must not change while a house lives.

use statehouse_dataflows::vocabulary::Partition;

/// The partition of a key among `partitions` (at least one), as Java's default partitioner chooses it for a record with a key.
#[must_use]
pub fn murmur2_partition(key: &[u8], partitions: Partition) -> Partition {
    debug_assert!(partitions > 0, "a source has partitions");
    // Java drops the sign bit where one would take the absolute value.
    (murmur2(key) & i32::MAX) % partitions
}

/// The 32-bit MurmurHash2 of a key under Kafka's seed, as Java's signed integer.
#[must_use]
pub fn murmur2(key: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const MULTIPLIER: u32 = 0x5bd1_e995;

    // Java's array length is an i32: longer keys can't come from there, so wrapping loses nothing.
    let mut hash = SEED ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ (mixed ^ (mixed >> 24)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)).cast_signed()
}

/// The partition of a key among `partitions` (at least one), as librdkafka's "consistent" partitioners choose it for a record with a key.
#[must_use]
pub fn crc32_partition(key: &[u8], partitions: Partition) -> Partition {
    debug_assert!(partitions > 0, "a source has partitions");
    let partition = crc32(key) % partitions.unsigned_abs();
    Partition::try_from(partition).expect("less than the number of partitions")
}

/// CRC-32 as zlib computes it. Bit by bit: only HTTP writes and questions need it.
fn crc32(key: &[u8]) -> u32 {
    !key.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test of `Utils.murmur2`.
    #[test]
    fn hashes_as_java_does() {
        let vectors = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn a_negative_hash_loses_its_sign_bit() {
        assert_eq!(murmur2_partition(b"21", 7), (-973_932_308 & i32::MAX) % 7);
        assert_ne!(murmur2_partition(b"21", 7), 973_932_308 % 7, "the vector would tell the absolute value apart");
    }

    #[test]
    fn every_key_has_a_partition() {
        assert_eq!(murmur2_partition(b"", 1), 0);
        let mut seen = [0; 4];
        for i in 0..1_000 {
            seen[murmur2_partition(format!("object-{i}").as_bytes(), 4) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 200), "{seen:?}");
    }

    #[test]
    fn crc32_is_zlibs() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32_partition(b"123456789", 7), (0xCBF4_3926_u32 % 7) as Partition);
    }
}
