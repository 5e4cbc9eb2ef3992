//! Nobody is billed twice, whatever the world around the ledger does: a ledger that is lost, two Xrays
//! on one port, several inbounds and nodes, other hands on the counters, Xray's death.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::secrets::nth_uuid;
use crate::lab::stats::{reset_user_counters, uptime_s, user_counters};
use crate::lab::{
    AgentCommand, Client, Origin, Panel, ServerConfig, Transfer, Xray, eventually, free_port,
};
use crate::support::{LONG, TOKEN, folder, grpc_agent};

const TAG: &str = "in-vless";

fn agent(panel: &Panel, folder: &std::path::Path, api: &str) -> AgentCommand {
    grpc_agent(&panel.base_url(), folder, api, TAG)
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.3")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5")
        .env("RUST_LOG", "trace")
}

async fn once(command: &AgentCommand) -> Result<()> {
    let ended = command.clone().arg("--once").run_to_end(LONG).await?;
    ensure!(ended.code == Some(0), "{:?}\n{}", ended.code, ended.stderr);
    Ok(())
}

fn sum(counters: &BTreeMap<String, (u64, u64)>) -> (u64, u64) {
    let add = |sum: (u64, u64), each: &(u64, u64)| (sum.0 + each.0, sum.1 + each.1);
    counters.values().fold((0, 0), add)
}

async fn status(command: &AgentCommand) -> Result<Value> {
    let said = command
        .clone()
        .args(["status", "--json"])
        .run_to_end(LONG)
        .await?;
    serde_json::from_str(&said.stdout).context(said.stderr)
}

/// One user on one VLESS inbound who is served by what the agent's first pass made of it.
async fn one_user(command: &AgentCommand, server: &ServerConfig) -> Result<(Client, Origin)> {
    once(command).await?;
    let client = Client::start_many(&[server.route(TAG, &nth_uuid(0))]).await?;
    Ok((client, Origin::start().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ledger_beside_an_old_xray_bills_only_what_comes_after_it() -> Result<()> {
    let server = ServerConfig::new().vless(TAG);
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &xray.api_addr());
    let (client, origin) = one_user(&command, &server).await?;
    client.transfer(0, &origin, 1_000, 2_000).await?;
    once(&command).await?;
    ensure!(panel.billed_total() == (1_016, 2_000));

    // Bytes that the lost ledger had not seen are adopted with the others.
    client.transfer(0, &origin, 300, 400).await?;
    for file in [
        "ledger.db",
        "ledger.db-wal",
        "ledger.db-shm",
        "ledger.db.mark",
    ] {
        let _ = std::fs::remove_file(folder.path().join(".xray-agent").join(file));
    }
    once(&command).await?;
    ensure!(panel.billed_total() == (1_016, 2_000));
    client.transfer(0, &origin, 5_000, 6_000).await?;
    once(&command).await?;
    ensure!(panel.billed_total() == (1_016 + 5_016, 8_000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_xrays_on_one_port_are_told_apart() -> Result<()> {
    // Both have the user in their configuration: nobody need be added to the one that answers. Each
    // has a door of its own besides the shared one, to be asked what it counted.
    let user = json!({"email": nth_uuid(0), "id": nth_uuid(0)});
    let shared = free_port()?;
    let server = |own: u16| {
        ServerConfig::new()
            .vless(TAG)
            .with_client(TAG, user.clone())
            .api_behind_doors(&[shared, own])
    };
    let (first_port, second_port) = (free_port()?, free_port()?);
    let (first, second) = (server(first_port), server(second_port));
    let first_api = format!("127.0.0.1:{first_port}");
    let second_api = format!("127.0.0.1:{second_port}");
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &format!("127.0.0.1:{shared}"));
    let _first = Xray::start(first.clone()).await?;
    once(&command).await?;
    // Of two that start within four seconds it cannot be told for certain which is which, and less is
    // counted.
    eventually("the first is old enough", LONG, async || {
        uptime_s(&first_api).await.is_ok_and(|uptime| uptime >= 6)
    })
    .await?;
    let _second = Xray::start_sharing(second.clone()).await?;

    let routes = [
        first.route(TAG, &nth_uuid(0)),
        second.route(TAG, &nth_uuid(0)),
    ];
    let (client, origin) = (Client::start_many(&routes).await?, Origin::start().await?);
    for round in 1..=12 {
        client.transfer(0, &origin, 1_000 * round, 10).await?;
        client.transfer(1, &origin, 777 * round, 20).await?;
        once(&command).await?;
        let (a, b) = (
            user_counters(&first_api).await?,
            user_counters(&second_api).await?,
        );
        let (a, b) = (sum(&a), sum(&b));
        let real = (a.0 + b.0, a.1 + b.1);
        let billed = panel.billed_total();
        ensure!(
            billed.0 <= real.0 && billed.1 <= real.1,
            "{round}: {billed:?} of {real:?}"
        );
    }
    // Whoever answers at last: in some rounds it was the one, in others the other.
    let real = sum(&user_counters(&first_api).await?).0 + sum(&user_counters(&second_api).await?).0;
    eventually("both are counted to the end", LONG, async || {
        once(&command).await.is_ok() && panel.billed_total().0 == real
    })
    .await
    .with_context(|| format!("billed {:?} of {real}", panel.billed_total()))
}

#[tokio::test(flavor = "multi_thread")]
async fn inbounds_of_a_node_are_summed_and_nodes_never_share_a_counter() -> Result<()> {
    let tags = ["in-a", "in-b", "in-c"];
    let server = tags
        .iter()
        .fold(ServerConfig::new(), |server, tag| server.vless(tag));
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    for node in [1, 2] {
        panel.set_users(node, vec![nth_uuid(0)]);
    }
    let command = agent(&panel, folder.path(), &xray.api_addr())
        .env("NODE_IDS", "1,2")
        .env("XRAY_TAG_MAP", "1:in-a+in-b,2:in-c");
    once(&command).await?;
    let routes: Vec<_> = tags
        .iter()
        .map(|tag| server.route(tag, &nth_uuid(0)))
        .collect();
    let (client, origin) = (Client::start_many(&routes).await?, Origin::start().await?);
    for (which, bytes) in [(0, 1_000), (1, 20_000), (2, 300_000)] {
        client.transfer(which, &origin, bytes, bytes).await?;
    }
    once(&command).await?;
    ensure!(panel.billed(1, &nth_uuid(0)) == (1_016 + 20_016, 21_000));
    ensure!(panel.billed(2, &nth_uuid(0)) == (300_016, 300_000));
    ensure!(panel.reports().len() == 2, "{:?}", panel.reports());
    ensure!(panel.billed_total() == sum(&user_counters(&xray.api_addr()).await?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_foreign_users_are_shown_and_billed_to_nobody() -> Result<()> {
    let foreign = nth_uuid(9);
    let server = ServerConfig::new()
        .vless(TAG)
        .with_client(TAG, json!({"email": "love@example.com", "id": foreign}));
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &xray.api_addr());
    let _agent = command.spawn()?;
    let client = Client::start_many(&[server.route(TAG, &foreign)]).await?;
    client
        .transfer(0, &Origin::start().await?, 1_000, 2_000)
        .await?;
    eventually("the foreign bytes are shown", LONG, async || {
        let status = status(&command).await.unwrap_or_default();
        status["traffic"]["xrays"][0]["foreign_bytes"] == 3_016
    })
    .await?;
    ensure!(panel.report_requests() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_somebody_resets_is_told_and_never_billed_for_more() -> Result<()> {
    let server = ServerConfig::new().vless(TAG);
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &xray.api_addr());
    let agent = command.spawn()?;
    let client = Client::start_many(&[server.route(TAG, &nth_uuid(0))]).await?;
    let origin = Origin::start().await?;
    client.await_served(0, &origin).await?;
    client.transfer(0, &origin, 50_000, 60_000).await?;
    let before = sum(&user_counters(&xray.api_addr()).await?);
    eventually("all is billed", LONG, async || {
        panel.billed_total() == before
    })
    .await?;
    let taken = sum(&reset_user_counters(&xray.api_addr()).await?);
    ensure!(taken == before);
    client.transfer(0, &origin, 1_000, 2_000).await?;
    let real = (before.0 + 1_016, before.1 + 2_000);
    eventually("and what came after", LONG, async || {
        panel.billed_total() == real
    })
    .await
    .with_context(|| format!("billed {:?} of {real:?}", panel.billed_total()))?;
    agent.await_log(&["resets"], LONG).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_under_a_former_email_are_counted_as_long_as_that_xray_lives() -> Result<()> {
    let server = ServerConfig::new().vless(TAG);
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &xray.api_addr());
    let (client, origin) = one_user(&command, &server).await?;
    let mut session = client.session(0, &origin).await?;
    let changed = command.clone().args(["email", "--set", "prefixed"]);
    ensure!(changed.run_to_end(LONG).await?.code == Some(0));
    once(&command).await?;
    session.send_and_receive(&[7; 5_000]).await?;
    client.transfer(0, &origin, 1_000, 2_000).await?;
    once(&command).await?;
    let counters = user_counters(&xray.api_addr()).await?;
    ensure!(counters.len() == 2, "{:?}", counters.keys());
    ensure!(panel.billed(1, &nth_uuid(0)) == sum(&counters));
    Ok(())
}

/// Removal does not end sessions: their bytes go on counting, for a user who is long removed.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_removed_users_open_session_are_counted_on() -> Result<()> {
    let server = ServerConfig::new().vless(TAG);
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0), nth_uuid(1)]);
    let command = agent(&panel, folder.path(), &xray.api_addr());
    let (client, origin) = one_user(&command, &server).await?;
    let mut session = client.session(0, &origin).await?;
    panel.set_users(1, vec![nth_uuid(1)]);
    once(&command).await?;
    session.send_and_receive(&[7; 5_000]).await?;
    once(&command).await?;
    ensure!(panel.billed_total() == sum(&user_counters(&xray.api_addr()).await?));
    Ok(())
}

/// As Xray's unit asks for it when the host goes down: as root, with the agent gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_collect_without_an_agent_leaves_a_ledger_that_the_agents_user_can_open() -> Result<()> {
    let server = ServerConfig::new().vless(TAG);
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &xray.api_addr());
    let (client, origin) = one_user(&command, &server).await?;
    client.transfer(0, &origin, 1_000, 2_000).await?;
    let state = folder.path().join(".xray-agent");
    let owner = if rustix::process::geteuid().is_root() {
        65_534
    } else {
        0
    };
    if owner != 0 {
        for entry in walk(folder.path())? {
            std::os::unix::fs::lchown(entry, Some(owner), Some(owner))?;
        }
    }
    let collect = command.clone().args(["traffic", "collect", "--json"]);
    let ended = collect.run_to_end(LONG).await?;
    ensure!(ended.code == Some(0), "{}", ended.stderr);
    let status: Value = serde_json::from_str(&ended.stdout)?;
    ensure!(status["xrays"][0]["up"] == 1_016, "{status}");
    if owner != 0 {
        use std::os::unix::fs::MetadataExt;
        for entry in walk(&state)? {
            ensure!(
                std::fs::symlink_metadata(&entry)?.uid() == owner,
                "{}",
                entry.display()
            );
        }
    }
    ensure!(panel.report_requests() == 0);
    once(&command).await?;
    ensure!(panel.billed_total() == (1_016, 2_000));
    Ok(())
}

/// The folder and all in it.
fn walk(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut all = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if std::fs::symlink_metadata(&path)?.is_dir() {
            all.extend(walk(&path)?);
        } else {
            all.push(path);
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_xray_that_is_preceded_by_a_collect_costs_what_moved_in_between() -> Result<()> {
    let server = ServerConfig::new().vless(TAG);
    let mut xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = agent(&panel, folder.path(), &xray.api_addr())
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "3600");
    let _agent = command.spawn()?;
    let client = Client::start_many(&[server.route(TAG, &nth_uuid(0))]).await?;
    let origin = Origin::start().await?;
    client.await_served(0, &origin).await?;
    let flow = Transfer::at_once(2_000_000, 2_000_000).paced(10_000, Duration::from_millis(5));
    let flowing = client.transfer_at(0, &origin, flow);
    let stop = async {
        eventually("bytes flow", LONG, async || {
            let counters = user_counters(&xray.api_addr()).await.unwrap_or_default();
            sum(&counters).0 > 100_000
        })
        .await?;
        let counted = sum(&user_counters(&xray.api_addr()).await?);
        let collect = command.clone().args(["traffic", "collect"]);
        let ended = collect.run_to_end(LONG).await?;
        ensure!(ended.code == Some(0), "{}", ended.stderr);
        xray.terminate().await?;
        anyhow::Ok(counted)
    };
    let (_, counted) = tokio::join!(flowing, stop);
    let counted = counted?;
    eventually("what was counted before the collect", LONG, async || {
        let billed = panel.billed_total();
        billed.0 >= counted.0 && billed.1 >= counted.1
    })
    .await
    .with_context(|| format!("billed {:?} of {counted:?}", panel.billed_total()))
}
