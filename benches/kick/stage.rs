//! An Xray with users, and those of them who download; one under a running agent, or one that is left to
//! the bare reference.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use xray_agent::control::{self, Call};
use xray_agent::model::cut::Cut;
use xray_agent::model::ids::InboundTag;
use xray_agent::model::ports::PortRange;
use xray_agent::sockets;
use xray_agent::xray::client::XrayClient;

use crate::lab::agent::Agent;
use crate::lab::origin::Origin;
use crate::lab::secrets::nth_uuid;
use crate::lab::stream::{Pace, Seen, Stream};
use crate::lab::wait::eventually;
use crate::setup::{LONG, Setup, TAG};
use crate::vless;

/// `RemoveUser` calls under way at once, as in the agent.
const IN_FLIGHT: usize = 64;

pub struct Stage {
    setup: Setup,
    client: XrayClient,
    port: u16,
    origin: Origin,
    /// Users from here on are allowed; those before were removed.
    first: u32,
    users: u32,
}

impl Stage {
    /// Users are in Xray; nobody has connected.
    pub async fn new(users: u32) -> Result<Self> {
        let setup = Setup::new(users).await?;
        let output = setup.agent().arg("--once").run_to_end(LONG).await?;
        ensure!(output.code == Some(0), "{output:?}");
        let port = setup.xray.config()["inbounds"][0]["port"].as_u64();
        Ok(Self {
            client: setup.client(),
            port: u16::try_from(port.context("the inbound has a port")?)?,
            origin: Origin::start().await?,
            setup,
            first: 0,
            users,
        })
    }

    /// The agent, as the unit starts it but that it polls when it is asked to only.
    pub async fn agent(&self) -> Result<Agent> {
        let agent = self.setup.agent().env("INTERVAL_SECONDS", "3600").spawn()?;
        eventually("the agent serves", LONG, async || self.pass().await.is_ok()).await?;
        Ok(agent)
    }

    /// Downloads of the next users, all under way.
    pub async fn downloads(&self, count: u32, pace: Pace) -> Result<Vec<Stream>> {
        let target = self.origin.stream_addr();
        let next = self.first..self.first + count;
        let streams = next.map(|user| vless::download(self.port, target, user, pace));
        let streams = try_join_all(streams).await?;
        try_join_all(
            streams
                .iter()
                .map(|stream| stream.await_more(2 * pace.chunk)),
        )
        .await?;
        Ok(streams)
    }

    /// The panel removes the next users, and the agent learns of it; when the panel answered.
    pub async fn removed_by_agent(&mut self, count: u32) -> Result<Instant> {
        self.first += count;
        let left = (self.first..self.users).map(nth_uuid).collect();
        self.setup.panel.set_users(1, left);
        self.pass().await?;
        self.setup.panel.answered(1).context("nobody asked")
    }

    /// Removes the next users, then cuts their connections; when that began.
    pub async fn removed_bare(&mut self, count: u32) -> Result<Instant> {
        let gone = self.first..self.first + count;
        self.first += count;
        let cut = Cut {
            ports: vec![PortRange::single(self.port)],
            addresses: gone
                .clone()
                .map(|user| vless::address(user).into())
                .collect(),
        };
        let emails: Vec<String> = gone.map(nth_uuid).collect();
        let begun = Instant::now();
        let tag = InboundTag(TAG.into());
        for some in emails.chunks(IN_FLIGHT) {
            let calls = some
                .iter()
                .map(|email| self.client.remove_user(&tag, email));
            try_join_all(calls).await?;
        }
        let done = tokio::task::spawn_blocking(move || sockets::cut(&cut)).await??;
        ensure!(
            done.len() == count as usize,
            "{} of {count} cut",
            done.len()
        );
        Ok(begun)
    }

    async fn pass(&self) -> Result<()> {
        let socket = self.setup.folder.path().join("state");
        control::call(&socket, Call::Sync { force: false }).await?;
        Ok(())
    }
}

/// What the streams saw, all of which end.
pub async fn ended(streams: Vec<Stream>) -> Result<Vec<Seen>> {
    try_join_all(streams.iter().map(|stream| stream.await_end(LONG))).await
}
