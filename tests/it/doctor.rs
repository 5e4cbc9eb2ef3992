//! Broken installations, each with one thing wrong in it, on a real Xray: doctor names that one, and how
//! it is mended, word for word as in `snapshots/doctor`.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use xray_agent::model::ports::PortRange;
use xray_agent::sockets::{listeners, may_cut};

use crate::doctor_stage::{Stage, TAG, server, with_user};
use crate::lab::secrets::nth_uuid;
use crate::lab::{Answer, Origin, ServerConfig, Xray, eventually, free_port};
use crate::support::{LONG, TOKEN};

/// Whoever may not cut needs nothing taken away.
const WITHOUT_CAPABILITY: [&str; 2] = ["--bounding-set=-net_admin", "--inh-caps=-net_admin"];

fn policy(switches: &[&str]) -> ServerConfig {
    let on = switches
        .iter()
        .map(|name| ((*name).to_owned(), json!(true)));
    let level = serde_json::Value::Object(on.collect());
    server().edit(|config| config["policy"]["levels"]["0"] = level)
}

/// Waits until two programs listen on a port.
async fn both_listen(port: u16) -> Result<()> {
    let ports = [PortRange::single(port)];
    eventually("two listen on one port", LONG, async || {
        let listeners = listeners(&ports).ok()?;
        (listeners.len() == 2).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wrong_with_a_good_installation() -> Result<()> {
    let stage = Stage::new(server()).await?;
    stage.move_bytes().await?;
    stage.holds("good", 0, stage.agent()).await
}

#[tokio::test]
async fn a_wrong_token_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    stage.panel.set_token("another");
    stage.is_told("token", stage.agent()).await
}

#[tokio::test]
async fn a_panel_that_is_away_is_told() -> Result<()> {
    let mut stage = Stage::new(server()).await?;
    stage.panel.pause().await;
    stage.is_told("panel-away", stage.agent()).await
}

#[tokio::test]
async fn a_web_site_in_the_panels_place_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    stage.panel.set_answer(1, Answer::html(200));
    stage.is_told("panel-html", stage.agent()).await
}

#[tokio::test]
async fn a_node_that_the_panel_does_not_know_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let agent = stage.agent().env("NODE_IDS", "7");
    let agent = agent.env("XRAY_TAG_MAP", format!("7:{TAG}"));
    stage.is_told("node", agent.clone()).await?;
    // A panel may answer so for a node that it has never heard of.
    stage.panel.set_users(7, Vec::new());
    stage.holds("node-empty", 0, agent).await
}

#[tokio::test]
async fn an_api_that_listens_elsewhere_is_told_and_found_in_xrays_configuration() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let nowhere = free_port()?;
    let agent = stage
        .agent()
        .env("XRAY_API_ADDR", format!("127.0.0.1:{nowhere}"));
    let file = stage.xray_config()?;
    let said = agent.clone().args(["doctor", "--xray-config"]).arg(file);
    let said = said.run_to_end(LONG).await?.stdout;
    let at = format!("listens at {}: set address", stage.xray.api_addr());
    ensure!(
        said.contains(&at) && said.matches('✗').count() == 1,
        "{said}"
    );
    // An address of the test's own, for the file that it is held to.
    let port_1 = agent.env("XRAY_API_ADDR", "127.0.0.1:1");
    stage.is_told("api-closed", port_1).await
}

#[tokio::test]
async fn another_program_at_the_apis_address_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let agent = stage
        .agent()
        .env("XRAY_API_ADDR", stage.panel.addr().to_string());
    stage.is_told("api-other", agent).await
}

#[tokio::test]
async fn an_xray_that_hangs_is_told() -> Result<()> {
    let mut stage = Stage::new(server()).await?;
    stage.xray.freeze()?;
    stage.is_told("api-hangs", stage.agent()).await
}

#[tokio::test]
async fn an_api_without_the_handler_service_is_told() -> Result<()> {
    let stage = Stage::new(server().services(&["StatsService"])).await?;
    stage.is_told("handler-service", stage.agent()).await
}

#[tokio::test]
async fn an_api_without_the_stats_service_is_told() -> Result<()> {
    let stage = Stage::new(server().services(&["HandlerService"])).await?;
    stage.is_told("stats-service", stage.agent()).await
}

#[tokio::test]
async fn statistics_that_are_off_are_told_by_xrays_configuration() -> Result<()> {
    let stage = Stage::new(server().without_stats().without_policy()).await?;
    stage
        .is_told_by_file("counting-file", stage.agent())
        .await?;
    // Without the file nobody can know yet.
    stage.holds("counting-unknown", 0, stage.agent()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direction_that_is_not_counted_is_told_by_the_counters() -> Result<()> {
    let stage = Stage::new(policy(&["statsUserDownlink"])).await?;
    stage.move_bytes().await?;
    stage.is_told("counting-one-way", stage.agent()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_are_connected_and_not_counted_are_told() -> Result<()> {
    let stage = Stage::new(policy(&["statsUserOnline"])).await?;
    let (client, origin) = (stage.user().await?, Origin::start().await?);
    let _session = client.session(0, &origin).await?;
    stage.is_told("counting-nobody", stage.agent()).await
}

#[tokio::test]
async fn two_xrays_that_share_their_ports_are_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let _second = Xray::start_sharing(&stage.server).await?;
    both_listen(stage.xray.api_port()).await?;
    both_listen(stage.server.port(TAG)).await?;
    stage.is_told("shared-api", stage.agent()).await
}

#[tokio::test]
async fn two_xrays_that_share_only_an_inbounds_port_are_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let second = stage.server.clone();
    let second = second.api_on(&format!("127.0.0.1:{}", free_port()?));
    let _second = Xray::start_sharing(&second).await?;
    both_listen(stage.server.port(TAG)).await?;
    stage.is_told("shared-inbound", stage.agent()).await
}

#[tokio::test]
async fn a_tag_that_xray_does_not_have_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let agent = stage.agent().env("XRAY_TAG_MAP", "1:in-gone");
    stage.is_told("tag", agent).await
}

#[tokio::test]
async fn an_inbound_whose_users_are_fixed_is_told() -> Result<()> {
    let stage = Stage::new(server().socks("in-socks")).await?;
    let agent = stage.agent().env("XRAY_TAG_MAP", "1:in-socks");
    stage.is_told("user-manager", agent).await
}

#[tokio::test]
async fn a_flow_that_the_transport_does_not_carry_is_told() -> Result<()> {
    let stage = Stage::new(with_user(ServerConfig::new().vless_ws(TAG))).await?;
    let agent = stage.agent().env("XRAY_VLESS_FLOW", "xtls-rprx-vision");
    stage.is_told("flow", agent.clone()).await?;
    stage
        .holds("flow-auto", 0, agent.env("XRAY_VLESS_FLOW", "auto"))
        .await
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let file = stage.put("a-file", "")?;
    let agent = stage.agent().env("STATE_DIR", file.join("state"));
    stage.is_told("state-folder", agent).await
}

#[tokio::test]
async fn a_token_that_everybody_can_read_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let file = stage.put("token", TOKEN)?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644))?;
    let agent = stage.agent().env("INTERNAL_API_KEY", "");
    let agent = agent.env("INTERNAL_API_KEY_FILE", file);
    stage.is_told("token-file", agent).await
}

#[tokio::test]
async fn a_port_of_ours_that_another_program_has_is_told() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let agent = stage
        .agent()
        .env("HTTP_LISTEN", stage.panel.addr().to_string());
    stage.is_told("port", agent).await
}

#[tokio::test]
async fn everything_that_is_wrong_with_the_configuration_is_told_at_once() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let agent = stage.agent().env("PANEL_BASE_URL", "ftp://panel");
    let agent = agent.env("NODE_IDS", "1,x").env("INTERNAL_API_KEY", "");
    // What the shell may lack is said where the unit has variables: not on every host.
    let said = agent.arg("doctor").run_to_end(LONG).await?;
    ensure!(
        said.code == Some(1)
            && said
                .stdout
                .starts_with("✗ configuration: 3 things are wrong\n"),
        "{said:#?}"
    );
    for place in ["PANEL_BASE_URL", "NODE_IDS", "INTERNAL_API_KEY"] {
        ensure!(
            said.stdout.contains(&format!("    environment {place}: ")),
            "{said:#?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_who_is_connected_that_xray_does_not_keep_are_told() -> Result<()> {
    let stage = Stage::new(policy(&["statsUserUplink", "statsUserDownlink"])).await?;
    stage.move_bytes().await?;
    stage
        .is_told("online", stage.agent().env("XRAY_KICK", "auto"))
        .await
}

#[tokio::test]
async fn that_nobody_may_cut_is_noted_and_nothing_bad() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let nobody = stage.folder.path().join("no-such-unit.sock");
    let agent = stage
        .agent()
        .env("XRAY_KICK", "auto")
        .env("XRAY_KICK_SOCKET", nobody);
    let agent = match may_cut() {
        Ok(()) => agent.through("setpriv", &WITHOUT_CAPABILITY),
        Err(_) => agent,
    };
    stage.holds("no-capability", 0, agent).await
}

#[tokio::test]
async fn a_clock_that_is_off_is_noted() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let wrong = Timestamp::now() - SignedDuration::from_hours(2);
    let users = json!([nth_uuid(0), nth_uuid(1)]);
    let date = wrong.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    stage
        .panel
        .set_answer(1, Answer::users(1, &users).header("date", date));
    stage.holds("clock", 0, stage.agent()).await
}

#[tokio::test]
async fn what_an_outbound_for_those_who_cannot_be_cut_lacks_is_told() -> Result<()> {
    let services = ["HandlerService", "StatsService"];
    let stage = Stage::new(server().services(&services)).await?;
    let text = "[apply]\nblock_outbound = \"hole\"\n";
    let nobody = stage.folder.path().join("no-such-unit.sock");
    let agent = stage
        .agent()
        .env("XRAY_KICK", "auto")
        .env("XRAY_KICK_SOCKET", nobody);
    let agent = agent.arg("--config").arg(stage.put("agent.toml", text)?);
    let agent = match may_cut() {
        Ok(()) => agent.through("setpriv", &WITHOUT_CAPABILITY),
        Err(_) => agent,
    };
    stage.is_told_by_file("block-outbound", agent).await
}

#[tokio::test]
async fn it_ends_within_half_a_minute_whoever_does_not_answer() -> Result<()> {
    let mut stage = Stage::new(server()).await?;
    stage.xray.freeze()?;
    let never = Answer::users(1, &json!([])).after(Duration::from_hours(1));
    stage.panel.set_answer(1, never);
    let agent = stage.agent().env("HTTP_TIMEOUT_SECONDS", "3600");
    let agent = agent.env("XRAY_RPC_TIMEOUT_SECONDS", "3600").arg("doctor");
    let said = agent.run_to_end(Duration::from_secs(30)).await?;
    ensure!(
        said.code == Some(1) && said.stdout.contains("no answer in time"),
        "{said:#?}"
    );
    Ok(())
}
