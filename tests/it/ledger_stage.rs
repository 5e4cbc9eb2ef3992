//! A ledger that a test fills, and the program on it: for tests of `xray-agent traffic`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xray_agent::base::clock::Clock;
use xray_agent::model::desired::InboundKey;
use xray_agent::model::email::Emails;
use xray_agent::model::ids::NodeId;
use xray_agent::model::report::ReportId;
use xray_agent::traffic::forms::Forms;
use xray_agent::traffic::ledger::{Claimed, Fate, Ledger, Reading, Turn, Whose};
use xray_agent::traffic::receivers::REPORT_TRAFFIC;
use xray_agent::xray::boot::Boot;
use xray_agent::xray::counters::UserCounters;

use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Output};
use crate::support::{LONG, folder, grpc_agent};

pub const MIB: u64 = 1 << 20;

/// What a panel could say of user 1: it tries to steer a terminal, to break a CSV, and names the user
/// whole.
pub fn words() -> String {
    format!("no \"{}\",\n\u{1b}[31m here", nth_uuid(1))
}

/// A state folder, and the program on it.
pub struct Stage {
    pub folder: TempDir,
    pub ledger: Ledger,
    /// Counters since Xray started, by user: what was last collected.
    pub counters: BTreeMap<u32, (u64, u64)>,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let folder = folder()?;
        let state_dir = folder.path().join("state");
        fs::create_dir(&state_dir)?;
        let ledger = Ledger::start(&state_dir, [REPORT_TRAFFIC], Clock::system())?;
        Ok(Self {
            folder,
            ledger,
            counters: BTreeMap::new(),
        })
    }

    /// With bytes in every state; the ids of the rejected and the unknown report.
    pub async fn filled() -> Result<(Self, ReportId, ReportId)> {
        let mut stage = Self::new()?;
        let (up, down) = (512, 3 * MIB / 2);
        for user in 0..4 {
            stage.count(user, up, down).await?;
        }
        let fates = |claimed: &Claimed, at: usize| match at {
            0 => claimed.done(Fate::Settled),
            1 => claimed.done(Fate::Rejected(words())),
            2 => claimed.done(Fate::Unknown {
                words: "timed out".to_owned(),
                resend: false,
            }),
            _ => claimed.done(Fate::Pending("answered 502".to_owned())),
        };
        stage.ledger.close(REPORT_TRAFFIC, Whose::All).await?;
        let claimed = stage.claim().await?;
        ensure!(claimed.len() == 4, "{claimed:?}");
        let done = claimed
            .iter()
            .enumerate()
            .map(|(at, claimed)| fates(claimed, at))
            .collect();
        let turn = Turn {
            done,
            ..Turn::default()
        };
        stage.ledger.turn(REPORT_TRAFFIC, turn).await?;
        stage.count(5, 1, 2).await?;
        Ok((stage, claimed[1].report.id, claimed[2].report.id))
    }

    pub async fn claim(&self) -> Result<Vec<Claimed>> {
        let turn = Turn {
            places: 100,
            ..Turn::default()
        };
        Ok(self.ledger.turn(REPORT_TRAFFIC, turn).await?)
    }

    /// Counts more bytes of a user.
    pub async fn count(&mut self, user: u32, up: u64, down: u64) -> Result<()> {
        let counter = self.counters.entry(user).or_default();
        *counter = (counter.0 + up, counter.1 + down);
        self.collect("main", 50_000).await
    }

    /// Reads the counters as those of an Xray that started then.
    pub async fn collect(&self, xray: &str, started_ms: i64) -> Result<()> {
        let named = self.counters.iter().flat_map(|(user, (up, down))| {
            let email = nth_uuid(*user);
            [("uplink", up), ("downlink", down)].map(|(way, bytes)| {
                (
                    format!("user>>>{email}>>>traffic>>>{way}"),
                    bytes.cast_signed(),
                )
            })
        });
        let reading = Reading {
            xray: xray.into(),
            forms: Arc::new(Forms::of([(
                InboundKey::of(NodeId(1), "main", "in-1"),
                &Emails::first("in", true),
            )])),
            boot: Boot {
                kernel_boot_id: "of the test".to_owned(),
                started_ms,
                started_awake_ms: None,
                uptime_s: 10,
                total_alloc: 10,
                mallocs: 10,
            },
            remote: false,
            same_connection: true,
            counters: Arc::new(UserCounters::of(named)),
            adopts: true,
        };
        self.ledger.collect(reading).await?;
        Ok(())
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn command(&self) -> AgentCommand {
        command(self.folder.path(), &self.state_dir())
    }

    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        self.command().args(args).run_to_end(LONG).await
    }

    pub async fn lines(&self, args: &[&str]) -> Result<Vec<String>> {
        let run = self.run(args).await?;
        ensure!(run.code == Some(0), "{args:?}: {run:?}");
        Ok(run.stdout.lines().map(str::to_owned).collect())
    }

    pub async fn json(&self, args: &[&str]) -> Result<Value> {
        let run = self.command().args(args).arg("--json");
        let run = run.run_to_end(LONG).await?;
        ensure!(run.code == Some(0), "{args:?}: {run:?}");
        serde_json::from_str(&run.stdout).with_context(|| run.stdout)
    }

    /// Node 1's sums: of `amount` up and down.
    pub async fn sums(&self, amount: &str) -> Result<(u64, u64)> {
        let all = self.json(&["traffic"]).await?;
        let amount = &all["nodes"][0][amount];
        Ok((
            amount["up"].as_u64().context("no up")?,
            amount["down"].as_u64().context("no down")?,
        ))
    }
}

/// The program with a panel and an Xray that nobody asks.
pub fn command(folder: &Path, state_dir: &Path) -> AgentCommand {
    grpc_agent("http://127.0.0.1:9", folder, "127.0.0.1:9", "in")
        .env("STATE_DIR", state_dir)
        .env("RUST_LOG", "trace")
}

/// Sum of up and of down over the items of an array.
pub fn sum_of(items: &Value) -> Result<(u64, u64)> {
    let items = items.as_array().context("no array")?;
    Ok(items.iter().fold((0, 0), |(up, down), item| {
        let of = |way: &str| item[way].as_u64().unwrap_or_default();
        (up + of("up"), down + of("down"))
    }))
}
