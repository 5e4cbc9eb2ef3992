//! Cores that lack a call, shown on a scripted Xray: no listing of users, of inbounds, no
//! statistics. The agent serves on with what it knows itself, and refuses rather than guess.

use anyhow::Result;
use xray_agent::xray::account::typed;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::proxy;

use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, eventually};
use crate::scripted::Method::{Add, Count, List, Remove, SysStats, User as OneUser, Users};
use crate::scripted::{Fault, Method};
use crate::stage::{Stage, await_inbound, email, warnings};
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
async fn all_are_added_again_after_a_restart_of_a_core_that_cannot_list_them() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..100);
    let _agent = stage.agent("in").spawn()?;
    stage.await_users("in", 0..100).await?;
    stage.xray.restart();
    stage.await_users("in", 0..100).await?;
    assert_eq!(stage.xray.deaths(), 1);
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
async fn a_user_of_an_interrupted_pass_is_removed_although_nobody_knows_that_he_is_there()
-> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..10);
    let last = email(9);
    // One call is never answered, so that the pass is under way when the agent is killed.
    stage
        .xray
        .script(move |call| (call.method == Add && call.email == last).then_some(Fault::Silence));
    let command = stage.agent("in").env("XRAY_RPC_TIMEOUT_SECONDS", "60");
    let mut agent = command.spawn()?;
    stage.await_users("in", 0..9).await?;
    agent.kill9().await?;
    stage.xray.behave();
    stage.allow((0..5).chain(9..10));
    let _agent = command.spawn()?;
    stage.await_users("in", (0..5).chain(9..10)).await
}

#[tokio::test]
async fn a_user_whose_addition_was_not_answered_is_removed_when_he_is_dropped() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..10);
    let silent = email(9);
    stage.xray.script(move |call| {
        (call.method == Add && call.email == silent).then_some(Fault::SilenceAfterwards)
    });
    let command = stage.agent("in");
    let _agent = command.spawn()?;
    await_inbound(&command, 0, "a failed user", |inbound| {
        inbound["failed"] == 1
    })
    .await?;
    stage.xray.behave();
    stage.allow(0..9);
    stage.await_users("in", 0..9).await
}

#[tokio::test]
async fn users_whose_removal_was_held_are_there_again_after_a_restart_and_a_better_answer()
-> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.allow(0..100);
    let command = stage.agent("in").env("INTERVAL_SECONDS", "3600");
    let agent = command.spawn()?;
    stage.await_users("in", 0..100).await?;
    stage.allow(0..2);
    let sync = async |command: &AgentCommand| command.clone().arg("sync").run_to_end(LONG).await;
    sync(&command).await?;
    await_inbound(&command, 0, "held users", |inbound| inbound["held"] == 98).await?;
    stage.xray.restart();
    eventually("Xray is served again", LONG, async || {
        stage.xray.emails("in").len() >= 2
    })
    .await?;
    stage.allow(0..100);
    sync(&command).await?;
    stage.await_users("in", 0..100).await?;
    drop(agent);
    Ok(())
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

#[tokio::test]
async fn without_listing_and_statistics_a_tick_with_nothing_to_do_does_nothing() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.lacks(&READING_BACK);
    stage.xray.lacks(&[SysStats]);
    stage.allow(0..10);
    let command = stage.agent("in").env("RUST_LOG", "trace");
    let agent = command.spawn()?;
    stage.await_users("in", 0..10).await?;
    await_inbound(&command, 0, "a pass without a change", |inbound| {
        inbound["added"] == 0 && inbound["live"] == 10
    })
    .await?;
    let (changes, log) = (stage.changes(), agent.log());
    stage.await_polls(4).await?;
    assert_eq!((stage.changes(), agent.log()), (changes, log));
    stage.xray.restart();
    stage.await_users("in", 0..10).await?;
    stage.allow(1..10);
    stage.await_users("in", 1..10).await
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
