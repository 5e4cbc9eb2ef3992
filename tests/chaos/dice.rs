//! Chance that comes the same for the same seed: `splitmix64`, good enough to choose faults by. The
//! moments at which the faults then meet the agent are the machine's, and never the same twice.

use std::time::Duration;

pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Others, which do not depend on how often these are thrown.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// 0 up to, but not `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let place = self.below(from.len() as u64);
        &from[usize::try_from(place).expect("invariant: below a length")]
    }

    pub fn time(&mut self, from: Duration, until: Duration) -> Duration {
        let span_us = until.saturating_sub(from).as_micros();
        from + Duration::from_micros(self.below(u64::try_from(span_us).unwrap_or(u64::MAX)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
