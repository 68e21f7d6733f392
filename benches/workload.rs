//! The reference workload, as `scripts/kafka gen` makes it: agents report on objects whose truth flips slowly, and each errs in a tenth of
//! its reports. The same random numbers, so that the number of changes is the known one.
#![allow(dead_code, reason = "each bench uses its part")]

/// The changes of the default shape under a majority (4,000,000 reports, 200,000 objects, 5 agents, seed 1).
pub(crate) const CHANGES: usize = 577_702;
/// Reports, objects, agents.
pub(crate) const DEFAULT_SHAPE: (u64, i32, i32) = (4_000_000, 200_000, 5);

/// The workload, made before the clock starts.
pub(crate) struct World {
    /// Names.
    pub(crate) objects: Vec<String>,
    /// Names.
    pub(crate) agents: Vec<String>,
    /// Object, agent, whether the agent says that it is attacked.
    pub(crate) claims: Vec<(u32, u16, bool)>,
}

impl World {
    /// So many reports on so many objects by so many agents.
    pub(crate) fn new(reports: u64, objects: i32, agents: i32) -> Self {
        let mut random = JavaRandom::new(1);
        let claim = |at: u64| {
            let (object, agent) = (random.next_int(objects), random.next_int(agents));
            let truth = ((i64::from(object) * 2_654_435_761 + (at / (reports / 8 + 1)) as i64) & 3) == 0;
            let attacked = if random.next_double() < 0.1 { !truth } else { truth };
            (object as u32, agent as u16, attacked)
        };
        Self {
            claims: (0..reports).map(claim).collect(),
            objects: (0..objects).map(|object| format!("site-{object:08}.example.com")).collect(),
            agents: (0..agents).map(|agent| format!("waf-proxy-{agent:04}")).collect(),
        }
    }
}

/// What a claim says.
pub(crate) fn state(attacked: bool) -> &'static str {
    if attacked { "under_attack" } else { "normal" }
}

/// The generator of `java.util.Random`, as its documentation gives it, so that the workload is the one of the Kafka benchmarks.
struct JavaRandom(i64);

impl JavaRandom {
    fn new(seed: i64) -> Self {
        Self((seed ^ 0x5_DEEC_E66D) & ((1 << 48) - 1))
    }

    fn next(&mut self, bits: u32) -> i32 {
        self.0 = (self.0.wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB)) & ((1 << 48) - 1);
        (self.0 >> (48 - bits)) as i32
    }

    fn next_int(&mut self, bound: i32) -> i32 {
        if bound & (bound - 1) == 0 {
            return ((i64::from(bound) * i64::from(self.next(31))) >> 31) as i32;
        }
        loop {
            let bits = self.next(31);
            let value = bits % bound;
            if bits.wrapping_sub(value).wrapping_add(bound - 1) >= 0 {
                return value;
            }
        }
    }

    fn next_double(&mut self) -> f64 {
        ((i64::from(self.next(26)) << 27) + i64::from(self.next(27))) as f64 / (1_u64 << 53) as f64
    }
}
