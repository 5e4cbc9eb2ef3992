//! One scrape of the metrics of a running agent that has many users, each with a report that waits:
//! from asking over the control socket until the text is there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xray_agent::base::clock::Clock;
use xray_agent::control::{self, Call};
use xray_agent::store::open_read_only;
use xray_agent::traffic::ledger::{spec, views::summary};

use crate::figures::{median, most, ms};
use crate::lab::wait::eventually;
use crate::lab::{Answer, Fault};
use crate::reports::fill;
use crate::setup::{LONG, Setup};

/// Between two scrapes: none waits for another's look at the ledger, and a look falls among them.
const APART: Duration = Duration::from_millis(300);

pub async fn measure(sizes: &[u32], scrapes: u32) -> Result<()> {
    println!("### One scrape of the metrics ({scrapes} of each)\n");
    println!("| users | scrape, p50 / max | text | a look at the ledger, beside them |");
    println!("|---|---|---|---|");
    for users in sizes {
        let setup = Setup::new(*users).await?;
        let state = setup.folder.path().join("state");
        fill(&state, *users).await?;
        let refuse = Fault::Instead(Answer::html(503));
        setup.panel.set_report_fault(Some(refuse));
        let _agent = setup.agent().spawn()?;
        let live = format!(" {users}\n");
        eventually(
            "everybody is live and the ledger was looked at",
            LONG,
            async || {
                let text = scrape(&setup).await.unwrap_or_default();
                let shows = |name: &str| {
                    let mut lines = text.split_inclusive('\n');
                    lines.any(|line| line.starts_with(name) && line.ends_with(&live))
                };
                shows("xray_agent_live_users{") && text.contains("state=\"pending\"")
            },
        )
        .await?;
        let (mut took, mut bytes) = (Vec::new(), 0);
        for _ in 0..scrapes {
            tokio::time::sleep(APART).await;
            let begun = Instant::now();
            bytes = scrape(&setup).await?.len();
            took.push(ms(begun));
        }
        println!(
            "| {users} | {:.1} / {:.1} ms | {bytes} B | {:.0} ms |",
            median(&took),
            most(&took),
            look(&setup)?,
        );
    }
    println!();
    Ok(())
}

async fn scrape(setup: &Setup) -> Result<String> {
    let socket = setup.folder.path().join("state");
    let mut answer = control::call(&socket, Call::Metrics { openmetrics: false }).await?;
    let Value::String(text) = answer["body"].take() else {
        anyhow::bail!("no text: {answer}");
    };
    ensure!(text.contains("xray_agent_build_info"), "{text}");
    Ok(text)
}

/// Milliseconds that the sums of the whole ledger take.
fn look(setup: &Setup) -> Result<f64> {
    let begun = Instant::now();
    let spec = spec(&setup.folder.path().join("state"), Clock::system());
    let connection = open_read_only(&spec)?.context("no ledger")?;
    ensure!(!summary(&connection)?.nodes.is_empty());
    Ok(ms(begun))
}
