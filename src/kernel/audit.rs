//! Every change over HTTP goes through here into the audit, and what is kept is read here.
//!
//! Kept here: a mutating call that was let in leaves a record whatever becomes of it, also one that
//! was broken off.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use http::request::Parts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, failing};
use super::input::Asked;
use crate::audit::{Audit, AuditHealth, Entry, Filter, Record};
use crate::http::{HttpError, Identity, Reason, RequestId};

/// Last words of a path that are themselves what is done.
const DEEDS: [&str; 5] = ["import", "refresh", "heartbeat", "export", "reset"];

/// How a surface's changes are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recording {
    audit: Audit,
    channel: &'static str,
    action: fn(&Method, &str) -> String,
}

impl Recording {
    /// Tells `audit` of changes by `channel`; `action` names what a method on a route's template does.
    pub fn new(audit: Audit, channel: &'static str, action: fn(&Method, &str) -> String) -> Self {
        Self {
            audit,
            channel,
            action,
        }
    }

    async fn begin(&self, parts: &mut Parts) -> Open {
        let path = parts.extensions.get::<MatchedPath>();
        let endpoint =
            path.map_or_else(|| parts.uri.path().to_owned(), |it| it.as_str().to_owned());
        let actor = parts.extensions.get::<Identity>();
        let actor = actor.map(|Identity(name)| name.to_string());
        let request_id = parts
            .extensions
            .get::<RequestId>()
            .map(RequestId::to_string);
        let target = target(parts, &endpoint).await;
        let record = Record {
            channel: self.channel,
            action: (self.action)(&parts.method, &endpoint),
            endpoint,
            actor,
            target,
            success: false,
            detail: Some("broken off; whether it was done is not known".to_owned()),
            metadata: BTreeMap::from_iter(request_id.map(|id| ("request_id".to_owned(), id))),
        };
        Open {
            audit: self.audit.clone(),
            record,
        }
    }
}

/// A call under way. Told when it is dropped: a call that is broken off, or panics, is told too.
struct Open {
    audit: Audit,
    record: Record,
}

impl Open {
    fn answered(mut self, response: &Response) {
        let status = response.status();
        let reason = response.extensions().get::<Reason>().cloned();
        let metadata = &mut self.record.metadata;
        metadata.insert("status".to_owned(), status.as_u16().to_string());
        self.record.success = status.as_u16() < 400;
        self.record.detail = reason.map(|Reason(why)| why);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.audit.record(std::mem::take(&mut self.record));
    }
}

/// Tells of each mutating call. A layer within authentication, so that strangers cannot fill the audit:
/// `router.layer(from_fn_with_state(recording, recorded))`.
pub async fn recorded(
    State(recording): State<Recording>,
    request: Request,
    next: Next,
) -> Response {
    let mutating = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    if !mutating.contains(request.method()) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let open = recording.begin(&mut parts).await;
    let response = next.run(Request::from_parts(parts, body)).await;
    open.answered(&response);
    response
}

/// The values in the path; a path without any: its first word.
async fn target(parts: &mut Parts, endpoint: &str) -> Option<String> {
    let named = RawPathParams::from_request_parts(parts, &()).await;
    let named: Vec<String> = named
        .iter()
        .flat_map(|params| params.iter().map(|(_, value)| value.to_owned()))
        .collect();
    if named.is_empty() {
        return words(endpoint).next().map(str::to_owned);
    }
    Some(named.join("/"))
}

/// What a method on a route of the kernel does: `api.users.import`, `api.users.update`.
pub fn action(method: &Method, path: &str) -> String {
    let words: Vec<_> = words(path).collect();
    let deed = match *method {
        Method::POST => "create",
        Method::DELETE => "delete",
        _ => "update",
    };
    let is_deed = words.last().is_some_and(|last| DEEDS.contains(last));
    let deed = (!is_deed).then_some(deed);
    let all = ["api"].into_iter().chain(words).chain(deed);
    all.collect::<Vec<_>>().join(".")
}

/// The words of a route's template: neither its version nor what stands for something.
fn words(path: &str) -> impl Iterator<Item = &str> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let is_version = |part: &str| {
        let number = part.strip_prefix('v');
        number.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
    };
    parts.filter(move |part| !part.starts_with('{') && !is_version(part))
}

/// `/v1/audit` and `/v1/audit/health`.
pub fn routes<S>(audit: Audit) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::default()
        .routes(routes!(records))
        .routes(routes!(health))
        .with_state(audit)
}

#[utoipa::path(
    get, path = "/v1/audit", tag = "kernel", operation_id = "kernel_audit",
    summary = "Who changed what, newest first",
    params(
        ("limit" = Option<i64>, Query, description = "At most so many: 1 to 1 000, 100 unless set", nullable = false),
        ("since_ms" = Option<i64>, Query, description = "Not older than this, in Unix milliseconds", nullable = false),
        ("success" = Option<bool>, Query, description = "Done, or not done", nullable = false),
        ("action" = Option<String>, Query, description = "What was done, such as `api.users.import`", nullable = false),
        ("actor" = Option<String>, Query, description = "By whom", nullable = false),
        ("target" = Option<String>, Query, description = "To what", nullable = false),
    ),
    responses((status = 200, description = "Records", body = Vec<Entry>), ApiError)
)]
async fn records(State(audit): State<Audit>, asked: Asked) -> Result<Json<Vec<Entry>>, HttpError> {
    // What is beyond is cut to the most, or the least, that there is.
    let limit = |limit: i64| u32::try_from(limit.max(1)).unwrap_or(u32::MAX);
    let text = |name| asked.text(name).map(str::to_owned);
    let success = asked.text("success").is_some();
    let filter = Filter {
        limit: asked.number("limit")?.map(limit),
        since_ms: asked.number("since_ms")?,
        success: success.then(|| asked.flag("success")).transpose()?,
        action: text("action"),
        actor: text("actor"),
        target: text("target"),
    };
    let found = audit.query(filter).await;
    let found = found.map_err(|e| failing("the audit cannot be read", &e))?;
    Ok(Json(found))
}

#[utoipa::path(
    get, path = "/v1/audit/health", tag = "kernel", operation_id = "kernel_audit_health",
    summary = "Whether records are kept",
    responses((status = 200, description = "How it is", body = AuditHealth), ApiError)
)]
async fn health(State(audit): State<Audit>) -> Json<AuditHealth> {
    Json(audit.health())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_names_what_is_done_to_what() {
        for (method, path, named) in [
            (Method::POST, "/v1/users/import", "api.users.import"),
            (Method::POST, "/v1/users", "api.users.create"),
            (Method::PUT, "/v1/users/{id}", "api.users.update"),
            (Method::PATCH, "/v1/users/{id}", "api.users.update"),
            (Method::DELETE, "/v1/protocols/{id}", "api.protocols.delete"),
            (Method::POST, "/v1/export", "api.export"),
            (
                Method::POST,
                "/v1/rules/providers/{name}/refresh",
                "api.rules.providers.refresh",
            ),
            (
                Method::DELETE,
                "/v1/security/rate-limits",
                "api.security.rate-limits.delete",
            ),
            (Method::POST, "/", "api.create"),
        ] {
            assert_eq!(action(&method, path), named);
        }
    }
}
