//! First sync of an empty inbound: `xray-agent --once`, and the bare client, each a process from its
//! start to its end, in turn, each against an Xray of its own.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::bare;
use crate::lab::agent::AgentCommand;
use crate::setup::{LONG, Setup};

pub async fn measure(sizes: &[u32], pairs: usize) -> Result<()> {
    println!("### First sync (median of {pairs} pairs)\n");
    println!("| users | agent `--once` | bare client | ratio (median of pairs; least–most) |");
    println!("|---|---|---|---|");
    for users in sizes {
        let (mut agents, mut bares, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Whoever is second finds a warmer machine: take turns.
            let (agent, bare) = if pair % 2 == 0 {
                let agent = agent(*users).await?;
                (agent, bare(*users).await?)
            } else {
                let bare = bare(*users).await?;
                (agent(*users).await?, bare)
            };
            agents.push(agent);
            bares.push(bare);
            ratios.push(agent / bare);
        }
        let (least, most) = (least(&ratios), most(&ratios));
        println!(
            "| {users} | {:.0} ms | {:.0} ms | {:.2} ({least:.2}–{most:.2}) |",
            median(&mut agents),
            median(&mut bares),
            median(&mut ratios)
        );
    }
    println!();
    Ok(())
}

async fn agent(users: u32) -> Result<f64> {
    let setup = Setup::new(users).await?;
    let command = setup.agent().arg("--once");
    timed(&command, &setup, users).await
}

async fn bare(users: u32) -> Result<f64> {
    let setup = Setup::new(0).await?;
    let mut command = AgentCommand::new(std::env::current_exe()?);
    for (name, value) in bare::Order::environment(&setup.xray.api_addr(), users) {
        command = command.env(name, value);
    }
    timed(&command, &setup, users).await
}

/// Milliseconds from the process's start to its end.
async fn timed(command: &AgentCommand, setup: &Setup, users: u32) -> Result<f64> {
    let begun = Instant::now();
    let output = command.run_to_end(LONG).await?;
    let took = begun.elapsed().as_secs_f64() * 1_000.0;
    ensure!(output.code == Some(0), "{output:?}");
    let count = Setup::count(&setup.client()).await;
    ensure!(
        count == Some(i64::from(users)),
        "{count:?} users of {users}"
    );
    Ok(took)
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
