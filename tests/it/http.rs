//! The agent's HTTP server: who is answered how, over which certificate, and what a stop does to
//! requests. Slow clients are in `slow_clients`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::http_stage::{Stage, ask, body, header, status};
use crate::lab::agent::Signal;
use crate::lab::eventually;
use crate::stage::warnings;
use crate::support::LONG;

/// What a stop may take (promise L1).
const STOP: Duration = Duration::from_secs(15);
/// Two pairs for `localhost`: certificate and key.
const FIRST: (&str, &str) = (
    include_str!("../lab/tls/origin.crt"),
    include_str!("../lab/tls/origin.key"),
);
const RENEWED: (&str, &str) = (
    include_str!("../lab/tls/renewed.crt"),
    include_str!("../lab/tls/renewed.key"),
);

#[tokio::test]
async fn whether_the_agent_is_there_is_told_without_a_credential() -> Result<()> {
    let stage = Stage::new().await?;
    let _agent = stage.start().await?;
    let said = stage.get("/healthz").await?;
    ensure!(status(&said) == 200 && body(&said) == "ok", "{said}");
    let said = stage.ask(&stage.head("HEAD", "/healthz")).await?;
    ensure!(status(&said) == 200 && body(&said).is_empty(), "{said}");
    ensure!(header(&said, "content-length") == "2", "{said}");
    let said = stage.get("/health").await?;
    ensure!(body(&said) == r#"{"status":"ok"}"#, "{said}");
    ensure!(
        header(&said, "content-type") == "application/json",
        "{said}"
    );
    let said: Value = serde_json::from_str(body(&stage.get("/livez").await?))?;
    let tasks = said["tasks"].as_array().context("no tasks")?;
    let http = tasks.iter().find(|task| task["name"] == "http");
    ensure!(
        http == Some(&json!({"name": "http", "alive": true, "restarts": 0})),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn it_is_ready_once_a_first_sync_was_tried() -> Result<()> {
    let stage = Stage::new().await?;
    // It accepts in the kernel and never answers.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let agent = stage
        .command()
        .env("PANEL_BASE_URL", format!("http://{}", silent.local_addr()?))
        .env("HTTP_TIMEOUT_SECONDS", "600")
        .spawn()?;
    agent.await_log(&["http listens"], LONG).await?;
    let said = stage.get("/readyz").await?;
    ensure!(status(&said) == 503, "{said}");
    let said: Value = serde_json::from_str(body(&said))?;
    ensure!(
        said["ready"] == false && said["missing"] == json!(["first sync"]),
        "{said}"
    );
    drop(agent);
    let _agent = stage.start().await?;
    eventually("a first sync", LONG, async || {
        let said = stage.get("/readyz").await.unwrap_or_default();
        status(&said) == 200 && said.contains(r#""ready":true"#)
    })
    .await
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_a_status_and_words() -> Result<()> {
    let stage = Stage::new().await?;
    let agent = stage.start().await?;
    let head = |method, path| stage.head(method, path);
    let with = |lines: &str| head("GET", "/healthz").replacen("\r\n\r\n", lines, 1) + "\r\n\r\n";
    let cases = [
        (404, head("GET", "/nowhere")),
        (405, head("POST", "/healthz")),
        (
            413,
            head("POST", "/healthz").replace("host", "content-length: 65537\r\nhost"),
        ),
        (
            421,
            head("GET", "/healthz").replace("127.0.0.1", "evil.example"),
        ),
        (421, head("GET", "http://evil.example/healthz")),
        (400, "GET /healthz HTTP/1.1\r\n\r\n".to_owned()),
        (400, with("\r\nhost: localhost")),
    ];
    for (expected, request) in &cases {
        let said = stage.ask(request).await?;
        ensure!(status(&said) == *expected, "{request}{said}");
        let words: Value = serde_json::from_str(body(&said))?;
        ensure!(
            words["message"]
                .as_str()
                .is_some_and(|words| !words.is_empty()),
            "{said}"
        );
        ensure!(header(&said, "x-request-id").len() == 16, "{said}");
        ensure!(
            header(&said, "x-content-type-options") == "nosniff",
            "{said}"
        );
    }
    let said = stage.ask(&cases[1].1).await?;
    ensure!(header(&said, "allow") == "GET,HEAD", "{said}");
    // These never become a request: the status alone is told.
    let long = "x".repeat(17 << 10);
    let many = "\r\nx-many: 1".repeat(64);
    for (expected, request) in [
        (431, with(&format!("\r\nx-long: {long}"))),
        (431, with(&many)),
        (400, "\u{1}\u{2}\u{3} nonsense\r\n\r\n".to_owned()),
    ] {
        let said = stage.ask(&request).await?;
        ensure!(status(&said) == expected, "not {expected}: {said}");
    }
    let few = "\r\nx-many: 1".repeat(60);
    let said = stage.ask(&with(&few)).await?;
    ensure!(status(&said) == 200, "{said}");
    ensure!(warnings(&agent, "http") == 0, "{}", agent.log());
    Ok(())
}

#[tokio::test]
async fn requests_keep_their_ids_and_the_log_keeps_no_secret() -> Result<()> {
    let stage = Stage::new().await?;
    let agent = stage.start().await?;
    let uuid = "0a1b2c3d-0000-4000-8000-00000000cafe";
    let request = format!(
        "GET /users/{uuid}/canary-path?token=canary-query HTTP/1.1\r\nhost: {}\r\n\
         x-request-id: find.me-1\r\nauthorization: Bearer canary-bearer\r\n\
         cookie: session=canary-cookie\r\nx-api-key: canary-key\r\ncontent-length: 11\r\n\
         connection: close\r\n\r\ncanary-body",
        stage.address
    );
    let said = stage.ask(&request).await?;
    ensure!(status(&said) == 404, "{said}");
    ensure!(header(&said, "x-request-id") == "find.me-1", "{said}");
    let line = agent.await_log(&["answered", "find.me-1"], LONG).await?;
    ensure!(
        line.contains("/users/0a1b2c3d…/canary-path") && line.contains("404"),
        "{line}"
    );
    let strange = request.replace("find.me-1", "find me; <1>");
    let said = stage.ask(&strange).await?;
    let own = header(&said, "x-request-id").to_owned();
    ensure!(own.len() == 16, "{said}");
    agent.await_log(&["answered", &own], LONG).await?;
    let log = agent.log();
    for secret in ["query", "bearer", "cookie", "key", "body"] {
        ensure!(
            !log.contains(&format!("canary-{secret}")),
            "{secret} is in the log"
        );
    }
    ensure!(!log.contains(uuid), "a whole UUID is in the log");
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_once_and_served_when_it_is_free() -> Result<()> {
    let stage = Stage::new().await?;
    let other = TcpListener::bind(stage.address)?;
    let mut agent = stage.command().spawn()?;
    agent
        .await_log(&["WARN", "cannot listen on", "in use"], LONG)
        .await?;
    let polls = stage.panel.requests(1);
    stage.panel.await_request_after(1, polls + 1).await?;
    drop(other);
    stage.await_answer().await?;
    ensure!(warnings(&agent, "cannot listen on") == 1, "{}", agent.log());
    ensure!(agent.terminate(STOP).await?.success(), "{}", agent.log());
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_off_listens_nowhere_and_one_in_the_clear_is_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let agent = stage.command().env("HTTP_LISTEN", "off").spawn()?;
    stage.panel.await_request_after(1, 0).await?;
    ensure!(stage.connect().await.is_err() && !agent.log().contains("listens"));
    drop(agent);
    let open = stage.command().env("HTTP_LISTEN", "0.0.0.0:23860");
    let run = open.run_to_end(LONG).await?;
    ensure!(run.code == Some(2), "{run:?}");
    let mend = "set tls_cert and tls_key";
    ensure!(
        run.stderr.contains("HTTP_LISTEN") && run.stderr.contains(mend),
        "{run:?}"
    );
    Ok(())
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_others_are_served_meanwhile() -> Result<()> {
    let stage = Stage::new().await?;
    let _agent = stage.start().await?;
    let mut kept = Vec::new();
    for _ in 0..32 {
        let mut stream = stage.connect().await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").await?;
        kept.push(stream);
    }
    let said = stage.ask("").await?;
    ensure!(
        status(&said) == 503 && said.contains("too many connections"),
        "{said}"
    );
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 2], 0).into())?;
    let other = socket.connect(stage.address).await?;
    let said = ask(other, &stage.head("GET", "/healthz")).await?;
    ensure!(status(&said) == 200, "{said}");
    drop(kept);
    stage.await_answer().await
}

#[tokio::test]
async fn a_stop_ends_requests_in_order_and_idle_connections_at_once() -> Result<()> {
    let stage = Stage::new().await?;
    let mut agent = stage.start().await?;
    let host = stage.address;
    let mut silent = stage.connect().await?;
    let mut idle = stage.connect().await?;
    idle.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())
        .await?;
    let mut first = [0; 15];
    idle.read_exact(&mut first).await?;
    let mut begun = Vec::new();
    for id in ["ends-in-time", "never-ends"] {
        let mut stream = stage.connect().await?;
        let head = format!(
            "POST /healthz HTTP/1.1\r\nhost: {host}\r\nx-request-id: {id}\r\n\
             content-length: 10\r\n\r\n12345"
        );
        stream.write_all(head.as_bytes()).await?;
        agent.await_log(&["asked", id], LONG).await?;
        begun.push(stream);
    }
    let asked = Instant::now();
    agent.signal(Signal::TERM)?;
    for closed in [&mut silent, &mut idle] {
        let mut rest = Vec::new();
        timeout(LONG, closed.read_to_end(&mut rest)).await??;
    }
    let mut ends = begun.remove(0);
    ends.write_all(b"67890").await?;
    let said = ask(ends, "").await?;
    ensure!(status(&said) == 405, "{said}");
    ensure!(agent.wait_exit(STOP).await?.success(), "{}", agent.log());
    ensure!(asked.elapsed() < STOP, "a request held the stop up");
    ensure!(
        ask(begun.remove(0), "")
            .await
            .unwrap_or_default()
            .is_empty()
    );
    Ok(())
}

/// Writes a certificate, a key, or both, as renewal does: beside, and then in place.
fn put(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, path)?)
}

/// The answer over TLS, by who trusts only this certificate.
async fn get_over_tls(stage: &Stage, certificate: &str) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream: TcpStream = stage.connect().await?;
    let name = ServerName::try_from("localhost")?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    ask(tls, &stage.head("GET", "/healthz")).await
}

#[tokio::test]
async fn a_certificate_is_renewed_while_it_runs_and_a_bad_one_is_not() -> Result<()> {
    let stage = Stage::new().await?;
    let path = |name: &str| -> PathBuf { stage.folder.path().join(name) };
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let command = stage
        .command()
        .env("HTTP_TLS_CERT", &cert)
        .env("HTTP_TLS_KEY", &key);
    let agent = command.spawn()?;
    agent
        .await_log(&["WARN", "not served, tried again", "cert.pem"], LONG)
        .await?;
    put(&cert, FIRST.0)?;
    put(&key, FIRST.1)?;
    let served = async |pair: (&str, &str)| {
        let mut said = None;
        let answered = eventually("an answer over TLS", LONG, async || {
            let last = said.insert(get_over_tls(&stage, pair.0).await);
            last.as_ref().is_ok_and(|said| said.ends_with("ok"))
        })
        .await;
        answered.with_context(|| format!("{said:?}\n{}", agent.log()))
    };
    served(FIRST).await?;
    let mut silent = stage.connect().await?;
    put(&cert, RENEWED.0)?;
    let line = [
        "WARN",
        "the last good certificate stays",
        "do not go together",
    ];
    agent.await_log(&line, LONG).await?;
    served(FIRST).await?;
    put(&key, RENEWED.1)?;
    served(RENEWED).await?;
    ensure!(
        get_over_tls(&stage, FIRST.0).await.is_err(),
        "the old one is served still"
    );
    put(&key, "no key")?;
    agent
        .await_log(
            &["WARN", "the last good certificate stays", "no PEM file"],
            LONG,
        )
        .await?;
    served(RENEWED).await?;
    ensure!(!agent.log().contains("PRIVATE KEY"), "a key is in the log");
    let mut nothing = Vec::new();
    let cut = timeout(LONG, silent.read_to_end(&mut nothing)).await;
    cut.context("who begins no handshake stays")??;
    let plain = stage.get("/healthz").await.unwrap_or_default();
    ensure!(!plain.contains("200"), "{plain}");
    Ok(())
}
