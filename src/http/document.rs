//! The description of what a listener serves, at `/openapi.json`: made of the routes themselves, so
//! that none is served that is not in it (a test of the architecture sees to that).

use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderMap, header};
use utoipa::openapi::{Info, License, OpenApi, Paths};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::client::Client;
use super::error::{ApiError, ErrorResponse, HttpError};
use super::reader::Reader;

/// The document, ready to be sent. Cheap to clone.
#[derive(Clone)]
struct Document(Bytes);

/// These routes, and the document of them all, itself included. `reader` decides who may read what is
/// open on this host alone.
pub fn documented(served: OpenApiRouter, reader: Reader) -> Router {
    let described = OpenApiRouter::with_openapi(OpenApi::new(about(), Paths::new()))
        .merge(served)
        .routes(routes!(openapi));
    let (all, document) = described.split_for_parts();
    let text = document.to_json();
    let text = text.expect("invariant: keys are text, and nothing in it fails to be written");
    all.layer(Extension(Document(text.into())))
        .layer(Extension(reader))
}

fn about() -> Info {
    let mut info = Info::new("xray-agent", env!("CARGO_PKG_VERSION"));
    info.description = Some(env!("CARGO_PKG_DESCRIPTION").to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    info
}

#[utoipa::path(
    get, path = "/openapi.json", tag = "open",
    summary = "This document",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object),
        (status = 401, description = "Beyond loopback, without the read token", body = ErrorResponse),
        ApiError
    )
)]
async fn openapi(
    Extension(client): Extension<Client>,
    Extension(reader): Extension<Reader>,
    head: HeaderMap,
    Extension(Document(text)): Extension<Document>,
) -> Result<([(header::HeaderName, &'static str); 1], Bytes), HttpError> {
    reader.admit(&client, &head, "the description is")?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text))
}
