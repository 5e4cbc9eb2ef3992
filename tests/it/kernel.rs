//! The surface of a panel that pushes, on a real Xray: who gets in, and what is shown.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::http_stage::{ask, body, header, status};
use crate::lab::secrets::base64;
use crate::lab::{Agent, AgentCommand, ServerConfig, eventually, free_port, uuid};
use crate::life::Stage;
use crate::support::LONG;

const ACCESS_KEY: &str = "panel";
const SECRET_KEY: &str = "canary-secret-key-51d0";
const KERNEL_TOKEN: &str = "canary-kernel-token-8e2c";

/// Xray's tag of the inbound whose kernel id is another, as it is made of the tag.
const OTHER: &str = "In_B";

/// An agent with two inbounds, of which one is shown under another id, and its surface.
struct Surface {
    stage: Stage,
    command: AgentCommand,
    users: [String; 2],
    host: String,
}

impl Surface {
    async fn new() -> Result<Self> {
        let config = ServerConfig::new().vless_tls("in-a").trojan(OTHER);
        let stage = Stage::set(&config).await?;
        let users = [uuid(), uuid()];
        stage.allow(&users);
        let host = format!("127.0.0.1:{}", free_port()?);
        let command = stage
            .agent_on(&format!("in-a+{OTHER}"))
            .env("INTERVAL_SECONDS", "0.2")
            .env("HTTP_LISTEN", &host)
            .env("KERNEL_ACCESS_KEY", ACCESS_KEY)
            .env("KERNEL_SECRET_KEY", SECRET_KEY)
            .env("KERNEL_TOKEN", KERNEL_TOKEN);
        Ok(Self {
            stage,
            command,
            users,
            host,
        })
    }

    /// Once both users are in both inbounds.
    async fn start(&self) -> Result<Agent> {
        let agent = self.command.spawn()?;
        agent.await_log(&["http listens"], LONG).await?;
        eventually("both users in both inbounds", LONG, async || {
            let said = self.get("/v1/protocols").await.ok()?;
            let all = said.as_array()?;
            all.iter().all(|it| it["user_count"] == 2).then_some(())
        })
        .await?;
        Ok(agent)
    }

    async fn ask(&self, method: &str, path: &str, header: &str, sent: &str) -> Result<String> {
        let (host, length) = (&self.host, sent.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{header}\
             content-length: {length}\r\n\r\n{sent}"
        );
        ask(TcpStream::connect(host).await?, &head).await
    }

    /// With the token: the status, and what was said.
    async fn call(&self, method: &str, path: &str, sent: &str) -> Result<(u16, Value)> {
        let token = format!("authorization: Bearer {KERNEL_TOKEN}\r\n");
        let said = self.ask(method, path, &token, sent).await?;
        let json = serde_json::from_str(body(&said)).unwrap_or_default();
        Ok((status(&said), json))
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let (code, said) = self.call("GET", path, "").await?;
        ensure!(code == 200, "{path}: {code} {said}");
        Ok(said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_credentials_open_the_surface_and_nothing_else_does() -> Result<()> {
    let surface = Surface::new().await?;
    let agent = surface.start().await?;
    let basic = base64(format!("{ACCESS_KEY}:{SECRET_KEY}").as_bytes());
    for right in [
        format!("authorization: Basic {basic}\r\n"),
        format!("authorization: Bearer {KERNEL_TOKEN}\r\n"),
    ] {
        let said = surface.ask("GET", "/v1/users", &right, "").await?;
        ensure!(status(&said) == 200, "{said}");
    }
    let said = surface.ask("GET", "/v1/users", "", "").await?;
    ensure!(status(&said) == 401, "{said}");
    ensure!(
        header(&said, "www-authenticate") == "Basic realm=\"kernel\"",
        "{said}"
    );
    let json: Value = serde_json::from_str(body(&said))?;
    ensure!(
        json["code"] == "UNAUTHORIZED" && json["message"].is_string(),
        "{json}"
    );
    ensure!(!agent.log().contains(SECRET_KEY) && !agent.log().contains(KERNEL_TOKEN));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_surface_says_how_it_is_opened_as_long_as_it_is_not() -> Result<()> {
    let stage = Stage::set(&ServerConfig::new().vless("in-a")).await?;
    stage.allow([uuid()]);
    let host = format!("127.0.0.1:{}", free_port()?);
    let command = stage.agent_on("in-a").env("HTTP_LISTEN", &host);
    let agent = command.spawn()?;
    agent.await_log(&["http listens"], LONG).await?;
    let head = format!("GET /v1/status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let said = ask(TcpStream::connect(&host).await?, &head).await?;
    ensure!(
        status(&said) == 401 && said.contains("KERNEL_ACCESS_KEY"),
        "{said}"
    );
    drop(agent);
    let agent = command.env("HTTP_ALLOW_INSECURE", "true").spawn()?;
    agent.await_log(&["http listens"], LONG).await?;
    let said = ask(TcpStream::connect(&host).await?, &head).await?;
    ensure!(status(&said) == 200, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_users_are_shown_as_they_are() -> Result<()> {
    let surface = Surface::new().await?;
    let _agent = surface.start().await?;
    let protocols = surface.get("/v1/protocols").await?;
    ensure!(
        protocols[0]["id"] == "in-a" && protocols[1]["id"] == "in-b",
        "{protocols}"
    );
    ensure!(protocols[0]["protocol"] == "vless" && protocols[0]["user_count"] == 2);
    ensure!(protocols[1]["protocol"] == "trojan", "{protocols}");
    ensure!(protocols[0]["listen"].is_string(), "{protocols}");
    let tls = surface.get("/v1/tls/nodes").await?;
    ensure!(tls.as_array().is_some_and(|it| it.len() == 1), "{tls}");
    ensure!(
        tls[0]["id"] == "in-a" && tls[0]["has_reality"] == false,
        "{tls}"
    );
    let tls = surface.get("/v1/tls/nodes/in-a").await?;
    ensure!(tls["profile"]["security"] == "tls", "{tls}");
    let users = surface.get("/v1/users").await?;
    let ids: Vec<_> = users
        .as_array()
        .context("no list")?
        .iter()
        .map(|it| &it["id"])
        .collect();
    ensure!(
        ids.len() == 2 && ids.contains(&&json!(surface.users[0])),
        "{users}"
    );
    ensure!(users[0]["metadata"]["source"] == "polled", "{users}");
    let one = surface
        .get(&format!("/v1/users/{}", surface.users[1]))
        .await?;
    ensure!(one["username"] == surface.users[1].as_str(), "{one}");
    let redacted = surface.get("/v1/protocols/in-b/users?redact=true").await?;
    ensure!(
        redacted.as_array().is_some_and(|it| it.len() == 2),
        "{redacted}"
    );
    ensure!(
        !redacted.to_string().contains(&surface.users[0]),
        "{redacted}"
    );
    let status = surface.get("/v1/status").await?;
    let snapshot = &status["snapshot"];
    ensure!(snapshot["users"] == json!({"total": 2}), "{status}");
    ensure!(
        snapshot["nodes"][0]["health"]["status"] == "Healthy",
        "{status}"
    );
    ensure!(
        snapshot["system"]["memory"]["resident_bytes"].as_u64() > Some(0),
        "{status}"
    );
    let cut = surface
        .get("/v1/status?include=users&rate_limit_summary=true")
        .await?;
    ensure!(cut["snapshot"]["nodes"].is_null(), "{cut}");
    ensure!(
        cut["snapshot"]["users"]["users"]
            .as_array()
            .is_some_and(|it| it.len() == 2)
    );
    ensure!(cut["rate_limit_summary"]["unlimited_users"] == 2, "{cut}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_xray_is_gone_is_not_healthy() -> Result<()> {
    let mut surface = Surface::new().await?;
    let _agent = surface.start().await?;
    surface.stage.xray.kill().await?;
    eventually("a degraded node", LONG, async || {
        let status = surface.get("/v1/status?include=nodes").await.ok()?;
        let health = &status["snapshot"]["nodes"][0]["health"];
        let is_so = health["status"] != "Healthy" && health["consecutive_failures"] != 0;
        is_so.then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_the_form_of_the_contract() -> Result<()> {
    let surface = Surface::new().await?;
    let _agent = surface.start().await?;
    let large = "x".repeat(70_000);
    let polled = format!("/v1/users/{}", surface.users[0]);
    let cases = [
        ("GET", "/v1/users/nobody", "", 404, "NOT_FOUND"),
        ("GET", "/v1/users?redact=maybe", "", 400, "BAD_REQUEST"),
        ("GET", "/v1/nowhere", "", 404, "NOT_FOUND"),
        ("DELETE", "/v1/users", "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/events/registrations", "{", 400, "BAD_REQUEST"),
        (
            "POST",
            "/v1/events/registrations",
            &large,
            413,
            "PAYLOAD_TOO_LARGE",
        ),
        ("PATCH", &polled, "{}", 409, "MANAGED_BY_PANEL"),
        ("DELETE", &polled, "", 409, "MANAGED_BY_PANEL"),
        ("GET", "/v1/protocols/in-x/users", "", 404, "NOT_FOUND"),
        ("PATCH", "/v1/tls/nodes/in-a", "{}", 501, "NOT_SUPPORTED"),
    ];
    for (method, path, sent, code, name) in cases {
        let (said_code, said) = surface.call(method, path, sent).await?;
        ensure!(said_code == code, "{method} {path}: {said_code} {said}");
        ensure!(said["code"] == name, "{method} {path}: {said}");
        ensure!(
            said["message"].as_str().is_some_and(|it| !it.is_empty()),
            "{said}"
        );
    }
    Ok(())
}
