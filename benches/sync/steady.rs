//! The running agent: memory, the cost of a tick with nothing to do, one change among many, and
//! everybody back after a restart of Xray.

use std::time::Instant;

use anyhow::{Result, ensure};
use xray_agent::control::{self, Call};
use xray_agent::model::ids::InboundTag;

use crate::first_sync::{median, most};
use crate::lab::agent::Agent;
use crate::lab::secrets::nth_uuid;
use crate::lab::wait::eventually;
use crate::process::{cpu_seconds, memory_mib};
use crate::setup::{LONG, Setup, TAG};

/// The poll interval that promises speak of.
const PROMISED_INTERVAL_S: f64 = 10.0;

pub async fn measure(sizes: &[u32], quick: bool) -> Result<()> {
    let ticks = if quick { 3 } else { 40 };
    // Even: whoever came has gone again at the end.
    let changes = if quick { 4 } else { 30 };
    println!("### The running agent\n");
    println!(
        "| users | RSS idle | RSS steady | RSS peak | idle tick | its CPU | CPU at 10 s polls | one change \
         visible, p50 / max | all back after Xray's restart |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for users in sizes {
        let mut setup = Setup::new(0).await?;
        let agent = setup.agent().env("INTERVAL_SECONDS", "0.5").spawn()?;
        passes(&setup, 4).await?;
        let idle = memory_mib(agent.pid(), "VmRSS")?;
        setup
            .panel
            .set_users(1, (0..*users).map(nth_uuid).collect());
        arrived(&setup, *users).await?;
        let tick = tick_cpu(&setup, &agent, ticks).await?;
        let steady = memory_mib(agent.pid(), "VmRSS")?;
        let mut idle_ticks = idle_ticks(&setup, changes).await?;
        let mut seen = changes_seen(&setup, *users, changes).await?;
        let (worst, typical) = (most(&seen), median(&mut seen));
        let back = back_after_restart(&mut setup, *users).await?;
        println!(
            "| {users} | {idle:.1} MiB | {steady:.1} MiB | {:.1} MiB | {:.1} ms | {:.2} ms | {:.3} % | \
             {typical:.0} / {worst:.0} ms | {back:.0} ms |",
            memory_mib(agent.pid(), "VmHWM")?,
            median(&mut idle_ticks),
            tick * 1_000.0,
            tick / PROMISED_INTERVAL_S * 100.0,
        );
    }
    println!();
    Ok(())
}

async fn passes(setup: &Setup, polls: usize) -> Result<()> {
    let until = setup.panel.requests(1) + polls;
    eventually("further polls", LONG, async || {
        setup.panel.requests(1) >= until
    })
    .await
}

async fn arrived(setup: &Setup, users: u32) -> Result<()> {
    let client = setup.client();
    eventually("all users to be live", LONG, async || {
        Setup::count(&client).await == Some(i64::from(users))
    })
    .await
}

/// CPU seconds of the agent for one tick that finds nothing to do.
async fn tick_cpu(setup: &Setup, agent: &Agent, ticks: usize) -> Result<f64> {
    // What follows the change itself (the list read once more, the files) is not an idle tick.
    passes(setup, 6).await?;
    let (polls, cpu) = (setup.panel.requests(1), cpu_seconds(agent.pid())?);
    passes(setup, ticks).await?;
    let polled = setup.panel.requests(1) - polls;
    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    Ok((cpu_seconds(agent.pid())? - cpu) / polled as f64)
}

/// Milliseconds from asking for a pass to its end, with nothing to do.
async fn idle_ticks(setup: &Setup, ticks: u32) -> Result<Vec<f64>> {
    let state = setup.folder.path().join("state");
    let mut took = Vec::new();
    for _ in 0..ticks {
        let begun = Instant::now();
        control::call(&state, Call::Sync { force: false }).await?;
        took.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(took)
}

/// Milliseconds from asking for a pass until Xray has the one new user, or has lost him.
async fn changes_seen(setup: &Setup, users: u32, changes: u32) -> Result<Vec<f64>> {
    let (client, tag) = (setup.client(), InboundTag(TAG.into()));
    let state = setup.folder.path().join("state");
    let mut list: Vec<String> = (0..users).map(nth_uuid).collect();
    let mut seen = Vec::new();
    for change in 0..changes {
        let comes = change % 2 == 0;
        let user = nth_uuid(users + change / 2);
        if comes {
            list.push(user.clone());
        } else {
            list.pop();
        }
        setup.panel.set_users(1, list.clone());
        let begun = Instant::now();
        let call = control::call(&state, Call::Sync { force: false });
        let visible = eventually(
            "the change",
            LONG,
            async || matches!(client.user(&tag, &user).await, Ok(found) if found.is_some() == comes),
        );
        let (answer, visible) =
            tokio::join!(call, async { visible.await.map(|()| begun.elapsed()) });
        answer?;
        seen.push(visible?.as_secs_f64() * 1_000.0);
        passes(setup, 2).await?;
    }
    Ok(seen)
}

/// Milliseconds from Xray's API being up again until everybody is live.
async fn back_after_restart(setup: &mut Setup, users: u32) -> Result<f64> {
    let killed = jiff::Timestamp::now();
    setup.xray.restart().await?;
    let begun = Instant::now();
    let state = setup.folder.path().join("state");
    // Asked of the agent: counting 100 000 users again and again would keep Xray itself busy.
    eventually("a pass that leaves nothing to do", LONG, async || {
        let status = control::call(&state, Call::Status {}).await.ok()?;
        let inbound = &status["nodes"][0]["inbounds"][0];
        let success: jiff::Timestamp = inbound["last_success"].as_str()?.parse().ok()?;
        (success > killed && inbound["error"].is_null()).then_some(())
    })
    .await?;
    let took = begun.elapsed();
    let count = Setup::count(&setup.client()).await;
    ensure!(count == Some(i64::from(users)), "{count:?} of {users}");
    Ok(took.as_secs_f64() * 1_000.0)
}
