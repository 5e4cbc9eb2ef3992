//! Every byte to the panel, once: real bytes through a real Xray, and what the panel was told.

use anyhow::{Result, ensure};

use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{
    Agent, AgentCommand, Answer, Client, Origin, Panel, ServerConfig, Xray, eventually,
};
use crate::support::{LONG, TOKEN, folder, grpc_agent};

const TAG: &str = "in-vless";

/// A panel, an Xray with users and their client, and a folder for the agent.
struct Stage {
    panel: Panel,
    xray: Xray,
    client: Client,
    origin: Origin,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new(users: u32) -> Result<Self> {
        let server = ServerConfig::new().vless(TAG);
        let routes: Vec<_> = (0..users)
            .map(|n| server.route(TAG, &nth_uuid(n)))
            .collect();
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, (0..users).map(nth_uuid).collect());
        Ok(Self {
            panel,
            client: Client::start_many(&routes).await?,
            xray: Xray::start(server).await?,
            origin: Origin::start().await?,
            folder: folder()?,
        })
    }

    fn command(&self) -> AgentCommand {
        grpc_agent(
            &self.panel.base_url(),
            self.folder.path(),
            &self.xray.api_addr(),
            TAG,
        )
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.3")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5")
        .env("RUST_LOG", "trace")
    }

    /// Starts the agent and waits until the users are served.
    async fn agent(&self) -> Result<Agent> {
        let agent = self.command().spawn()?;
        self.client.await_served(0, &self.origin).await?;
        Ok(agent)
    }

    /// What Xray itself counted for everybody.
    async fn counted(&self) -> Result<(u64, u64)> {
        let counters = user_counters(&self.xray.api_addr()).await?;
        Ok(counters
            .values()
            .fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1)))
    }

    /// Waits until the panel was told of all that Xray counted.
    async fn all_is_billed(&self, agent: &Agent) -> Result<()> {
        let counted = self.counted().await?;
        let billed = eventually("all bytes at the panel", LONG, async || {
            self.panel.billed_total() == counted
        });
        billed.await.map_err(|e| {
            let billed = self.panel.billed_total();
            e.context(format!(
                "counted {counted:?}, billed {billed:?}\n{}",
                agent.log()
            ))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_that_xray_counts_is_billed_once() -> Result<()> {
    let stage = Stage::new(3).await?;
    let mut agent = stage.agent().await?;
    for user in 0..3 {
        let bytes = 100_000 * (u64::try_from(user)? + 1);
        stage
            .client
            .transfer(user, &stage.origin, bytes, 2 * bytes)
            .await?;
    }
    stage.all_is_billed(&agent).await?;
    let (up, down) = stage.panel.billed(1, &nth_uuid(1));
    ensure!((up, down) == (200_016, 400_000), "{up} {down}");
    let ended = agent.terminate(LONG).await?;
    ensure!(ended.success(), "{ended}");
    ensure!(stage.panel.repeats() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_shortly_before_the_end_is_flushed() -> Result<()> {
    let stage = Stage::new(1).await?;
    let command = stage
        .command()
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "3600")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "3600");
    let mut agent = command.spawn()?;
    stage.client.await_served(0, &stage.origin).await?;
    stage
        .client
        .transfer(0, &stage.origin, 5_000, 7_000)
        .await?;
    ensure!(stage.panel.billed_total() == (0, 0));
    let ended = agent.terminate(LONG).await?;
    ensure!(ended.success(), "{ended}");
    ensure!(
        stage.panel.billed_total() == stage.counted().await?,
        "{}",
        agent.log()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_pass_also_reports() -> Result<()> {
    let stage = Stage::new(1).await?;
    let once = stage.command().arg("--once").env("RUST_LOG", "debug");
    let first = once.run_to_end(LONG).await?;
    ensure!(first.code == Some(0), "{}", first.stderr);
    // Nobody holds on to the ledger when all is done, and it need not be waited for in vain.
    ensure!(!first.stderr.contains("still at work"), "{}", first.stderr);
    stage
        .client
        .transfer(0, &stage.origin, 1_000, 2_000)
        .await?;
    let second = once.run_to_end(LONG).await?;
    ensure!(second.code == Some(0), "{}", second.stderr);
    ensure!(
        stage.panel.billed_total() == stage.counted().await?,
        "{}",
        second.stderr
    );
    ensure!(stage.panel.billed(1, &nth_uuid(0)) == (1_016, 2_000));
    let third = once.run_to_end(LONG).await?;
    ensure!(third.code == Some(0) && stage.panel.reports().len() == 1);
    let log = stage.folder.path().join(".xray-agent/ledger.db-wal");
    ensure!(!log.exists(), "the ledger was not closed in order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_bytes_of_a_removed_user_are_reported_at_once() -> Result<()> {
    let stage = Stage::new(2).await?;
    let command = stage
        .command()
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "3600")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "3600");
    let _agent = command.spawn()?;
    stage.client.await_served(0, &stage.origin).await?;
    stage
        .client
        .transfer(0, &stage.origin, 5_000, 7_000)
        .await?;
    stage.panel.set_users(1, vec![nth_uuid(1)]);
    stage.panel.await_reports(1).await?;
    let counted = user_counters(&stage.xray.api_addr()).await?;
    ensure!(stage.panel.billed(1, &nth_uuid(0)) == counted[&nth_uuid(0)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_user_is_kept_and_never_repeated() -> Result<()> {
    let stage = Stage::new(2).await?;
    stage
        .panel
        .refuse(&nth_uuid(0), 403, "no_entitlement_for_node");
    let agent = stage.agent().await?;
    stage
        .client
        .transfer(0, &stage.origin, 5_000, 7_000)
        .await?;
    stage
        .client
        .transfer(1, &stage.origin, 1_000, 1_000)
        .await?;
    eventually("the other is billed", LONG, async || {
        stage.panel.billed(1, &nth_uuid(1)) == (1_016, 1_000)
    })
    .await
    .map_err(|e| e.context(agent.log()))?;
    let keys = stage.panel.report_keys();
    let mut once = keys.clone();
    once.sort();
    once.dedup();
    ensure!(keys.len() == once.len(), "{keys:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panel_that_is_away_gets_everything_when_it_is_back() -> Result<()> {
    let stage = Stage::new(2).await?;
    let agent = stage.agent().await?;
    stage
        .panel
        .set_report_fault(Some(crate::lab::reports::Fault::Instead(Answer::error(
            500, "db",
        ))));
    stage
        .client
        .transfer(0, &stage.origin, 5_000, 7_000)
        .await?;
    let before = stage.panel.report_requests();
    stage.panel.await_report_requests(before + 2).await?;
    stage
        .client
        .transfer(1, &stage.origin, 50_000, 70_000)
        .await?;
    stage.panel.set_report_fault(None);
    stage.all_is_billed(&agent).await
}
