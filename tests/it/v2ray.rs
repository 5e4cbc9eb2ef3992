//! A V2Ray 4 is served as an Xray is, with what it lacks: it lists neither inbounds nor users. With
//! Debian's real V2Ray, real clients and the real program; its dialect also on a scripted Xray.
//!
//! In one file of some length: it goes through all that an Xray is tested for, on one stage.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use prost::Message;
use tempfile::TempDir;
use tonic::transport::Endpoint;
use xray_agent::config;
use xray_agent::model::ids::InboundTag;
use xray_agent::xray::client::XrayClient;
use xray_agent::xray::dialect::Dialect;
use xray_agent::xray::error::XrayError;
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::app::stats::command as stats;
use xray_agent::xray::proto::xray::common::serial::TypedMessage;

use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Client, Origin, Panel, ServerConfig, Xray, eventually, free_port};
use crate::scripted::Method::{Count, Query, SysStats};
use crate::scripted::Scripted;
use crate::stage::await_inbound;
use crate::support::{LONG, TOKEN, agent, folder};

/// Tag and protocol of each inbound.
const INBOUNDS: [(&str, &str); 3] = [("in-a", "vless"), ("in-b", "vmess"), ("in-c", "trojan")];
/// A user who is served is so within milliseconds; VMess refuses by silence.
const REFUSED: Duration = Duration::from_millis(1_500);
/// Seconds. Two runs of a core that start within this are told apart by nothing but their counters.
const TWINS_S: u32 = 6;

/// A configuration that V2Ray and Xray both take.
fn server() -> Result<ServerConfig> {
    let server = ServerConfig::new()
        .vless("in-a")
        .vmess("in-b")
        .trojan("in-c");
    Ok(server.api_behind_doors(&[free_port()?]))
}

/// A V2Ray, a panel that speaks for node 1, and clients of users 0 and 1 at each inbound.
struct Stage {
    v2ray: Xray,
    panel: Panel,
    client: Client,
    origin: Origin,
    folder: TempDir,
}

impl Stage {
    async fn new() -> Result<Self> {
        let server = server()?;
        let routes: Vec<_> = (0..2)
            .flat_map(|user| INBOUNDS.map(|(tag, _)| server.route(tag, &nth_uuid(user))))
            .collect();
        let stage = Self {
            client: Client::start_many(&routes).await?,
            v2ray: Xray::start_v2ray(server).await?,
            panel: Panel::start(TOKEN).await?,
            origin: Origin::start().await?,
            folder: folder()?,
        };
        stage.allow(&[0, 1]);
        Ok(stage)
    }

    fn allow(&self, users: &[u32]) {
        let users = users.iter().copied().map(nth_uuid);
        self.panel.set_users(1, users.collect());
    }

    /// The agent with all inbounds.
    fn agent(&self) -> Result<AgentCommand> {
        let inbounds = INBOUNDS.map(|(tag, protocol)| inbound(tag, protocol));
        agent_on(&self.panel, &self.folder, &self.v2ray, &inbounds.join(", "))
    }

    /// Waits until that user is served at each inbound.
    async fn served(&self, user: usize) -> Result<()> {
        let all = routes(user).map(|route| self.client.await_served(route, &self.origin));
        join_all(all).await.into_iter().collect()
    }

    /// Waits until that user is refused at each inbound.
    async fn refused(&self, user: usize) -> Result<()> {
        eventually("the user is refused everywhere", LONG, async || {
            let asked =
                routes(user).map(|route| self.client.is_served(route, &self.origin, REFUSED));
            !join_all(asked).await.contains(&true)
        })
        .await
    }

    /// Waits until what was applied at each inbound is kept, and holds so many users.
    async fn kept(&self, users: usize) -> Result<()> {
        eventually("what was applied is kept", LONG, async || {
            INBOUNDS.iter().all(|(tag, _)| {
                let inbounds = self.folder.path().join(".xray-agent/inbounds");
                let file = inbounds.join(format!("xray@{tag}/applied.json"));
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let kept: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                let count = |name: &str| kept[name].as_array().map(Vec::len);
                (count("uuids"), count("unsure")) == (Some(users), Some(0))
            })
        })
        .await
    }
}

/// The client's routes of that user, one for each inbound.
fn routes(user: usize) -> std::ops::Range<usize> {
    user * INBOUNDS.len()..(user + 1) * INBOUNDS.len()
}

fn inbound(tag: &str, protocol: &str) -> String {
    format!("{{ tag = \"{tag}\", protocol = \"{protocol}\" }}")
}

fn agent_on(panel: &Panel, folder: &TempDir, core: &Xray, inbounds: &str) -> Result<AgentCommand> {
    let file = folder.path().join("agent.toml");
    let toml = format!(
        "[apply]\nmode = \"xray-grpc\"\n[[xray]]\naddress = \"{}\"\n\
         [[node]]\nid = 1\ninbounds = [{inbounds}]\n",
        core.api_addr()
    );
    std::fs::write(&file, toml)?;
    Ok(agent(&panel.base_url(), folder.path())
        .env("INTERVAL_SECONDS", "0.3")
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.3")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5")
        .arg("--config")
        .arg(file))
}

/// The agent's own client, alone.
fn client_of(address: &str) -> XrayClient {
    XrayClient::new(config::Xray {
        name: "core".into(),
        address: config::XrayAddress::Tcp(address.to_owned()),
        rpc_timeout: Duration::from_secs(5),
        in_flight: 8,
    })
}

/// Calls a method under its name in V2Ray, with nothing of the agent's but the messages.
async fn call_v2ray<Q, A>(address: &str, path: &'static str, question: Q) -> Result<A>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = grpc.unary(tonic::Request::new(question), path, codec);
    Ok(answer.await?.into_inner())
}

/// Another hand removes a user of V2Ray.
async fn remove(address: &str, tag: &str, email: String) -> Result<()> {
    let operation = "v2ray.core.app.proxyman.command.RemoveUserOperation";
    alter(address, tag, operation, email).await
}

async fn alter(address: &str, tag: &str, operation: &str, email: String) -> Result<()> {
    let message = handler::RemoveUserOperation { email };
    let request = handler::AlterInboundRequest {
        tag: tag.to_owned(),
        operation: Some(TypedMessage {
            r#type: operation.to_owned(),
            value: message.encode_to_vec().into(),
        }),
    };
    let path = "/v2ray.core.app.proxyman.command.HandlerService/AlterInbound";
    let _done: handler::AlterInboundResponse = call_v2ray(address, path, request).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_knows_a_v2ray_and_finds_nothing_wrong_with_it() -> Result<()> {
    let stage = Stage::new().await?;
    let command = stage.agent()?;
    command.clone().arg("--once").run_to_end(LONG).await?;
    stage.served(0).await?;
    let (code, found) = crate::doctor_stage::findings(&command).await?;
    ensure!(code == Some(0), "{found:#}");
    let said = |check: &str| {
        let all = found["findings"].as_array().into_iter().flatten();
        let of_check = all.filter(|finding| finding["check"] == check);
        let lines = of_check.map(|it| format!("{}: {}", it["verdict"], it["what"]));
        lines.collect::<Vec<_>>().join("\n")
    };
    ensure!(said("xray").contains("V2Ray 4 answers at"), "{found:#}");
    ensure!(said("counting").starts_with("\"good\""), "{found:#}");
    ensure!(
        said("cutting").contains("does not tell from where users are connected"),
        "{found:#}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_v2ray_are_served_until_they_are_removed() -> Result<()> {
    let stage = Stage::new().await?;
    let command = stage.agent()?;
    let agent = command.spawn()?;
    stage.served(0).await?;
    stage.served(1).await?;
    stage.allow(&[0]);
    stage.refused(1).await?;
    stage.served(0).await?;
    for (place, (tag, protocol)) in INBOUNDS.iter().enumerate() {
        let told = await_inbound(&command, place, tag, |it| it["live"] == 1).await?;
        ensure!(
            told["core"] == "v2ray" && told["protocol"] == *protocol,
            "{told}"
        );
        ensure!(
            told["read_back"] == false && told["error"].is_null(),
            "{told}"
        );
    }
    let log = agent.log();
    let told = log
        .lines()
        .filter(|line| line.contains("the core is a V2Ray 4"));
    ensure!(told.clone().count() == INBOUNDS.len() && told.clone().all(|it| it.contains("INFO")));
    ensure!(
        !log.contains("24.11.5"),
        "it was taken for an old Xray: {log}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2ray_that_restarts_has_its_users_again() -> Result<()> {
    let mut stage = Stage::new().await?;
    let _agent = stage.agent()?.spawn()?;
    stage.served(0).await?;
    stage.v2ray.restart().await?;
    stage.served(0).await?;
    stage.served(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_dropped_while_the_agent_was_away_is_removed_from_a_v2ray() -> Result<()> {
    let stage = Stage::new().await?;
    let command = stage.agent()?;
    let mut agent = command.spawn()?;
    stage.served(1).await?;
    stage.kept(2).await?;
    agent.kill9().await?;
    stage.allow(&[0]);
    let _agent = command.spawn()?;
    stage.refused(1).await?;
    stage.served(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_are_there_already_and_users_who_are_gone_are_no_trouble() -> Result<()> {
    let stage = Stage::new().await?;
    // Sessions cannot be cut there, which would be said.
    let command = stage.agent()?.env("XRAY_KICK", "off");
    let mut agent = command.spawn()?;
    stage.served(1).await?;
    stage.kept(2).await?;
    agent.kill9().await?;
    // Nothing is known any more of whom V2Ray has: "already exists".
    std::fs::remove_dir_all(stage.folder.path().join(".xray-agent"))?;
    let agent = command.spawn()?;
    for (place, (tag, _)) in INBOUNDS.iter().enumerate() {
        let told = await_inbound(&command, place, tag, |it| it["live"] == 2).await?;
        ensure!(told["error"].is_null() && told["failed"] == 0, "{told}");
        // Then "not found", for this one was removed by another hand.
        remove(
            &stage.v2ray.api_addr(),
            tag,
            format!("{tag}.{}", nth_uuid(1)),
        )
        .await?;
    }
    stage.allow(&[0]);
    for (place, (tag, _)) in INBOUNDS.iter().enumerate() {
        let told = await_inbound(&command, place, tag, |it| it["live"] == 1).await?;
        ensure!(told["error"].is_null() && told["failed"] == 0, "{told}");
    }
    ensure!(!agent.log().contains("\"WARN\""), "{}", agent.log());
    stage.refused(1).await?;
    stage.served(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_a_v2ray_counts_are_reported_to_the_byte() -> Result<()> {
    let mut stage = Stage::new().await?;
    let mut agent = stage.agent()?.spawn()?;
    stage.served(0).await?;
    stage.served(1).await?;
    let before = counted(&stage.v2ray.api_addr()).await?;
    for route in routes(1) {
        let bytes = 100_000 * u64::try_from(route)?;
        let moved = stage
            .client
            .transfer(route, &stage.origin, bytes, 2 * bytes);
        moved.await?;
    }
    let moved = (3 * 16 + 1_200_000, 2_400_000);
    let expected = (before.0 + moved.0, before.1 + moved.1);
    let billed = eventually("all bytes at the panel", LONG, async || {
        stage.panel.billed_total() == expected
    });
    let all = || {
        format!(
            "{expected:?} {:?}\n{}",
            stage.panel.billed_total(),
            agent.log()
        )
    };
    billed.await.with_context(all)?;
    ensure!(counted(&stage.v2ray.api_addr()).await? == expected);
    // Counters begin anew with V2Ray, and what was billed stays. Two runs of which it cannot be told
    // by their clocks that they are two would be counted as one.
    let client = client_of(&stage.v2ray.api_addr());
    eventually(
        "the second run begins well after the first",
        LONG,
        async || {
            client
                .sys_stats()
                .await
                .is_ok_and(|stats| stats.uptime > TWINS_S)
        },
    )
    .await?;
    stage.v2ray.restart().await?;
    stage.served(0).await?;
    let mut anew = (0, 0);
    let billed = eventually(
        "the bytes after the restart at the panel",
        LONG,
        async || {
            anew = counted(&stage.v2ray.api_addr()).await.unwrap_or_default();
            stage.panel.billed_total() == (expected.0 + anew.0, expected.1 + anew.1)
        },
    );
    let all = || {
        let billed = stage.panel.billed_total();
        format!("{expected:?} {billed:?}\n{}", agent.log())
    };
    billed.await.with_context(all)?;
    ensure!(anew > (0, 0));
    ensure!(agent.terminate(LONG).await?.success() && stage.panel.repeats() == 0);
    Ok(())
}

/// Bytes up and down of all users, as V2Ray itself has them.
async fn counted(address: &str) -> Result<(u64, u64)> {
    let request = stats::QueryStatsRequest {
        pattern: "user>>>".into(),
        reset: false,
    };
    let path = "/v2ray.core.app.stats.command.StatsService/QueryStats";
    let answer: stats::QueryStatsResponse = call_v2ray(address, path, request).await?;
    let of = |way: &[u8]| {
        let counters = answer.stat.iter().filter(|stat| stat.name.ends_with(way));
        counters
            .map(|stat| u64::try_from(stat.value))
            .sum::<Result<u64, _>>()
    };
    Ok((of(b"uplink")?, of(b"downlink")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xray_in_the_place_of_a_v2ray_is_followed_and_back_again() -> Result<()> {
    let mut stage = Stage::new().await?;
    let command = stage.agent()?;
    let _agent = command.spawn()?;
    stage.served(1).await?;
    stage.v2ray.kill().await?;
    let mut xray = Xray::start(stage.v2ray.config().clone()).await?;
    stage.served(1).await?;
    let is_xray = |it: &serde_json::Value| it["core"] == "xray" && it["read_back"] == true;
    await_inbound(&command, 0, "an Xray", is_xray).await?;
    stage.allow(&[0]);
    stage.refused(1).await?;
    xray.kill().await?;
    stage.v2ray.restart().await?;
    stage.served(0).await?;
    await_inbound(&command, 0, "a V2Ray", |it| it["core"] == "v2ray").await?;
    stage.refused(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadowsocks_inbound_of_a_v2ray_is_refused_and_never_tried() -> Result<()> {
    let server = ServerConfig::new()
        .vless("in-a")
        .api_behind_doors(&[free_port()?]);
    let (mut v2ray, panel) = (Xray::start_v2ray(server).await?, Panel::start(TOKEN).await?);
    let folder = folder()?;
    panel.set_users(1, vec![nth_uuid(0)]);
    // The inbound is another one than it is said to be: trying would end V2Ray.
    let inbound = "{ tag = \"in-a\", protocol = \"shadowsocks\", method = \"aes-256-gcm\" }";
    let command = agent_on(&panel, &folder, &v2ray, inbound)?;
    let _agent = command.spawn()?;
    let refused = await_inbound(&command, 0, "a refusal", |it| it["error"].is_string()).await?;
    let why = refused["error"].as_str().unwrap_or_default();
    ensure!(
        why.contains("V2Ray 4") && why.contains("shadowsocks"),
        "{why}"
    );
    ensure!(v2ray.is_alive());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xray_is_one_although_it_answers_to_v2rays_names_too() -> Result<()> {
    let xray = Xray::start(ServerConfig::new().vless("in-a")).await?;
    let path = "/v2ray.core.app.stats.command.StatsService/GetSysStats";
    let request = stats::SysStatsRequest {};
    let alias: stats::SysStatsResponse = call_v2ray(&xray.api_addr(), path, request).await?;
    ensure!(alias.total_alloc > 0);
    ensure!(client_of(&xray.api_addr()).dialect().await? == Dialect::Xray);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_statistics_the_core_is_told_by_its_other_service() -> Result<()> {
    let server = || -> Result<ServerConfig> {
        let server = ServerConfig::new().vless("in-a");
        let server = server.api_behind_doors(&[free_port()?]);
        Ok(server.services(&["HandlerService"]))
    };
    let v2ray = Xray::start_v2ray(server()?).await?;
    let client = client_of(&v2ray.api_addr());
    ensure!(client.dialect().await? == Dialect::V2Ray4);
    let statistics = client.sys_stats().await;
    ensure!(
        matches!(statistics, Err(XrayError::Unimplemented(_))),
        "{statistics:?}"
    );
    let xray = Xray::start(server()?).await?;
    ensure!(client_of(&xray.api_addr()).dialect().await? == Dialect::Xray);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_v2ray_says_of_a_call_is_understood() -> Result<()> {
    let v2ray = Xray::start_v2ray(server()?).await?;
    let client = client_of(&v2ray.api_addr());
    let nope = InboundTag("nope".into());
    for (tag, _) in INBOUNDS {
        let gone = client.remove_user(&InboundTag(tag.into()), "nobody").await;
        ensure!(gone == Err(XrayError::UserNotFound), "{tag}: {gone:?}");
    }
    let missing = client.remove_user(&nope, "nobody").await;
    ensure!(missing == Err(XrayError::InboundMissing), "{missing:?}");
    let door = v2ray.config()["inbounds"][3]["tag"].as_str();
    let door = InboundTag(door.context("a door")?.to_owned());
    let fixed = client.remove_user(&door, "nobody").await;
    ensure!(fixed == Err(XrayError::NotUserManager), "{fixed:?}");
    let xrays = "xray.app.proxyman.command.RemoveUserOperation";
    let other = alter(&v2ray.api_addr(), "in-a", xrays, "nobody".into()).await;
    let status = other.err().context("an error")?;
    let other = XrayError::from(status.downcast::<tonic::Status>()?);
    ensure!(matches!(other, XrayError::TypeUnknown(_)), "{other:?}");
    let listed = client.list_inbounds().await;
    ensure!(
        matches!(listed, Err(XrayError::Unimplemented(_))),
        "{listed:?}"
    );
    let users = client.users(&nope).await;
    ensure!(
        matches!(users, Err(XrayError::Unimplemented(_))),
        "{users:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_core_is_asked_who_it_is_once_for_each_connection() -> Result<()> {
    let xray = Scripted::start(&[("in", "vless")]).await?;
    let client = client_of(&xray.api());
    let tag = InboundTag("in".into());
    // The question is GetSysStats itself, so that asking for it first costs nothing.
    client.sys_stats().await?;
    ensure!(xray.called(&[SysStats]) == 1);
    let counts = (0..20).map(|_| client.users_count(&tag));
    ensure!(
        join_all(counts)
            .await
            .into_iter()
            .all(|count| count == Ok(0))
    );
    ensure!(xray.called(&[SysStats, Count]) == 21);
    let mut lost = client.lost_connections();
    lost.mark_unchanged();
    xray.restart();
    lost.changed().await?;
    let reads = join_all((0..20).map(|_| client.user_counters())).await;
    ensure!(reads.iter().all(Result::is_ok), "{reads:?}");
    ensure!(xray.called(&[SysStats]) == 2 && xray.called(&[Query]) == 20);
    Ok(())
}
