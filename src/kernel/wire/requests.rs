//! What clients send, as `core.yaml` writes it with its errata. What is not known is passed over:
//! panels send more than is written.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::nodes::NodeRole;
use super::special::{Object, Scalar};
use crate::base::secret::Secret;
use crate::model::pushed::Change;
use crate::registry::lives::Said;

/// Facts by name, each a text, a number or a boolean; what is null is left out.
pub type Metadata = BTreeMap<String, Value>;

/// A whole user.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct User {
    /// The panel's id of him.
    pub id: String,
    /// His name; for VLESS and VMess it may be the UUID.
    pub username: String,
    /// His password; for Trojan and Shadowsocks the credential.
    #[serde(deserialize_with = "secret")]
    #[schema(value_type = String)]
    pub password: Secret,
    /// His quota.
    #[serde(default, deserialize_with = "given_object")]
    #[schema(nullable = false)]
    pub traffic: Option<TrafficPatch>,
    /// His limits of speed.
    #[serde(default, deserialize_with = "given_object")]
    #[schema(nullable = false)]
    pub rate: Option<RatePatch>,
    /// Further facts.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Scalar>, required = false)]
    pub metadata: Metadata,
    /// Words that he is sorted by.
    #[serde(default)]
    #[schema(required = false)]
    pub tags: Vec<String>,
}

/// A user to be added; in every respect a [`User`].
#[derive(ToSchema)]
pub struct UserCreateRequest {
    /// The panel's id of him.
    pub id: String,
    /// His name; for VLESS and VMess it may be the UUID.
    pub username: String,
    /// His password; for Trojan and Shadowsocks the credential.
    pub password: String,
    /// His quota.
    #[schema(nullable = false)]
    pub traffic: Option<TrafficPatch>,
    /// His limits of speed.
    #[schema(nullable = false)]
    pub rate: Option<RatePatch>,
    /// Further facts.
    #[schema(value_type = Option<BTreeMap<String, Scalar>>, nullable = false)]
    pub metadata: Option<Metadata>,
    /// Words that he is sorted by.
    #[schema(nullable = false)]
    pub tags: Option<Vec<String>>,
}

/// What is to change of a user; what is left out stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct UserPatchRequest {
    /// His password.
    #[serde(default, deserialize_with = "given_secret")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub password: Option<Secret>,
    /// His quota.
    #[serde(default, deserialize_with = "given_object")]
    #[schema(nullable = false)]
    pub traffic: Option<TrafficPatch>,
    /// His limits of speed.
    #[serde(default, deserialize_with = "given_object")]
    #[schema(nullable = false)]
    pub rate: Option<RatePatch>,
    /// Further facts, which take the place of all that he has.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BTreeMap<String, Scalar>>, nullable = false)]
    pub metadata: Option<Metadata>,
    /// Words that he is sorted by, likewise.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub tags: Option<Vec<String>>,
}

/// Bytes; what is left out stays.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct TrafficPatch {
    /// That he may have; 0: as many as he likes.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub allocated: Option<u64>,
    /// That he had.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub used: Option<u64>,
}

/// Bytes a second; what is left out stays.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct RatePatch {
    /// From him; null for no limit.
    #[serde(default)]
    #[schema(value_type = Option<u64>, required = false)]
    pub up: Change,
    /// To him; null for no limit.
    #[serde(default)]
    #[schema(value_type = Option<u64>, required = false)]
    pub down: Change,
}

/// A node with its users.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ProtocolUpsertRequest {
    /// Where it listens; that is Xray's own configuration's business.
    pub listen: Option<String>,
    /// Where it connects to, likewise.
    pub connect: Option<String>,
    /// Who may use it.
    #[serde(default, deserialize_with = "objects")]
    #[schema(required = false)]
    pub users: Vec<User>,
    /// What it is.
    #[serde(deserialize_with = "object")]
    pub profile: NodeProfile,
}

/// What a node is. Of it only the id counts here.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NodeProfile {
    /// The kernel id of an inbound.
    pub id: String,
    /// What it is for.
    #[schema(value_type = NodeRole)]
    pub role: String,
    /// Words that it is sorted by.
    #[serde(default)]
    #[schema(required = false)]
    pub tags: Vec<String>,
    /// For people.
    pub description: Option<String>,
    /// What it speaks.
    #[schema(value_type = ProtocolName)]
    pub protocol: String,
    /// How it speaks it.
    #[schema(value_type = Object)]
    pub profile: Value,
    /// Not used.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub stack: Value,
    /// Not used.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub interface_policy: Value,
    /// Not used.
    #[serde(default)]
    #[schema(value_type = Option<Vec<UpstreamProfile>>, nullable = false)]
    pub upstream: Value,
}

/// What a node goes through. Not used: that is Xray's own configuration's business.
#[derive(ToSchema)]
pub struct UpstreamProfile {
    /// Its id.
    pub id: Option<String>,
    /// Words that it is sorted by.
    #[schema(nullable = false)]
    pub tags: Option<Vec<String>>,
    /// For people.
    pub description: Option<String>,
    /// What it speaks.
    #[schema(nullable = false)]
    pub protocol: Option<ProtocolName>,
    /// How it speaks it.
    #[schema(value_type = Option<Object>, nullable = false)]
    pub profile: Option<Value>,
    /// What it goes through itself.
    #[schema(no_recursion, nullable = false)]
    pub upstream: Option<Vec<UpstreamProfile>>,
}

/// What a node may be said to speak. Others are taken, too: Xray knows better what an inbound speaks.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ProtocolName {
    /// HTTP proxy.
    Http,
    /// SOCKS.
    Socks,
    /// Shadowsocks.
    Ss,
    /// `ShadowsocksR`.
    Ssr,
    /// VLESS.
    Vless,
    /// None.
    Direct,
    /// HTTP and SOCKS.
    Mixed,
    /// `AnyTLS`.
    AnyTls,
    /// `VMess`.
    Vmess,
    /// Trojan.
    Trojan,
    /// Hysteria 2.
    Hysteria,
}

/// What is to change of an inbound's TLS. Never done: Xray cannot be told over its API.
#[derive(ToSchema)]
pub struct TlsNodePatchRequest {
    /// Of TLS itself.
    #[schema(value_type = Option<Object>, nullable = false)]
    pub tls: Option<Value>,
    /// Of what is within.
    #[schema(value_type = Option<Object>, nullable = false)]
    pub inner: Option<Value>,
}

/// A callback for events of nodes.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct EventRegistrationRequest {
    /// Its name, in any case, with `.` and `-` read as `_`.
    #[schema(value_type = NodeEventName)]
    pub event: String,
    /// Where it is sent: `http` or `https`.
    pub callback: String,
    /// Sent as `X-ZNP-Webhook-Token`, and signed with.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>)]
    pub secret: Option<Secret>,
}

/// A callback for events of users.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ServiceEventRegistrationRequest {
    /// Its name, in any case, with `.` and `-` read as `_`.
    #[schema(value_type = ServiceEventName)]
    pub event: String,
    /// Where it is sent: `http` or `https`.
    pub callback: String,
    /// Sent as `X-ZNP-Webhook-Token`, and signed with.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>)]
    pub secret: Option<Secret>,
}

/// Events of nodes.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum NodeEventName {
    /// It is there.
    NodeAdded,
    /// It is no longer there.
    NodeRemoved,
    /// It is well again.
    NodeHealthy,
    /// It fails, but not for long yet.
    NodeDegraded,
    /// It fails.
    NodeUnhealthy,
}

/// Events of users.
#[derive(ToSchema)]
pub enum ServiceEventName {
    /// A quota in force changed.
    #[schema(rename = "user.quota.changed")]
    UserQuotaChanged,
    /// Bytes are to be billed.
    #[schema(rename = "user.traffic.reported")]
    UserTrafficReported,
}

/// A node that registers itself (`kernel.md`).
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NodeRegistrationRequest {
    /// Its id, unlike that of any inbound here.
    pub id: String,
    /// What it is for, such as `listener`.
    pub role: String,
    /// What it speaks.
    pub protocol: String,
    /// Words that it is sorted by.
    #[serde(default)]
    #[schema(required = false)]
    pub tags: Vec<String>,
    /// For people.
    pub description: Option<String>,
    /// Where it listens.
    pub listen: Option<String>,
    /// Where it connects to.
    pub connect: Option<String>,
    /// Seconds that it lives after a sign of life.
    pub ttl_seconds: Option<u64>,
}

/// A sign of life (`kernel.md`).
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct HeartbeatRequest {
    /// How it is: `healthy` unless it says otherwise.
    #[schema(value_type = Option<NodeWord>)]
    pub status: Option<Said>,
    /// Words, for people.
    pub message: Option<String>,
}

/// How a node says that it is.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum NodeWord {
    /// All is well.
    Healthy,
    /// It works, and something is wrong.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// What may be left out, and is not null where it is there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(source: D) -> Result<Option<T>, D::Error> {
    T::deserialize(source).map(Some)
}

fn given_object<'de, D, T>(source: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    object(source).map(Some)
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(source: D) -> Result<T, D::Error> {
    Object::deserialize(source).map(|Object(read)| read)
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(source: D) -> Result<Vec<T>, D::Error> {
    let all: Vec<Object<T>> = Vec::deserialize(source)?;
    Ok(all.into_iter().map(|Object(read)| read).collect())
}

fn secret<'de, D: Deserializer<'de>>(source: D) -> Result<Secret, D::Error> {
    String::deserialize(source).map(Secret::new)
}

fn given_secret<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Secret>, D::Error> {
    secret(source).map(Some)
}

fn optional_secret<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(source)?.map(Secret::new))
}
