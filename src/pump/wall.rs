//! The wall-clock as the pump goes by it: anchored to a clock that never steps, so that a step is seen and not believed.

use statehouse_dataflows::vocabulary::Millis;

use crate::message::Now;

/// Known limitation: while the machine sleeps the steady clock may stand still, so waking up looks like a step.
#[derive(Debug)]
pub(crate) struct Wall {
    skew_ms: Millis,
    anchor: Option<Now>,
    stepped_ms: Option<Millis>,
}

impl Wall {
    /// Steps of more than `skew_ms` are not believed.
    pub(crate) fn new(skew_ms: Millis) -> Self {
        Self { skew_ms, anchor: None, stepped_ms: None }
    }

    /// The time to go by. Small steps are followed; after a large one, time goes on from where it was.
    pub(crate) fn read(&mut self, now: Now) -> Millis {
        let anchor = *self.anchor.get_or_insert(now);
        let elapsed_ms = Millis::try_from(now.monotonic.saturating_sub(anchor.monotonic).as_millis()).unwrap_or(Millis::MAX);
        let expected_ms = anchor.wall_ms.saturating_add(elapsed_ms);
        let step_ms = now.wall_ms.saturating_sub(expected_ms);
        if step_ms.abs() > self.skew_ms {
            self.stepped_ms = Some(step_ms);
            return expected_ms;
        }
        self.anchor = Some(now);
        self.stepped_ms = None;
        now.wall_ms
    }

    /// By how much the wall-clock is off, if it stepped and has not come back.
    pub(crate) fn stepped_ms(&self) -> Option<Millis> {
        self.stepped_ms
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn follows_small_steps_and_not_large_ones() {
        let mut wall = Wall::new(1_000);
        // wall-clock, steady clock → time to go by, seen as stepped by
        let rows = [
            (50_000, 0, 50_000, None),
            (50_100, 100, 50_100, None),
            (51_000, 200, 51_000, None),           // 800 ahead: followed
            (50_200, 300, 50_200, None),           // 900 back: followed
            (52_000, 400, 50_300, Some(1_700)),    // too far
            (90_000, 1_300, 51_200, Some(38_800)), // time goes on
            (0, 1_400, 51_300, Some(-51_300)),     // and backwards
            (51_500, 1_500, 51_500, None),         // it came back
        ];
        for (wall_ms, monotonic_ms, expected_ms, stepped_ms) in rows {
            let now = Now { wall_ms, monotonic: Duration::from_millis(monotonic_ms) };
            assert_eq!((wall.read(now), wall.stepped_ms()), (expected_ms, stepped_ms), "at {wall_ms}, {monotonic_ms}");
        }
    }
}
