//! Random choices of a seed.

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below the bound.
    pub(crate) fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// Others, which don't depend on how these are used.
    pub(crate) fn part(&self, number: u64) -> Self {
        Self::new(self.0.wrapping_add(number.wrapping_mul(0xD1B5_4A32_D192_ED03)))
    }
}
