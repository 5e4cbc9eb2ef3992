//! Writes the running configuration to a file of this host, for a person or a backup to take away.
//!
//! Kept here: what is written lets nobody in (`document`), and lies within the folder that is configured
//! for it (`place`); without such a folder nothing is written.

pub mod document;
pub mod place;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, bad_request, conflict, failing};
use super::input::Sent;
use crate::base::redact;
use crate::http::HttpError;
use document::{Contents, Wanted, document};
use place::{Folder, PlaceError};

/// By what a document calls itself where nothing else is asked for.
const VERSION: &str = "v1";
/// Longest name of a version, in characters.
const VERSION_CHARS_MAX: usize = 100;

/// Who knows what runs.
pub trait Exported: Send + Sync {
    /// All of it, as it is now. Secrets in it are hidden before it is written.
    fn contents(&self) -> BoxFuture<'_, Contents>;
}

/// What is exported, and where to. Cheap to clone.
#[derive(Clone)]
pub struct Export {
    exported: Arc<dyn Exported>,
    folder: Option<Arc<Folder>>,
}

impl Export {
    /// Writes what `exported` tells into this folder; `None`: nothing is written.
    pub fn new(exported: Arc<dyn Exported>, folder: Option<PathBuf>) -> Self {
        let folder = folder.map(|folder| Arc::new(Folder::new(folder)));
        Self { exported, folder }
    }
}

/// `/v1/export`.
pub fn routes<S>(export: Export) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::default()
        .routes(routes!(write))
        .with_state(export)
}

/// What is wanted.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = ExportRequest)]
#[expect(clippy::struct_excessive_bools, reason = "the contract's own fields")]
struct Asked {
    /// A file under the export folder, relative to it or absolute.
    #[schema(required)]
    path: Option<String>,
    /// `json` unless set. Either is JSON, for that is YAML 1.2; `yaml` has the mark of a document before
    /// it.
    format: Format,
    /// Of users nothing that says who they are.
    redact_users: bool,
    /// Users too.
    include_users: bool,
    /// How the agent's API is set up too.
    include_api: bool,
    /// Counts what of a pipeline is in it, which is nothing: that is Xray's own configuration.
    include_pipeline: bool,
    /// The same of the pipeline's providers.
    resolve_providers: bool,
    /// Only these; all unless set.
    protocol_ids: Option<Vec<String>>,
    /// A file that is there is replaced.
    allow_overwrite: bool,
    /// By what the document calls itself; `v1` unless set.
    version_label: Option<String>,
}

/// How a document is written.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// As JSON.
    #[default]
    Json,
    /// As a document of YAML 1.2: what is in it is JSON, which that is made to hold.
    Yaml,
}

impl Format {
    /// What stands before the JSON.
    fn head(self) -> &'static [u8] {
        match self {
            Self::Json => b"",
            Self::Yaml => b"---\n",
        }
    }
}

/// What was written.
#[derive(Serialize, ToSchema)]
#[schema(as = ExportResponse)]
struct Written {
    /// Where, absolute.
    path: String,
    /// Protocols in it.
    protocols: usize,
    /// By what it calls itself.
    version: String,
    /// Users in it; null where they were not wanted.
    users: Option<usize>,
    /// Whether the API is in it.
    api: Option<bool>,
    /// What of a pipeline is in it, where that was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pipeline: Option<Pipeline>,
    /// What it was cut to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    filters: Option<Filters>,
}

/// What of a pipeline is in an export: an Xray node has none.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = PipelineExportMeta)]
struct Pipeline {
    strategies: usize,
    rules: usize,
    /// Null where they were not to be resolved.
    resolved_rules: Option<usize>,
}

/// What an export was cut to.
#[derive(Serialize, ToSchema)]
#[schema(as = ExportFilters)]
struct Filters {
    /// Ids of protocols.
    protocols: Vec<String>,
}

#[utoipa::path(
    post, path = "/v1/export", tag = "kernel", operation_id = "kernel_export",
    summary = "Write the running configuration to a file, without secrets",
    request_body = Asked,
    responses((status = 200, description = "It is written", body = Written), ApiError)
)]
async fn write(
    State(export): State<Export>,
    Sent(asked): Sent<Asked>,
) -> Result<Json<Written>, HttpError> {
    let Some(folder) = export.folder else {
        let message = "nothing can be exported: set kernel.export_dir to the folder where exports \
                       may be written";
        return Err(bad_request(message));
    };
    let Some(path) = asked.path else {
        let message = "path is missing: name a file under the export folder";
        return Err(bad_request(message));
    };
    let wanted = Wanted {
        include_users: asked.include_users,
        redact_users: asked.redact_users,
        include_api: asked.include_api,
        protocol_ids: asked.protocol_ids,
        version: version(asked.version_label.as_deref()),
    };
    let document = document(export.exported.contents().await, &wanted);
    let json = serde_json::to_vec_pretty(&document.value);
    let json = json.expect("invariant: keys are text, and nothing in it fails to be written");
    let text = [asked.format.head(), &json, b"\n"].concat();
    let written = spawn_blocking(move || folder.write(&path, &text, asked.allow_overwrite)).await;
    let failed = |e: &dyn std::error::Error| failing("the export cannot be written", e);
    let place = match written.map_err(|e| failed(&e))? {
        Ok(place) => place,
        Err(PlaceError::Path(why)) => return Err(bad_request(why)),
        Err(PlaceError::Taken(why)) => return Err(conflict(why)),
        Err(e) => return Err(failed(&e)),
    };
    Ok(Json(Written {
        path: place.display().to_string(),
        protocols: document.protocols,
        version: wanted.version,
        users: document.users,
        api: Some(wanted.include_api),
        pipeline: asked.include_pipeline.then(|| Pipeline {
            resolved_rules: asked.resolve_providers.then_some(0),
            ..Pipeline::default()
        }),
        filters: wanted.protocol_ids.map(|protocols| Filters { protocols }),
    }))
}

fn version(label: Option<&str>) -> String {
    let label = label.map(|label| redact::line(label, VERSION_CHARS_MAX));
    label
        .filter(|label| !label.is_empty())
        .unwrap_or_else(|| VERSION.to_owned())
}
