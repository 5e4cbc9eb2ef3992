//! Callbacks that were registered for events: of nodes, and of users. They are targets of the outbox;
//! the same event and address again is the same registration, its secret replaced.

use axum::Json;
use axum::extract::{Path, State as From};
use http::StatusCode;
use url::Url;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::State;
use super::error::{ApiError, bad_request, conflict, not_found, unavailable};
use super::input::Sent;
use super::wire::registrations::{EventRegistrationRecord, EventSubscriptionRecord};
use super::wire::requests::{EventRegistrationRequest, ServiceEventRegistrationRequest};
use crate::base::secret::Secret;
use crate::events::outbox::{Outbox, PutError};
use crate::http::HttpError;
use crate::model::delivery::{Origin, Target, TargetId, Wanted};
use crate::model::event::{EventName, Topic};

/// Whose targets these are.
pub const OWNER: &str = "kernel";
/// How an event of a node is written.
pub const OF_NODES: &str = "node";
/// How an event of a user is written.
pub const OF_USERS: &str = "service";
/// Longest address of a callback, in bytes.
const URL_BYTES_MAX: usize = 2048;

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(of_nodes, add_of_nodes))
        .routes(routes!(remove_of_nodes))
        .routes(routes!(of_users, add_of_users))
        .routes(routes!(remove_of_users))
}

#[utoipa::path(
    get, path = "/v1/events/registrations", tag = "kernel", operation_id = "event_registrations",
    summary = "Callbacks for events of nodes",
    responses((status = 200, description = "All of them", body = Vec<EventRegistrationRecord>), ApiError)
)]
async fn of_nodes(
    From(state): From<State>,
) -> Result<Json<Vec<EventRegistrationRecord>>, HttpError> {
    let targets = targets(&state, OF_NODES).await?;
    Ok(Json(targets.iter().map(node_record).collect()))
}

#[utoipa::path(
    post, path = "/v1/events/registrations", tag = "kernel", operation_id = "register_event",
    summary = "Have an event of nodes sent to a callback",
    request_body = EventRegistrationRequest,
    responses((status = 200, description = "The registration", body = EventRegistrationRecord), ApiError)
)]
async fn add_of_nodes(
    From(state): From<State>,
    Sent(asked): Sent<EventRegistrationRequest>,
) -> Result<Json<EventRegistrationRecord>, HttpError> {
    let target = put(
        &state,
        OF_NODES,
        &asked.event,
        &asked.callback,
        asked.secret,
    )
    .await?;
    Ok(Json(node_record(&target)))
}

#[utoipa::path(
    delete, path = "/v1/events/registrations/{id}", tag = "kernel", operation_id = "unregister_event",
    summary = "Send no more to that callback",
    params(("id" = String, Path, description = "The registration's id")),
    responses((status = 204, description = "It is gone"), ApiError)
)]
async fn remove_of_nodes(
    From(state): From<State>,
    Path(id): Path<String>,
) -> Result<StatusCode, HttpError> {
    remove(&state, OF_NODES, &id).await
}

#[utoipa::path(
    get, path = "/v1/service-events/registrations", tag = "kernel",
    operation_id = "service_event_registrations",
    summary = "Callbacks for events of users",
    responses((status = 200, description = "All of them", body = Vec<EventSubscriptionRecord>), ApiError)
)]
async fn of_users(
    From(state): From<State>,
) -> Result<Json<Vec<EventSubscriptionRecord>>, HttpError> {
    let targets = targets(&state, OF_USERS).await?;
    Ok(Json(targets.iter().map(user_record).collect()))
}

#[utoipa::path(
    post, path = "/v1/service-events/registrations", tag = "kernel",
    operation_id = "register_service_event",
    summary = "Have an event of users sent to a callback",
    request_body = ServiceEventRegistrationRequest,
    responses((status = 200, description = "The registration", body = EventSubscriptionRecord), ApiError)
)]
async fn add_of_users(
    From(state): From<State>,
    Sent(asked): Sent<ServiceEventRegistrationRequest>,
) -> Result<Json<EventSubscriptionRecord>, HttpError> {
    let target = put(
        &state,
        OF_USERS,
        &asked.event,
        &asked.callback,
        asked.secret,
    )
    .await?;
    Ok(Json(user_record(&target)))
}

#[utoipa::path(
    delete, path = "/v1/service-events/registrations/{id}", tag = "kernel",
    operation_id = "unregister_service_event",
    summary = "Send no more to that callback",
    params(("id" = String, Path, description = "The registration's id")),
    responses((status = 204, description = "It is gone"), ApiError)
)]
async fn remove_of_users(
    From(state): From<State>,
    Path(id): Path<String>,
) -> Result<StatusCode, HttpError> {
    remove(&state, OF_USERS, &id).await
}

fn outbox(state: &State) -> Result<&Outbox, HttpError> {
    let outbox = state.ports().outbox.as_ref();
    outbox.ok_or_else(|| {
        unavailable("callbacks cannot be kept: the store is not open; see the log, then try again")
    })
}

async fn targets(state: &State, form: &str) -> Result<Vec<Target>, HttpError> {
    let all = outbox(state)?.targets().await;
    let all = all.map_err(|e| HttpError::internal(&e))?;
    let own = all.into_iter().map(|it| it.target);
    Ok(own.filter(|it| is_of(it, form)).collect())
}

fn is_of(target: &Target, form: &str) -> bool {
    target.wanted.owner == OWNER && target.wanted.form == form
}

async fn put(
    state: &State,
    form: &str,
    event: &str,
    callback: &str,
    secret: Option<Secret>,
) -> Result<Target, HttpError> {
    let name = name_of(form, event)?;
    let url = address(callback)?;
    let outbox = outbox(state)?;
    if let Some(callbacks) = &state.ports().callbacks {
        callbacks.check(&url).await.map_err(bad_request)?;
    }
    let wanted = Wanted {
        owner: OWNER.to_owned(),
        form: form.to_owned(),
        url: callback.to_owned(),
        events: vec![name],
        origin: Origin::Api,
        secret: secret.filter(|it| !it.expose().is_empty()),
        bearer: None,
    };
    outbox.put(wanted).await.map_err(|error| match error {
        PutError::Unfit(why) => bad_request(why),
        PutError::TooMany => conflict(error.to_string()),
        PutError::Store(cause) => HttpError::internal(&cause),
    })
}

/// The event that is meant, in any of its spellings, if it is one of this form.
fn name_of(form: &str, event: &str) -> Result<EventName, HttpError> {
    let topic = if form == OF_NODES {
        Topic::Node
    } else {
        Topic::Service
    };
    let known = EventName::parse(event).filter(|name| name.topic() == topic);
    known.ok_or_else(|| {
        let all = EventName::ALL.iter().filter(|name| name.topic() == topic);
        let all: Vec<String> = all.map(|name| name.core_name()).collect();
        bad_request(format!(
            "there is no such event here; give one of {}",
            all.join(", ")
        ))
    })
}

/// Of an address nothing is repeated: it may be a secret by itself.
fn address(text: &str) -> Result<Url, HttpError> {
    let refuse = |why: &str| {
        let mend = "write it as https://host/path or http://host:port/path";
        bad_request(format!("the callback {why}; {mend}"))
    };
    if text.len() > URL_BYTES_MAX {
        return Err(refuse("is longer than 2048 bytes"));
    }
    let url = Url::parse(text).map_err(|e| refuse(&format!("is no URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("is neither http:// nor https://"));
    }
    Ok(url)
}

async fn remove(state: &State, form: &str, id: &str) -> Result<StatusCode, HttpError> {
    let unknown = || not_found("there is no registration of that id; GET lists those there are");
    let id = TargetId(Uuid::try_parse(id).map_err(|_| unknown())?);
    let own = targets(state, form).await?;
    if !own.iter().any(|it| it.id == id) {
        return Err(unknown());
    }
    let removed = outbox(state)?.remove(id).await;
    let removed = removed.map_err(|e| HttpError::internal(&e))?;
    removed
        .then_some(StatusCode::NO_CONTENT)
        .ok_or_else(unknown)
}

fn event_of(target: &Target) -> String {
    let first = target.wanted.events.first();
    first.map(|name| name.core_name()).unwrap_or_default()
}

fn node_record(target: &Target) -> EventRegistrationRecord {
    EventRegistrationRecord {
        id: target.id.to_string(),
        event: event_of(target),
        callback: target.wanted.url.clone(),
        created_at_ms: target.created.as_millisecond(),
    }
}

fn user_record(target: &Target) -> EventSubscriptionRecord {
    EventSubscriptionRecord {
        id: target.id.to_string(),
        event: event_of(target),
        callback: target.wanted.url.clone(),
        created_at_ms: target.created.as_millisecond(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_known_in_every_spelling_and_only_where_it_belongs() {
        for text in ["node_healthy", "Node.Healthy", "NODE-HEALTHY"] {
            assert_eq!(name_of(OF_NODES, text).unwrap(), EventName::NodeHealthy);
        }
        for text in ["user_traffic_reported", "user.traffic.reported"] {
            let name = name_of(OF_USERS, text).unwrap();
            assert_eq!(name.core_name(), "user.traffic.reported");
        }
        let wrong = name_of(OF_NODES, "user.quota.changed").unwrap_err();
        assert!(wrong.to_string().contains("give one of node_added"));
        assert!(name_of(OF_USERS, "alert_fired").is_err());
    }

    #[test]
    fn an_address_is_of_http_and_never_repeated() {
        assert!(address("https://ops.example/hook").is_ok());
        for text in ["ftp://canary", "canary", &"x".repeat(3000)] {
            let said = address(text).unwrap_err().to_string();
            assert!(
                said.contains("write it as") && !said.contains("canary"),
                "{said}"
            );
        }
    }
}
