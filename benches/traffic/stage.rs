//! An Xray whose users all have counters, and who makes them grow.

use anyhow::{Context, Result, ensure};
use xray_agent::xray::client::XrayClient;

use crate::lab::origin::Origin;
use crate::lab::wait::eventually;
use crate::setup::{LONG, Setup};
use crate::vless;

pub struct Stage {
    pub setup: Setup,
    pub users: u32,
    port: u16,
    origin: Origin,
}

impl Stage {
    /// Users are in Xray, and each has connected once.
    pub async fn new(users: u32) -> Result<Self> {
        let stage = Self::without_counters(users).await?;
        stage.touch_all().await?;
        Ok(stage)
    }

    /// Users are in Xray; nobody has connected.
    pub async fn without_counters(users: u32) -> Result<Self> {
        let setup = Setup::new(users).await?;
        let fill = setup.agent().env("ENABLE_TRAFFIC_REPORT", "off");
        let output = fill.arg("--once").run_to_end(LONG).await?;
        ensure!(output.code == Some(0), "{output:?}");
        let port = setup.xray.config()["inbounds"][0]["port"].as_u64();
        let port = port.context("the inbound has a port")?;
        Ok(Self {
            port: u16::try_from(port).context("a port")?,
            setup,
            users,
            origin: Origin::start().await?,
        })
    }

    /// Everybody connects once more.
    pub async fn touch_all(&self) -> Result<()> {
        self.touch(0..self.users).await?;
        let client = self.setup.client();
        let (client, expected) = (&client, 2 * self.users as usize);
        eventually("everybody's counters", LONG, async || {
            counters(client).await == Some(expected)
        })
        .await
    }

    /// These connect once more.
    pub async fn touch(&self, users: impl IntoIterator<Item = u32>) -> Result<()> {
        vless::touch(self.port, self.origin.echo_addr(), users).await
    }

    /// Every twentieth user connects once more, beginning with another at each round.
    pub async fn touch_some(&self, round: usize) -> Result<()> {
        self.touch((0..self.users).skip(round % 20).step_by(20))
            .await
    }
}

async fn counters(client: &XrayClient) -> Option<usize> {
    Some(client.user_counters().await.ok()?.len())
}
