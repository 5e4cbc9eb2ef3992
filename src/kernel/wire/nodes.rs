//! Nodes, as `core.yaml` writes them.

#![expect(
    missing_docs,
    reason = "`core.yaml`, which this follows word for word, says what each is"
)]

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::special::HealthStatus;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    Listener,
    Connector,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NodeStatus {
    pub id: String,
    pub role: NodeRole,
    pub protocol: String,
    pub tags: Vec<String>,
    pub description: Option<String>,
    pub health: NodeHealthState,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub interfaces: Option<NodeInterfaceStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NodeHealthState {
    pub status: HealthStatus,
    pub consecutive_failures: u32,
    pub last_failure_elapsed_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct NodeInterfaceStatus {
    pub default_label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub bindings: Option<Vec<InterfaceBindingStatus>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct InterfaceBindingStatus {
    pub label: String,
    pub device: String,
    pub mac: Option<String>,
    pub mtu: Option<u64>,
    pub kind: InterfaceKindSummary,
    pub addresses: Vec<InterfaceAddressSummary>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceKindSummary {
    Physical,
    Virtual,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct InterfaceAddressSummary {
    pub family: String,
    pub address: String,
    pub prefix: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ProtocolSummary {
    pub id: String,
    pub role: NodeRole,
    pub protocol: String,
    pub tags: Vec<String>,
    pub description: Option<String>,
    pub listen: Option<String>,
    pub connect: Option<String>,
    pub user_count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    Disabled,
    Server,
    Client,
    Dual,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TlsNodeSummary {
    pub id: String,
    pub role: NodeRole,
    pub tags: Vec<String>,
    pub description: Option<String>,
    pub inner_protocol: String,
    pub tls_mode: TlsMode,
    pub has_reality: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TlsNodeDetail {
    pub id: String,
    pub role: NodeRole,
    pub tags: Vec<String>,
    pub description: Option<String>,
    pub listen: Option<String>,
    pub connect: Option<String>,
    #[schema(value_type = Object)]
    pub profile: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TrafficSummaryResponse {
    pub generated_at_ms: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub by_node_protocol: Vec<NodeProtocolTrafficSummary>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NodeProtocolTrafficSummary {
    pub node_id: String,
    pub protocol: String,
    pub bytes_up: u64,
    pub bytes_down: u64,
}
