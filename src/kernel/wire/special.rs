//! Shapes of `core.yaml` that are one of several, and those that are nothing but an object.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use utoipa::ToSchema;

use crate::model::health::Health;

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum HealthStatus {
    /// Nothing is wrong.
    Healthy,
    /// It fails, but not for long yet.
    Degraded {
        /// Failures in a row.
        consecutive_failures: u32,
    },
    /// It fails.
    Unhealthy {
        /// Failures in a row.
        consecutive_failures: u32,
    },
}

impl From<Health> for HealthStatus {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy => Self::Healthy,
            Health::Degraded {
                consecutive_failures,
            } => Self::Degraded {
                consecutive_failures,
            },
            Health::Unhealthy {
                consecutive_failures,
            } => Self::Unhealthy {
                consecutive_failures,
            },
        }
    }
}

/// What a rule does. Xray's routing is its own configuration's business, so none is ever shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ActionView {
    /// A node is taken.
    SelectNode {
        /// Its id.
        target: String,
        /// From where it is reached.
        interface: Option<String>,
    },
    /// A strategy chooses.
    SelectStrategy {
        /// Its name.
        strategy: String,
        /// From where is reached what it chooses.
        interface: Option<String>,
    },
    /// The connection is refused.
    Reject,
}

/// A fact of a user.
#[derive(ToSchema)]
#[schema(as = Scalar)]
#[serde(untagged)]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A number, whole or not.
    Number(f64),
    /// True or false.
    Truth(bool),
}

/// What is read from an object and from nothing else: what serde derives for a struct takes an array
/// of the values of its fields, too.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(OfMap(PhantomData)).map(Self)
    }
}

struct OfMap<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}
