//! Medians, and the CPU time of a process in nanoseconds: a read of 10 000 counters is over within one
//! tick of the clock that `stat` counts in.

use std::fs;

use anyhow::{Context, Result};

/// The middle one; none of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Milliseconds of CPU that the threads of a process have used; its threads must not end meanwhile.
#[expect(clippy::cast_precision_loss, reason = "below a day")]
pub fn cpu_ms(pid: u32) -> Result<f64> {
    let mut sum_ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let line = fs::read_to_string(thread?.path().join("schedstat"))?;
        let on_cpu = line.split(' ').next().context("a schedstat line")?;
        sum_ns += on_cpu.parse::<u64>()?;
    }
    Ok(sum_ns as f64 / 1e6)
}

/// Milliseconds since then.
pub fn ms(begun: std::time::Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1_000.0
}
