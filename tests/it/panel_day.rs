//! A whole day of a panel that pushes, with a real Xray and real clients: it registers its callbacks,
//! pushes its users, hears of their bytes and of the node's health, and cuts off whoever used his quota
//! up; meanwhile Xray and the agent are killed. And a day on which the stores are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::kernel_panel::{EVENTS, TRAFFIC};
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{
    Agent, AgentCommand, Client, KernelPanel, Origin, Panel, ServerConfig, Xray, eventually,
    free_port,
};
use crate::support::{Api, LONG, TOKEN, agent, folder};

const TAG: &str = "in-vless";
/// The pushing panel's own names for the node.
const PANEL_NODE: u64 = 10;
const PANEL_BINDING: u64 = 3;
const ACCESS_KEY: &str = "znp";
/// Nobody may ever print these.
const SECRET_KEY: &str = "canary-kernel-secret-8d21";
const WEBHOOK_TOKEN: &str = "canary-webhook-token-77c0";
/// Users whom the polled panel allows, and those who are pushed: numbers of one series.
const POLLED: u32 = 10;
const PUSHED: u32 = 1_000;
/// Pushed users with a client: the one who works all day, and the one with a small quota.
const STEADY: u32 = 100;
const SHORT: u32 = 200;
/// Bytes that the latter may have.
const QUOTA: u64 = 3_000_000;
const NODE_HOOK: &str = "/hook/node";
const QUOTA_HOOK: &str = "/hook/quota";
const TRAFFIC_HOOK: &str = "/hook/traffic";

struct Day {
    polled: Panel,
    pushing: KernelPanel,
    xray: Xray,
    client: Client,
    origin: Origin,
    folder: TempDir,
    base: String,
    http: reqwest::Client,
    /// What Xrays that were ended had counted for the pushed users with a client.
    counted_before: BTreeMap<u32, (u64, u64)>,
}

impl Day {
    async fn new() -> Result<Self> {
        let server = ServerConfig::new().vless(TAG);
        let routes = [STEADY, SHORT].map(|user| server.route(TAG, &nth_uuid(user)));
        let polled = Panel::start(TOKEN).await?;
        polled.set_users(1, (0..POLLED).map(nth_uuid).collect());
        let day = Self {
            polled,
            pushing: KernelPanel::start(WEBHOOK_TOKEN).await?,
            client: Client::start_many(&routes).await?,
            xray: Xray::start(server).await?,
            origin: Origin::start().await?,
            folder: folder()?,
            base: format!("127.0.0.1:{}", free_port()?),
            http: reqwest::Client::new(),
            counted_before: BTreeMap::new(),
        };
        day.configure()?;
        Ok(day)
    }

    fn configure(&self) -> Result<()> {
        let (xray, pushing) = (self.xray.api_addr(), self.pushing.url(""));
        let toml = format!(
            "[apply]\nmode = \"xray-grpc\"\n\
             [[xray]]\naddress = \"{xray}\"\n\
             [[node]]\nid = 1\ninbounds = [{{ tag = \"{TAG}\" }}]\n\
             [kernel]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n\
             callbacks_allow = \"127.0.0.0/8\"\n\
             [kernel.panel]\nurl = \"{pushing}\"\ntoken = \"{WEBHOOK_TOKEN}\"\n\
             [[kernel.panel.bindings]]\ninbound = \"{TAG}\"\nnode_id = {PANEL_NODE}\n\
             binding_id = {PANEL_BINDING}\n"
        );
        Ok(std::fs::write(self.folder.path().join("agent.toml"), toml)?)
    }

    fn command(&self) -> AgentCommand {
        agent(&self.polled.base_url(), self.folder.path())
            .env("HTTP_LISTEN", &self.base)
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.3")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5")
            .arg("--config")
            .arg(self.folder.path().join("agent.toml"))
    }

    async fn start(&self) -> Result<Agent> {
        let agent = self.command().spawn()?;
        eventually("the agent answers", LONG, async || {
            self.call(Method::GET, "/v1/status", None).await.is_ok()
        })
        .await
        .with_context(|| agent.log())?;
        Ok(agent)
    }

    /// A call of the panel; its answer's body.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("http://{}{path}", self.base);
        let request = self
            .http
            .request(method, url)
            .basic_auth(ACCESS_KEY, Some(SECRET_KEY));
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

    async fn register(&self, events: &str, names: &[&str], hook: &str) -> Result<()> {
        for name in names {
            let wanted = json!({"event": name, "callback": self.pushing.url(hook),
                "secret": WEBHOOK_TOKEN});
            self.call(Method::POST, events, Some(&wanted)).await?;
        }
        Ok(())
    }

    async fn register_all(&self) -> Result<()> {
        let of_nodes = [
            "node_added",
            "node_removed",
            "node_healthy",
            "node_degraded",
            "node_unhealthy",
        ];
        self.register("/v1/events/registrations", &of_nodes, NODE_HOOK)
            .await?;
        let service = "/v1/service-events/registrations";
        self.register(service, &["user_quota_changed"], QUOTA_HOOK)
            .await?;
        self.register(service, &["user_traffic_reported"], TRAFFIC_HOOK)
            .await
    }

    /// The users as the real panel pushes them; `used` is of the one with the small quota.
    async fn push(&self, used: u64) -> Result<Value> {
        let users: Vec<_> = (STEADY..STEADY + PUSHED)
            .map(|user| pushed(user, if user == SHORT { used } else { 0 }))
            .collect();
        let body = json!({"listen": "127.0.0.1:1", "connect": null, "users": users,
            "profile": {"id": TAG, "role": "listener", "protocol": "vless", "tags": [],
                "profile": {}}});
        self.call(Method::POST, "/v1/protocols", Some(&body)).await
    }

    async fn live(&self) -> Result<BTreeSet<String>> {
        let mut api = Api::connect(&self.xray.api_addr()).await?;
        Ok(api.emails(TAG).await?.into_iter().collect())
    }

    async fn await_live(&self, users: u32) -> Result<()> {
        eventually("all users are live in Xray", LONG, async || {
            let live = self.live().await.map_or(0, |live| live.len());
            live == usize::try_from(users).unwrap_or_default()
        })
        .await
    }

    /// What all Xrays counted for a user so far.
    async fn counted(&self, user: u32) -> Result<(u64, u64)> {
        let counters = user_counters(&self.xray.api_addr()).await?;
        let now = counters.get(&nth_uuid(user)).copied().unwrap_or_default();
        let before = self.counted_before.get(&user).copied().unwrap_or_default();
        Ok((before.0 + now.0, before.1 + now.1))
    }

    /// Waits until both sinks were told of every byte of these users, and of none twice.
    async fn all_is_told(&self, users: &[u32]) -> Result<()> {
        for user in users {
            let counted = self.counted(*user).await?;
            for path in [TRAFFIC, TRAFFIC_HOOK] {
                let what = format!("{path} has the {counted:?} bytes of user {user}");
                eventually(&what, LONG, async || {
                    self.pushing.bytes(path, u64::from(*user)) == counted
                })
                .await
                .with_context(|| format!("{:?}", self.pushing.bytes(path, u64::from(*user))))?;
            }
        }
        Ok(())
    }

    /// Waits until the panel was told of it so often, on its callback and on its own path.
    async fn await_health(&self, name: &str, how_often: usize) -> Result<()> {
        for path in [NODE_HOOK, EVENTS] {
            eventually(&format!("{name} at {path}"), LONG, async || {
                let events = self.pushing.events(path);
                events.iter().filter(|event| *event == name).count() >= how_often
            })
            .await
            .with_context(|| format!("{:?}", self.pushing.events(path)))?;
        }
        Ok(())
    }
}

fn pushed(user: u32, so_far: u64) -> Value {
    let allocated = if user == SHORT { QUOTA } else { 0 };
    json!({"id": user.to_string(), "username": nth_uuid(user), "password": "unused",
        "traffic": {"allocated": allocated, "used": so_far},
        "metadata": {"subscription_id": 1_000 + user}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_day_of_a_panel_that_pushes() -> Result<()> {
    let mut day = Day::new().await?;
    let mut agent = day.start().await?;
    let outcome = Box::pin(morning_to_evening(&mut day, &mut agent)).await;
    outcome.with_context(|| agent.log())?;
    let refused = day.pushing.refused();
    ensure!(refused.is_empty(), "unsigned: {refused:?}");
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

async fn morning_to_evening(day: &mut Day, agent: &mut Agent) -> Result<()> {
    day.register_all().await?;
    day.await_live(POLLED).await?;
    let summary = day.push(0).await?;
    ensure!(summary["id"] == TAG, "{summary}");
    day.await_live(POLLED + PUSHED).await?;

    // Bytes go to both sinks, once.
    day.client
        .transfer(0, &day.origin, 200_000, 400_000)
        .await?;
    day.all_is_told(&[STEADY]).await?;
    let record = day.pushing.records(TRAFFIC)[0].clone();
    ensure!(record["subscription_id"] == 1_000 + STEADY, "{record}");
    ensure!(record["node_id"] == PANEL_NODE && record["binding_id"] == PANEL_BINDING);
    ensure!(record["protocol"] == "vless", "{record}");

    quota_runs_out(day).await?;
    xray_dies(day).await?;
    agent_dies(day, agent).await?;

    day.all_is_told(&[STEADY, SHORT]).await?;
    ensure!(day.live().await?.len() == usize::try_from(POLLED + PUSHED - 1)?);
    Ok(())
}

/// The client downloads until his quota is used up; he is refused, and the panel hears of it.
async fn quota_runs_out(day: &Day) -> Result<()> {
    day.client.await_served(1, &day.origin).await?;
    day.client.transfer(1, &day.origin, 1_000, QUOTA).await?;
    eventually("who used his quota up is refused", LONG, async || {
        !day.client
            .is_served(1, &day.origin, Duration::from_secs(2))
            .await
    })
    .await?;
    eventually("the quota's event", LONG, async || {
        let calls = day.pushing.calls(QUOTA_HOOK);
        let of_short = calls
            .iter()
            .find(|call| call.body["payload"]["user_id"] == SHORT);
        of_short.is_some_and(|call| {
            let current = &call.body["payload"]["current"];
            call.body["event"] == "user.quota.changed"
                && current["remaining"] == 0
                && current["used"].as_u64() >= Some(QUOTA)
        })
    })
    .await
    .with_context(|| format!("{:?}", day.pushing.calls(QUOTA_HOOK)))?;
    let mut live = day.live().await?;
    ensure!(!live.contains(&nth_uuid(SHORT)), "he is still in Xray");
    // The same push again gives him nothing: what is in flight is not forgotten.
    let used = day.counted(SHORT).await?;
    day.push(used.0 + used.1).await?;
    live = day.live().await?;
    ensure!(!live.contains(&nth_uuid(SHORT)), "a push brought him back");
    Ok(())
}

/// Xray dies and comes back: the panel hears both, signed, and everybody is back.
async fn xray_dies(day: &mut Day) -> Result<()> {
    day.all_is_told(&[STEADY, SHORT]).await?;
    for user in [STEADY, SHORT] {
        let counted = day.counted(user).await?;
        day.counted_before.insert(user, counted);
    }
    day.xray.kill().await?;
    day.await_health("node_unhealthy", 1).await?;
    day.xray.restart().await?;
    day.await_health("node_healthy", 1).await?;
    for path in [NODE_HOOK, EVENTS] {
        let events = day.pushing.events(path);
        let place = |name: &str| events.iter().rposition(|event| event == name);
        ensure!(
            place("node_unhealthy") < place("node_healthy"),
            "{path}: {events:?}"
        );
    }
    day.await_live(POLLED + PUSHED - 1).await
}

/// The agent is killed while bytes flow and the panel is away, which makes the outcome of what is
/// under way the worst that it can be.
async fn agent_dies(day: &mut Day, agent: &mut Agent) -> Result<()> {
    day.pushing.pause().await;
    day.client
        .transfer(0, &day.origin, 300_000, 500_000)
        .await?;
    // Read, and waiting for the panel.
    let collected = day
        .command()
        .args(["traffic", "collect"])
        .run_to_end(LONG)
        .await?;
    ensure!(collected.code == Some(0), "{collected:?}");
    agent.kill9().await?;
    day.client
        .transfer(0, &day.origin, 100_000, 200_000)
        .await?;
    *agent = day.start().await?;
    day.pushing.resume().await?;
    day.all_is_told(&[STEADY]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_are_lost_cut_nobody_off() -> Result<()> {
    let day = Day::new().await?;
    let mut agent = day.start().await?;
    day.push(0).await?;
    day.await_live(POLLED + PUSHED).await?;
    day.client.await_served(0, &day.origin).await?;
    let session = day.client.session(0, &day.origin).await?;
    agent.kill9().await?;
    let state = day.folder.path().join(".xray-agent");
    for file in std::fs::read_dir(&state)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with("agent.db") || name.starts_with("ledger.db") {
            std::fs::remove_file(file.path())?;
        }
    }
    let agent = day.start().await?;
    let status = day
        .call(Method::GET, "/v1/status?include=users", None)
        .await?;
    ensure!(
        status["snapshot"]["users"]["total"] == POLLED + PUSHED,
        "{status}"
    );
    // Two more polls: nobody left in between.
    let before = day.polled.requests(1);
    day.polled.await_request_after(1, before + 1).await?;
    ensure!(day.live().await?.len() == usize::try_from(POLLED + PUSHED)?);
    let mut session = session;
    session
        .send_and_receive(b"still there")
        .await
        .with_context(|| agent.log())?;
    // Nothing is billed that was counted before.
    day.client.transfer(0, &day.origin, 10_000, 20_000).await?;
    eventually("bytes of today", LONG, async || {
        day.pushing.bytes(TRAFFIC, u64::from(STEADY)).1 >= 20_000
    })
    .await
    .with_context(|| agent.log())
}
