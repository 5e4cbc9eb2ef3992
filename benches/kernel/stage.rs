//! One Xray and one agent with the kernel API, pinned to the first core; whoever asks has the others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use xray_agent::config::{Xray as XrayConfig, XrayAddress};
use xray_agent::model::ids::InboundTag;
use xray_agent::xray::client::XrayClient;

use crate::lab::agent::{Agent, AgentCommand};
use crate::lab::panel::Panel;
use crate::lab::ports::free_port;
use crate::lab::secrets::{base64, nth_uuid};
use crate::lab::server::ServerConfig;
use crate::lab::wait::eventually;
use crate::lab::xray::Xray;

pub const TAG: &str = "in-vless";
/// A bound against hanging.
pub const LONG: Duration = Duration::from_mins(5);
/// Where the agent, and the handler beside which it is measured, run.
pub const SERVER_CORE: &str = "0";
/// By which the API is called: the name and the word.
const CREDENTIAL: &str = "bench:bench-secret-key-0123456789";

pub struct Stage {
    pub xray: Xray,
    pub address: String,
    pub folder: TempDir,
    pub http: reqwest::Client,
    _panel: Panel,
    agent: Agent,
}

impl Stage {
    pub async fn new(users: u32) -> Result<Self> {
        let xray = Xray::start(ServerConfig::new().vless(TAG)).await?;
        let panel = Panel::start("token").await?;
        panel.set_users(1, Vec::new());
        let folder = tempfile::tempdir()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let (key, secret) = CREDENTIAL.split_once(':').expect("it has both");
        let agent = AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent"))
            .env("PANEL_BASE_URL", panel.base_url())
            .env("INTERNAL_API_KEY", "token")
            .env("NODE_IDS", "1")
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", xray.api_addr())
            .env("XRAY_TAG_MAP", format!("1:{TAG}"))
            .env("OUTPUT_DIR", folder.path())
            .env("KERNEL_ACCESS_KEY", key)
            .env("KERNEL_SECRET_KEY", secret)
            .env("HTTP_LISTEN", &address)
            .through("taskset", &["--cpu-list", SERVER_CORE])
            .spawn()?;
        let stage = Self {
            xray,
            address,
            folder,
            http: reqwest::Client::new(),
            _panel: panel,
            agent,
        };
        eventually("the agent answers", LONG, async || {
            stage.get("/v1/status").await.is_ok()
        })
        .await
        .with_context(|| stage.agent.log())?;
        println!("{users} pushed users in one VLESS inbound; the agent has one core\n");
        Ok(stage)
    }

    /// As an `Authorization` header has it.
    pub fn authorization() -> String {
        format!("Basic {}", base64(CREDENTIAL.as_bytes()))
    }

    /// The body that is answered to a GET.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let request = self.http.get(format!("http://{}{path}", self.address));
        let request = request.header("authorization", Self::authorization());
        let answer = request.send().await?.error_for_status()?;
        Ok(answer.bytes().await?.to_vec())
    }

    pub async fn post(&self, path: &str, body: String) -> Result<()> {
        let request = self.http.post(format!("http://{}{path}", self.address));
        let request = request
            .header("authorization", Self::authorization())
            .header("content-type", "application/json");
        let answer = request.body(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(())
    }

    /// Imports so many users: until the answer, and until all are live.
    pub async fn import(&self, users: u32) -> Result<()> {
        let all: Vec<_> = (0..users).map(user).collect();
        let body = Value::from(all).to_string();
        let megabytes = body.len() / 1_000_000;
        let begun = Instant::now();
        self.post("/v1/users/import", body).await?;
        let answered = begun.elapsed();
        let client = self.client();
        eventually("all are live", LONG, async || {
            client.users_count(&InboundTag(TAG.into())).await.ok() == Some(i64::from(users))
        })
        .await
        .with_context(|| self.agent.log())?;
        let live = begun.elapsed();
        println!("| import of | body | answered after | all live in Xray after |");
        println!("|---|---|---|---|");
        println!("| {users} users | {megabytes} MB | {answered:.2?} | {live:.2?} |\n");
        Ok(())
    }

    pub fn client(&self) -> XrayClient {
        XrayClient::new(XrayConfig {
            name: "bench".into(),
            address: XrayAddress::Tcp(self.xray.api_addr()),
            rpc_timeout: Duration::from_mins(1),
            in_flight: 1,
        })
    }
}

/// A user as the real panel pushes him.
pub fn user(number: u32) -> Value {
    json!({"id": number.to_string(), "username": nth_uuid(number), "password": "unused",
        "traffic": {"allocated": 0, "used": 0}, "metadata": {"subscription_id": number}})
}
