//! The one place that reads a clock. Decisions take time as an argument; what calls them takes it
//! from here, so that tests run on paused time.

use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// A handle to the time: the wall's, and one that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// `Some`: wall time is this moment plus what tokio's (pausable) clock has counted since.
    follow: Option<(Timestamp, Instant)>,
}

/// One moment on the clocks that never step. They begin when the host boots, so that they mean
/// something only together with which boot that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since the host booted, suspends left out (`CLOCK_MONOTONIC`).
    pub monotonic: Duration,
    /// Since the host booted, suspends included (`CLOCK_BOOTTIME`).
    pub with_suspend: Duration,
    /// The kernel's id of this boot of the host; empty where it does not tell.
    pub kernel_boot_id: String,
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

    /// Time on a clock that never steps, to measure how long something takes.
    pub fn monotonic(&self) -> Duration {
        match self.follow {
            None => since(ClockId::Monotonic),
            Some((_, since)) => since.elapsed(),
        }
    }

    /// This moment on the clocks on which Xray's uptime is laid to tell one boot of Xray from the
    /// next. Steps of the wall clock do not move them.
    pub fn moment(&self) -> Moment {
        let read = |id| match self.follow {
            None => since(id),
            Some((_, since)) => since.elapsed() + Duration::from_secs(1_000_000),
        };
        Moment {
            monotonic: read(ClockId::Monotonic),
            with_suspend: read(ClockId::Boottime),
            kernel_boot_id: kernel_boot_id().to_owned(),
        }
    }
}

fn since(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// It does not change while we run.
fn kernel_boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}
