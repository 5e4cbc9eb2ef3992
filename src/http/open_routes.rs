//! Routes that anybody may ask without a credential: whether the agent is there, and whether it is
//! of use. Beyond this host they say no more than a word.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::client::Client;
use crate::base::supervise::TaskStatus;

/// How the agent is; asked at each request, so it must be cheap.
pub trait Health: Send + Sync {
    /// Every task and dependency now.
    fn report(&self) -> HealthReport;
}

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// All tasks.
    pub tasks: Vec<TaskStatus>,
    /// What the agent works with.
    pub dependencies: Vec<Dependency>,
}

/// Something that the agent works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Its name.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// Whether the agent is not ready without it.
    pub needed: bool,
}

/// `/healthz`, `/health`, `/livez` and `/readyz`.
pub fn open_routes(health: Arc<dyn Health>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route(
            "/health",
            get(async || answer(StatusCode::OK, &json!({ "status": "ok" }))),
        )
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health)
}

async fn livez(
    State(health): State<Arc<dyn Health>>,
    Extension(client): Extension<Client>,
) -> Response {
    let mut body = json!({ "alive": true });
    if client.is_local() {
        body["tasks"] = tasks(&health.report());
    }
    answer(StatusCode::OK, &body)
}

async fn readyz(
    State(health): State<Arc<dyn Health>>,
    Extension(client): Extension<Client>,
) -> Response {
    let (status, body) = readiness(&health.report(), client.is_local());
    answer(status, &body)
}

fn readiness(report: &HealthReport, is_local: bool) -> (StatusCode, Value) {
    let missing: Vec<&str> = report
        .dependencies
        .iter()
        .filter(|dependency| dependency.needed && !dependency.ok)
        .map(|dependency| dependency.name.as_str())
        .collect();
    let ready = missing.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if !is_local {
        return (status, json!({ "ready": ready }));
    }
    let dependencies: Vec<_> = report
        .dependencies
        .iter()
        .map(|d| json!({ "name": d.name, "ok": d.ok, "needed": d.needed }))
        .collect();
    let body = json!({
        "ready": ready,
        "missing": missing,
        "tasks": tasks(report),
        "dependencies": dependencies,
    });
    (status, body)
}

/// Without their errors: those are for who may see the status.
fn tasks(report: &HealthReport) -> Value {
    let tasks = report.tasks.iter();
    tasks
        .map(|task| json!({ "name": task.name, "alive": task.alive, "restarts": task.restarts }))
        .collect()
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(store_is_open: bool) -> HealthReport {
        let dependency = |name: &str, ok, needed| Dependency {
            name: name.to_owned(),
            ok,
            needed,
        };
        HealthReport {
            tasks: vec![TaskStatus {
                name: "node 1".to_owned(),
                restarts: 2,
                alive: true,
                last_error: Some("canary".to_owned()),
            }],
            dependencies: vec![
                dependency("store", store_is_open, true),
                dependency("panel", false, false),
            ],
        }
    }

    #[test]
    fn it_is_ready_when_nothing_that_is_needed_is_missing() {
        let (status, body) = readiness(&report(true), true);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["ready"], true);
        assert_eq!(body["dependencies"][1]["ok"], false);
        assert_eq!(body["tasks"][0]["restarts"], 2);
        assert!(!body.to_string().contains("canary"), "{body}");
        let (status, body) = readiness(&report(false), true);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["missing"], json!(["store"]));
    }

    #[test]
    fn beyond_this_host_it_says_no_more_than_a_word() {
        let (status, body) = readiness(&report(false), false);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, json!({ "ready": false }));
    }
}
