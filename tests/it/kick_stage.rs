//! Where users are removed in mid-download: an Xray, the panel, the real program, and people who
//! download, each by a way of their own.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;

use super::{cutting, life};
use crate::lab::provision::xray_program;
use crate::lab::stats::user_counters;
use crate::lab::{
    Agent, AgentCommand, Client, Origin, Route, ServerConfig, Stream, eventually, peers_of, uuid,
};
use crate::support::LONG;

/// Enough that a connection is well under way.
pub const FLOWING_BYTES: u64 = 256 << 10;
/// A user who is served is so within milliseconds; VMess and Shadowsocks refuse by silence.
pub const REFUSED: Duration = Duration::from_millis(1_500);

/// One user at one address, who uses one inbound.
#[derive(Clone, Debug)]
pub struct Person {
    pub tag: &'static str,
    pub user: String,
    pub from: String,
    pub mux: bool,
}

impl Person {
    pub fn new(tag: &'static str, from: impl Into<String>) -> Self {
        Self {
            tag,
            user: uuid(),
            from: from.into(),
            mux: false,
        }
    }

    pub fn with_mux(self) -> Self {
        Self { mux: true, ..self }
    }

    fn route(&self, config: &ServerConfig) -> Route {
        let route = config.route(self.tag, &self.user).sent_from(&self.from);
        let of_ipv6 = self.from.contains(':');
        let route = if of_ipv6 {
            route.reached_at("::1")
        } else {
            route
        };
        if self.mux { route.with_mux() } else { route }
    }
}

pub struct Stage {
    pub set: life::Stage,
    pub config: ServerConfig,
    /// Each is known by the place here.
    pub people: Vec<Person>,
    pub client: Client,
    pub origin: Origin,
}

impl Stage {
    /// All of them are allowed. Their inbounds listen on every address, as those that users reach.
    pub async fn new(config: ServerConfig, people: Vec<Person>) -> Result<Self> {
        let config =
            people.iter().fold(
                config,
                |config, one| match config.inbound_json(one.tag)["listen"].as_str() {
                    Some("127.0.0.1") => config.listening_on(one.tag, "0.0.0.0"),
                    _ => config,
                },
            );
        let routes: Vec<Route> = people.iter().map(|one| one.route(&config)).collect();
        let stage = Self {
            set: life::Stage::set(&config).await?,
            client: Client::start_many(&routes).await?,
            origin: Origin::start().await?,
            config,
            people,
        };
        stage.allow_all_but(&[]);
        Ok(stage)
    }

    /// What the panel says from now on; when it began to.
    pub fn allow_all_but(&self, removed: &[usize]) -> Instant {
        let kept = self.people.iter().enumerate();
        let kept = kept.filter(|(which, _)| !removed.contains(which));
        self.set.allow(kept.map(|(_, one)| &one.user));
        Instant::now()
    }

    /// The program as the tests want it: counters are read and bytes reported only for a reason.
    pub fn command(&self) -> AgentCommand {
        let mut tags: Vec<_> = self.people.iter().map(|one| one.tag).collect();
        tags.dedup();
        let socket = self.set.folder.path().join("no-such-unit.sock");
        self.set
            .agent_on(&tags.join("+"))
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "3600")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "3600")
            .env("XRAY_KICK_SOCKET", socket)
            .env("RUST_LOG", "trace")
    }

    /// Starts the program, and waits until it has made everybody live and everybody is served.
    pub async fn agent(&self, command: &AgentCommand) -> Result<Agent> {
        let agent = life::start(command).await?;
        eventually("a pass that left nothing to do", LONG, async || {
            let inbounds = self.inbounds().await.ok()?;
            let is_done = |inbound: &Value| inbound["last_success"].is_string();
            (!inbounds.is_empty() && inbounds.iter().all(is_done)).then_some(())
        })
        .await
        .with_context(|| agent.log())?;
        let all = 0..self.people.len();
        try_join_all(all.map(|which| self.client.await_served(which, &self.origin))).await?;
        Ok(agent)
    }

    /// Everybody's download, under way.
    pub async fn downloads(&self) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for (which, one) in self.people.iter().enumerate() {
            let stream = self.download(which).await;
            streams.push(stream.with_context(|| format!("{one:?}"))?);
        }
        Ok(streams)
    }

    /// A download, under way; under TLS 1.3 where that is spliced.
    pub async fn download(&self, which: usize) -> Result<Stream> {
        let stream = if self.people[which].tag == "in-vision" {
            self.client.tls_stream(which, &self.origin).await?
        } else {
            self.client.stream(which, &self.origin).await?
        };
        stream.await_more(FLOWING_BYTES).await?;
        Ok(stream)
    }

    /// Established connections of this person's address to this person's inbound.
    pub fn sockets(&self, which: usize) -> Result<usize> {
        let one = &self.people[which];
        let from: IpAddr = one.from.parse()?;
        let peers = peers_of(self.config.port(one.tag))?;
        Ok(peers.into_iter().filter(|peer| *peer == from).count())
    }

    /// Waits until this person has no connection any more.
    pub async fn await_cut(&self, which: usize, agent: &Agent) -> Result<()> {
        let cut = eventually("the end of all connections", LONG, async || {
            self.sockets(which).is_ok_and(|sockets| sockets == 0)
        });
        cut.await
            .with_context(|| format!("{:?}\n{}", self.people[which], agent.log()))
    }

    /// Bytes up and down that Xray itself counted for this person.
    pub async fn counted(&self, which: usize) -> Result<(u64, u64)> {
        let user = &self.people[which].user;
        let counters = user_counters(&self.set.xray.api_addr()).await?;
        let own = counters.iter().filter(|(email, _)| email.ends_with(user));
        Ok(own.fold((0, 0), |sum, (_, it)| (sum.0 + it.0, sum.1 + it.1)))
    }

    /// Bytes up and down that the panel was told of this person and took.
    pub fn billed(&self, which: usize) -> (u64, u64) {
        self.set.panel.billed(1, &self.people[which].user)
    }

    /// Waits until the panel has been told of all that Xray counted for this person.
    pub async fn await_billed(&self, which: usize, agent: &Agent) -> Result<(u64, u64)> {
        let mut counted = (0, 0);
        let billed = eventually("all bytes at the panel", LONG, async || {
            counted = self.counted(which).await.unwrap_or_default();
            counted != (0, 0) && self.billed(which) == counted
        });
        billed.await.with_context(|| {
            let (one, billed) = (&self.people[which], self.billed(which));
            format!(
                "{one:?}: counted {counted:?}, billed {billed:?}\n{}",
                agent.log()
            )
        })?;
        Ok(counted)
    }

    /// Waits until Xray itself has this person no more.
    pub async fn await_removed(&self, which: usize) -> Result<()> {
        let one = &self.people[which];
        eventually("the removal", LONG, async || {
            let emails = self.set.emails(one.tag).await;
            emails.is_ok_and(|emails| !emails.iter().any(|email| email.ends_with(&one.user)))
        })
        .await
    }

    /// What the running agent says of its inbounds' open sessions, by place.
    pub async fn kicks(&self) -> Result<Vec<Value>> {
        let mut inbounds = self.inbounds().await?;
        Ok(inbounds.iter_mut().map(|it| it["kick"].take()).collect())
    }

    async fn inbounds(&self) -> Result<Vec<Value>> {
        let said = life::run(&self.command(), &["status", "--json"], 0).await?;
        let status: Value = serde_json::from_str(&said.stdout).context(said.stdout)?;
        let inbounds = status["nodes"][0]["inbounds"].as_array();
        Ok(inbounds.context("no inbounds")?.clone())
    }
}

/// Shows that nothing comes any more, by another download as a clock. A client may leave a stream open
/// whose connection was reset: that a stream ends is no proof, nor is it one that it does not.
pub async fn ensure_silent(silent: &Stream, clock: &Stream) -> Result<()> {
    // What the client held already.
    clock.await_more(FLOWING_BYTES).await?;
    let before = silent.seen().bytes;
    clock.await_more(4 * FLOWING_BYTES).await?;
    let after = silent.seen().bytes;
    ensure!(before == after, "{before} bytes became {after}");
    Ok(())
}

/// Whether the calling test may cut; where it may not, it has been run by itself where it may.
pub fn may_cut_here(test: &str) -> Result<bool> {
    // A network of its own has no way to where Xray comes from.
    xray_program()?;
    Ok(cutting::may_cut_here(test))
}

/// The longest that a download may pause beside others that are cut: a bound, not a figure.
pub const GAP_MAX: Duration = Duration::from_secs(10);
