//! Nothing without a valid credential (A3): every route of the agent's own description, asked with
//! every method and every credential that is none. The list of what is open stands here, by hand.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::net::TcpStream;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use xray_agent::base::supervise::Supervisor;
use xray_agent::http::{Admission, Listener, Reader, documented};

use crate::http_stage::{Stage, ask, body, status};
use crate::lab::secrets::base64;
use crate::lab::{AgentCommand, eventually, free_port, tls};
use crate::support::{LONG, TOKEN};

/// What answers whoever asks, and whether it does so beyond this host.
const OPEN: [(&str, Beyond); 6] = [
    ("/health", Beyond::Open),
    ("/healthz", Beyond::Open),
    ("/livez", Beyond::Open),
    ("/metrics", Beyond::Shut),
    ("/openapi.json", Beyond::Shut),
    ("/readyz", Beyond::Open),
];

/// Valid beyond this host, for what is shut there.
const READ_TOKEN: &str = "canary-read-token-9b27";

/// Valid for the kernel surface.
const ACCESS_KEY: &str = "panel";
const SECRET_KEY: &str = "canary-secret-key-77d1";
const KERNEL_TOKEN: &str = "canary-kernel-token-c05e";

/// Surfaces by the beginning of their paths, with the challenge of each.
const CHALLENGES: [(&str, &str); 1] = [("/v1/", "basic realm=\"kernel\"")];

/// Of each kind of a surface's routes one, so that none is left out of the description.
const SOME: [&str; 9] = [
    "/v1/users",
    "/v1/protocols/registrations/{id}/heartbeat",
    "/v1/service-events/registrations/{id}",
    "/v1/status/stream",
    "/v1/status/ws",
    "/v1/events/stream",
    "/v1/events/ws",
    "/v1/audit",
    "/v1/export",
];

const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
];

/// Paths that look like something and are nothing.
const NOWHERE: [&str; 14] = [
    "/",
    "/api",
    "/api/v1/users",
    "/.well-known/openapi.json",
    "/openapi",
    "/openapi.yaml",
    "/docs",
    "/debug/pprof",
    "/status",
    "/metrics/",
    "//metrics",
    "/METRICS",
    "/healthz/../metrics",
    "/%6detrics",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    Open,
    Shut,
}

/// A way to one listener.
#[derive(Clone, Copy, Debug)]
struct Door {
    address: SocketAddr,
    is_local: bool,
}

impl Door {
    /// Beyond this host there is nothing but TLS.
    async fn ask(&self, method: &str, path: &str, header: &str) -> Result<String> {
        let host = self.address;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{header}\r\n"
        );
        let stream = TcpStream::connect(host).await?;
        if self.is_local {
            ask(stream, &head).await
        } else {
            ask(tls::connect(stream).await?, &head).await
        }
    }
}

/// Each a name and a line of a head. Of a surface that has credentials there are here: a wrong one, a
/// valid one of every other surface, and one that was valid once.
fn credentials() -> Vec<(&'static str, String)> {
    let jwt = |head: &str, claims: &str| {
        let part = |text: &str| base64(text.as_bytes()).trim_end_matches('=').to_owned();
        format!("{}.{}.c2lnbmF0dXJl", part(head), part(claims))
    };
    let expired = jwt(r#"{"alg":"HS256"}"#, r#"{"sub":"admin","exp":978307200}"#);
    let unsigned = jwt(r#"{"alg":"none"}"#, r#"{"sub":"admin","exp":32503680000}"#);
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let basic = |pair: &str| format!("authorization: Basic {}\r\n", base64(pair.as_bytes()));
    vec![
        ("none", String::new()),
        ("an empty scheme", "authorization: \r\n".to_owned()),
        ("an empty bearer", bearer("")),
        ("a wrong bearer", bearer("wrong")),
        (
            "nearly the read token",
            bearer(&READ_TOKEN[..READ_TOKEN.len() - 1]),
        ),
        (
            "the read token without its scheme",
            format!("authorization: {READ_TOKEN}\r\n"),
        ),
        (
            "the read token as a password",
            basic(&format!("{READ_TOKEN}:{READ_TOKEN}")),
        ),
        ("the panel's token", bearer(TOKEN)),
        (
            "the panel's own header",
            format!("x-internal-token: {TOKEN}\r\n"),
        ),
        (
            "nearly the kernel's token",
            bearer(&KERNEL_TOKEN[..KERNEL_TOKEN.len() - 1]),
        ),
        ("the kernel's password as a token", bearer(SECRET_KEY)),
        (
            "the kernel's token as a password",
            basic(&format!("{ACCESS_KEY}:{KERNEL_TOKEN}")),
        ),
        ("another's password", basic(&format!("panel2:{SECRET_KEY}"))),
        (
            "the password alone",
            basic(&format!("{SECRET_KEY}:{SECRET_KEY}")),
        ),
        ("an expired JWT", bearer(&expired)),
        ("an unsigned JWT", bearer(&unsigned)),
        ("a wrong password", basic("admin:wrong")),
        ("no password", basic(":")),
        ("a wrong key", "x-api-key: wrong\r\n".to_owned()),
        ("two at once", bearer("a") + &basic("a:b")),
        (
            "a cookie",
            "cookie: session=wrong; token=wrong\r\n".to_owned(),
        ),
        (
            "a word of a proxy",
            "x-forwarded-for: 127.0.0.1\r\nforwarded: for=127.0.0.1\r\n".to_owned(),
        ),
    ]
}

/// Every path of the description with its methods.
fn table(document: &Value) -> Result<Vec<(String, BTreeSet<String>)>> {
    let paths = document["paths"].as_object().context("no paths")?;
    let routes = paths.iter().map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        let mut methods: BTreeSet<_> = methods.map(|(name, _)| name.to_uppercase()).collect();
        // Whoever answers GET answers HEAD.
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        (path.clone(), methods)
    });
    Ok(routes.collect())
}

/// Asks for all of the table through that door; how many answers were right.
async fn audit(door: Door, table: &[(String, BTreeSet<String>)]) -> Result<usize> {
    let mut right = 0;
    for (path, methods) in table {
        let open = OPEN.iter().find(|(open, _)| open == path);
        let open = open.is_some_and(|(_, beyond)| door.is_local || *beyond == Beyond::Open);
        for method in METHODS {
            for (name, header) in credentials() {
                let said = door.ask(method, &an_instance(path), &header).await?;
                let is_right = match (methods.contains(method), open) {
                    (true, true) => [200, 503].contains(&status(&said)),
                    (true, false) => status(&said) == 401,
                    (false, _) => [401, 405].contains(&status(&said)),
                };
                ensure!(is_right, "{method} {path} with {name} at {door:?}: {said}");
                let surface = CHALLENGES.iter().find(|(start, _)| path.starts_with(start));
                if let (Some((_, challenge)), 401) = (surface, status(&said)) {
                    let asked_for = format!("\r\nwww-authenticate: {challenge}\r\n");
                    ensure!(said.to_lowercase().contains(&asked_for), "{path}: {said}");
                }
                right += 1;
            }
        }
    }
    for path in NOWHERE {
        for (name, header) in credentials() {
            let said = door.ask("GET", path, &header).await?;
            let is_right = [401, 404].contains(&status(&said));
            ensure!(is_right, "{path} with {name} at {door:?}: {said}");
            right += 1;
        }
    }
    Ok(right)
}

/// The program with the credentials of every surface that has some.
fn with_credentials(stage: &Stage) -> AgentCommand {
    let command = stage.command();
    command
        .env("KERNEL_ACCESS_KEY", ACCESS_KEY)
        .env("KERNEL_SECRET_KEY", SECRET_KEY)
        .env("KERNEL_TOKEN", KERNEL_TOKEN)
}

/// The path with something in place of its parameters.
fn an_instance(path: &str) -> String {
    let parts = path
        .split('/')
        .map(|part| if part.starts_with('{') { "x" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// Of this machine beyond loopback, where it has one. Nothing is sent.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

async fn document(stage: &Stage) -> Result<Value> {
    let said = stage.get("/openapi.json").await?;
    ensure!(status(&said) == 200, "{said}");
    Ok(serde_json::from_str(body(&said))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_without_a_credential_but_what_the_list_has() -> Result<()> {
    let stage = Stage::new().await?;
    let agent = with_credentials(&stage).spawn()?;
    agent.await_log(&["http listens"], LONG).await?;
    stage.await_answer().await?;
    let table = table(&document(&stage).await?)?;
    let listed: BTreeSet<_> = table.iter().map(|(path, _)| path.as_str()).collect();
    for path in SOME {
        ensure!(listed.contains(path), "{path} is not asked for");
    }
    for (path, _) in OPEN {
        ensure!(
            listed.contains(path),
            "{path} is served no more, or not described"
        );
    }
    let local = Door {
        address: stage.address,
        is_local: true,
    };
    ensure!(audit(local, &table).await? >= OPEN.len() * METHODS.len());
    drop(agent);

    let certificate = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/lab/tls")
            .join(name)
    };
    let port = free_port()?;
    let agent = with_credentials(&stage)
        .env("HTTP_LISTEN", format!("0.0.0.0:{port}"))
        .env("HTTP_TLS_CERT", certificate("origin.crt"))
        .env("HTTP_TLS_KEY", certificate("origin.key"))
        .env("HTTP_READ_TOKEN", READ_TOKEN)
        .spawn()?;
    agent.await_log(&["http listens"], LONG).await?;
    // Who asks such a listener from this host is not taken for one of it: a proxy may stand before it.
    let here = [127, 0, 0, 1].into();
    for address in [Some(here), outward()].into_iter().flatten() {
        let door = Door {
            address: (address, port).into(),
            is_local: false,
        };
        audit(door, &table).await?;
        for (path, _) in OPEN.iter().filter(|(_, beyond)| *beyond == Beyond::Shut) {
            let valid = format!("authorization: Bearer {READ_TOKEN}\r\n");
            let said = door.ask("GET", path, &valid).await?;
            ensure!(status(&said) == 200, "{path}: {said}");
            let said = door.ask("GET", path, "").await?;
            ensure!(
                said.to_lowercase()
                    .contains("\r\nwww-authenticate: bearer\r\n"),
                "{said}"
            );
        }
    }
    Ok(())
}

#[utoipa::path(get, path = "/forgotten/{id}", responses((status = 200)))]
async fn forgotten() -> &'static str {
    "a secret"
}

#[tokio::test]
async fn a_route_that_asks_for_no_credential_is_found_by_its_description() -> Result<()> {
    let supervisor = Supervisor::new();
    let address = ([127, 0, 0, 1], free_port()?).into();
    let listener = Listener {
        name: "http",
        address,
        tls: None,
        hosts: Vec::new(),
        router: documented(
            OpenApiRouter::default().routes(routes!(forgotten)),
            Reader::default(),
        ),
        admission: Admission::default(),
    };
    let door = Door {
        address,
        is_local: true,
    };
    let audited = async {
        let listens = async || TcpStream::connect(address).await.is_ok();
        eventually("the listener", LONG, listens).await?;
        let said = door.ask("GET", "/openapi.json", "").await?;
        audit(door, &table(&serde_json::from_str(body(&said))?)?).await
    };
    let found = tokio::select! {
        audited = audited => audited.map_err(|error| error.to_string()),
        () = listener.run(supervisor.shutdown(), || {}) => Ok(0),
    };
    let found = found.err().context("nothing was found")?;
    ensure!(
        found.starts_with("GET /forgotten/{id} with none"),
        "{found}"
    );
    Ok(())
}

#[tokio::test]
async fn the_description_in_the_repository_is_what_the_agent_serves() -> Result<()> {
    let stage = Stage::new().await?;
    let _agent = stage.start().await?;
    let document = document(&stage).await?;
    ensure!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    let right = serde_json::to_string_pretty(&document)? + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, right)?;
        return Ok(());
    }
    let kept = std::fs::read_to_string(path)?;
    ensure!(
        kept == right,
        "run UPDATE_DOCS=1 cargo test --test it access"
    );
    Ok(())
}
