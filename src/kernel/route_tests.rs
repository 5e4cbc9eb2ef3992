//! The routes and layers together, asked as a panel asks.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::export::document::Contents;
use super::export::{Export, Exported};
use super::{audit, export, interfaces, providers, rate_limits};
use crate::audit::{Audit, Retention};
use crate::base::clock::Clock;
use crate::host::geo::Providers;
use crate::http::Identity;
use crate::http::limits_by_rule::RateLimits;
use crate::store::{Reader, agent};

/// What runs in these tests.
struct Runs;

impl Exported for Runs {
    fn contents(&self) -> BoxFuture<'_, Contents> {
        let contents = Contents {
            protocols: vec![json!({ "id": "a" }), json!({ "id": "b" })],
            users: vec![json!({ "id": "1", "username": "ann", "password": "canary" })],
            api: json!({ "listen": "127.0.0.1:1", "secret_key": "canary" }),
        };
        Box::pin(async { contents })
    }
}

struct Stage {
    folder: TempDir,
    audit: Audit,
    router: Router,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let clock = Clock::system();
        let store = agent::start(folder.path(), clock).unwrap();
        let reader = Reader::new(agent::spec(folder.path(), clock));
        let audit = Audit::new(store.clone(), reader, Retention::default(), clock);
        let limits = RateLimits::start(store).await;
        let recording = audit::Recording::new(audit.clone(), "http", audit::action);
        let geo = Providers::new(Some(folder.path().to_owned()), clock);
        let exports = folder.path().join("exports");
        std::fs::create_dir(&exports).unwrap();
        let export = Export::new(Arc::new(Runs), Some(exports));
        let (router, _) = audit::routes::<()>(audit.clone())
            .merge(rate_limits::routes(limits.clone()))
            .merge(interfaces::routes())
            .merge(providers::routes(geo))
            .merge(export::routes(export))
            .layer(from_fn_with_state(recording, audit::recorded))
            .layer(from_fn_with_state(limits, rate_limits::limited))
            .split_for_parts();
        Self {
            folder,
            audit,
            router,
        }
    }

    async fn ask_as(&self, who: &str, method: &str, path: &str, body: Value) -> Response<Body> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = request.body(Body::from(body)).unwrap();
        let router = self.router.clone().layer(Extension(Identity::new(who)));
        router.oneshot(request).await.unwrap()
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.ask_as("api-key:panel", method, path, body).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (status, body)
    }
}

fn limit(scope: &str, key: &str, per_minute: i64) -> Value {
    json!({ "scope": scope, "key": key, "max_requests_per_minute": per_minute })
}

const LIMITS: &str = "/v1/security/rate-limits";

#[tokio::test]
async fn every_change_leaves_a_record_of_who_did_what_and_whether_it_was_done() {
    let stage = Stage::new().await;
    stage
        .ask("POST", LIMITS, limit("identity", "ip:192.0.2.1", 5))
        .await;
    stage
        .ask(
            "DELETE",
            &format!("{LIMITS}?scope=identity&key=nobody"),
            Value::Null,
        )
        .await;
    stage
        .ask(
            "POST",
            "/v1/rules/providers/absent.dat/refresh",
            Value::Null,
        )
        .await;
    stage.ask("GET", LIMITS, Value::Null).await;
    stage.audit.flush().await.unwrap();
    let (status, all) = stage.ask("GET", "/v1/audit", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3, "reading leaves none: {all:?}");
    assert_eq!(all[2]["action"], "api.security.rate-limits.create");
    assert_eq!(all[2]["endpoint"], LIMITS);
    assert_eq!(all[2]["channel"], "http");
    assert_eq!(all[2]["actor"], "api-key:panel");
    assert_eq!(all[2]["target"], "security");
    assert_eq!(all[2]["success"], true);
    assert_eq!(all[2]["detail"], Value::Null);
    assert_eq!(all[1]["success"], false);
    assert_eq!(all[1]["metadata"]["status"], "404");
    assert!(
        all[1]["detail"]
            .as_str()
            .unwrap()
            .starts_with("NOT_FOUND: no limit")
    );
    assert_eq!(all[0]["endpoint"], "/v1/rules/providers/{name}/refresh");
    assert_eq!(all[0]["action"], "api.rules.providers.refresh");
    assert_eq!(all[0]["target"], "absent.dat");
    let (_, failed) = stage
        .ask("GET", "/v1/audit?success=false&limit=1", Value::Null)
        .await;
    assert_eq!(failed.as_array().unwrap().len(), 1);
    let (_, health) = stage.ask("GET", "/v1/audit/health", Value::Null).await;
    let expected = json!({
        "queued": 0, "dropped": 0, "sink_failures": 0, "last_error": null,
        "sinks": [{ "name": "store", "failures": 0 }],
    });
    assert_eq!(health, expected);
}

#[tokio::test]
async fn a_call_that_is_broken_off_leaves_a_record_too() {
    let stage = Stage::new().await;
    let never_ends = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let request = Request::post(LIMITS).header("content-type", "application/json");
    let request = request.body(Body::from_stream(never_ends)).unwrap();
    let answer = stage.router.clone().oneshot(request).now_or_never();
    assert!(answer.is_none());
    stage.audit.flush().await.unwrap();
    let (_, all) = stage.ask("GET", "/v1/audit", Value::Null).await;
    assert_eq!(all[0]["success"], false);
    assert!(all[0]["detail"].as_str().unwrap().starts_with("broken off"));
}

#[tokio::test]
async fn an_odd_question_is_refused_with_a_code() {
    let stage = Stage::new().await;
    for (method, path, body) in [
        ("GET", "/v1/audit?limit=many", Value::Null),
        ("GET", "/v1/audit?success=perhaps", Value::Null),
        ("POST", LIMITS, Value::Null),
        (
            "POST",
            LIMITS,
            json!({ "scope": "world", "key": "a", "max_requests_per_minute": 1 }),
        ),
        ("POST", LIMITS, limit("identity", "a", 0)),
        ("POST", LIMITS, limit("identity", "a", -1)),
        ("POST", LIMITS, limit("identity", "a", 1 << 32)),
        ("POST", LIMITS, limit("identity", "", 1)),
        ("POST", LIMITS, limit("endpoint", "users", 1)),
        ("DELETE", LIMITS, Value::Null),
    ] {
        let (status, refusal) = stage.ask(method, path, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {path} {body}");
        assert_eq!(refusal["code"], "BAD_REQUEST", "{method} {path} {body}");
        assert!(refusal["message"].as_str().is_some_and(|it| !it.is_empty()));
    }
    let (status, all) = stage.ask("GET", "/v1/audit?limit=-1", Value::Null).await;
    assert_eq!((status, all.is_array()), (StatusCode::OK, true));
}

#[tokio::test]
async fn a_limit_holds_for_its_route_and_who_asks_until_it_is_lifted() {
    let stage = Stage::new().await;
    let (status, set) = stage
        .ask("POST", LIMITS, limit("endpoint", "/v1/interfaces", 2))
        .await;
    assert_eq!(
        (status, set),
        (StatusCode::OK, limit("endpoint", "/v1/interfaces", 2))
    );
    let get = async |who: &str, path: &str| stage.ask_as(who, "GET", path, Value::Null).await;
    for _ in 0..2 {
        assert_eq!(get("a", "/v1/interfaces").await.status(), StatusCode::OK);
    }
    let refused = get("a", "/v1/interfaces").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let after: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&after), "{after}");
    let body = to_bytes(refused.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["code"], "RATE_LIMITED");
    assert_eq!(get("b", "/v1/interfaces").await.status(), StatusCode::OK);
    assert_eq!(get("a", "/v1/audit").await.status(), StatusCode::OK);
    let lift = format!("{LIMITS}?scope=endpoint&key=/v1/interfaces");
    let (status, _) = stage.ask("DELETE", &lift, Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(get("a", "/v1/interfaces").await.status(), StatusCode::OK);
    let (status, _) = stage.ask("DELETE", &lift, Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_locks_himself_out_of_the_limits() {
    let stage = Stage::new().await;
    for (scope, key) in [("identity", "api-key:panel"), ("endpoint", LIMITS)] {
        stage.ask("POST", LIMITS, limit(scope, key, 1)).await;
    }
    for _ in 0..5 {
        let (status, all) = stage.ask("GET", LIMITS, Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        let expected = json!({ "endpoints": { LIMITS: 1 }, "identities": { "api-key:panel": 1 } });
        assert_eq!(all, expected);
    }
    assert_eq!(
        stage.ask("GET", "/v1/audit", Value::Null).await.0,
        StatusCode::OK
    );
    let again = stage.ask("GET", "/v1/audit", Value::Null).await;
    assert_eq!(again.0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn the_host_is_shown_as_the_contract_says() {
    let stage = Stage::new().await;
    let (_, shown) = stage.ask("GET", "/v1/interfaces", Value::Null).await;
    let all = shown["interfaces"].as_array().unwrap();
    let loopback = all.iter().find(|it| it["name"] == "lo").unwrap();
    assert_eq!(loopback["kind"], "virtual");
    let own = json!({ "family": "ipv4", "address": "127.0.0.1", "prefix": 8 });
    assert!(loopback["addresses"].as_array().unwrap().contains(&own));
    std::fs::write(stage.folder.path().join("geoip.dat"), "abc").unwrap();
    let (_, list) = stage.ask("GET", "/v1/rules/providers", Value::Null).await;
    assert_eq!(list[0]["name"], "geoip.dat");
    assert_eq!(list[0]["state"], "healthy");
    let refresh = "/v1/rules/providers/geoip.dat/refresh";
    let (status, one) = stage.ask("POST", refresh, Value::Null).await;
    assert_eq!(
        (status, &one["checksum"]),
        (StatusCode::OK, &list[0]["checksum"])
    );
    let (status, _) = stage
        .ask("POST", "/v1/rules/providers/..%2Fx/refresh", Value::Null)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_export_is_written_where_it_may_be_and_holds_no_secret() {
    let stage = Stage::new().await;
    let asked = json!({
        "path": "a.yaml", "format": "yaml", "include_users": true, "include_api": true,
        "protocol_ids": ["a"], "version_label": "mine", "resolve_providers": true,
    });
    let (status, written) = stage.ask("POST", "/v1/export", asked.clone()).await;
    let path = stage
        .folder
        .path()
        .canonicalize()
        .unwrap()
        .join("exports/a.yaml");
    let expected = json!({
        "path": path, "protocols": 1, "version": "mine", "users": 1, "api": true,
        "filters": { "protocols": ["a"] },
    });
    assert_eq!((status, written), (StatusCode::OK, expected));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("ann") && !text.contains("canary"), "{text}");
    let document: Value = serde_json::from_str(text.strip_prefix("---").unwrap()).unwrap();
    assert_eq!(document["protocols"], json!([{ "id": "a" }]));
    let (status, refusal) = stage.ask("POST", "/v1/export", asked.clone()).await;
    assert_eq!(
        (status, &refusal["code"]),
        (StatusCode::CONFLICT, &json!("CONFLICT"))
    );
    let mut again = asked;
    again["allow_overwrite"] = true.into();
    assert_eq!(
        stage.ask("POST", "/v1/export", again).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn an_export_that_leads_elsewhere_is_refused() {
    let stage = Stage::new().await;
    for asked in [
        Value::Null,
        json!({}),
        json!({ "path": "../agent.db", "allow_overwrite": true }),
        json!({ "path": "/tmp/x.yaml" }),
        json!({ "path": "a.xml", "format": "xml" }),
    ] {
        let (status, refusal) = stage.ask("POST", "/v1/export", asked.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{asked}");
        assert_eq!(refusal["code"], "BAD_REQUEST", "{asked}");
    }
    let (router, _) = export::routes::<()>(Export::new(Arc::new(Runs), None)).split_for_parts();
    let request = Request::post("/v1/export").header("content-type", "application/json");
    let request = request.body(Body::from(r#"{"path":"a.json"}"#)).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("kernel.export_dir"));
}
