//! Routes that anybody may ask without a credential: whether the agent is there, and whether it is
//! of use. Beyond this host they say no more than a word.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::client::Client;
use super::error::ApiError;
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Dependency {
    /// Its name.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// Whether the agent is not ready without it.
    pub needed: bool,
}

/// `/healthz`, `/health`, `/livez` and `/readyz`.
pub fn open_routes(health: Arc<dyn Health>) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(healthz))
        .routes(routes!(health_word))
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .with_state(health)
}

/// That the agent answers.
#[derive(Serialize, ToSchema)]
struct Word {
    /// Always `ok`.
    status: &'static str,
}

/// That the agent lives.
#[derive(Serialize, ToSchema)]
struct Liveness {
    /// Always true.
    alive: bool,
    /// On a listener on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tasks: Option<Vec<TaskLine>>,
}

/// Whether the agent is of use.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// Whether nothing that is needed is missing.
    ready: bool,
    /// What is needed and not there; like all below on a listener on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    missing: Option<Vec<String>>,
    /// All tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tasks: Option<Vec<TaskLine>>,
    /// What the agent works with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    dependencies: Option<Vec<Dependency>>,
}

/// A task, without its last error: that is for who may see the status.
#[derive(Serialize, ToSchema)]
struct TaskLine {
    /// Its name.
    name: String,
    /// Whether it is running now.
    alive: bool,
    /// How often it was started again.
    restarts: u64,
}

#[utoipa::path(
    get, path = "/healthz", tag = "open",
    summary = "Whether the agent answers, in a word",
    responses((status = 200, description = "It does", body = &str, example = "ok"), ApiError)
)]
async fn healthz() -> &'static str {
    "ok"
}

#[utoipa::path(
    get, path = "/health", tag = "open", operation_id = "health",
    summary = "Whether the agent answers, as JSON",
    responses((status = 200, description = "It does", body = Word), ApiError)
)]
async fn health_word() -> Json<Word> {
    Json(Word { status: "ok" })
}

#[utoipa::path(
    get, path = "/livez", tag = "open",
    summary = "Whether the agent lives, and on loopback its tasks",
    responses((status = 200, description = "It lives", body = Liveness), ApiError)
)]
async fn livez(
    State(health): State<Arc<dyn Health>>,
    Extension(client): Extension<Client>,
) -> Json<Liveness> {
    let tasks = client.is_local().then(|| tasks(&health.report()));
    Json(Liveness { alive: true, tasks })
}

#[utoipa::path(
    get, path = "/readyz", tag = "open",
    summary = "Whether the agent is of use, and on loopback what it lacks",
    responses(
        (status = 200, description = "A first sync was tried and the store is open", body = Readiness),
        (status = 503, description = "Something that is needed is missing", body = Readiness),
        ApiError
    )
)]
async fn readyz(
    State(health): State<Arc<dyn Health>>,
    Extension(client): Extension<Client>,
) -> Response {
    let (status, body) = readiness(health.report(), client.is_local());
    (status, Json(body)).into_response()
}

fn readiness(report: HealthReport, is_local: bool) -> (StatusCode, Readiness) {
    let missing: Vec<_> = report
        .dependencies
        .iter()
        .filter(|dependency| dependency.needed && !dependency.ok)
        .map(|dependency| dependency.name.clone())
        .collect();
    let ready = missing.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = Readiness {
        ready,
        missing: is_local.then_some(missing),
        tasks: is_local.then(|| tasks(&report)),
        dependencies: is_local.then_some(report.dependencies),
    };
    (status, body)
}

fn tasks(report: &HealthReport) -> Vec<TaskLine> {
    let tasks = report.tasks.iter().map(|task| TaskLine {
        name: task.name.clone(),
        alive: task.alive,
        restarts: task.restarts,
    });
    tasks.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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

    fn told(store_is_open: bool, is_local: bool) -> (StatusCode, Value) {
        let (status, body) = readiness(report(store_is_open), is_local);
        (status, serde_json::to_value(body).unwrap())
    }

    #[test]
    fn it_is_ready_when_nothing_that_is_needed_is_missing() {
        let (status, body) = told(true, true);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["ready"], true);
        assert_eq!(body["dependencies"][1]["ok"], false);
        assert_eq!(body["tasks"][0]["restarts"], 2);
        assert!(!body.to_string().contains("canary"), "{body}");
        let (status, body) = told(false, true);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["missing"], json!(["store"]));
    }

    #[test]
    fn beyond_this_host_it_says_no_more_than_a_word() {
        let (status, body) = told(false, false);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, json!({ "ready": false }));
    }
}
