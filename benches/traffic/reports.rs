//! Reports to a panel: the agent with a ledger full of them, beside a bare client that posts as many
//! with as many at once. The panel is the lab's, on the same machine, and serves both in turn.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use xray_agent::base::clock::Clock;
use xray_agent::traffic::ledger::{Ledger, Reading, Whose, file};
use xray_agent::traffic::receivers::REPORT_TRAFFIC;
use xray_agent::xray::boot::Boot;
use xray_agent::xray::client::SysStats;
use xray_agent::xray::counters::UserCounters;

use crate::figures::{least, median, most, ms};
use crate::lab::secrets::nth_uuid;
use crate::lab::wait::eventually;
use crate::process::cpu_seconds;
use crate::setup::{LONG, Setup};
use crate::worker::{Role, Worker, bare_forms};

pub async fn measure(reports: u32, rounds: usize) -> Result<()> {
    let (mut ours, mut bares, mut cpu, mut bare_cpu) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let setup = Setup::new(0).await?;
        let mut poster = Worker::start(Role::Poster, &setup.panel.base_url())?;
        let figures = poster.ask(&reports.to_string()).await?;
        bare_cpu.push(figures[0]);
        bares.push(figures[1]);
        let (took, used) = agent(reports).await?;
        ours.push(took);
        cpu.push(used);
    }
    let ratios: Vec<f64> = ours.iter().zip(&bares).map(|(a, b)| a / b).collect();
    let rate = |took: f64| f64::from(reports) / took * 1_000.0;
    println!("### {reports} reports that wait (medians of {rounds} rounds)\n");
    println!(
        "| agent | bare client | ratio (least–most) | reports a second | bare client | CPU of the \
         agent | CPU of the bare client |"
    );
    println!("|---|---|---|---|---|---|---|");
    println!(
        "| {:.0} ms | {:.0} ms | {:.2} ({:.2}–{:.2}) | {:.0} | {:.0} | {:.0} ms | {:.0} ms |\n",
        median(&ours),
        median(&bares),
        median(&ratios),
        least(&ratios),
        most(&ratios),
        rate(median(&ours)),
        rate(median(&bares)),
        median(&cpu),
        median(&bare_cpu),
    );
    Ok(())
}

/// Milliseconds from the first report at the panel until all are there, and those of the agent's CPU.
async fn agent(reports: u32) -> Result<(f64, f64)> {
    let setup = Setup::new(0).await?;
    fill(&setup.folder.path().join("state"), reports).await?;
    let agent = setup.agent().spawn()?;
    let (panel, all) = (&setup.panel, u64::from(reports));
    eventually("the first report", LONG, async || {
        panel.report_requests() > 0
    })
    .await?;
    let begun = Instant::now();
    eventually("all reports", LONG, async || {
        panel.report_requests() >= all && panel.concurrent_reports() == 0
    })
    .await?;
    let took = ms(begun);
    ensure!(panel.repeats() == 0 && panel.reports().len() as u64 == all);
    Ok((took, cpu_seconds(agent.pid())? * 1_000.0))
}

/// A ledger with one report of each user.
pub async fn fill(state: &Path, users: u32) -> Result<()> {
    std::fs::create_dir(state)?;
    let clock = Clock::system();
    let ledger = Ledger::start(state, [REPORT_TRAFFIC], clock)?;
    let counters = (0..users).map(|n| (format!("user>>>{}>>>traffic>>>uplink", nth_uuid(n)), 1));
    let reading = Reading {
        xray: "bench".into(),
        forms: Arc::new(bare_forms()),
        boot: Boot::of(&SysStats::default(), &clock.moment()),
        remote: false,
        same_connection: true,
        counters: Arc::new(UserCounters::of(counters)),
        adopts: false,
    };
    ledger.collect(reading).await?;
    ledger.close(REPORT_TRAFFIC, Whose::All).await?;
    drop(ledger);
    let log = file(state).with_extension("db-wal");
    eventually("the ledger is closed", LONG, async || !log.exists()).await
}
