//! Callbacks, as `core.yaml` writes them, and nodes that register themselves (`kernel.md`).

#![expect(
    missing_docs,
    reason = "`core.yaml`, which this follows word for word, says what each is"
)]

use serde::Serialize;
use utoipa::ToSchema;

use super::nodes::NodeRole;
use super::special::HealthStatus;

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventRegistrationRecord {
    pub id: String,
    pub event: String,
    pub callback: String,
    pub created_at_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventSubscriptionRecord {
    pub id: String,
    pub event: String,
    pub callback: String,
    pub created_at_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NodeRegistrationResponse {
    pub id: String,
    pub expires_at_ms: i64,
    pub heartbeat_interval_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NodeRegistrationRecord {
    pub id: String,
    pub role: NodeRole,
    pub protocol: String,
    pub tags: Vec<String>,
    pub description: Option<String>,
    pub listen: Option<String>,
    pub connect: Option<String>,
    pub status: HealthStatus,
    pub message: Option<String>,
    pub expires_at_ms: i64,
    pub heartbeat_interval_seconds: u64,
}
