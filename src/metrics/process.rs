//! This process, as `/proc/self` tells of it. What cannot be read is left out.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

use super::families::{PROCESS_CPU, PROCESS_FDS, PROCESS_RSS, PROCESS_START, PROCESS_THREADS};
use super::page::Page;

/// Fields of `/proc/self/stat` after the name in brackets: the 22nd of all is when it started.
const START_FIELD: usize = 19;

/// Adds what is so now.
pub fn add(page: &mut Page) {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    page.add(&PROCESS_CPU, &[], seconds(used.tv_sec, used.tv_nsec));
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the one that lists them.
        page.add(&PROCESS_FDS, &[], entries.count().saturating_sub(1));
    }
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return;
    };
    if let Some(kib) = field(&status, "VmRSS:") {
        page.add(&PROCESS_RSS, &[], kib * 1024);
    }
    if let Some(threads) = field(&status, "Threads:") {
        page.add(&PROCESS_THREADS, &[], threads);
    }
}

/// Bytes of memory that this process has: those in use, and all that it may address.
pub fn memory() -> Option<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |name| field(&status, name).map(|kib| kib * 1024);
    Some((bytes("VmRSS:")?, bytes("VmSize:")?))
}

/// Adds when it started, which was read once: later the wall clock may have been set.
pub fn add_start(page: &mut Page, started: Option<Timestamp>) {
    if started.is_some() {
        page.add_time(&PROCESS_START, &[], started);
    }
}

/// When this process started, by the wall clock as it is now.
pub fn started() -> Option<Timestamp> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(START_FIELD)?.parse().ok()?;
    let since_boot_ms = ticks.checked_mul(1_000)? / rustix::param::clock_ticks_per_second();
    let now = clock_gettime(ClockId::Boottime);
    let up_ms = now
        .tv_sec
        .checked_mul(1_000)?
        .checked_add(now.tv_nsec / 1_000_000)?;
    let age = SignedDuration::from_millis(up_ms.checked_sub_unsigned(since_boot_ms)?);
    Timestamp::now().checked_sub(age).ok()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "seconds that a process has used stay far below 2^53"
)]
fn seconds(whole: i64, nanos: i64) -> f64 {
    whole as f64 + nanos as f64 / 1e9
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Format;

    #[test]
    fn a_process_knows_its_start_and_what_it_uses() {
        let started = started().unwrap();
        let age = Timestamp::now().duration_since(started);
        assert!(age < SignedDuration::from_hours(1) && age > SignedDuration::from_secs(-1));
        let mut page = Page::default();
        add(&mut page);
        let text = page.exposition(Format::Text).body;
        for name in [
            "cpu_seconds_total",
            "resident_memory_bytes",
            "open_fds",
            "threads",
        ] {
            let start = format!("xray_agent_process_{name} ");
            let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
            let value: f64 = line[start.len()..].parse().unwrap();
            assert!(value > 0.0, "{line}");
        }
    }
}
