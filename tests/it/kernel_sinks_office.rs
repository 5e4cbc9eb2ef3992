//! A pushing panel, a real Xray and the real program between them, with somebody who registered for
//! traffic; and what the ledger holds for both, read beside the program.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use xray_agent::base::clock::Clock;
use xray_agent::model::ids::UserId;
use xray_agent::store::open_read_only;
use xray_agent::traffic::ledger::{spec, views};

use crate::lab::agent::{Output, Signal};
use crate::lab::kernel_panel::TRAFFIC;
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{
    Agent, AgentCommand, Answer, Client, KernelPanel, Origin, Panel, ServerConfig, Xray,
    eventually, free_port,
};
use crate::support::{Api, LONG, TOKEN, agent, folder};

const TAG: &str = "in-vless";
const CONTROL: &str = "canary-control-token-7f3e55aa";
const WEBHOOK: &str = "canary-webhook-token-77c0";
/// Where the registration is.
pub const HOOK: &str = "/hook/traffic";
/// Pushed users, by their numbers.
pub const USERS: [u32; 3] = [100, 101, 102];
/// Bytes by user, both ways.
pub type Sums = BTreeMap<u32, u64>;

pub struct Office {
    _polled: Panel,
    pub pushing: KernelPanel,
    xray: Xray,
    client: Client,
    origin: Origin,
    folder: TempDir,
    base: String,
    http: reqwest::Client,
    pub command: AgentCommand,
}

impl Office {
    /// With the users live, and somebody who registered.
    pub async fn new() -> Result<(Self, Agent)> {
        let server = ServerConfig::new().vless(TAG);
        let routes = USERS.map(|user| server.route(TAG, &nth_uuid(user)));
        let (polled, folder) = (Panel::start(TOKEN).await?, folder()?);
        polled.set_users(1, vec![nth_uuid(1)]);
        let base = format!("127.0.0.1:{}", free_port()?);
        let command = agent(&polled.base_url(), folder.path())
            .env("HTTP_LISTEN", &base)
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.2")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.3")
            .arg("--config")
            .arg(folder.path().join("agent.toml"));
        let office = Self {
            _polled: polled,
            pushing: KernelPanel::start(WEBHOOK).await?,
            client: Client::start_many(&routes).await?,
            xray: Xray::start(server).await?,
            origin: Origin::start().await?,
            folder,
            base,
            http: reqwest::Client::new(),
            command,
        };
        office.configure(Some(10))?;
        let agent = office.start().await?;
        office.register().await?;
        office.push().await?;
        Ok((office, agent))
    }

    /// The configuration, with the panel, which knows the node by this number, or without.
    fn configure(&self, panel_node: Option<u64>) -> Result<()> {
        let (xray, pushing) = (self.xray.api_addr(), self.pushing.url(""));
        let mut toml = format!(
            "[apply]\nmode = \"xray-grpc\"\n[[xray]]\naddress = \"{xray}\"\n\
             [[node]]\nid = 1\ninbounds = [{{ tag = \"{TAG}\" }}]\n\
             [kernel]\ntoken = \"{CONTROL}\"\ncallbacks_allow = \"127.0.0.0/8\"\n"
        );
        if let Some(node) = panel_node {
            toml = format!(
                "{toml}[kernel.panel]\nurl = \"{pushing}\"\ntoken = \"{WEBHOOK}\"\n\
                 [[kernel.panel.bindings]]\ninbound = \"{TAG}\"\nnode_id = {node}\n\
                 binding_id = 3\n"
            );
        }
        Ok(std::fs::write(self.folder.path().join("agent.toml"), toml)?)
    }

    pub async fn reconfigure(&self, agent: &mut Agent, panel_node: Option<u64>) -> Result<()> {
        let taken_in = |log: &str| log.matches("read and taken in").count();
        let before = taken_in(&agent.log());
        self.configure(panel_node)?;
        agent.signal(Signal::HUP)?;
        eventually("the configuration is taken in", LONG, async || {
            taken_in(&agent.log()) > before
        })
        .await
        .with_context(|| agent.log())
    }

    pub async fn start(&self) -> Result<Agent> {
        let agent = self.command.spawn()?;
        eventually("the agent answers", LONG, async || {
            self.call(Method::GET, "/v1/status", None).await.is_ok()
        })
        .await
        .with_context(|| agent.log())?;
        Ok(agent)
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("http://{}{path}", self.base);
        let mut request = self.http.request(method, url).bearer_auth(CONTROL);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Registers for traffic; the registration's id.
    pub async fn register(&self) -> Result<String> {
        let wanted = json!({"event": "user_traffic_reported", "callback": self.pushing.url(HOOK),
            "secret": WEBHOOK});
        let path = "/v1/service-events/registrations";
        let made = self.call(Method::POST, path, Some(&wanted)).await?;
        Ok(made["id"].as_str().context("no id")?.to_owned())
    }

    async fn push(&self) -> Result<()> {
        let users = USERS.map(|user| {
            json!({"id": user.to_string(), "username": nth_uuid(user), "password": "unused",
                "traffic": {"allocated": 0, "used": 0},
                "metadata": {"subscription_id": 1_000 + user}})
        });
        let body = json!({"listen": "127.0.0.1:1", "connect": null, "users": users,
            "profile": {"id": TAG, "role": "listener", "protocol": "vless", "tags": [],
                "profile": {}}});
        self.call(Method::POST, "/v1/protocols", Some(&body))
            .await?;
        let mut api = Api::connect(&self.xray.api_addr()).await?;
        eventually("all are live in Xray", LONG, async || {
            let live = api.emails(TAG).await.map_or(0, |live| live.len());
            live == USERS.len() + 1
        })
        .await
    }

    /// Every user moves these bytes.
    pub async fn transfer(&self, up: u64, down: u64) -> Result<()> {
        for which in 0..USERS.len() {
            self.client.transfer(which, &self.origin, up, down).await?;
        }
        Ok(())
    }

    /// What Xray has counted by now for a pushed user.
    pub async fn counted(&self) -> Result<BTreeMap<u32, (u64, u64)>> {
        let counters = user_counters(&self.xray.api_addr()).await?;
        let of = |user: u32| counters.get(&nth_uuid(user)).copied().unwrap_or_default();
        Ok(USERS.map(|user| (user, of(user))).into())
    }

    /// What the ledger holds of a user, by sink.
    pub fn ledger(&self, user: u32) -> Result<Vec<views::NodeTotals>> {
        let state = self.folder.path().join(".xray-agent");
        let ledger = open_read_only(&spec(&state, Clock::system()))?.context("no ledger")?;
        Ok(views::of_user(
            &ledger,
            UserId::parse(&nth_uuid(user)).context("a user")?,
        )?)
    }

    /// The same for the panel or the registration.
    pub fn at(&self, path: &str, user: u32) -> Result<views::NodeTotals> {
        let mut totals = self.ledger(user)?.into_iter();
        let found = totals.find(|totals| match path {
            TRAFFIC => totals.sink == "kernel",
            _ => totals.sink.starts_with("kernel:"),
        });
        Ok(found.unwrap_or_default())
    }

    /// Waits until all that was counted is in the ledger, and nothing waits there for any sink.
    pub async fn nothing_waits(&self) -> Result<()> {
        let counted = self.counted().await?;
        eventually("nothing waits", LONG, async || {
            USERS.into_iter().all(|user| {
                [TRAFFIC, HOOK].into_iter().all(|path| {
                    self.at(path, user).is_ok_and(|totals| {
                        let waits = [&totals.open, &totals.pending, &totals.sending];
                        (totals.counted.up, totals.counted.down) == counted[&user]
                            && waits.iter().all(|amount| amount.bytes.is_zero())
                    })
                })
            })
        })
        .await
        .with_context(|| format!("{counted:?} {:#?}", USERS.map(|user| self.ledger(user))))
    }

    /// What a sink was told is what it settled, and some of what is in doubt.
    pub fn is_exact(&self, path: &str, user: u32) -> Result<()> {
        let (told, totals) = (
            self.pushing.bytes(path, u64::from(user)),
            self.at(path, user)?,
        );
        let (settled, unknown) = (totals.settled.bytes, totals.unknown.bytes);
        let rejected = totals.rejected.bytes;
        ensure!(settled.down > 0, "{path} {user}: nothing was ever taken");
        ensure!(
            settled.up + unknown.up + rejected.up == totals.counted.up
                && settled.down + unknown.down + rejected.down == totals.counted.down,
            "{path} {user}: {totals:#?}"
        );
        ensure!(
            (settled.up..=settled.up + unknown.up).contains(&told.0)
                && (settled.down..=settled.down + unknown.down).contains(&told.1),
            "{path} {user}: {told:?} {totals:#?}"
        );
        Ok(())
    }

    /// What Xray has counted by now.
    pub async fn sums(&self) -> Result<Sums> {
        let counted = self.counted().await?.into_iter();
        Ok(counted
            .map(|(user, (up, down))| (user, up + down))
            .collect())
    }

    pub fn told(&self, path: &str) -> Sums {
        let told = USERS.map(|user| {
            let (up, down) = self.pushing.bytes(path, user.into());
            (user, up + down)
        });
        told.into()
    }

    /// Waits until a path was told of all that was counted, but for so much.
    pub async fn is_told(&self, path: &str, but: &Sums) -> Result<()> {
        let mut right = self.sums().await?;
        for (user, but) in but {
            *right.entry(*user).or_default() -= but;
        }
        let what = format!("{path} is told of {right:?}");
        eventually(&what, LONG, async || self.told(path) == right)
            .await
            .with_context(|| {
                let ledger = USERS.map(|user| self.ledger(user));
                format!("{:?} {ledger:#?}", self.told(path))
            })
    }

    /// Every user moves so much between two reads of the agent.
    pub async fn transfer_at_once(&self, agent: &mut Agent, down: u64) -> Result<()> {
        agent.signal(Signal::STOP)?;
        self.transfer(10, down).await?;
        agent.signal(Signal::CONT)
    }

    /// The sinks of the running agent, as it shows them.
    pub async fn sinks(&self) -> Result<Vec<Value>> {
        let shown = self.run(&["traffic", "--json"]).await?;
        let shown: Value = serde_json::from_str(&shown.stdout)?;
        let sinks = shown["live"]["sinks"].as_array();
        Ok(sinks.context("no agent")?.clone())
    }

    pub async fn await_sink(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        eventually("the sink is as it should be", LONG, async || {
            let sinks = self.sinks().await.unwrap_or_default();
            sinks.iter().any(|sink| sink["sink"] == name && is_so(sink))
        })
        .await
        .with_context(|| name.to_owned())
    }

    /// A path asks to be left alone, and is, with bytes of everybody that wait for it. What is under
    /// way when its sink goes would be in doubt.
    pub async fn waits_for(&self, path: &str, sink: &str) -> Result<()> {
        let busy = Answer::error(503, "db").header("retry-after", "600");
        self.pushing.set_answer(path, Some(busy));
        self.transfer(10, 2_000).await?;
        let is_left_alone = |sink: &Value| !sink["resumes_at"].is_null();
        self.await_sink(sink, is_left_alone).await
    }

    /// Waits until so many reports to the panel are in a state.
    pub async fn await_reports(&self, state: &str, count: u64) -> Result<()> {
        eventually(&format!("{count} {state}"), LONG, async || {
            self.reports(state).is_ok_and(|reports| reports == count)
        })
        .await
        .with_context(|| format!("{:#?}", USERS.map(|user| self.ledger(user))))
    }

    pub fn reports(&self, state: &str) -> Result<u64> {
        let mut sum = 0;
        for user in USERS {
            let totals = self.at(TRAFFIC, user)?;
            sum += match state {
                "unknown" => totals.unknown.reports,
                _ => totals.rejected.reports,
            };
        }
        Ok(sum)
    }

    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        let output = self.command.clone().args(args).run_to_end(LONG).await?;
        ensure!(output.code == Some(0), "{args:?}: {output:?}");
        Ok(output)
    }
}
