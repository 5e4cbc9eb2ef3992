//! Requests a second and their 99th percentile, the agent's beside the bare handler's.

use std::process::Command;

use anyhow::Result;
use tokio::net::TcpStream;

use crate::Sizes;
use crate::bare;
use crate::figures::percentile;
use crate::lab::ports::free_port;
use crate::lab::process::{Process, leashed};
use crate::lab::wait::eventually;
use crate::load::{self, Figures};
use crate::stage::{LONG, SERVER_CORE, Stage};

/// What a panel asks most.
const ROUTES: [&str; 2] = ["/v1/status?include=nodes", "/v1/traffic"];

pub async fn measure(stage: &Stage, sizes: &Sizes) -> Result<()> {
    // Whoever asks keeps off the server's core.
    let own = std::process::id().to_string();
    Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", "1", &own])
        .output()?;
    println!("| route | bytes | bare axum /s | agent /s | ratio | bare p99 | agent p99 |");
    println!("|---|---|---|---|---|---|---|");
    for route in ROUTES {
        let answer = stage.get(route).await?;
        let file = stage.folder.path().join("answer");
        std::fs::write(&file, &answer)?;
        let (address, mut process) = start_bare(&file).await?;
        let (mut bare, mut agent) = (Vec::new(), Vec::new());
        for _ in 0..sizes.rounds {
            bare.push(load::measure(&address, "/", sizes.round).await?);
            agent.push(load::measure(&stage.address, route, sizes.round).await?);
        }
        process.kill().await?;
        let (bare, agent) = (median(&bare), median(&agent));
        println!(
            "| `{route}` | {} | {:.0} | {:.0} | {:.2} | {:.2} ms | {:.2} ms |",
            answer.len(),
            bare.per_second,
            agent.per_second,
            agent.per_second / bare.per_second,
            bare.p99_ms,
            agent.p99_ms
        );
    }
    Ok(())
}

async fn start_bare(file: &std::path::Path) -> Result<(String, Process)> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = leashed("taskset");
    command
        .args(["--cpu-list", SERVER_CORE])
        .arg(std::env::current_exe()?)
        .args([bare::WORD, &address])
        .arg(file);
    let process = Process::spawn("the bare handler", &mut command)?;
    eventually("the bare handler listens", LONG, async || {
        TcpStream::connect(&address).await.is_ok()
    })
    .await?;
    Ok((address, process))
}

fn median(rounds: &[Figures]) -> Figures {
    let of = |value: fn(&Figures) -> f64| {
        let values: Vec<f64> = rounds.iter().map(value).collect();
        percentile(&values, 50)
    };
    Figures {
        per_second: of(|it| it.per_second),
        p99_ms: of(|it| it.p99_ms),
    }
}
