//! One user at a time, in mid-download.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::figures::{most, percentile};
use crate::lab::stream::{Pace, Seen};
use crate::stage::{Stage, ended};

/// Bytes come so often that the last one is seen to the millisecond.
const PACE: Pace = Pace {
    chunk: 1 << 10,
    pause: Duration::from_millis(1),
};

/// Milliseconds of each removal.
#[derive(Default)]
struct Took {
    last_byte: Vec<f64>,
    end: Vec<f64>,
}

pub async fn measure(users: u32, removals: u32) -> Result<()> {
    let (mut ours, mut bare) = (Stage::new(users).await?, Stage::new(users).await?);
    let _agent = ours.agent().await?;
    let (mut by_agent, mut by_bare) = (Took::default(), Took::default());
    for _ in 0..removals {
        let streams = ours.downloads(1, PACE).await?;
        let answered = ours.removed_by_agent(1).await?;
        by_agent.add(answered, &ended(streams).await?[0])?;
        let streams = bare.downloads(1, PACE).await?;
        let begun = bare.removed_bare(1).await?;
        by_bare.add(begun, &ended(streams).await?[0])?;
    }
    println!("### One user in mid-download, {removals} times, of {users}\n");
    println!("| | last byte, p50 / p99 / most | connection's end, p50 / p99 / most |");
    println!("|---|---|---|");
    println!("| agent, from the panel's answer | {} |", by_agent.row());
    println!(
        "| bare `RemoveUser` and cut, from its begin | {} |\n",
        by_bare.row()
    );
    Ok(())
}

impl Took {
    fn add(&mut self, begun: Instant, seen: &Seen) -> Result<()> {
        let ms = |at: Instant| at.saturating_duration_since(begun).as_secs_f64() * 1_000.0;
        self.last_byte.push(ms(seen.last_byte));
        self.end
            .push(ms(seen.ended.as_ref().context("it has not ended")?.0));
        Ok(())
    }

    fn row(&self) -> String {
        let of = |values: &[f64]| {
            let [p50, p99] = [50, 99].map(|hundredths| percentile(values, hundredths));
            format!("{p50:.1} / {p99:.1} / {:.1} ms", most(values))
        };
        format!("{} | {}", of(&self.last_byte), of(&self.end))
    }
}
