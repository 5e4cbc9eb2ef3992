//! Nodes that register themselves, and callbacks that are registered, as the kernel surface asks for
//! them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::Url;

use crate::egress::{Class, Courier, Gate, Target};
use crate::kernel::ports::{Callbacks, RegistrationError, Registrations};
use crate::model::health::Health;
use crate::registry::engine::{Handle, RegistryError};
use crate::registry::lives::{Lease, Node, Registered, Said};

/// Over the registry.
pub(super) struct Nodes(pub(super) Handle);

impl Registrations for Nodes {
    fn list(&self) -> Vec<Arc<Registered>> {
        self.0.list()
    }

    fn health_of(&self, inbound: &str) -> Option<Health> {
        let mut inbounds = self.0.inbounds().into_iter();
        inbounds.find(|it| it.id == inbound).map(|it| it.health)
    }

    fn register(&self, node: Node) -> BoxFuture<'_, Result<Lease, RegistrationError>> {
        Box::pin(async move { self.0.register(node).await.map_err(refused) })
    }

    fn heartbeat<'a>(
        &'a self,
        id: &'a str,
        said: Said,
        message: Option<String>,
    ) -> BoxFuture<'a, Result<Lease, RegistrationError>> {
        Box::pin(async move { self.0.heartbeat(id, said, message).await.map_err(refused) })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RegistrationError>> {
        Box::pin(async move { self.0.remove(id).await.map_err(refused) })
    }
}

fn refused(error: RegistryError) -> RegistrationError {
    match error {
        RegistryError::Managed(id) => RegistrationError::Managed(id),
        RegistryError::Refused(refused) => RegistrationError::Refused(refused),
        other => RegistrationError::Store(other.to_string()),
    }
}

/// Judges as whoever sends does.
pub(super) struct Judge(pub(super) Courier);

impl Callbacks for Judge {
    fn check<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let policy = self.0.listed();
            let target: Target = policy.judge_url(url).map_err(|e| e.to_string())?;
            let checked = Gate::new(policy).check(&target).await;
            match checked {
                Err(error) if error.class() == Class::Permanent => Err(error.to_string()),
                // A name that leads nowhere now may lead somewhere when something happens.
                _ => Ok(()),
            }
        })
    }
}
