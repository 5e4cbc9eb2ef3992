//! A real Xray that counts nobody is told from one that nobody uses, and what is then said mends it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xray_agent::config::{self, XrayAddress};
use xray_agent::model::ids::InboundTag;
use xray_agent::traffic::connections::Connections;
use xray_agent::traffic::switches::{Lack, Seen, Switches};
use xray_agent::xray::client::XrayClient;
use xray_agent::xray::error::XrayError;

use crate::lab::secrets::nth_uuid;
use crate::lab::{Client, Origin, Panel, ServerConfig, Session, Xray, eventually, uuid};
use crate::support::{LONG, TOKEN, folder, grpc_agent};

const TAG: &str = "in-vless";
/// The agent looks for a minute before it says that nobody is counted.
const MINUTES: Duration = Duration::from_mins(4);

fn client_at(address: String) -> XrayClient {
    XrayClient::new(config::Xray {
        name: "xray".into(),
        address: XrayAddress::Tcp(address),
        rpc_timeout: LONG,
        in_flight: 1,
    })
}

/// Looks at one Xray as the agent does.
struct Observer {
    client: XrayClient,
    connections: Connections,
    switches: Switches,
    start: Instant,
}

impl Observer {
    fn new(xray: &Xray) -> Self {
        let client = client_at(xray.api_addr());
        Self {
            connections: Connections::new(client.clone(), vec![InboundTag(TAG.into())]),
            client,
            switches: Switches::default(),
            start: Instant::now(),
        }
    }

    async fn seen(&mut self, now: Instant) -> Result<Seen> {
        match self.client.user_counters().await {
            Err(XrayError::Unimplemented(_)) => Ok(Seen::NoService),
            Ok(counters) if counters.iter().next().is_some() => Ok(Seen::Counters),
            Ok(_) => Ok(Seen::NoCounters {
                established: self.connections.established(now).await,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// What lacks after a look that is made as if so many seconds had gone by.
    async fn look(&mut self, second: u64) -> Result<Option<Lack>> {
        let now = self.start + Duration::from_secs(second);
        let seen = self.seen(now).await?;
        self.switches.read(now, seen);
        Ok(self.switches.lacks())
    }
}

/// A server with one user, and his client.
async fn start(config: ServerConfig) -> Result<(Xray, Client)> {
    let user = uuid();
    let config = config
        .vless(TAG)
        .with_client(TAG, json!({"id": user, "email": "user"}));
    let client = Client::start_many(&[config.route(TAG, &user)]).await?;
    Ok((Xray::start(&config).await?, client))
}

/// A session that lasts, once the kernel shows it.
async fn connect(observer: &mut Observer, client: &Client, origin: &Origin) -> Result<Session> {
    let session = client.session(0, origin).await?;
    let now = observer.start;
    eventually("the kernel shows one connection", LONG, async || {
        (observer.connections.established(now).await == Some(1)).then_some(())
    })
    .await?;
    Ok(session)
}

/// `config` with the members that `mend` names.
fn mended(config: &Value, mend: &str) -> Result<Value> {
    let (_, rest) = mend.split_once("configuration ").context("no members")?;
    let (members, _) = rest.split_once(" and restart").context("no restart")?;
    let members: Value = serde_json::from_str(&format!("{{{members}}}"))?;
    let mut config = config.clone();
    for (section, wanted) in members.as_object().context("members")? {
        for (name, value) in wanted.as_object().context("a section")? {
            config[section][name] = value.clone();
        }
        if config[section].is_null() {
            config[section] = json!({});
        }
    }
    Ok(config)
}

#[tokio::test]
async fn an_xray_that_counts_nobody_is_found_after_a_minute_and_mended_by_what_is_said()
-> Result<()> {
    let origin = Origin::start().await?;
    for config in [
        ServerConfig::new().without_stats(),
        ServerConfig::new().without_policy(),
    ] {
        let (mut xray, client) = start(config).await?;
        let mut observer = Observer::new(&xray);
        let session = connect(&mut observer, &client, &origin).await?;
        ensure!(observer.look(0).await?.is_none());
        ensure!(observer.look(59).await?.is_none());
        let lack = observer.look(60).await?.context("nothing was found")?;
        ensure!(lack == Lack::StatsOrPolicy);

        drop(session);
        let whole = mended(xray.config(), &lack.mend(&[0]))?;
        xray.restart_with(whole).await?;
        ensure!(client.get(0, &origin).await? == Origin::HELLO);
        let mut anew = Observer::new(&xray);
        ensure!(anew.seen(anew.start).await? == Seen::Counters);
    }
    Ok(())
}

#[tokio::test]
async fn an_xray_that_counts_lacks_nothing_with_users_or_without() -> Result<()> {
    let origin = Origin::start().await?;
    let (xray, client) = start(ServerConfig::new()).await?;
    let mut observer = Observer::new(&xray);
    // What asked whether it listens may still be going.
    eventually("nobody is connected", LONG, async || {
        let established = observer.connections.established(observer.start).await;
        (established == Some(0)).then_some(())
    })
    .await?;
    for second in [0, 60, 120] {
        ensure!(observer.look(second).await?.is_none());
    }
    let _session = client.session(0, &origin).await?;
    ensure!(observer.seen(observer.start).await? == Seen::Counters);
    for second in [180, 240] {
        ensure!(observer.look(second).await?.is_none());
    }
    Ok(())
}

#[tokio::test]
async fn an_api_without_statistics_is_found_at_once_and_mended_by_what_is_said() -> Result<()> {
    let origin = Origin::start().await?;
    let (mut xray, client) = start(ServerConfig::new().services(&["HandlerService"])).await?;
    let mut observer = Observer::new(&xray);
    let lack = observer.look(0).await?.context("nothing was found")?;
    ensure!(lack == Lack::StatsService);

    let whole = mended(xray.config(), &lack.mend(&[]))?;
    xray.restart_with(whole).await?;
    ensure!(client.get(0, &origin).await? == Origin::HELLO);
    let mut anew = Observer::new(&xray);
    ensure!(anew.seen(anew.start).await? == Seen::Counters);
    Ok(())
}

#[tokio::test]
async fn connections_that_cannot_be_told_are_not_taken_for_none() -> Result<()> {
    let config = ServerConfig::new().vless(TAG).hysteria("in-udp");
    let xray = Xray::start(&config).await?;
    let ask = async |address: &str, tag: &str| {
        let tags = vec![InboundTag(tag.into())];
        let mut connections = Connections::new(client_at(address.to_owned()), tags);
        connections.established(Instant::now()).await
    };
    let local = xray.api_addr();
    ensure!(ask(&local, TAG).await.is_some());
    ensure!(ask(&local, "in-udp").await.is_none());
    ensure!(ask(&local, "in-nowhere").await.is_none());
    // The same Xray, by an address that might be another host's.
    let port = xray.api_port();
    ensure!(ask(&format!("0.0.0.0:{port}"), TAG).await.is_none());

    let silent = Xray::start(ServerConfig::new().services(&["StatsService"]).vless(TAG)).await?;
    ensure!(ask(&silent.api_addr(), TAG).await.is_none());
    Ok(())
}

/// What the running agent says of its Xray, in its log and in its status.
async fn said_by_the_agent(server: ServerConfig, words: &str) -> Result<()> {
    let xray = Xray::start(server.clone()).await?;
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![nth_uuid(0)]);
    let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), TAG)
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "1")
        .env("RUST_LOG", "trace");
    let agent = command.spawn()?;
    let client = Client::start_many(&[server.route(TAG, &nth_uuid(0))]).await?;
    let origin = Origin::start().await?;
    client.await_served(0, &origin).await?;
    let _session = client.session(0, &origin).await?;
    agent
        .await_log(&["WARN", "merge into", words], MINUTES)
        .await?;
    let told = eventually("the status shows it", LONG, async || {
        let status = command.clone().args(["status", "--json"]);
        let said = status.run_to_end(LONG).await.ok()?.stdout;
        let status: Value = serde_json::from_str(&said).ok()?;
        let told = status["traffic"]["xrays"][0]["not_counting"]
            .as_str()?
            .to_owned();
        Some(told)
    });
    ensure!(told.await?.contains(words));
    let log = agent.log();
    let warned = log.lines().filter(|line| line.contains("merge into"));
    ensure!(warned.count() == 1, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_says_what_an_xray_without_the_service_lacks() -> Result<()> {
    let server = ServerConfig::new().vless(TAG).services(&["HandlerService"]);
    said_by_the_agent(server, "StatsService").await
}

/// Takes the minute that it takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_says_what_an_xray_that_counts_nobody_lacks() -> Result<()> {
    let server = ServerConfig::new().vless(TAG).without_stats();
    said_by_the_agent(server, "statsUserUplink").await
}
