//! Where nobody can be cut it is said, and everything else works; and what a person does by hand.

use std::future::pending;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xray_agent::sockets::may_cut;

use crate::kick_stage::{FLOWING_BYTES, Person, REFUSED, Stage, ensure_silent, may_cut_here};
use crate::lab::{AgentCommand, ServerConfig, Transfer, eventually, uuid};
use crate::life::run;
use crate::support::LONG;

/// Two people on one VLESS inbound.
async fn two_people(config: ServerConfig) -> Result<Stage> {
    let people = ["127.0.0.2", "127.0.0.3"].map(|from| Person::new("in", from));
    Stage::new(config, people.into()).await
}

/// Waits until the running agent tells why sessions of its inbound cannot be cut.
async fn obstacle(stage: &Stage, words: &str) -> Result<()> {
    let mut kick = Value::Null;
    eventually("an obstacle in the status", LONG, async || {
        let kicks = stage.kicks().await.unwrap_or_default();
        kick = kicks.first().cloned().unwrap_or_default();
        kick["obstacle"]
            .as_str()
            .is_some_and(|why| why.contains(words))
    })
    .await
    .with_context(|| format!("{words} in {kick}"))
}

/// Whoever is not root has none to give up.
fn without_the_capability(command: &AgentCommand) -> AgentCommand {
    let bounds = ["--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    match may_cut() {
        Ok(()) => command.clone().through("setpriv", &bounds),
        Err(_) => command.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_capability_the_reason_is_told_once_and_all_else_works() -> Result<()> {
    let stage = two_people(ServerConfig::new().vless("in")).await?;
    let command = stage.command();
    let mut agent = stage.agent(&without_the_capability(&command)).await?;
    obstacle(&stage, "CAP_NET_ADMIN").await?;
    let streams = stage.downloads().await?;
    stage.allow_all_but(&[0]);
    stage.await_removed(0).await?;
    ensure!(!stage.client.is_served(0, &stage.origin, REFUSED).await);
    stage.client.get(1, &stage.origin).await?;
    for stream in &streams {
        stream.await_more(4 * FLOWING_BYTES).await?;
    }
    let kick = stage.kicks().await?.remove(0);
    ensure!(
        kick["enabled"] == true && kick["users"] == 0 && kick["not_cut"] == 1,
        "{kick}"
    );
    let by_hand = run(&command, &["users", "kick", &stage.people[1].user], 1).await?;
    ensure!(by_hand.stdout.contains("CAP_NET_ADMIN"), "{by_hand:#?}");
    drop(streams);
    for which in 0..2 {
        stage.await_cut(which, &agent).await?;
    }
    ensure!(agent.terminate(LONG).await?.success());
    for which in 0..2 {
        ensure!(stage.billed(which) == stage.counted(which).await?);
    }
    let log = agent.log();
    let told = log.lines().filter(|line| line.contains("\"WARN\""));
    let told = told.filter(|line| line.contains("cutting open sessions"));
    ensure!(told.count() == 1, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_stays_allowed_is_cut_by_hand_and_served_again_at_once() -> Result<()> {
    if !may_cut_here(
        "kick_limits::a_user_who_stays_allowed_is_cut_by_hand_and_served_again_at_once",
    )? {
        return Ok(());
    }
    let stage = two_people(ServerConfig::new().vless("in")).await?;
    let command = stage.command();
    let agent = stage.agent(&command).await?;
    let streams = stage.downloads().await?;
    let user = stage.people[0].user.as_str();
    let said = run(&command, &["users", "kick", user, "--json"], 0).await?;
    let said: Value = serde_json::from_str(&said.stdout).context(said.stdout)?;
    let outcome = &said["inbounds"][0];
    ensure!(
        outcome["was_online"] == true && outcome["sockets"] == 1,
        "{said}"
    );
    ensure!(
        outcome["tag"] == "in" && outcome["error"].is_null(),
        "{said}"
    );
    let (_, down) = stage.await_billed(0, &agent).await?;
    ensure!(down >= streams[0].seen().bytes);
    // Nobody removed him.
    stage.client.get(0, &stage.origin).await?;
    ensure_silent(&streams[0], &streams[1]).await?;
    let absent = run(&command, &["users", "kick", &uuid()], 0).await?;
    ensure!(absent.stdout.contains("not connected"), "{absent:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_cut_by_hand_where_kick_is_off() -> Result<()> {
    let stage = two_people(ServerConfig::new().vless("in")).await?;
    let command = stage.command().env("XRAY_KICK", "off");
    let _agent = stage.agent(&command).await?;
    let stream = stage.download(0).await?;
    let refused = run(&command, &["users", "kick", &stage.people[0].user], 1).await?;
    ensure!(refused.stdout.contains("apply.kick is off"), "{refused:#?}");
    stream.await_more(4 * FLOWING_BYTES).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_uploads_is_cut_also_where_xray_does_not_notice_it() -> Result<()> {
    if !may_cut_here("kick_limits::whoever_only_uploads_is_cut_also_where_xray_does_not_notice_it")?
    {
        return Ok(());
    }
    // Xray 26.10.10 goes on to wait on such a connection, and to name its peer as connected.
    let people = vec![
        Person::new("in", "127.0.0.2"),
        Person::new("in", "127.0.0.3"),
    ];
    let stage = Stage::new(ServerConfig::new().vmess("in"), people).await?;
    let agent = stage.agent(&stage.command()).await?;
    let upload = Transfer::at_once(1 << 40, 0).paced(16 << 10, Duration::from_millis(20));
    let uploading = async {
        // It breaks, or its client holds what it can send nobody.
        let _ = stage.client.transfer_at(0, &stage.origin, upload).await;
        pending::<()>().await;
    };
    let shown = async {
        eventually("bytes that come up", LONG, async || {
            stage
                .counted(0)
                .await
                .is_ok_and(|(up, _)| up > FLOWING_BYTES)
        })
        .await?;
        stage.allow_all_but(&[0]);
        stage.await_cut(0, &agent).await?;
        stage.await_billed(0, &agent).await?;
        let mut kick = Value::Null;
        eventually("the cut in the status", LONG, async || {
            kick = stage.kicks().await.unwrap_or_default().remove(0);
            kick["users"] == 1 && kick["sockets"] == 1 && kick["not_cut"] == 0
        })
        .await
        .with_context(|| kick.to_string())
    };
    tokio::select! {
        shown = shown => shown,
        () = uploading => Ok(()),
    }
}
