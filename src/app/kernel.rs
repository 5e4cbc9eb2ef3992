//! What the kernel surface asks, answered by what runs now.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::running::Running;
use crate::config::Config;
use crate::kernel::ports::Agent;
use crate::kernel::{Ports, State};
use crate::model::ids::{InboundTag, NodeId};
use crate::model::user_list::Users;
use crate::sync::status::NodeStatus;
use crate::xray::inbound::InboundInfo;

/// The surface's state over what runs now.
pub(super) fn state(running: &Running) -> State {
    State::new(Ports {
        agent: Arc::new(Now(running.clone())),
        totals: None,
        users: None,
        nodes: None,
        outbox: None,
        callbacks: None,
    })
}

/// What runs now.
struct Now(Running);

impl Agent for Now {
    fn config(&self) -> Arc<Config> {
        self.0.now().config
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        self.0.now().sync.status()
    }

    fn listing<'a>(&'a self, xray: &'a str) -> BoxFuture<'a, Option<Vec<InboundInfo>>> {
        Box::pin(async move {
            let client = self.0.now().sync.xray(xray)?;
            client.list_inbounds().await.ok()
        })
    }

    fn remove_inbound<'a>(
        &'a self,
        xray: &'a str,
        tag: &'a InboundTag,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(client) = self.0.now().sync.xray(xray) else {
                return Err(format!("no Xray named {xray} is configured any more"));
            };
            let removed = client.remove_inbound(tag).await;
            removed.map_err(|e| e.to_string())
        })
    }

    fn allowed(&self) -> Vec<(NodeId, Users)> {
        self.0.now().sync.allowed()
    }

    fn reconcile(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.0.now().sync.sync(false, false).await;
        })
    }
}
