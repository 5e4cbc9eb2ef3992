//! One Xray, one panel, one agent.

use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;
use xray_agent::config::{Xray as XrayConfig, XrayAddress};
use xray_agent::model::ids::InboundTag;
use xray_agent::xray::client::XrayClient;

use crate::lab::agent::AgentCommand;
use crate::lab::panel::Panel;
use crate::lab::secrets::nth_uuid;
use crate::lab::server::ServerConfig;
use crate::lab::xray::Xray;

pub const TAG: &str = "in-vless";
/// A bound against hanging.
pub const LONG: Duration = Duration::from_mins(5);

pub struct Setup {
    pub xray: Xray,
    pub panel: Panel,
    pub folder: TempDir,
}

impl Setup {
    pub async fn new(users: u32) -> Result<Self> {
        let xray = Xray::start(ServerConfig::new().vless(TAG)).await?;
        let panel = Panel::start("token").await?;
        panel.set_users(1, (0..users).map(nth_uuid).collect());
        Ok(Self {
            xray,
            panel,
            folder: tempfile::tempdir()?,
        })
    }

    pub fn agent(&self) -> AgentCommand {
        AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent"))
            .env("PANEL_BASE_URL", self.panel.base_url())
            .env("INTERNAL_API_KEY", "token")
            .env("NODE_IDS", "1")
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", self.xray.api_addr())
            .env("XRAY_TAG_MAP", format!("1:{TAG}"))
            .env("OUTPUT_DIR", self.folder.path())
            .env("STATE_DIR", self.folder.path().join("state"))
    }

    pub fn client(&self) -> XrayClient {
        XrayClient::new(XrayConfig {
            name: "bench".into(),
            address: XrayAddress::Tcp(self.xray.api_addr()),
            rpc_timeout: Duration::from_mins(1),
            in_flight: 1,
        })
    }

    pub async fn count(client: &XrayClient) -> Option<i64> {
        client.users_count(&InboundTag(TAG.into())).await.ok()
    }
}
