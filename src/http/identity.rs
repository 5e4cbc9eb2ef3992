//! Who asks, as the surface's authentication found it out.

use std::sync::Arc;

/// Whoever a valid credential belongs to, for example `api-key:panel`; never the credential itself. An
/// extension of requests that a surface let in. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub Arc<str>);

impl Identity {
    /// The one by this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}
