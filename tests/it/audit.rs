//! The layers of the kernel's routes behind the real listener: who asks is known by his address, and
//! what he changed by the id of his request.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use axum::middleware::from_fn_with_state;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use xray_agent::audit::{Audit, Retention};
use xray_agent::base::clock::Clock;
use xray_agent::base::supervise::{Kind, Supervisor};
use xray_agent::http::limits_by_rule::RateLimits;
use xray_agent::http::{Admission, Listener};
use xray_agent::kernel::{audit, interfaces, rate_limits};
use xray_agent::store::{Reader, agent};

use crate::http_stage::{ask, body, header, status};
use crate::lab::{eventually, free_port};
use crate::support::{LONG, folder};

/// Asks a listener that serves some of the kernel's routes, then stops all in order.
async fn with_routes(asked: impl AsyncFnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    let folder = folder()?;
    let clock = Clock::system();
    let store = agent::start(folder.path(), clock)?;
    let reader = Reader::new(agent::spec(folder.path(), clock));
    let told = Audit::new(store.clone(), reader, Retention::default(), clock);
    let limits = RateLimits::start(store).await;
    let recording = audit::Recording::new(told.clone(), "http", audit::action);
    let (router, _) = audit::routes::<()>(told.clone())
        .merge(rate_limits::routes(limits.clone()))
        .merge(interfaces::routes())
        .layer(from_fn_with_state(recording, audit::recorded))
        .layer(from_fn_with_state(limits, rate_limits::limited))
        .split_for_parts();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let listener = Listener {
        name: "http",
        address,
        tls: None,
        hosts: Vec::new(),
        router,
        admission: Admission::default(),
    };
    let mut supervisor = Supervisor::new();
    let tasks = supervisor.tasks();
    tasks.task("http", Kind::Leaf, move |shutdown, _| {
        listener.clone().run(shutdown, || {})
    });
    tasks.task("audit", Kind::Leaf, move |shutdown, heartbeat| {
        told.clone().run(shutdown, heartbeat)
    });
    let (done, stop) = oneshot::channel::<()>();
    let asked = async {
        eventually("a listener", LONG, async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await?;
        let asked = asked(address).await;
        drop(done);
        asked
    };
    let stop = async { drop(stop.await) };
    let both = async { tokio::join!(asked, supervisor.run(stop, LONG)) };
    timeout(LONG, both).await.context("it hangs")?.0
}

/// One request on a connection of its own, and its answer.
async fn request(to: SocketAddr, line: &str, json: &str) -> Result<String> {
    let length = json.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\nx-request-id: req-7\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
    );
    ask(TcpStream::connect(to).await?, &head).await
}

#[tokio::test]
async fn a_change_is_found_again_by_the_id_of_its_request() -> Result<()> {
    with_routes(async |to| {
        let limit = r#"{"scope":"identity","key":"ip:192.0.2.1","max_requests_per_minute":3}"#;
        let set = request(to, "POST /v1/security/rate-limits", limit).await?;
        assert_eq!(status(&set), 200, "{set}");
        let found = request(to, "GET /v1/audit?limit=1", "").await?;
        let found: Value = serde_json::from_str(body(&found))?;
        assert_eq!(found[0]["metadata"]["request_id"], "req-7");
        assert_eq!(found[0]["action"], "api.security.rate-limits.create");
        assert_eq!(found[0]["success"], true);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_back() -> Result<()> {
    with_routes(async |to| {
        let limit = r#"{"scope":"identity","key":"ip:127.0.0.1","max_requests_per_minute":2}"#;
        request(to, "POST /v1/security/rate-limits", limit).await?;
        for expected in [200, 200, 429] {
            let answer = request(to, "GET /v1/interfaces", "").await?;
            assert_eq!(status(&answer), expected, "{answer}");
            if expected == 429 {
                let after: u64 = header(&answer, "retry-after").parse()?;
                assert!((1..=30).contains(&after), "{answer}");
                assert!(
                    body(&answer).starts_with(r#"{"code":"RATE_LIMITED""#),
                    "{answer}"
                );
            }
        }
        let lift = "DELETE /v1/security/rate-limits?scope=identity&key=ip:127.0.0.1";
        assert_eq!(status(&request(to, lift, "").await?), 204);
        let answer = request(to, "GET /v1/interfaces", "").await?;
        assert_eq!(status(&answer), 200, "{answer}");
        Ok(())
    })
    .await
}
