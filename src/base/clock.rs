//! The one place that reads a clock. Decisions take time as an argument; what calls them takes it
//! from here, so that tests run on paused time.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// A handle to the time: the wall's, and one that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// `Some`: wall time is this moment plus what tokio's (pausable) clock has counted since.
    follow: Option<(Timestamp, Instant)>,
}

impl Clock {
    /// The system's clock.
    pub const fn system() -> Self {
        Self { follow: None }
    }

    /// A wall clock that starts at `start` and moves with tokio's, which a test can pause.
    pub fn following(start: Timestamp) -> Self {
        Self {
            follow: Some((start, Instant::now())),
        }
    }

    /// Wall time. It can step in both directions: only for people, files and pauses between polls.
    pub fn now(&self) -> Timestamp {
        match self.follow {
            None => Timestamp::now(),
            Some((start, since)) => start
                .checked_add(since.elapsed())
                .expect("invariant: a test does not run for 7 000 years"),
        }
    }

    /// Time since this host booted (`CLOCK_MONOTONIC`), on which Xray's uptime is laid to tell one
    /// boot of Xray from the next. Steps of the wall clock do not move it.
    pub fn monotonic(&self) -> Duration {
        if let Some((_, since)) = self.follow {
            return since.elapsed() + Duration::from_secs(1_000_000);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        )
    }
}

/// The kernel's id of this boot of the host; empty where it does not tell.
pub fn kernel_boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
