//! Callbacks, as `core.yaml` writes them.

#![expect(
    missing_docs,
    reason = "`core.yaml`, which this follows word for word, says what each is"
)]

use serde::Serialize;
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventRegistrationRecord {
    pub id: String,
    pub event: String,
    pub callback: String,
    pub created_at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventSubscriptionRecord {
    pub id: String,
    pub event: String,
    pub callback: String,
    pub created_at_ms: u64,
}
