//! An agent that polls no panel: its users are pushed, and bytes and events go to the pushing panel
//! alone. Whatever a person looks at says so, and misses nothing that was not configured. With a real
//! Xray, real clients and the real program.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::kernel_panel::TRAFFIC;
use crate::lab::secrets::{base64, nth_uuid};
use crate::lab::{
    Agent, AgentCommand, Client, KernelPanel, Origin, Output, ServerConfig, Xray, eventually,
    free_port,
};
use crate::support::{LONG, folder};

const VLESS: &str = "in-vless";
const TROJAN: &str = "in-trojan";
const KEYS: &str = "in-ss22";
const ACCESS_KEY: &str = "znp";
/// Nobody may ever print these.
const SECRET_KEY: &str = "canary-kernel-secret-19ab";
const WEBHOOK_TOKEN: &str = "canary-webhook-token-02fe";
/// Users by their numbers at the panel; also their clients' places, plus one.
const BY_UUID: u32 = 1;
const BY_PASSWORD: u32 = 2;
const BY_KEY: u32 = 3;
const PASSWORD: &str = "canary plain password";
/// The lab makes a key of the first 16 characters.
const KEY: &str = "sixteen letters!";
const QUOTA_HOOK: &str = "/hook/quota";
/// Who is let in is so within milliseconds; Shadowsocks refuses by silence.
const REFUSED: Duration = Duration::from_millis(1_500);

struct Stand {
    pushing: KernelPanel,
    xray: Xray,
    client: Client,
    origin: Origin,
    folder: TempDir,
    base: String,
    http: reqwest::Client,
}

impl Stand {
    async fn new() -> Result<Self> {
        let server = ServerConfig::new()
            .vless(VLESS)
            .trojan(TROJAN)
            .shadowsocks2022(KEYS);
        let routes = [
            server.route(VLESS, &nth_uuid(BY_UUID)),
            server.route(TROJAN, PASSWORD),
            server.route(KEYS, KEY),
        ];
        let stand = Self {
            pushing: KernelPanel::start(WEBHOOK_TOKEN).await?,
            client: Client::start_many(&routes).await?,
            xray: Xray::start(server).await?,
            origin: Origin::start().await?,
            folder: folder()?,
            base: format!("127.0.0.1:{}", free_port()?),
            http: reqwest::Client::new(),
        };
        stand.configure()?;
        Ok(stand)
    }

    fn configure(&self) -> Result<()> {
        let (xray, pushing) = (self.xray.api_addr(), self.pushing.url(""));
        let toml = format!(
            "[apply]\nmode = \"xray-grpc\"\n\
             [[xray]]\naddress = \"{xray}\"\n\
             [[node]]\nid = 1\n\
             inbounds = [{{ tag = \"{VLESS}\" }}, {{ tag = \"{TROJAN}\" }}, {{ tag = \"{KEYS}\" }}]\n\
             [kernel]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n\
             callbacks_allow = \"127.0.0.0/8\"\n\
             [kernel.panel]\nurl = \"{pushing}\"\ntoken = \"{WEBHOOK_TOKEN}\"\n"
        );
        // Of an inbound without one the panel is told nothing.
        let bindings = [VLESS, TROJAN, KEYS].map(|tag| {
            format!(
                "[[kernel.panel.bindings]]\ninbound = \"{tag}\"\nnode_id = 10\nbinding_id = 3\n"
            )
        });
        let toml = toml + &bindings.concat();
        Ok(std::fs::write(self.folder.path().join("agent.toml"), toml)?)
    }

    fn command(&self) -> AgentCommand {
        AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent"))
            .env("HTTP_LISTEN", &self.base)
            .env("OUTPUT_DIR", self.folder.path())
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.3")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5")
            .env("INTERVAL_SECONDS", "1")
            .env("RUST_LOG", "trace")
            .arg("--config")
            .arg(self.folder.path().join("agent.toml"))
    }

    async fn start(&self) -> Result<Agent> {
        self.start_with(&self.command()).await
    }

    async fn start_with(&self, command: &AgentCommand) -> Result<Agent> {
        let agent = command.spawn()?;
        eventually("the agent is ready", LONG, async || {
            self.call(Method::GET, "/readyz", None).await.ok()
        })
        .await
        .with_context(|| agent.log())?;
        Ok(agent)
    }

    /// A call of the panel; its answer's body.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("http://{}{path}", self.base);
        let request = self.http.request(method, url);
        let request = request.basic_auth(ACCESS_KEY, Some(SECRET_KEY));
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.to_string()),
            None => request,
        };
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn push_all(&self) -> Result<()> {
        let by_uuid = json!({"id": BY_UUID.to_string(), "username": nth_uuid(BY_UUID),
            "password": "unused"});
        let protocol = json!({"listen": "127.0.0.1:1", "connect": null, "users": [by_uuid],
            "profile": {"id": VLESS, "role": "listener", "protocol": "vless", "tags": [],
                "profile": {}}});
        self.call(Method::POST, "/v1/protocols", Some(&protocol))
            .await?;
        for (id, password) in [
            (BY_PASSWORD, PASSWORD.to_owned()),
            (BY_KEY, base64(KEY.as_bytes())),
        ] {
            let user = json!({"id": id.to_string(), "username": "somebody", "password": password});
            self.call(Method::POST, "/v1/users", Some(&user)).await?;
        }
        Ok(())
    }

    async fn await_served(&self, users: &[u32]) -> Result<()> {
        for user in users {
            let served = self.client.await_served(place(*user), &self.origin).await;
            served.with_context(|| format!("user {user}"))?;
        }
        Ok(())
    }

    /// What a person is told by a command.
    async fn told(&self, command: &[&str]) -> Result<Output> {
        self.command().args(command).run_to_end(LONG).await
    }
}

fn place(user: u32) -> usize {
    usize::try_from(user - 1).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_are_only_pushed_are_served_counted_and_repaired() -> Result<()> {
    let mut stand = Stand::new().await?;
    let mut agent = stand.start().await?;
    let outcome = Box::pin(a_day(&mut stand, &mut agent)).await;
    outcome.with_context(|| agent.log())?;
    let refused = stand.pushing.refused();
    ensure!(refused.is_empty(), "unsigned: {refused:?}");
    ensure!(agent.terminate(LONG).await?.success());
    // One pass by itself makes good what Xray lost, without any panel to ask.
    stand.xray.kill().await?;
    stand.xray.restart().await?;
    let once = stand.told(&["--once"]).await?;
    ensure!(once.code == Some(0), "{once:?}");
    stand.await_served(&[BY_UUID, BY_KEY]).await
}

async fn a_day(stand: &mut Stand, agent: &mut Agent) -> Result<()> {
    stand.push_all().await?;
    stand.await_served(&[BY_UUID, BY_PASSWORD, BY_KEY]).await?;
    for user in [BY_UUID, BY_PASSWORD, BY_KEY] {
        let client = &stand.client;
        client
            .transfer(place(user), &stand.origin, 20_000, 50_000)
            .await?;
        eventually("the pushing panel has his bytes", LONG, async || {
            stand.pushing.bytes(TRAFFIC, u64::from(user)).1 >= 50_000
        })
        .await
        .with_context(|| format!("user {user}"))?;
    }
    look_around(stand).await?;

    let path = format!("/v1/users/{BY_PASSWORD}");
    stand.call(Method::DELETE, &path, None).await?;
    let place = place(BY_PASSWORD);
    let is_served = stand.client.is_served(place, &stand.origin, REFUSED).await;
    ensure!(!is_served, "a deleted user comes in");

    stand.xray.kill().await?;
    stand.xray.restart().await?;
    stand.await_served(&[BY_UUID, BY_KEY]).await?;
    agent.kill9().await?;
    stand.xray.kill().await?;
    stand.xray.restart().await?;
    *agent = stand.start().await?;
    stand.await_served(&[BY_UUID, BY_KEY]).await?;
    let is_served = stand.client.is_served(place, &stand.origin, REFUSED).await;
    ensure!(!is_served, "a restart brought a deleted user back");
    Ok(())
}

/// Nothing that a person looks at misses a panel.
async fn look_around(stand: &Stand) -> Result<()> {
    let status = stand.told(&["status"]).await?;
    ensure!(status.code == Some(0), "{status:?}");
    ensure!(status.stdout.contains("errors: none"), "{status:?}");
    let pushed = format!("{TROJAN}: 2 of 2 allowed were pushed");
    ensure!(status.stdout.contains(&pushed), "{status:?}");
    let users = stand.told(&["users", "--json"]).await?;
    ensure!(users.code == Some(0), "{users:?}");
    let users: Value = serde_json::from_str(&users.stdout)?;
    let node = &users["nodes"][0];
    ensure!(node["panel_error"].is_null(), "{users}");
    let inbound = &node["inbounds"][0];
    ensure!(inbound["pushed"] == 1 && inbound["allowed"] == 1, "{users}");
    ensure!(inbound["missing"] == json!([]), "{users}");
    let checked = stand.told(&["check-config"]).await?;
    ensure!(checked.code == Some(0), "{checked:?}");
    ensure!(checked.stdout.contains("none is polled"), "{checked:?}");
    let doctor = stand.told(&["doctor"]).await?;
    let of_panel = doctor.stdout.lines().find(|line| line.contains("panel"));
    ensure!(of_panel.is_none(), "{doctor:?}");
    let metrics = stand.told(&["metrics"]).await?;
    ensure!(
        metrics.stdout.contains("xray_agent_live_users"),
        "{metrics:?}"
    );
    let is_up = |line: &str| line.starts_with("xray_agent_panel_up{");
    ensure!(!metrics.stdout.lines().any(is_up), "{metrics:?}");
    let ready = stand.call(Method::GET, "/readyz", None).await?;
    let dependencies = ready["dependencies"].to_string();
    ensure!(dependencies.contains("xray"), "{ready}");
    ensure!(!dependencies.contains("panel"), "{ready}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_before_or_after_it_tells_of_a_quota_tells_of_it() -> Result<()> {
    let stand = Stand::new().await?;
    let hook = json!({"event": "user_quota_changed", "callback": stand.pushing.url(QUOTA_HOOK),
        "secret": WEBHOOK_TOKEN});
    for (user, failpoint) in [(41, "pushed.tell.before"), (42, "pushed.tell.after")] {
        let dying = stand.command().env("XRAY_AGENT_FAILPOINT", failpoint);
        let mut agent = stand.start_with(&dying).await?;
        stand
            .call(
                Method::POST,
                "/v1/service-events/registrations",
                Some(&hook),
            )
            .await?;
        let limited = json!({"id": user.to_string(), "username": nth_uuid(user),
            "password": "unused", "traffic": {"allocated": 100, "used": 100}});
        // It may die before it answers.
        let _ = stand.call(Method::POST, "/v1/users", Some(&limited)).await;
        let ended = agent.wait_exit(LONG).await?;
        ensure!(!ended.success(), "{failpoint} was not reached");
        let mut agent = stand.start().await?;
        eventually("the panel hears of it", LONG, async || {
            let calls = stand.pushing.calls(QUOTA_HOOK);
            calls
                .iter()
                .any(|call| call.body["payload"]["user_id"] == user)
        })
        .await
        .with_context(|| format!("{failpoint}: {}", agent.log()))?;
        ensure!(agent.terminate(LONG).await?.success());
    }
    Ok(())
}
