//! Pauses after failures: exponential, with jitter, bounded. The sequence is `backon`'s.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How long to wait after each failure in a row.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    floor: Duration,
    pauses: ExponentialBackoff,
}

impl Backoff {
    /// Pauses that grow twofold from `floor` up to about twice `ceiling` (jitter adds up to as much
    /// again), and are never shorter than `floor`.
    pub fn new(floor: Duration, ceiling: Duration) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(floor)
            .with_max_delay(ceiling.max(floor))
            .with_jitter()
            .without_max_times();
        Self {
            builder,
            floor,
            pauses: builder.build(),
        }
    }

    /// The pause after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.floor).max(self.floor)
    }

    /// Success: the next failure starts from the floor again.
    pub fn reset(&mut self) {
        self.pauses = self.builder.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_their_bounds_and_start_again_after_a_success() {
        let (floor, ceiling) = (Duration::from_secs(1), Duration::from_secs(8));
        let mut backoff = Backoff::new(floor, ceiling);
        for _ in 0..50 {
            let pause = backoff.next_pause();
            assert!(pause >= floor && pause <= ceiling * 2, "{pause:?}");
        }
        assert!(backoff.next_pause() >= ceiling);
        backoff.reset();
        assert!(backoff.next_pause() <= floor * 2);
    }
}
