//! The snapshot of the status, as `core.yaml` writes it. What an Xray node does not have is left out.

#![expect(
    missing_docs,
    reason = "`core.yaml`, which this follows word for word, says what each is"
)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::meters::{
    HttpProxyMetricsSnapshot, QuicStatus, SocksStatus, SsMetricsSnapshot, SsrMetricsSnapshot,
    TlsStatus, VlessMetricsSnapshot,
};
use super::nodes::NodeStatus;
use super::special::{ActionView, Scalar};
use crate::host::geo::ProviderStatus;

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct StatusResponse {
    pub snapshot: RuntimeStatusSnapshot,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rate_limit_summary: Option<UserRateLimitSummary>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct RuntimeStatusSnapshot {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub generated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub nodes: Option<Vec<NodeStatus>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pipeline: Option<PipelineStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub providers: Option<Vec<ProviderStatus>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub http: Option<HttpStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub socks: Option<SocksStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub vless: Option<VlessMetricsSnapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ss: Option<SsMetricsSnapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ssr: Option<SsrMetricsSnapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tls: Option<TlsStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub quic: Option<QuicStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub http_metrics: Option<HttpProxyMetricsSnapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub users: Option<UserRegistryStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub system: Option<SystemStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct SystemStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub memory: Option<MemoryStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connections: Option<ConnectionStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MemoryStatus {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ConnectionStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub active: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub opened_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub closed_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub by_node_protocol: Option<Vec<NodeConnectionStatus>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct NodeConnectionStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub node_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub active: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub opened_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub closed_total: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct HttpStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub total_nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tcp_nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub quic_nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub webtransport_nodes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct UserRegistryStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub users: Option<Vec<UserStatus>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UserStatus {
    pub id: String,
    pub username: String,
    pub tags: Vec<String>,
    #[schema(value_type = BTreeMap<String, Scalar>)]
    pub metadata: BTreeMap<String, Value>,
    pub traffic_allocated: u64,
    pub traffic_used: u64,
    pub traffic_remaining: u64,
    pub rate_up: Option<u64>,
    pub rate_down: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UserRateLimitSummary {
    pub total_users: u64,
    pub unlimited_users: u64,
    pub limited_users: u64,
    pub limited_up_only: u64,
    pub limited_down_only: u64,
    pub limited_both: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PipelineStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub strategy_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub strategies: Option<Vec<StrategyStatus>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rule_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rules: Option<Vec<RuleStatus>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub default: Option<DefaultRouteStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct StrategyStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kind: Option<StrategyKindType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub candidates: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub attempts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub successes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failures: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StrategyKindType {
    Select,
    Fallback,
    LoadBalance,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct RuleStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub action: Option<ActionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub priority: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hits: Option<u64>,
    pub last_hit_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct DefaultRouteStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rule_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub action: Option<ActionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hits: Option<u64>,
    pub last_hit_ms: Option<u64>,
}
