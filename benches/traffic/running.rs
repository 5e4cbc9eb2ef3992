//! The running agent with counters of everybody: memory, CPU, and how long a removal takes, before
//! which the counters are read.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xray_agent::control::{self, Call};
use xray_agent::model::ids::InboundTag;

use crate::figures::{median, most, ms};
use crate::lab::agent::{Agent, AgentCommand};
use crate::lab::secrets::nth_uuid;
use crate::lab::wait::eventually;
use crate::process::{cpu_seconds, memory_mib};
use crate::setup::{LONG, Setup, TAG};
use crate::stage::Stage;

/// Polls and collects are made this often, so that they can be counted.
const INTERVAL: Duration = Duration::from_secs(1);
/// The interval of polls and of collects that the promise speaks of.
const PROMISED_INTERVAL_S: f64 = 10.0;

pub async fn measure(sizes: &[u32], quick: bool) -> Result<()> {
    let seconds = if quick { 3 } else { 20 };
    let removals = if quick { 2 } else { 20 };
    println!("### The running agent, with traffic\n");
    println!("RSS without a user: {:.1} MiB\n", idle().await?);
    println!(
        "| users | RSS steady | RSS peak | CPU at 10 s polls and collects, nothing new | the same, 5 % \
         new each time, and their reports | one removal, p50 / max | without traffic |"
    );
    println!("|---|---|---|---|---|---|---|");
    for users in sizes {
        let stage = Stage::without_counters(*users).await?;
        let mut agent = frequent(&stage.setup).spawn()?;
        all_reported(&stage).await?;
        let quiet = cpu_percent(&stage, &agent, seconds, false).await?;
        let busy = cpu_percent(&stage, &agent, seconds, true).await?;
        let steady = memory_mib(agent.pid(), "VmRSS")?;
        let peak = memory_mib(agent.pid(), "VmHWM")?;
        // Its lock has to be free.
        agent.kill9().await?;
        let usual = packaged(&stage.setup);
        let with = removals_seen(&stage, &usual, *users, removals).await?;
        let without = usual.env("ENABLE_TRAFFIC_REPORT", "off");
        let without = removals_seen(&stage, &without, *users - removals, removals).await?;
        println!(
            "| {users} | {steady:.1} MiB | {peak:.1} MiB | {quiet:.3} % | {busy:.3} % | {:.0} / {:.0} ms \
             | {:.0} / {:.0} ms |",
            median(&with),
            most(&with),
            median(&without),
            most(&without),
        );
    }
    println!();
    Ok(())
}

/// As the unit starts it.
fn packaged(setup: &Setup) -> AgentCommand {
    let variable = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let unit = include_str!("../../systemd/xray-agent.service");
    let lines = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="));
    let variables = lines
        .flat_map(str::split_whitespace)
        .filter_map(|v| v.split_once('='));
    variables
        .map(variable)
        .fold(setup.agent(), |command, (name, value)| {
            command.env(name, value)
        })
}

fn frequent(setup: &Setup) -> AgentCommand {
    let seconds = INTERVAL.as_secs().to_string();
    packaged(setup)
        .env("INTERVAL_SECONDS", &seconds)
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", &seconds)
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", &seconds)
}

/// MiB of an agent that has nobody.
async fn idle() -> Result<f64> {
    let setup = Setup::new(0).await?;
    let agent = frequent(&setup).spawn()?;
    passes(&setup, 4).await?;
    memory_mib(agent.pid(), "VmRSS")
}

async fn passes(setup: &Setup, polls: usize) -> Result<()> {
    let until = setup.panel.requests(1) + polls;
    eventually("further polls", LONG, async || {
        setup.panel.requests(1) >= until
    })
    .await
}

/// Everybody connects, and the panel hears of it.
async fn all_reported(stage: &Stage) -> Result<()> {
    passes(&stage.setup, 2).await?;
    stage.touch_all().await?;
    eventually("everybody's report", LONG, async || {
        stage.setup.panel.report_requests() >= u64::from(stage.users)
    })
    .await?;
    passes(&stage.setup, 3).await
}

/// Of one core, if polls and collects were as far apart as promised.
async fn cpu_percent(stage: &Stage, agent: &Agent, seconds: usize, new: bool) -> Result<f64> {
    let (begun, cpu) = (Instant::now(), cpu_seconds(agent.pid())?);
    for round in 0..seconds {
        let until = tokio::time::Instant::now() + INTERVAL;
        if new {
            stage.touch_some(round).await?;
        }
        tokio::time::sleep_until(until).await;
    }
    let share = (cpu_seconds(agent.pid())? - cpu) / begun.elapsed().as_secs_f64();
    Ok(share * INTERVAL.as_secs_f64() / PROMISED_INTERVAL_S * 100.0)
}

/// Milliseconds from asking for a pass, whose poll tells of one user less than `users`, until Xray has
/// lost that one.
async fn removals_seen(
    stage: &Stage,
    command: &AgentCommand,
    users: u32,
    removals: u32,
) -> Result<Vec<f64>> {
    let setup = &stage.setup;
    let mut agent = command.spawn()?;
    passes(setup, 1).await?;
    let (client, tag) = (setup.client(), InboundTag(TAG.into()));
    let socket = setup.folder.path().join("state");
    eventually("the agent serves", LONG, async || {
        control::call(&socket, Call::Sync { force: false })
            .await
            .is_ok()
    })
    .await?;
    let mut list: Vec<String> = (0..users).map(nth_uuid).collect();
    let mut seen = Vec::new();
    for _ in 0..removals {
        let gone = list.pop().unwrap_or_default();
        setup.panel.set_users(1, list.clone());
        let begun = Instant::now();
        let pass = control::call(&socket, Call::Sync { force: false });
        let visible = eventually("the removal", LONG, async || {
            matches!(client.user(&tag, &gone).await, Ok(None))
        });
        let (answer, visible) = tokio::join!(pass, async { visible.await.map(|()| ms(begun)) });
        answer?;
        seen.push(visible?);
        // The read after the removal is not to meet the next one's.
        control::call(&socket, Call::Sync { force: false }).await?;
    }
    ensure!(agent.is_alive(), "{}", agent.log());
    agent.kill9().await?;
    Ok(seen)
}
