//! Whoever is to be told of nodes hears of every change, in order, whatever ends in between; and a
//! person sees who is told and what could not be.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use serde_json::Value;
use xray_agent::base::clock::Clock;
use xray_agent::base::secret::Secret;
use xray_agent::events::outbox::{Limits, Outbox};
use xray_agent::model::delivery::{Origin, Wanted};
use xray_agent::store::agent;

use crate::egress_stage::Server;
use crate::lab::{AgentCommand, ServerConfig, eventually, free_port, uuid};
use crate::life::{self, Stage};
use crate::support::LONG;

const TAG: &str = "in-vless";
/// What is told of an inbound whose Xray is killed for some seconds.
const EACH_ONCE: [&str; 4] = [
    "node_added",
    "node_degraded",
    "node_unhealthy",
    "node_healthy",
];
const SECRET: &str = "canary-callback-secret-9b1f";

/// Has these addresses told of nodes, as their own configuration would.
async fn put_targets(stage: &Stage, urls: &[String]) -> Result<()> {
    let state_dir = stage.folder.path().join(".xray-agent");
    std::fs::create_dir_all(&state_dir)?;
    let store = agent::start(&state_dir, Clock::system())?;
    let outbox = Outbox::new(store.clone(), Limits::default(), Clock::system());
    let wanted = urls.iter().map(|url| Wanted {
        owner: "test".to_owned(),
        form: "node".to_owned(),
        url: url.clone(),
        events: Vec::new(),
        origin: Origin::Configuration,
        secret: Some(Secret::new(SECRET)),
        bearer: None,
    });
    outbox.configure("test", wanted.collect()).await?;
    drop(outbox);
    store.close().await;
    Ok(())
}

/// What a callback was sent.
#[derive(Debug)]
struct Callback {
    id: String,
    body: Value,
}

impl Callback {
    /// Reads it, and checks by what it shows that it is ours.
    fn of(request: &str) -> Result<Self> {
        let (head, body) = request.split_once("\r\n\r\n").context("no head")?;
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found
                .map(|(_, value)| value.to_owned())
                .context(name.to_owned())
        };
        ensure!(header("x-znp-webhook-token")? == SECRET);
        let id = header("x-event-id")?;
        ensure!(header("webhook-id")? == id);
        let signed = format!("{id}.{}.{body}", header("webhook-timestamp")?);
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
        ensure!(header("webhook-signature")? == format!("v1,{signature}"));
        let body = serde_json::from_str(body)?;
        Ok(Self { id, body })
    }

    fn name(&self) -> &str {
        self.body["event"].as_str().unwrap_or_default()
    }
}

/// Waits until it was told this, and puts all that it was told into `told`, each event once.
async fn await_told(receiver: &Server, told: &mut Vec<Callback>, name: &str) -> Result<()> {
    eventually(name, LONG, async || {
        for request in receiver.asked() {
            let callback = Callback::of(&request).unwrap();
            if told.iter().all(|known| known.id != callback.id) {
                told.push(callback);
            }
        }
        told.iter().any(|it| it.name() == name).then_some(())
    })
    .await
    .with_context(|| format!("{told:?}"))
}

async fn outbox(command: &AgentCommand, args: &[&str]) -> Result<Value> {
    let args = [&["outbox", "--json"], args].concat();
    let said = life::run(command, &args, 0).await?;
    Ok(serde_json::from_str(&said.stdout)?)
}

#[tokio::test]
async fn a_callback_is_told_of_every_change_in_order_though_the_agent_is_killed() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    stage.allow([uuid()]);
    let receiver = Server::answering("204 No Content", "", "");
    let nobody = format!("http://127.0.0.1:{}/", free_port()?);
    put_targets(&stage, &[nobody, receiver.url("/callback")]).await?;
    let command = stage.agent_on(TAG);
    let mut told = Vec::new();

    let mut agent = life::start(&command).await?;
    await_told(&receiver, &mut told, "node_added").await?;
    stage.xray.kill().await?;
    await_told(&receiver, &mut told, "node_unhealthy").await?;
    agent.kill9().await?;
    stage.xray.restart().await?;
    let _agent = life::start(&command).await?;
    await_told(&receiver, &mut told, "node_healthy").await?;

    let names: Vec<_> = told.iter().map(Callback::name).collect();
    ensure!(names == EACH_ONCE, "{told:#?}");
    for callback in &told {
        ensure!(callback.body["node_id"] == TAG && callback.body["id"] == TAG);
        ensure!(callback.body["observed_at"].as_i64() > Some(1_700_000_000));
    }
    ensure!(told[2].body["status"] == "unhealthy" && told[2].body["message"].is_string());
    ensure!(told[3].body["protocol"] == "vless" && told[3].body["message"].is_null());

    // Whoever is dead has kept nobody waiting, and nothing is lost for him.
    let targets = outbox(&command, &[]).await?;
    ensure!(targets["targets"][0]["waiting"] == 4, "{targets:#}");
    ensure!(targets["targets"][0]["trouble"].is_string(), "{targets:#}");
    ensure!(targets["targets"][1]["waiting"] == 0, "{targets:#}");
    Ok(())
}

/// Where the agent can be killed while it writes down what it tells of an inbound.
const PLACES: [&str; 4] = [
    "agent.managed.before_commit",
    "agent.managed.after_commit",
    "agent.looked.before_commit",
    "agent.looked.after_commit",
];

#[tokio::test]
async fn a_change_is_told_once_wherever_the_agent_is_killed_meanwhile() -> Result<()> {
    try_join_all(PLACES.map(killed_at)).await.map(drop)
}

async fn killed_at(place: &str) -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    stage.allow([uuid()]);
    let receiver = Server::answering("204 No Content", "", "");
    put_targets(&stage, &[receiver.url("/")]).await?;
    let command = stage.agent_on(TAG);
    let mut told = Vec::new();

    let mut agent = command.clone().env("XRAY_AGENT_FAILPOINT", place).spawn()?;
    if place.contains("looked") {
        await_told(&receiver, &mut told, "node_added").await?;
        stage.xray.kill().await?;
    }
    ensure!(agent.wait_exit(LONG).await?.code().is_none(), "{place}");
    let _agent = life::start(&command).await?;
    await_told(&receiver, &mut told, "node_added").await?;
    stage.xray.kill().await?;
    await_told(&receiver, &mut told, "node_unhealthy").await?;
    stage.xray.restart().await?;
    await_told(&receiver, &mut told, "node_healthy").await?;

    let names: Vec<_> = told.iter().map(Callback::name).collect();
    ensure!(names == EACH_ONCE, "{place}: {told:#?}");
    Ok(())
}

/// Answers with the status that is set.
fn settable(status: &Arc<AtomicU16>) -> Server {
    let status = status.clone();
    Server::start(move |_, stream| {
        let status = status.load(Ordering::SeqCst);
        let answer =
            format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes())
    })
}

/// Waits until the only target is as it should be.
async fn await_target(
    command: &AgentCommand,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    eventually(what, LONG, async || {
        let target = outbox(command, &[]).await.ok()?["targets"][0].take();
        is_so(&target).then_some(target)
    })
    .await
}

#[tokio::test]
async fn outbox_lists_what_was_given_up_and_has_it_sent_again() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    stage.allow([uuid()]);
    let status = Arc::new(AtomicU16::new(400));
    let receiver = settable(&status);
    put_targets(&stage, &[receiver.url("/canary-path")]).await?;
    let command = stage.agent_on(TAG);
    let _agent = life::start(&command).await?;

    let target = await_target(&command, "it was given up", |it| it["given_up"] == 1).await?;
    ensure!(
        target["host"] == "127.0.0.1" && target["waiting"] == 0,
        "{target:#}"
    );
    ensure!(!target.to_string().contains("canary"), "{target:#}");
    let id = target["id"].as_str().context("no id")?;
    let given_up = outbox(&command, &["given-up", id]).await?;
    ensure!(
        given_up["given_up"][0]["name"] == "node_added",
        "{given_up:#}"
    );
    ensure!(given_up["given_up"][0]["tries"] == 3, "{given_up:#}");
    let shown = life::run(&command, &["outbox", "given-up"], 0)
        .await?
        .stdout;
    ensure!(shown.contains("answered 400"), "{shown}");

    status.store(410, Ordering::SeqCst);
    ensure!(outbox(&command, &["replay", id]).await?["replayed"] == 1);
    await_target(&command, "it was disabled", |it| it["disabled"].is_string()).await?;
    let shown = life::run(&command, &["outbox"], 0).await?.stdout;
    ensure!(shown.contains(id) && shown.contains("disabled"), "{shown}");

    status.store(204, Ordering::SeqCst);
    ensure!(outbox(&command, &["enable", id]).await?["enabled"] == true);
    ensure!(outbox(&command, &["enable", id]).await?["enabled"] == false);
    let event = given_up["given_up"][0]["event"]
        .as_str()
        .context("no event")?;
    outbox(&command, &["replay", id, event]).await?;
    await_target(&command, "it was taken", |it| it["delivered"] == 1).await?;

    let wrong = "01890000-0000-7000-8000-000000000000";
    let refused = life::run(&command, &["outbox", "replay", wrong], 1).await?;
    ensure!(refused.stderr.contains("no such target"), "{refused:?}");
    life::run(&command, &["outbox", "replay", "nonsense"], 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_restart_of_the_agent_alone_tells_nothing() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    stage.allow([uuid()]);
    let receiver = Server::answering("204 No Content", "", "");
    put_targets(&stage, &[receiver.url("/")]).await?;
    let command = stage.agent_on(TAG);
    let mut told = Vec::new();
    for _ in 0..3 {
        let mut agent = life::start(&command).await?;
        await_told(&receiver, &mut told, "node_added").await?;
        let is_done = |status: &Value| status["passed_at"].is_string();
        crate::stage::await_inbound(&command, 0, "a pass is over", is_done).await?;
        agent.terminate(LONG).await?;
    }
    let journal = events_in(&stage.folder.path().join(".xray-agent"))?;
    let of_nodes = journal.iter().filter(|name| name.starts_with("node_"));
    ensure!(of_nodes.count() == 1, "{journal:?}");
    for (name, count) in [
        ("agent_started", 3),
        ("agent_stopping", 3),
        ("users_synced", 1),
    ] {
        let told = journal.iter().filter(|it| *it == name).count();
        ensure!(told == count, "{name}: {journal:?}");
    }
    Ok(())
}

/// The names of all events that the agent has told, in their order.
fn events_in(state_dir: &Path) -> Result<Vec<String>> {
    let connection = rusqlite::Connection::open(agent::file(state_dir))?;
    let mut query = connection.prepare("SELECT name FROM event_journal ORDER BY seq")?;
    let names = query.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}
