//! What everything stands on: clock, secrets, durations, files, locks, failpoints and supervised
//! tasks.
//! Knows nothing of Xray, panels or users, and imports nothing else of this crate.

pub mod clock;
pub mod duration;
pub mod failpoint;
pub mod files;
#[cfg(test)]
pub(crate) mod generated;
pub mod handover;
pub mod lock;
pub mod redact;
pub mod retry;
pub mod said;
pub mod secret;
pub mod supervise;
