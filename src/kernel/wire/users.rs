//! Users, as `core.yaml` writes them. A password has no place in what is shown.

#![expect(
    missing_docs,
    reason = "`core.yaml`, which this follows word for word, says what each is"
)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::special::Scalar;

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UserView {
    pub id: String,
    pub username: String,
    pub tags: Vec<String>,
    #[schema(value_type = BTreeMap<String, Scalar>)]
    pub metadata: BTreeMap<String, Value>,
    pub traffic: Traffic,
    pub rate: Rate,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UserCreateResponse {
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UserPatchResponse {
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UsersImportResponse {
    pub imported: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Traffic {
    pub allocated: u64,
    pub used: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Rate {
    pub up: Option<u64>,
    pub down: Option<u64>,
}
