//! Cutting where something is out of the ordinary: the agent dies in between, the sessions are beyond
//! the kernel's reach, nobody says who is connected, or a user only seems to leave.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xray_agent::config::{self, XrayAddress};
use xray_agent::xray::client::XrayClient;

use crate::kick_stage::may_cut_here;
use crate::lab::{
    AgentCommand, Client, Origin, Route, ServerConfig, Stream, eventually, peers_of, uuid,
};
use crate::life::{Stage, start, vless_entry};
use crate::support::LONG;

/// Where the user comes from: Xray never tells of 127.0.0.1.
const FROM: &str = "127.0.0.2";
/// Enough that a connection is well under way.
const FLOWING_BYTES: u64 = 256 << 10;

/// One user's way in, and what is at the other end.
struct User {
    uuid: String,
    port: u16,
    client: Client,
    origin: Origin,
}

impl User {
    async fn new(route: &Route) -> Result<Self> {
        let route = route.clone().sent_from(FROM);
        Ok(Self {
            uuid: route.uuid.clone(),
            port: route.server_port,
            client: Client::start_many(&[route]).await?,
            origin: Origin::start().await?,
        })
    }

    /// Is served, and downloads from now on.
    async fn downloads(&self) -> Result<Stream> {
        self.client.await_served(0, &self.origin).await?;
        let stream = self.client.stream(0, &self.origin).await?;
        stream.await_more(FLOWING_BYTES).await?;
        Ok(stream)
    }

    /// Has no connection any more. A client may leave a stream open whose connection was reset.
    async fn await_cut(&self) -> Result<()> {
        let from: IpAddr = FROM.parse()?;
        eventually("the end of all connections", LONG, async || {
            peers_of(self.port).is_ok_and(|peers| !peers.contains(&from))
        })
        .await
    }
}

/// What the running agent says of cutting in its only inbound.
async fn kicks(command: &AgentCommand) -> Result<Value> {
    let said = command.clone().args(["status", "--json"]);
    let said = said.run_to_end(LONG).await?;
    let status: Value = serde_json::from_str(&said.stdout).context(said.stderr)?;
    ensure!(status["running"] == true, "no agent runs yet");
    Ok(status["nodes"][0]["inbounds"][0]["kick"].clone())
}

async fn await_kicks(
    command: &AgentCommand,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut seen = Value::Null;
    eventually(what, LONG, async || {
        seen = kicks(command).await.unwrap_or_default();
        is_so(&seen)
    })
    .await
    .with_context(|| seen.to_string())?;
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_died_before_it_cut_does_so_when_it_is_back() -> Result<()> {
    if !may_cut_here("kick_rare::an_agent_that_died_before_it_cut_does_so_when_it_is_back")? {
        return Ok(());
    }
    let config = ServerConfig::new().vless("in");
    let stage = Stage::set(&config).await?;
    let user = User::new(&config.route("in", &uuid())).await?;
    stage.allow([&user.uuid]);
    let command = stage.agent_on("in");
    let mut agent = command
        .clone()
        .env("XRAY_AGENT_FAILPOINT", "kick.before_cut")
        .spawn()?;
    let stream = user.downloads().await?;
    stage.allow::<&str>([]);
    let ended = agent.wait_exit(LONG).await?;
    ensure!(ended.code().is_none(), "{}", agent.log());
    ensure!(stage.emails("in").await?.is_empty());
    stream.await_more(FLOWING_BYTES).await?;

    let agent = start(&command).await?;
    user.await_cut().await.with_context(|| agent.log())?;
    let kicks = await_kicks(&command, "it is told", |kick| kick["users"] == 1).await?;
    ensure!(kicks["not_cut"] == 0, "{kicks}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_streams_of_a_session_over_udp_are_blocked_until_the_user_returns() -> Result<()> {
    let config = ServerConfig::new().hysteria("in").edit(|json| {
        json["routing"] = json!({"rules": []});
        let hole = json!({"tag": "hole", "protocol": "blackhole"});
        json["outbounds"].as_array_mut().unwrap().push(hole);
    });
    let stage = Stage::set(&config).await?;
    let user = User::new(&config.route("in", &uuid())).await?;
    stage.allow([&user.uuid]);
    let command = stage.agent_with("[apply]\nblock_outbound = \"hole\"\n")?;
    let command = command.env("XRAY_TAG_MAP", "1:in");
    let _agent = start(&command).await?;
    let stream = user.downloads().await?;
    stage.allow::<&str>([]);
    let kicks = await_kicks(&command, "he is blocked", |kick| kick["blocked"] == 1).await?;
    ensure!(kicks["not_cut"] == 1 && kicks["users"] == 0, "{kicks}");
    let why = kicks["obstacle"].as_str().unwrap_or_default();
    ensure!(why.contains("UDP"), "{kicks}");
    // The session is there, and so is what it carries; nothing further comes through it.
    stream.await_more(FLOWING_BYTES).await?;
    ensure!(!user.client.is_served(0, &user.origin, LONG / 30).await);

    stage.allow([&user.uuid]);
    user.client.await_served(0, &user.origin).await?;
    await_kicks(&command, "nobody is blocked", |kick| kick["blocked"] == 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_an_earlier_agent_left_is_taken_away() -> Result<()> {
    let config = ServerConfig::new().vless("in").edit(|json| {
        let hole = json!({"tag": "hole", "protocol": "blackhole"});
        json["outbounds"].as_array_mut().unwrap().push(hole);
        json["routing"] = json!({"rules": []});
    });
    let stage = Stage::set(&config).await?;
    let user = User::new(&config.route("in", &uuid())).await?;
    let xray = client_of(&stage);
    let everybody = vec![user.uuid.clone()];
    xray.replace_rule("xray-agent-cut", "hole", everybody)
        .await?;
    stage.allow([&user.uuid]);
    let _agent = start(&stage.agent_on("in")).await?;
    user.client.await_served(0, &user.origin).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xray_that_does_not_tell_who_is_connected_is_told_of_with_the_mend() -> Result<()> {
    let user = uuid();
    let entry = json!({"id": user, "email": user});
    let config = ServerConfig::new()
        .vless("in")
        .with_client("in", entry)
        .edit(|json| json["policy"]["levels"]["0"]["statsUserOnline"] = false.into());
    let stage = Stage::set(&config).await?;
    let user = User::new(&config.route("in", &user)).await?;
    let stream = user.downloads().await?;
    stage.allow([&user.uuid]);
    let command = stage.agent_on("in");
    let agent = start(&command).await?;
    let kicks = await_kicks(&command, "the reason", |kick| kick["obstacle"].is_string()).await?;
    let why = kicks["obstacle"].as_str().unwrap_or_default();
    ensure!(why.contains("\"statsUserOnline\": true"), "{why}");
    let warned = agent
        .log()
        .lines()
        .filter(|l| l.contains("statsUserOnline"))
        .count();
    ensure!(warned == 1, "{}", agent.log());
    // All else works.
    stage.allow::<&str>([]);
    stage.live::<&str>("in", []).await?;
    stream.await_more(FLOWING_BYTES).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_only_written_anew_downloads_on_and_a_foreign_one_who_goes_is_cut() -> Result<()> {
    if !may_cut_here(
        "kick_rare::who_is_only_written_anew_downloads_on_and_a_foreign_one_who_goes_is_cut",
    )? {
        return Ok(());
    }
    let (ours, foreign) = (uuid(), uuid());
    let config = ServerConfig::new()
        .vless("in")
        .with_client("in", json!({"id": foreign, "email": "somebody@else"}));
    let stage = Stage::set(&config).await?;
    let user = User::new(&config.route("in", &ours)).await?;
    let other = User::new(&config.route("in", &foreign)).await?;
    stage.allow([&ours]);
    let toml = "[[node]]\nid = 1\ninbounds = [{ tag = \"in\", exclusive = true }]\n";
    let command = stage.agent_with(toml)?;
    let _guest = other.downloads().await?;
    let mut agent = start(&command).await?;
    other.await_cut().await.with_context(|| agent.log())?;
    let stream = user.downloads().await?;
    let told = await_kicks(&command, "the guest is cut", |kick| kick["users"] == 1).await?;
    ensure!(told["sockets"] == 1, "{told}");

    agent.kill9().await?;
    let mut api = stage.api().await?;
    api.remove("in", &ours).await?;
    let mut odd = vless_entry(&ours, &ours);
    odd.level = 7;
    api.add("in", odd).await?;
    let _agent = start(&command).await?;
    eventually("he is as he should be", LONG, async || {
        let Ok(mut api) = stage.api().await else {
            return false;
        };
        let users = api.users("in").await.unwrap_or_default();
        users.get(&ours).is_some_and(|user| user.level == 0)
    })
    .await?;
    stream.await_more(FLOWING_BYTES).await?;
    let kicks = kicks(&command).await?;
    ensure!(kicks["users"] == 0 && kicks["not_cut"] == 0, "{kicks}");
    Ok(())
}

fn client_of(stage: &Stage) -> XrayClient {
    XrayClient::new(config::Xray {
        name: "xray".into(),
        address: XrayAddress::Tcp(stage.xray.api_addr()),
        rpc_timeout: LONG,
        in_flight: 1,
    })
}

#[tokio::test]
async fn xray_tells_where_an_inbound_listens_and_whether_a_proxy_is_before_it() -> Result<()> {
    let config = ServerConfig::new()
        .vless("in-here")
        .vless("in-anywhere")
        .vless("in-six")
        .vless("in-behind")
        .edit(|json| {
            let inbounds = json["inbounds"].as_array_mut().unwrap();
            inbounds[1]["listen"] = "0.0.0.0".into();
            inbounds[2]["listen"] = "::".into();
            inbounds[3]["streamSettings"] = json!({"network": "raw",
                "sockopt": {"acceptProxyProtocol": true}});
        });
    let stage = Stage::set(&config).await?;
    let inbounds = client_of(&stage).list_inbounds().await?;
    let told = |tag: &str| {
        let found = inbounds.iter().find(|one| one.tag == tag).unwrap();
        let listen = found.transport.listen.map(|ip| ip.to_string());
        (listen.unwrap_or_default(), found.transport.proxy_protocol)
    };
    ensure!(told("in-here") == ("127.0.0.1".to_owned(), false));
    ensure!(told("in-anywhere") == ("0.0.0.0".to_owned(), false));
    ensure!(told("in-six") == ("::".to_owned(), false));
    ensure!(told("in-behind").1, "{inbounds:#?}");
    Ok(())
}
