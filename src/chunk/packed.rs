//! A column of integers: blocks of 128, each its least value and the rest above it in just as many bits as the greatest needs.
//!
//! Any `i64` can stand in a column. A column of equal values costs next to nothing; ids cost the bits of the largest, times those of their
//! range. Small random numbers are what lz4 can't compress, hence the bits.

use super::{Flaw, names::Bytes};

const BLOCK: usize = 128;

/// Writes a column.
pub(super) struct Packer {
    block: [i64; BLOCK],
    filled: usize,
    bytes: Vec<u8>,
}

impl Default for Packer {
    fn default() -> Self {
        Self { block: [0; BLOCK], filled: 0, bytes: Vec::new() }
    }
}

impl Packer {
    /// One more value.
    #[inline]
    pub(super) fn push(&mut self, value: i64) {
        self.block[self.filled] = value;
        self.filled += 1;
        if self.filled == BLOCK {
            pack_block(&self.block, &mut self.bytes);
            self.filled = 0;
        }
    }

    /// The column.
    pub(super) fn finish<'b>(mut self) -> Bytes<'b> {
        if self.filled > 0 {
            pack_block(&self.block[..self.filled], &mut self.bytes);
        }
        self.bytes.into()
    }
}

/// Writes a column of these values.
pub(super) fn pack<'b>(values: impl Iterator<Item = i64>) -> Bytes<'b> {
    let mut packer = Packer::default();
    values.for_each(|value| packer.push(value));
    packer.finish()
}

fn pack_block(block: &[i64], bytes: &mut Vec<u8>) {
    let (least, greatest) = block.iter().fold((i64::MAX, i64::MIN), |(least, greatest), value| (least.min(*value), greatest.max(*value)));
    // Wrapping, as the distance of two i64 may be anything that a u64 holds.
    let width = u64::BITS - (greatest.wrapping_sub(least) as u64).leading_zeros();
    push_varint(((least << 1) ^ (least >> 63)) as u64, bytes);
    bytes.push(width as u8);
    if width == 0 {
        return;
    }
    bytes.reserve(BLOCK * width as usize / 8 + 8);
    let (mut waiting, mut waiting_bits) = (0, 0);
    for value in block {
        let above = value.wrapping_sub(least) as u64;
        waiting |= above << waiting_bits;
        waiting_bits += width;
        if waiting_bits >= u64::BITS {
            bytes.extend_from_slice(&waiting.to_le_bytes());
            waiting_bits -= u64::BITS;
            waiting = above.checked_shr(width - waiting_bits).unwrap_or(0); // the bits that found no room
        }
    }
    bytes.extend_from_slice(&waiting.to_le_bytes()[..waiting_bits.div_ceil(8) as usize]);
}

/// Reads a column of `count` values; `count` must have been bounded.
pub(super) fn unpack(mut bytes: &[u8], count: usize, what: &'static str) -> Result<Vec<i64>, Flaw> {
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let zigzag = take_varint(&mut bytes).ok_or(Flaw(what))?;
        let least = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let (&width, rest) = bytes.split_first().filter(|(width, _)| u32::from(**width) <= u64::BITS).ok_or(Flaw(what))?;
        let in_block = BLOCK.min(count - values.len());
        let (packed, rest) = rest.split_at_checked((in_block * usize::from(width)).div_ceil(8)).ok_or(Flaw(what))?;
        unpack_block(packed, usize::from(width), least, in_block, &mut values);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(values) } else { Err(Flaw(what)) }
}

fn unpack_block(packed: &[u8], width: usize, least: i64, count: usize, values: &mut Vec<i64>) {
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    for nth in 0..count {
        let (from, shift) = (nth * width / 8, nth * width % 8);
        let mut window = [0; 16];
        let there = packed.len().saturating_sub(from).min(16);
        window[..there].copy_from_slice(&packed[from.min(packed.len())..][..there]);
        let above = (u128::from_le_bytes(window) >> shift) as u64 & mask;
        values.push(least.wrapping_add(above as i64));
    }
}

fn push_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(values: &[i64]) {
        let bytes = pack(values.iter().copied()).0;
        assert_eq!(unpack(&bytes, values.len(), "test").as_deref().ok(), Some(values));
        if !bytes.is_empty() {
            assert!(unpack(&bytes[..bytes.len() - 1], values.len(), "test").is_err(), "cut short");
        }
    }

    #[test]
    fn extremes_and_lengths() {
        round_trip(&[]);
        round_trip(&[i64::MIN, i64::MAX, 0, -1]);
        for length in [1, 127, 128, 129, 256, 300] {
            round_trip(&(0..length).map(|i| i * 37 % 11).collect::<Vec<_>>());
        }
    }

    #[test]
    fn equal_values_cost_next_to_nothing() {
        assert!(pack(std::iter::repeat_n(7, 12_800)).0.len() <= 200);
        assert_eq!(pack([0, 1].into_iter().cycle().take(128)).0.len(), 2 + 16);
    }

    proptest! {
        #[test]
        fn any_column(values in proptest::collection::vec(prop_oneof![any::<i64>(), 0..9_i64, 1_763_800_000_000..1_763_800_900_000_i64], 0..400)) {
            round_trip(&values);
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0_usize..1_000) {
            drop(unpack(&bytes, count, "test"));
        }
    }
}
