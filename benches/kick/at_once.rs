//! Many users at once, each in mid-download.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::figures::{most, percentile};
use crate::lab::stream::{Pace, Seen};
use crate::stage::{Stage, ended};

/// Bytes come seldom, so that a thousand downloads leave the machine to what is measured.
const PACE: Pace = Pace {
    chunk: 64,
    pause: Duration::from_millis(250),
};

pub async fn measure(users: u32, crowd: u32, rounds: u32) -> Result<()> {
    let (mut ours, mut bare) = (Stage::new(users).await?, Stage::new(users).await?);
    let _agent = ours.agent().await?;
    let (mut by_agent, mut by_bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let streams = ours.downloads(crowd, PACE).await?;
        let answered = ours.removed_by_agent(crowd).await?;
        by_agent.push(last_end(answered, &ended(streams).await?)?);
        let streams = bare.downloads(crowd, PACE).await?;
        let begun = bare.removed_bare(crowd).await?;
        by_bare.push(last_end(begun, &ended(streams).await?)?);
    }
    println!("### {crowd} users at once, each in mid-download, {rounds} times, of {users}\n");
    println!("| | until the last connection ended, p50 / most |");
    println!("|---|---|");
    println!("| agent, from the panel's answer | {} |", row(&by_agent));
    println!(
        "| bare `RemoveUser` and cut, from its begin | {} |\n",
        row(&by_bare)
    );
    Ok(())
}

/// Milliseconds until the last of them ended.
fn last_end(begun: Instant, all: &[Seen]) -> Result<f64> {
    let ends = all.iter().filter_map(|seen| seen.ended.as_ref());
    let last = ends
        .map(|(at, _)| *at)
        .max()
        .context("nobody's has ended")?;
    Ok(last.saturating_duration_since(begun).as_secs_f64() * 1_000.0)
}

fn row(values: &[f64]) -> String {
    format!("{:.0} / {:.0} ms", percentile(values, 50), most(values))
}
