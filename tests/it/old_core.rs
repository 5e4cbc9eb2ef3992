//! Cores that lack a call, shown on a scripted Xray: no listing of users, of inbounds, no
//! statistics. The agent serves on with what it knows itself, and refuses rather than guess.

use anyhow::Result;
use xray_agent::xray::account::typed;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::proxy;

use crate::lab::eventually;
use crate::lab::secrets::nth_uuid;
use crate::scripted::Method;
use crate::scripted::Method::{Add, Count, List, Remove, SysStats, User as OneUser, Users};
use crate::stage::{Stage, await_inbound, warnings};
use crate::support::LONG;

/// What cores before 24.11.5 lack.
const READING_BACK: [Method; 3] = [Users, OneUser, Count];

#[tokio::test]
async fn a_core_that_cannot_list_its_users_is_kept_equal_from_what_was_applied() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..30);
    let command = stage.agent("in");
    let agent = command.spawn()?;
    stage.await_users("in", 0..30).await?;
    stage.allow(5..32);
    stage.await_users("in", 5..32).await?;

    let changes = stage.changes();
    stage.await_polls(4).await?;
    assert_eq!(stage.changes(), changes, "nothing was to be done");
    assert_eq!(
        warnings(&agent, "cannot list its users"),
        1,
        "{}",
        agent.log()
    );
    let inbound = await_inbound(&command, 0, "a status", |inbound| inbound["live"] == 27).await?;
    assert_eq!(inbound["read_back"], false);
    let said = command.clone().arg("status").run_to_end(LONG).await?;
    assert!(said.stdout.contains("cannot list its users"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_user_dropped_while_the_agent_was_away_is_removed_although_unseen() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..10);
    let command = stage.agent("in");
    let mut agent = command.spawn()?;
    stage.await_users("in", 0..10).await?;
    let applied = stage.state_of("in").join("applied.json");
    eventually("what was applied is kept", LONG, async || {
        std::fs::read_to_string(&applied).is_ok_and(|text| text.contains(&nth_uuid(9)))
    })
    .await?;
    agent.kill9().await?;
    stage.allow(0..8);
    let _agent = command.spawn()?;
    stage.await_users("in", 0..8).await
}

#[tokio::test]
async fn without_statistics_the_core_is_served_all_the_same() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&[SysStats]);
    stage.allow(0..10);
    let _agent = stage.agent("in").spawn()?;
    stage.await_users("in", 0..10).await?;
    stage.allow(2..12);
    stage.await_users("in", 2..12).await?;
    let changes = stage.changes();
    stage.await_polls(3).await?;
    assert_eq!(stage.changes(), changes, "nothing was to be done");
    stage.xray.restart();
    stage.await_users("in", 2..12).await
}

/// A user of Xray's own configuration.
fn fixed_vmess() -> User {
    let account = proxy::vmess::Account { id: nth_uuid(900) };
    User {
        email: "first@static".into(),
        account: Some(typed(&account)),
        ..User::default()
    }
}

#[tokio::test]
async fn without_a_listing_the_account_of_a_user_there_tells_the_protocol() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    // The tag and the configuration say otherwise: what is there goes first.
    stage
        .xray
        .configure("in-vless", "vmess", vec![fixed_vmess()]);
    stage.xray.lacks(&[List]);
    stage.allow(0..3);
    let inbound = r#"{ tag = "in-vless", protocol = "trojan" }"#;
    let command = stage.agent_with("", inbound, "")?;
    let _agent = command.spawn()?;
    let told = await_inbound(&command, 0, "a protocol", |it| it["live"] == 3).await?;
    assert_eq!(told["protocol"], "vmess");
    assert_eq!(stage.xray.wrong_accounts(), 0);
    Ok(())
}

#[tokio::test]
async fn without_a_listing_or_a_user_the_configuration_tells_the_protocol() -> Result<()> {
    let stage = Stage::new(&[("in-vless", "trojan")]).await?;
    stage.xray.lacks(&[List]);
    stage.allow(0..3);
    let inbound = r#"{ tag = "in-vless", protocol = "trojan" }"#;
    let _agent = stage.agent_with("", inbound, "")?.spawn()?;
    stage.await_users("in-vless", 0..3).await?;
    assert_eq!(stage.xray.wrong_accounts(), 0);
    Ok(())
}

#[tokio::test]
async fn with_the_connectors_environment_alone_the_tag_tells_the_protocol() -> Result<()> {
    let stage = Stage::new(&[("in-vmess-1", "vmess")]).await?;
    stage.xray.lacks(&[List]);
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..3);
    let _agent = stage.agent("in-vmess-1").spawn()?;
    stage.await_users("in-vmess-1", 0..3).await?;
    assert_eq!(stage.xray.wrong_accounts(), 0);
    Ok(())
}

#[tokio::test]
async fn a_protocol_that_nothing_tells_is_refused_with_the_mend() -> Result<()> {
    let stage = Stage::new(&[("in-vless", "vless"), ("plain", "vless")]).await?;
    stage.xray.lacks(&[List]);
    stage.allow(0..3);
    // With a file the tag tells nothing; with the environment alone this tag does not.
    for command in [
        stage.agent_with("", r#""in-vless""#, "")?,
        stage.agent("plain"),
    ] {
        let agent = command.spawn()?;
        let refused = await_inbound(&command, 0, "a refusal", |it| it["error"].is_string()).await?;
        let error = refused["error"].as_str().unwrap_or_default();
        assert!(error.contains("node.inbounds.protocol"), "{error}");
        drop(agent);
    }
    assert_eq!(stage.xray.called(&[Add, Remove]), 0);
    Ok(())
}
