//! What Prometheus is shown follows what happens: on a real Xray where that can be made to, and
//! without a secret or a whole UUID.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;
use xray_agent::metrics::ALL;

use crate::lab::secrets::nth_uuid;
use crate::lab::{
    AgentCommand, Answer, Client, Fault, Origin, Panel, ServerConfig, Xray, eventually,
};
use crate::metrics_page::{Page, await_value, is, scrape};
use crate::reporting::{Desk, STEP};
use crate::support::{LONG, TOKEN, agent, folder, grpc_agent};

const TAG: &str = "in-vless";
/// Most series of an agent with one node, one inbound and one sink, whatever the number of users.
const SERIES_MAX: usize = 250;
/// A page that the checks after the tests read, too.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/metrics.prom");

fn command(panel: &Panel, folder: &Path, api: &str) -> AgentCommand {
    grpc_agent(&panel.base_url(), folder, api, TAG)
        .env("INTERVAL_SECONDS", "0.2")
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.2")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.3")
        .env("RUST_LOG", "trace")
}

fn one(page: &Page, name: &str) -> Option<f64> {
    page.value(name, &[])
}

/// Nothing that must not be seen, nothing without an explanation, and not too much.
fn is_fit_to_be_shown(page: &Page, users: u32) -> Result<()> {
    ensure!(!page.text.contains(TOKEN), "the token is shown");
    for user in 0..users {
        let shown = page.text.contains(&nth_uuid(user)[8..]);
        ensure!(!shown, "user {user} is shown whole");
    }
    for family in ALL {
        let name = family.full_name();
        ensure!(page.kinds[&name] == family.kind.name(), "{name}");
    }
    ensure!(page.kinds.len() == ALL.len(), "{:?}", page.kinds.keys());
    let series = page.series.len();
    ensure!(series <= SERIES_MAX, "{series} series");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_traffic_and_who_can_be_reached_are_shown_as_they_are() -> Result<()> {
    let server = ServerConfig::new()
        .vless(TAG)
        .with_client(TAG, json!({"email": "love@example.com", "id": nth_uuid(9)}));
    let mut xray = Xray::start(server.clone()).await?;
    let (mut panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, (0..3).map(nth_uuid).collect());
    let command = command(&panel, folder.path(), &xray.api_addr());
    let _agent = command.spawn()?;

    let page = await_value(&command, "live_users", &[("inbound", TAG)], is(3)).await?;
    for (name, value) in [
        ("panel_up", 1.0),
        ("xray_up", 1.0),
        ("node_allowed_users", 3.0),
        ("desired_users", 3.0),
        ("drift_users", 0.0),
        ("foreign_users", 1.0),
        ("added_users_total", 3.0),
        ("removed_users_total", 0.0),
        ("held_removals", 0.0),
    ] {
        ensure!(one(&page, name) == Some(value), "{name}\n{}", page.text);
    }
    let added = [("method", "AlterInbound"), ("code", "Ok")];
    ensure!(page.value("xray_calls_total", &added) == Some(3.0));
    ensure!(one(&page, "sync_last_success_timestamp_seconds") > Some(1.7e9));
    ensure!(one(&page, "sync_duration_seconds_count") >= Some(1.0));
    for store in ["ledger", "agent"] {
        ensure!(page.value("store_up", &[("store", store)]) == Some(1.0));
    }

    let client = Client::start_many(&[server.route(TAG, &nth_uuid(0))]).await?;
    client
        .transfer(0, &Origin::start().await?, 1_000, 2_000)
        .await?;
    let up = [("node", "1"), ("direction", "up")];
    let down = [("node", "1"), ("direction", "down")];
    let is_counted = is(2_000);
    let page = await_value(&command, "traffic_settled_bytes_total", &down, is_counted).await?;
    ensure!(page.value("traffic_bytes_total", &up) == Some(1_016.0));
    ensure!(one(&page, "reports_settled_total") >= Some(1.0));
    for store in ["ledger", "agent"] {
        let size = page.value("store_size_bytes", &[("store", store)]);
        ensure!(size > Some(4_096.0), "{store}");
    }
    let taken = [("call", "report-traffic"), ("code", "200")];
    ensure!(page.value("panel_requests_total", &taken) >= Some(1.0));
    ensure!(page.count("user_traffic_bytes_total") == 0);
    is_fit_to_be_shown(&page, 10)?;
    std::fs::write(KEPT, &page.text)?;

    panel.pause().await;
    let page = await_value(&command, "panel_up", &[("node", "1")], is(0)).await?;
    ensure!(one(&page, "live_users") == Some(3.0) && one(&page, "xray_up") == Some(1.0));
    panel.resume().await?;
    xray.kill().await?;
    let page = await_value(&command, "xray_up", &[("xray", "xray")], is(0)).await?;
    let refused = [("result", "failed")];
    ensure!(
        page.value("syncs_total", &refused) >= Some(1.0),
        "{}",
        page.text
    );
    await_value(&command, "panel_up", &[("node", "1")], is(1)).await?;
    await_value(&command, "traffic_collect_up", &[], is(0)).await?;
    is_fit_to_be_shown(&page, 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn held_removals_are_shown_and_so_is_their_end() -> Result<()> {
    let xray = Xray::start(ServerConfig::new().vless(TAG)).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, (0..30).map(nth_uuid).collect());
    let command = command(&panel, folder.path(), &xray.api_addr()).env("INTERVAL_SECONDS", "3600");
    let _agent = command.spawn()?;
    await_value(&command, "live_users", &[], is(30)).await?;
    panel.set_users(1, vec![nth_uuid(0)]);
    command.clone().arg("sync").run_to_end(LONG).await?;
    let page = scrape(&command).await?;
    ensure!(one(&page, "held_removals") == Some(29.0), "{}", page.text);
    ensure!(one(&page, "node_held_removals") == Some(29.0));
    ensure!(one(&page, "drift_users") == Some(-29.0));
    ensure!(page.value("syncs_total", &[("result", "held")]) >= Some(1.0));
    let forced = command.clone().args(["sync", "--force"]);
    ensure!(forced.run_to_end(LONG).await?.code == Some(0));
    let page = scrape(&command).await?;
    ensure!(one(&page, "held_removals") == Some(0.0));
    ensure!(one(&page, "removed_users_total") == Some(29.0));
    is_fit_to_be_shown(&page, 30)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_report_and_one_that_waits_are_shown_with_their_bytes() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.allow(0..2);
    let command = desk.command()?;
    desk.stage
        .panel
        .refuse(&nth_uuid(0), 400, "node_id must be known");
    let _agent = command.spawn()?;
    desk.stage.await_users("in", 0..2).await?;
    desk.count(0..1);
    let rejected = [("state", "rejected")];
    let page = await_value(&command, "reports", &rejected, is(1)).await?;
    let up = [("state", "rejected"), ("direction", "up")];
    ensure!(page.value("report_bytes", &up) == Some(f64::from(u32::try_from(STEP.0)?)));
    ensure!(one(&page, "reports_oldest_age_seconds") == Some(0.0));

    desk.stage
        .panel
        .set_report_fault(Some(Fault::Instead(Answer::html(503))));
    desk.count(1..2);
    let failed = [("sink", "report-traffic")];
    let page = await_value(&command, "sink_up", &failed, is(0)).await?;
    ensure!(page.value("panel_requests_total", &[("code", "503")]) >= Some(1.0));
    await_value(&command, "reports_oldest_age_seconds", &failed, |age| {
        age > 0.0
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn single_users_are_shown_only_when_asked_for_and_by_eight_characters() -> Result<()> {
    for (asked, shown) in [("top = 1", 2), ("per_user = true", 4)] {
        let mut desk = Desk::new().await?;
        desk.stage.allow(0..2);
        let further = format!("[traffic]\nfirst_read = \"count\"\n[metrics]\n{asked}\n");
        let command = desk
            .stage
            .agent_with("", r#""in""#, &further)?
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.1")
            .env("XRAY_RPC_TIMEOUT_SECONDS", "5");
        let _agent = command.spawn()?;
        desk.stage.await_users("in", 0..2).await?;
        // Counted from the first look on.
        await_value(&command, "ledger_read_timestamp_seconds", &[], |at| {
            at > 0.0
        })
        .await?;
        desk.count(0..2);
        desk.count(1..2);
        let most = nth_uuid(1);
        let user = [("user", &most[..8]), ("direction", "down")];
        let all = u32::try_from(2 * STEP.1)?;
        let page = await_value(&command, "user_traffic_bytes_total", &user, is(all)).await?;
        ensure!(
            page.count("user_traffic_bytes_total") == shown,
            "{}",
            page.text
        );
        is_fit_to_be_shown(&page, 2)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_started_again_and_runs_of_the_hook_are_shown() -> Result<()> {
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    // The hook's loop cannot begin as long as a folder is where its file should be.
    let applied = folder.path().join("node-1/applied.json");
    std::fs::create_dir_all(&applied)?;
    let command = agent(&panel.base_url(), folder.path())
        .env("APPLY_MODE", "cmd")
        .env("APPLY_CMD", "exit 3")
        .env("INTERVAL_SECONDS", "0.2");
    let _agent = command.spawn()?;
    let task = [("task", "hook of node 1")];
    await_value(&command, "task_restarts_total", &task, |times| times >= 2.0).await?;
    std::fs::remove_dir(&applied)?;
    let node = [("node", "1")];
    let page = await_value(&command, "hook_failures_total", &node, |times| times >= 1.0).await?;
    ensure!(one(&page, "hook_runs_total") >= one(&page, "hook_failures_total"));
    ensure!(one(&page, "hook_last_success_timestamp_seconds") == Some(0.0));
    ensure!(page.value("task_up", &task) == Some(1.0));
    ensure!(page.count("live_users") == 0);
    is_fit_to_be_shown(&page, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_are_given_and_without_an_agent_none() -> Result<()> {
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel.base_url(), folder.path());
    let none = command.clone().arg("metrics").run_to_end(LONG).await?;
    ensure!(none.code == Some(1) && none.stdout.is_empty(), "{none:?}");
    let _agent = command.spawn()?;
    let open = command.clone().args(["metrics", "--openmetrics"]);
    let said = eventually("the agent listens", LONG, async || {
        let said = open.run_to_end(LONG).await.ok()?;
        (said.code == Some(0)).then_some(said)
    })
    .await?;
    ensure!(said.stdout.ends_with("# EOF\n"));
    ensure!(
        said.stdout
            .contains("# TYPE xray_agent_process_cpu_seconds counter\n")
    );
    let page = scrape(&command).await?;
    ensure!(one(&page, "build_info") == Some(1.0));
    ensure!(one(&page, "process_start_time_seconds") > Some(1.7e9));
    is_fit_to_be_shown(&page, 1)
}
