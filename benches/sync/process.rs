//! What a process has used, from /proc.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks a second in /proc, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process, user and system.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    ticks(&pid.to_string(), 11)
}

/// CPU seconds of the children that this process has waited for, user and system.
pub fn cpu_seconds_of_children() -> Result<f64> {
    ticks("self", 13)
}

/// Two neighbouring fields of a stat line, counted from the one after the name.
fn ticks(process: &str, field: usize) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = stat.rsplit_once(") ").context("a stat line")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: f64 = fields[field].parse::<f64>()? + fields[field + 1].parse::<f64>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// Resident memory in MiB: now (`VmRSS`) or at its highest (`VmHWM`).
pub fn memory_mib(pid: u32, which: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with(which))
        .context("a memory line")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("a number")?
        .parse()?;
    Ok(kib / 1024.0)
}
