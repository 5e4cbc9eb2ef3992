//! First sync of an empty inbound: `xray-agent --once`, and the bare client, each a process from its
//! start to its end, in turn, each against an Xray of its own.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::bare;
use crate::lab::agent::AgentCommand;
use crate::process::cpu_seconds_of_children;
use crate::setup::{LONG, Setup};

/// What one process took, in milliseconds.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

pub async fn measure(sizes: &[u32], pairs: usize) -> Result<()> {
    println!("### First sync (medians of {pairs} pairs)\n");
    println!(
        "| users | agent `--once` | bare client | ratio (least–most) | CPU of the agent | CPU of \
         the bare client |"
    );
    println!("|---|---|---|---|---|---|");
    for users in sizes {
        let (mut agents, mut bares) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Whoever is second finds a warmer machine: take turns.
            if pair % 2 == 0 {
                agents.push(agent(*users).await?);
                bares.push(bare(*users).await?);
            } else {
                bares.push(bare(*users).await?);
                agents.push(agent(*users).await?);
            }
        }
        row(*users, &agents, &bares);
    }
    println!();
    Ok(())
}

fn row(users: u32, agents: &[Took], bares: &[Took]) {
    let of = |all: &[Took], which: fn(&Took) -> f64| {
        median(&mut all.iter().map(which).collect::<Vec<_>>())
    };
    let mut ratios: Vec<f64> = agents
        .iter()
        .zip(bares)
        .map(|(a, b)| a.wall / b.wall)
        .collect();
    println!(
        "| {users} | {:.0} ms | {:.0} ms | {:.2} ({:.2}–{:.2}) | {:.0} ms | {:.0} ms |",
        of(agents, |took| took.wall),
        of(bares, |took| took.wall),
        median(&mut ratios),
        least(&ratios),
        most(&ratios),
        of(agents, |took| took.cpu),
        of(bares, |took| took.cpu),
    );
}

async fn agent(users: u32) -> Result<Took> {
    let setup = Setup::new(users).await?;
    let command = setup.agent().arg("--once");
    timed(&command, &setup, users).await
}

async fn bare(users: u32) -> Result<Took> {
    let setup = Setup::new(0).await?;
    let mut command = AgentCommand::new(std::env::current_exe()?);
    for (name, value) in bare::Order::environment(&setup.xray.api_addr(), users) {
        command = command.env(name, value);
    }
    timed(&command, &setup, users).await
}

/// From the process's start to its end.
async fn timed(command: &AgentCommand, setup: &Setup, users: u32) -> Result<Took> {
    let (begun, cpu) = (Instant::now(), cpu_seconds_of_children()?);
    let output = command.run_to_end(LONG).await?;
    let wall = begun.elapsed().as_secs_f64() * 1_000.0;
    let cpu = (cpu_seconds_of_children()? - cpu) * 1_000.0;
    ensure!(output.code == Some(0), "{output:?}");
    let count = Setup::count(&setup.client()).await;
    ensure!(
        count == Some(i64::from(users)),
        "{count:?} users of {users}"
    );
    Ok(Took { wall, cpu })
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
