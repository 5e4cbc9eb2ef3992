//! The agent's HTTP server: listeners, connections and their limits, the form of errors, and the
//! routes that need no credential. It serves the routers that it is given and knows no surface.
//!
//! Kept here: no client, however slow, greedy or strange, keeps others waiting, ends the agent, or
//! gets a secret into the log.

mod admission;
mod body;
mod client;
mod connection;
mod document;
mod error;
mod exchange;
mod host;
mod identity;
mod limits;
pub mod limits_by_rule;
mod listener;
mod open_routes;
mod progress;
mod reader;
mod request_id;
#[cfg(test)]
mod tests;
mod tls;

pub use admission::{Admission, Refused};
pub use body::bulk;
pub use client::Client;
pub use document::documented;
pub use error::{ApiError, ErrorResponse, HttpError, Reason};
pub use identity::Identity;
pub use limits::BodyLimits;
pub use listener::Listener;
pub use open_routes::{Dependency, Health, HealthReport, open_routes};
pub use reader::Reader;
pub use request_id::RequestId;
