//! A panel, a scripted Xray and the real program between them, on a folder of their own.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;
use xray_agent::xray::proto::xray::common::protocol::User;

use crate::lab::secrets::nth_uuid;
use crate::lab::{Agent, AgentCommand, Panel, eventually};
use crate::scripted::{Method, Scripted};
use crate::support::{LONG, TOKEN, agent, folder};

/// Between two polls: short, so that a test can see several.
const INTERVAL: &str = "0.2";
/// For one call of the agent to the scripted Xray.
const RPC_TIMEOUT: &str = "0.3";

pub struct Stage {
    pub panel: Panel,
    pub xray: Scripted,
    folder: TempDir,
}

impl Stage {
    /// The agent serves node 1 with all these inbounds.
    pub async fn new(inbounds: &[(&str, &str)]) -> Result<Self> {
        Ok(Self {
            panel: Panel::start(TOKEN).await?,
            xray: Scripted::start(inbounds).await?,
            folder: folder()?,
        })
    }

    /// The program, configured by the environment alone.
    pub fn agent(&self, tags: &str) -> AgentCommand {
        agent(&self.panel.base_url(), self.folder.path())
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", self.xray.api())
            .env("XRAY_TAG_MAP", format!("1:{tags}"))
            .env("XRAY_RPC_TIMEOUT_SECONDS", RPC_TIMEOUT)
            .env("INTERVAL_SECONDS", INTERVAL)
            .env("RUST_LOG", "trace")
    }

    /// The program, configured by a file that says more than these few lines do.
    pub fn agent_with(&self, xray: &str, inbounds: &str, further: &str) -> Result<AgentCommand> {
        let address = self.xray.api();
        let file = self.folder.path().join("agent.toml");
        let toml = format!(
            "[apply]\nmode = \"xray-grpc\"\n{further}\n[[xray]]\naddress = \"{address}\"\n{xray}\n\
             [[node]]\nid = 1\ninbounds = [{inbounds}]\n"
        );
        std::fs::write(&file, toml)?;
        Ok(agent(&self.panel.base_url(), self.folder.path())
            .env("XRAY_RPC_TIMEOUT_SECONDS", RPC_TIMEOUT)
            .env("INTERVAL_SECONDS", INTERVAL)
            .env("RUST_LOG", "trace")
            .arg("--config")
            .arg(file))
    }

    /// Where the agent keeps what it knows.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join(".xray-agent")
    }

    /// Where the agent keeps what it knows of an inbound.
    pub fn state_of(&self, tag: &str) -> PathBuf {
        let inbounds = self.state_dir().join("inbounds");
        inbounds.join(format!("xray@{tag}"))
    }

    /// Node 1 is allowed the first so many of a fixed series of users.
    pub fn allow(&self, users: impl IntoIterator<Item = u32>) {
        self.panel
            .set_users(1, users.into_iter().map(nth_uuid).collect());
    }

    /// Waits until an inbound has just these users.
    pub async fn await_users(&self, tag: &str, users: impl IntoIterator<Item = u32>) -> Result<()> {
        let mut expected: Vec<_> = users.into_iter().map(nth_uuid).collect();
        expected.sort();
        let all_are_there = format!("{tag} has its {} users", expected.len());
        eventually(&all_are_there, LONG, async || {
            self.xray.emails(tag) == expected
        })
        .await
    }

    /// Waits until the panel has been asked, and has been asked again, so many times more.
    pub async fn await_polls(&self, polls: usize) -> Result<()> {
        let before = self.panel.requests(1);
        self.panel
            .await_request_after(1, before + polls)
            .await
            .map(drop)
    }

    /// How often users were to be changed so far.
    pub fn changes(&self) -> usize {
        self.xray.called(&[Method::Add, Method::Remove])
    }
}

/// The e-mail of a user of the series in the bare form.
pub fn email(user: u32) -> String {
    nth_uuid(user)
}

/// What the running agent says of itself.
pub async fn status(command: &AgentCommand) -> Result<Value> {
    let said = command
        .clone()
        .args(["status", "--json"])
        .run_to_end(LONG)
        .await?;
    let said: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
    // What an agent has left is not what one says.
    Ok(if said["running"] == true {
        said
    } else {
        Value::Null
    })
}

/// Waits until the running agent says something of its inbound of that place.
pub async fn await_inbound(
    command: &AgentCommand,
    place: usize,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    eventually(what, LONG, async || {
        let status = status(command).await.ok()?;
        let inbound = status["nodes"][0]["inbounds"][place].clone();
        is_so(&inbound).then_some(inbound)
    })
    .await
}

/// Lines of a log at WARN or above that hold these words.
pub fn warnings(agent: &Agent, words: &str) -> usize {
    agent
        .log()
        .lines()
        .filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\""))
        .filter(|line| line.contains(words))
        .count()
}

/// A user of the series as the agent writes one under VLESS.
pub fn vless(user: u32, secret: &str) -> User {
    use xray_agent::xray::proto::xray::proxy::vless::Account;
    User {
        email: nth_uuid(user),
        account: Some(xray_agent::xray::account::typed(&Account {
            id: secret.to_owned(),
            ..Account::default()
        })),
        ..User::default()
    }
}
