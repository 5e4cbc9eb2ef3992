//! What runs, as an export writes it: what the surface shows of inbounds and users, and how it is set up.

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::super::running;
use crate::kernel::State;
use crate::kernel::export::Exported;
use crate::kernel::export::document::Contents;

/// Over what runs now.
pub(super) struct Running {
    running: running::Running,
    state: State,
}

impl Running {
    pub(super) fn new(running: running::Running, state: State) -> Self {
        Self { running, state }
    }

    /// Of the configuration only what a person may see: no credential, whatever becomes of it later.
    fn api(&self) -> Value {
        let config = self.running.now().config;
        let kernel = &config.kernel;
        json!({
            "listen": config.http.listen.map(|it| it.to_string()),
            "tls": config.http.tls.is_some(),
            "allow_insecure": kernel.allow_insecure,
            "degraded_after": kernel.degraded_after,
            "unhealthy_after": kernel.unhealthy_after,
            "audit_keep": kernel.audit_keep,
            "panel": kernel.panel.as_ref().map(|panel| panel.url.to_string()),
        })
    }
}

impl Exported for Running {
    fn contents(&self) -> BoxFuture<'_, Contents> {
        Box::pin(async {
            let (protocols, users) = self.state.shown().await;
            Contents {
                protocols,
                users,
                api: self.api(),
            }
        })
    }
}
