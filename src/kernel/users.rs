//! `/v1/users`: who should be on this node, and changes of those who were pushed to all of its
//! inbounds.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::middleware::from_fn;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::{ApiError, bad_request, not_found};
use super::input::{Asked, Sent};
use super::live;
use super::people::People;
use super::ports::Agent;
use super::pushing::{self, managed, refusal};
use super::wire::requests::{User, UserCreateRequest, UserPatchRequest};
use super::wire::users::{UserCreateResponse, UserPatchResponse, UserView, UsersImportResponse};
use crate::http::{HttpError, bulk};
use crate::model::ids::UserId;

pub(super) fn routes() -> OpenApiRouter<State> {
    let large = OpenApiRouter::default()
        .routes(routes!(import))
        .layer(from_fn(bulk));
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(get, put, patch, delete))
        .routes(routes!(of_inbound))
        .merge(large)
}

#[utoipa::path(
    get, path = "/v1/users", tag = "kernel", operation_id = "users",
    summary = "Who should be on this node, without passwords",
    params(("redact" = Option<bool>, Query, description = "Hide names, tags and quotas", nullable = false)),
    responses((status = 200, description = "All of them", body = Vec<UserView>), ApiError)
)]
async fn list(From(state): From<State>, asked: Asked) -> Result<Json<Vec<UserView>>, HttpError> {
    let redact = asked.flag("redact")?;
    let people = People::of(state.ports()).await;
    Ok(Json(people.iter().map(|it| it.view(redact)).collect()))
}

#[utoipa::path(
    post, path = "/v1/users", tag = "kernel", operation_id = "create_user",
    summary = "Push a user to every inbound",
    request_body = UserCreateRequest,
    responses((status = 200, description = "His id", body = UserCreateResponse), ApiError)
)]
async fn create(
    From(state): From<State>,
    Sent(user): Sent<User>,
) -> Result<Json<UserCreateResponse>, HttpError> {
    let users = pushing::users(&state)?;
    let user = pushing::pushed(user).map_err(bad_request)?;
    let id = user.id.to_string();
    users.create(user).await.map_err(|e| refusal(&e))?;
    state.ports().agent.reconcile().await;
    Ok(Json(UserCreateResponse { id }))
}

#[utoipa::path(
    post, path = "/v1/users/import", tag = "kernel", operation_id = "import_users",
    summary = "Make these the users that are pushed to every inbound",
    params(("force" = Option<bool>, Query, description = "Also where most of them would go", nullable = false)),
    request_body = Vec<User>,
    responses((status = 200, description = "How many there are", body = UsersImportResponse), ApiError)
)]
async fn import(
    From(state): From<State>,
    asked: Asked,
    body: Body,
) -> Result<Json<UsersImportResponse>, HttpError> {
    let (users, force) = (pushing::users(&state)?, asked.flag("force")?);
    let pushed = pushing::array(body).await?;
    let imported = users.import(pushed, force).await;
    let imported = imported.map_err(|e| refusal(&e))? as u64;
    state.ports().agent.reconcile().await;
    Ok(Json(UsersImportResponse { imported }))
}

#[utoipa::path(
    get, path = "/v1/users/{id}", tag = "kernel", operation_id = "user",
    summary = "One of them",
    params(
        ("id" = String, Path, description = "His id; of one whom the polled panel allows, the UUID"),
        ("redact" = Option<bool>, Query, description = "Hide name, tags and quota", nullable = false),
    ),
    responses((status = 200, description = "He", body = UserView), ApiError)
)]
async fn get(
    From(state): From<State>,
    Path(id): Path<String>,
    asked: Asked,
) -> Result<Json<UserView>, HttpError> {
    let redact = asked.flag("redact")?;
    let people = People::of(state.ports()).await;
    let found = people.get(&id).map(|it| it.view(redact));
    found.map(Json).ok_or_else(nobody)
}

#[utoipa::path(
    put, path = "/v1/users/{id}", tag = "kernel", operation_id = "put_user",
    summary = "Change a pushed user; what is left out stays",
    params(("id" = String, Path, description = "His id")),
    request_body = UserPatchRequest,
    responses((status = 200, description = "His id", body = UserPatchResponse), ApiError)
)]
async fn put(
    state: From<State>,
    id: Path<String>,
    asked: Sent<UserPatchRequest>,
) -> Result<Json<UserPatchResponse>, HttpError> {
    patch(state, id, asked).await
}

#[utoipa::path(
    patch, path = "/v1/users/{id}", tag = "kernel", operation_id = "patch_user",
    summary = "Change a pushed user; what is left out stays",
    params(("id" = String, Path, description = "His id")),
    request_body = UserPatchRequest,
    responses((status = 200, description = "His id", body = UserPatchResponse), ApiError)
)]
async fn patch(
    From(state): From<State>,
    Path(id): Path<String>,
    Sent(asked): Sent<UserPatchRequest>,
) -> Result<Json<UserPatchResponse>, HttpError> {
    let change = pushing::patch(&id, asked)?;
    mine(&state, &id).await?;
    let users = pushing::users(&state)?;
    users.patch(&id, change).await.map_err(|e| refusal(&e))?;
    state.ports().agent.reconcile().await;
    Ok(Json(UserPatchResponse { id }))
}

#[utoipa::path(
    delete, path = "/v1/users/{id}", tag = "kernel", operation_id = "delete_user",
    summary = "Take a pushed user off",
    params(("id" = String, Path, description = "His id")),
    responses((status = 204, description = "He is gone"), ApiError)
)]
async fn delete(From(state): From<State>, Path(id): Path<String>) -> Result<StatusCode, HttpError> {
    mine(&state, &id).await?;
    let users = pushing::users(&state)?;
    users.delete(&id).await.map_err(|e| refusal(&e))?;
    state.ports().agent.reconcile().await;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    get, path = "/v1/protocols/{id}/users", tag = "kernel", operation_id = "protocol_users",
    summary = "Who should be in one inbound",
    params(
        ("id" = String, Path, description = "Its kernel id"),
        ("all" = Option<bool>, Query, description = "Also those pushed to every inbound", nullable = false),
        ("redact" = Option<bool>, Query, description = "Hide names, tags and quotas", nullable = false),
    ),
    responses((status = 200, description = "All of them", body = Vec<UserView>), ApiError)
)]
async fn of_inbound(
    From(state): From<State>,
    Path(id): Path<String>,
    asked: Asked,
) -> Result<Json<Vec<UserView>>, HttpError> {
    let (all, redact) = (asked.flag("all")?, asked.flag("redact")?);
    let ports = state.ports();
    let inbounds = live::known(&*ports.agent);
    let Some(own) = inbounds.iter().find(|it| it.id() == id) else {
        let nodes = ports.nodes.as_ref().map(|nodes| nodes.list());
        let is_node = nodes.unwrap_or_default().iter().any(|it| it.node.id == id);
        let unknown = || not_found(live::no_such(&id, &inbounds));
        return is_node.then(Json::default).ok_or_else(unknown);
    };
    let people = People::of(ports).await;
    let here = people.iter().filter(|it| it.is_at(own.node, &id, all));
    Ok(Json(here.map(|it| it.view(redact)).collect()))
}

/// Refuses to change one whom only the polled panel knows, and one whom nobody knows.
async fn mine(state: &State, id: &str) -> Result<(), HttpError> {
    let ports = state.ports();
    if let Some(users) = &ports.users
        && !users.get(id).await.is_empty()
    {
        return Ok(());
    }
    if is_polled(&*ports.agent, id) {
        return Err(managed());
    }
    Err(nobody())
}

/// Whether the polled panel allows the user of that id, which of such a one is the UUID.
fn is_polled(agent: &dyn Agent, id: &str) -> bool {
    let lists = agent.allowed();
    let holds = |user: UserId| lists.iter().any(|(_, it)| it.binary_search(&user).is_ok());
    UserId::parse(id).is_some_and(holds)
}

fn nobody() -> HttpError {
    not_found("there is no user of that id; GET /v1/users lists those who are there")
}
