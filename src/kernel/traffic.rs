//! `/v1/traffic`: what the ledger counted, by node and protocol.

use axum::Json;
use axum::extract::State as From;
use jiff::Timestamp;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::{ApiError, not_supported, unavailable};
use super::input::Asked;
use super::live::{self, Live, UNKNOWN};
use super::ports::InboundBytes;
use super::wire::nodes::{NodeProtocolTrafficSummary, TrafficSummaryResponse};
use crate::http::HttpError;

/// What to do where nothing is counted.
const UNCOUNTED: &str = "this agent counts no traffic; it does in mode xray-grpc (apply.mode) unless \
                         traffic.enabled is false";

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(traffic))
}

#[utoipa::path(
    get, path = "/v1/traffic", tag = "kernel", operation_id = "traffic",
    summary = "Bytes since the ledger was begun",
    params(
        ("node" = Option<Vec<String>>, Query, description = "Of these nodes only", nullable = false),
        ("protocol" = Option<Vec<String>>, Query, description = "Of these protocols only", nullable = false),
    ),
    responses((status = 200, description = "The sums", body = TrafficSummaryResponse), ApiError)
)]
async fn traffic(
    From(state): From<State>,
    asked: Asked,
) -> Result<Json<TrafficSummaryResponse>, HttpError> {
    let ports = state.ports();
    let totals = ports
        .totals
        .as_ref()
        .ok_or_else(|| not_supported(UNCOUNTED))?;
    let counted = totals.of_inbounds().await.map_err(unavailable)?;
    let inbounds = live::known(&*ports.agent);
    let rows = counted.iter().map(|it| row(it, &inbounds));
    let is_asked = |name: &str, value: &str| {
        let mut all = asked.all(name).peekable();
        all.peek().is_none() || all.any(|it| it == value)
    };
    let rows: Vec<_> = rows
        .filter(|it| is_asked("node", &it.node_id) && is_asked("protocol", &it.protocol))
        .collect();
    Ok(Json(TrafficSummaryResponse {
        generated_at_ms: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default(),
        bytes_up: rows.iter().map(|it| it.bytes_up).sum(),
        bytes_down: rows.iter().map(|it| it.bytes_down).sum(),
        by_node_protocol: rows,
    }))
}

/// An inbound that is managed no more is shown under its tag.
fn row(counted: &InboundBytes, inbounds: &[Live]) -> NodeProtocolTrafficSummary {
    let is_own =
        |it: &&Live| it.inbound.xray == counted.xray && it.inbound.tag.as_str() == counted.tag;
    let own = inbounds.iter().find(is_own);
    NodeProtocolTrafficSummary {
        node_id: own.map_or_else(|| counted.tag.clone(), |it| it.id().to_owned()),
        protocol: own.map_or_else(|| UNKNOWN.to_owned(), Live::protocol),
        bytes_up: counted.bytes.up,
        bytes_down: counted.bytes.down,
    }
}
