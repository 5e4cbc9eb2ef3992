//! Who asks, as records and limits name him: set by the surface that knew his credential.

use std::sync::Arc;

/// Who asks, such as `api-key:panel`, `token` or `ip:127.0.0.1`; an extension of a request that a
/// surface let in. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub Arc<str>);
