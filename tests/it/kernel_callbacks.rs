//! What a panel asks over the kernel API to be kept, by the running program: callbacks lead nowhere
//! that they may not, limits hold over a restart, nodes that register themselves are seen, and the
//! audit tells of all of it, without a secret.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::lab::answer::Answer;
use crate::lab::kernel_panel::KernelPanel;
use crate::lab::{Agent, AgentCommand, eventually, free_port};
use crate::life;
use crate::reload_stage::Reload;
use crate::streams_stage::Sse;
use crate::support::LONG;

const ACCESS_KEY: &str = "panel";
/// Nobody may ever print these.
const SECRET_KEY: &str = "canary-kernel-secret-3fa9";
const KERNEL_TOKEN: &str = "canary-kernel-token-61be";
const WEBHOOK_TOKEN: &str = "canary-webhook-token-d20c";

const EVENTS: &str = "/v1/events/registrations";
const SERVICE_EVENTS: &str = "/v1/service-events/registrations";
const NODES: &str = "/v1/protocols/registrations";
const LIMITS: &str = "/v1/security/rate-limits";

struct Surface {
    stage: Reload,
    base: SocketAddr,
    http: reqwest::Client,
}

impl Surface {
    /// Callbacks may lead to what `allow` says.
    async fn new(allow: &str) -> Result<Self> {
        let mut surface = Self {
            stage: Reload::new(&[("in", "vless")]).await?,
            base: ([127, 0, 0, 1], free_port()?).into(),
            http: reqwest::Client::builder().no_proxy().build()?,
        };
        surface.allow(allow)?;
        Ok(surface)
    }

    /// Writes another list into the file.
    fn allow(&mut self, allow: &str) -> Result<()> {
        self.stage.settings.further = format!(
            "[kernel]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n\
             token = \"{KERNEL_TOKEN}\"\ncallbacks_allow = \"{allow}\"\n"
        );
        self.stage.write(&self.stage.settings)
    }

    async fn reload(&mut self, allow: &str) -> Result<()> {
        self.allow(allow)?;
        self.stage.reload().await.map(drop)
    }

    fn command(&self) -> AgentCommand {
        let command = self.stage.command();
        command.env("HTTP_LISTEN", self.base.to_string())
    }

    async fn start(&self) -> Result<Agent> {
        let agent = self.command().spawn()?;
        agent.await_log(&["http listens"], LONG).await?;
        Ok(agent)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("http://{}{path}", self.base));
        request.basic_auth(ACCESS_KEY, Some(SECRET_KEY))
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Response> {
        let request = self.request(method, path);
        let request = request.header("content-type", "application/json");
        Ok(request.body(body.to_string()).send().await?)
    }

    /// The status, and what was said.
    async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        said(self.send(Method::POST, path, body).await?).await
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let (status, value) = said(self.request(Method::GET, path).send().await?).await?;
        ensure!(status == 200, "{path}: {status} {value}");
        Ok(value)
    }

    async fn register(&self, callback: &str) -> Result<(u16, Value)> {
        let wanted = json!({"event": "node_added", "callback": callback, "secret": WEBHOOK_TOKEN});
        self.post(EVENTS, &wanted).await
    }

    /// A node registers itself, which is an event.
    async fn add_node(&self, id: &str) -> Result<()> {
        let node = json!({"id": id, "role": "listener", "protocol": "vless"});
        let (status, said) = self.post(NODES, &node).await?;
        ensure!(status == 200, "{said}");
        Ok(())
    }

    /// What `xray-agent outbox` shows of the only target at this port.
    async fn target(&self) -> Result<Value> {
        let said = life::run(&self.command(), &["outbox", "--json"], 0).await?;
        let all: Value = serde_json::from_str(&said.stdout)?;
        let targets = all["targets"].as_array().context("no targets")?;
        ensure!(targets.len() == 1, "{all}");
        Ok(targets[0].clone())
    }

    async fn await_target(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, LONG, async || self.target().await.ok().filter(&is_so)).await
    }

    /// How a node is by `/v1/status`; nothing where it is not there.
    async fn health(&self, id: &str) -> Result<Option<Value>> {
        let status = self.get("/v1/status?include=nodes").await?;
        let nodes = status["snapshot"]["nodes"].as_array().context("no nodes")?;
        let found = nodes.iter().find(|node| node["id"] == id);
        Ok(found.map(|node| node["health"]["status"].clone()))
    }
}

async fn said(answer: Response) -> Result<(u16, Value)> {
    let status = answer.status().as_u16();
    Ok((
        status,
        serde_json::from_str(&answer.text().await?).unwrap_or_default(),
    ))
}

/// Ids of the nodes that a callback was told of.
fn told(panel: &KernelPanel, path: &str) -> Vec<String> {
    let calls = panel.calls(path).into_iter();
    let ids = calls.map(|call| call.body["node_id"].as_str().unwrap_or_default().to_owned());
    ids.filter(|id| id.starts_with("edge")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_to_this_host_is_refused_and_told_how_it_is_allowed() -> Result<()> {
    let mut surface = Surface::new("").await?;
    let _agent = surface.start().await?;
    let port = free_port()?;
    let here = format!("http://127.0.0.1:{port}/hook");
    for (path, event) in [
        (EVENTS, "node_added"),
        (SERVICE_EVENTS, "user_quota_changed"),
        (SERVICE_EVENTS, "user_traffic_reported"),
    ] {
        let wanted = json!({"event": event, "callback": here});
        let (status, said) = surface.post(path, &wanted).await?;
        ensure!(
            status == 400 && said["code"] == "BAD_REQUEST",
            "{status} {said}"
        );
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(message.contains("kernel.callbacks_allow"), "{message}");
        ensure!(surface.get(path).await? == json!([]));
    }
    // What is told to do helps, without a restart.
    surface.reload(&format!("127.0.0.1:{port}")).await?;
    let (status, said) = surface.register(&here).await?;
    ensure!(status == 200, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_lets_a_callback_reach_what_is_ours_or_link_local() -> Result<()> {
    let listed = "0.0.0.0/0, ::/0, 169.254.0.0/16, fe80::/10, localhost";
    let surface = Surface::new(listed).await?;
    let _agent = surface.start().await?;
    let spellings = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "017700000001",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost",
        "LocalHost.",
        "0.0.0.0",
        "[::]",
    ];
    let api: SocketAddr = surface.stage.xray.api().parse()?;
    let ports = [surface.base.port(), api.port()];
    let ours = ports
        .iter()
        .flat_map(|port| spellings.map(|host| format!("http://{host}:{port}/")));
    // Xray may listen at all addresses of this host, whichever it is asked at by us.
    let wide = ["127.0.0.2", "[::1]"].map(|host| format!("http://{host}:{}/", api.port()));
    let link_local = [
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
    ];
    for url in ours.chain(wide).chain(link_local.map(str::to_owned)) {
        let (status, said) = surface.register(&url).await?;
        ensure!(
            status == 400 && said["code"] == "BAD_REQUEST",
            "{url}: {status} {said}"
        );
        let wanted = json!({"event": "user_traffic_reported", "callback": url});
        let (status, said) = surface.post(SERVICE_EVENTS, &wanted).await?;
        ensure!(status == 400, "{url}: {status} {said}");
    }
    ensure!(surface.get(EVENTS).await? == json!([]));
    // By the same list another port of this host is reached.
    let (status, said) = surface
        .register(&format!("http://127.0.0.1:{}/", free_port()?))
        .await?;
    ensure!(status == 200, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_taken_off_the_list_is_called_no_more_and_the_outbox_says_why()
-> Result<()> {
    let mut surface = Surface::new("127.0.0.1").await?;
    let agent = surface.start().await?;
    let panel = KernelPanel::start(WEBHOOK_TOKEN).await?;
    let (status, said) = surface.register(&panel.url("/hook")).await?;
    ensure!(status == 200, "{said}");
    surface.add_node("edge-1").await?;
    eventually("the callback", LONG, async || {
        told(&panel, "/hook") == ["edge-1"]
    })
    .await?;

    surface.reload("").await?;
    surface.add_node("edge-2").await?;
    let target = surface
        .await_target("the reason", |it| {
            it["trouble"].is_string() && it["waiting"] == 1
        })
        .await
        .with_context(|| agent.log())?;
    let why = target["trouble"].as_str().unwrap_or_default();
    ensure!(why.contains("kernel.callbacks_allow"), "{why}");
    ensure!(told(&panel, "/hook") == ["edge-1"]);

    // What waited comes when it is on the list again.
    surface.reload("127.0.0.1").await?;
    let all = ["edge-1", "edge-2"];
    eventually("what waited", LONG, async || told(&panel, "/hook") == all).await?;

    // And 410 is the end of it, until a person says otherwise.
    panel.set_answer("/hook", Some(Answer::error(410, "gone")));
    surface.add_node("edge-3").await?;
    let target = surface
        .await_target("it is disabled", |it| it["disabled"].is_string())
        .await?;
    let why = target["disabled"].as_str().unwrap_or_default();
    ensure!(why.contains("410"), "{why}");
    panel.set_answer("/hook", None);
    let id = target["id"].as_str().context("no id")?;
    life::run(&surface.command(), &["outbox", "enable", id], 0).await?;
    surface.add_node("edge-4").await?;
    eventually("an event after that", LONG, async || {
        told(&panel, "/hook").contains(&"edge-4".to_owned())
    })
    .await?;
    ensure!(panel.refused().is_empty(), "{:?}", panel.refused());
    ensure!(
        !agent.log().contains(WEBHOOK_TOKEN),
        "a secret is in the log"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_every_change_with_its_actor_and_no_secret() -> Result<()> {
    let surface = Surface::new("127.0.0.1").await?;
    let _agent = surface.start().await?;
    let here = format!("http://127.0.0.1:{}/canary-path", free_port()?);
    ensure!(surface.register(&here).await?.0 == 200);
    ensure!(
        surface
            .register("http://169.254.169.254/canary-path")
            .await?
            .0
            == 400
    );
    surface.add_node("edge-1").await?;
    let by_token = surface
        .http
        .post(format!("http://{}{NODES}/edge-1/heartbeat", surface.base))
        .bearer_auth(KERNEL_TOKEN);
    ensure!(by_token.send().await?.status() == 200);
    let limit = json!({"scope": "endpoint", "key": "/v1/interfaces", "max_requests_per_minute": 9});
    ensure!(surface.post(LIMITS, &limit).await?.0 == 200);

    let actor = "api-key:panel";
    let expected = [
        ("api.security.rate-limits.create", LIMITS, actor, true),
        (
            "api.protocols.registrations.heartbeat",
            "/v1/protocols/registrations/{id}/heartbeat",
            "token",
            true,
        ),
        ("api.protocols.registrations.create", NODES, actor, true),
        ("api.events.registrations.create", EVENTS, actor, false),
        ("api.events.registrations.create", EVENTS, actor, true),
    ];
    // They are written behind the answers.
    let audit = eventually("all records", LONG, async || {
        let audit = surface.get("/v1/audit").await.ok()?;
        let count = audit.as_array().map_or(0, Vec::len);
        (count >= expected.len()).then_some(audit)
    })
    .await?;
    let records = audit.as_array().context("no records")?.iter();
    let records: Vec<_> = records.filter(|it| it["channel"] == "http").collect();
    ensure!(records.len() == expected.len(), "{audit}");
    for (record, (action, endpoint, actor, success)) in records.iter().zip(expected) {
        ensure!(
            record["action"] == action && record["endpoint"] == endpoint,
            "{audit}"
        );
        ensure!(
            record["actor"] == actor && record["success"] == success,
            "{audit}"
        );
    }
    ensure!(!audit.to_string().contains("canary"), "{audit}");
    let failed = surface.get("/v1/audit?success=false").await?;
    ensure!(
        failed.as_array().is_some_and(|it| it.len() == 1),
        "{failed}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_over_a_restart_and_locks_nobody_out() -> Result<()> {
    let surface = Surface::new("").await?;
    let mut agent = surface.start().await?;
    for (scope, key, most) in [
        ("endpoint", "/v1/interfaces", 2),
        ("endpoint", LIMITS, 1),
        ("identity", "api-key:panel", 3),
    ] {
        let limit = json!({"scope": scope, "key": key, "max_requests_per_minute": most});
        let (status, said) = surface.post(LIMITS, &limit).await?;
        ensure!(status == 200, "{said}");
    }
    ensure!(agent.terminate(LONG).await?.success());
    let _agent = surface.start().await?;
    let ask = async |path: &str| surface.request(Method::GET, path).send().await;
    for _ in 0..2 {
        ensure!(ask("/v1/interfaces").await?.status() == 200);
    }
    let refused = ask("/v1/interfaces").await?;
    let after = refused.headers().get("retry-after").cloned();
    let seconds: u64 = after.context("no Retry-After")?.to_str()?.parse()?;
    ensure!((1..=60).contains(&seconds), "{seconds}");
    let (status, said) = said(refused).await?;
    ensure!(
        status == 429 && said["code"] == "RATE_LIMITED",
        "{status} {said}"
    );
    // Of all that he may ask, whatever it is, he has spent what he may by now or with the next.
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(ask("/v1/status").await?.status().as_u16());
    }
    ensure!(statuses.last() == Some(&429), "{statuses:?}");

    for _ in 0..5 {
        let limits = surface.get(LIMITS).await?;
        ensure!(limits["identities"]["api-key:panel"] == 3, "{limits}");
    }
    let lifted = format!("{LIMITS}?scope=identity&key=api-key:panel");
    let lifted = surface.request(Method::DELETE, &lifted).send().await?;
    ensure!(lifted.status() == 204, "{lifted:?}");
    ensure!(ask("/v1/status").await?.status() == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_registers_itself_is_seen_until_it_is_silent_for_long() -> Result<()> {
    let surface = Surface::new("").await?;
    let _agent = surface.start().await?;
    let stream = surface.request(Method::GET, "/v1/events/stream?events=node");
    let mut stream = Sse::of(stream).await?;
    let mut next = async |name: &str| -> Result<()> {
        loop {
            let block = stream.event().await?;
            if block.json()?["payload"]["node_id"] == "edge-1" {
                ensure!(block.event == name, "{name} is not {block:?}");
                return Ok(());
            }
        }
    };
    let node = json!({"id": "edge-1", "role": "listener", "protocol": "vless", "ttl_seconds": 3});
    let (status, lease) = surface.post(NODES, &node).await?;
    ensure!(
        status == 200 && lease["heartbeat_interval_seconds"] == 1,
        "{lease}"
    );
    next("node.added").await?;
    ensure!(surface.health("edge-1").await? == Some(json!("Healthy")));

    let heartbeat = format!("{NODES}/edge-1/heartbeat");
    let sick = json!({"status": "degraded", "message": "slow"});
    let (status, renewed) = surface.post(&heartbeat, &sick).await?;
    ensure!(status == 200, "{renewed}");
    ensure!(renewed["expires_at_ms"].as_i64() >= lease["expires_at_ms"].as_i64());
    next("node.degraded").await?;
    let health = surface.health("edge-1").await?.context("it is not shown")?;
    ensure!(health["Degraded"].is_object(), "{health}");
    ensure!(
        surface
            .post(&heartbeat, &json!({"status": "healthy"}))
            .await?
            .0
            == 200
    );
    next("node.healthy").await?;

    // It says nothing any more.
    next("node.unhealthy").await?;
    let health = surface.health("edge-1").await?.context("it is not shown")?;
    ensure!(health["Unhealthy"].is_object(), "{health}");
    next("node.removed").await?;
    ensure!(surface.health("edge-1").await?.is_none());
    ensure!(surface.post(&heartbeat, &json!({})).await?.0 == 404);
    Ok(())
}
