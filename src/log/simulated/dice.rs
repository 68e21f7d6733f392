//! Where all chance of a simulation comes from: a small generator (splitmix64) that draws the same from the same seed.

/// See the module.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `from` on, below `to`.
    pub fn from(&mut self, from: u64, to: u64) -> u64 {
        from + self.draw() % (to - from).max(1)
    }

    /// A place in a list of this length.
    pub fn below(&mut self, length: usize) -> usize {
        (self.draw() % (length as u64).max(1)) as usize
    }

    /// True so many times in a thousand.
    pub fn per_mille(&mut self, times: u64) -> bool {
        self.draw() % 1_000 < times
    }
}
