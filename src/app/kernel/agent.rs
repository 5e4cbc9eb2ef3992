//! What runs now, as the kernel surface asks of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::super::running::Running;
use crate::config::Config;
use crate::kernel::ports::{Agent, Bytes, InboundBytes, Totals};
use crate::model::ids::{InboundTag, NodeId, UserId};
use crate::model::user_list::Users;
use crate::sync::status::NodeStatus;
use crate::xray::inbound::InboundInfo;

/// Whoever pushes waits so long for Xray, which has a second in which users are to be live; what takes
/// longer goes on without him.
const RECONCILE_TAKES: Duration = Duration::from_secs(1);

/// What runs now.
pub(super) struct Now(pub(super) Running);

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
        let pass = self.0.now().sync.reconcile();
        Box::pin(async move {
            // It goes on all the same.
            let _ = timeout(RECONCILE_TAKES, pass).await;
        })
    }
}

impl Totals for Now {
    fn of_inbounds(&self) -> BoxFuture<'_, Result<Vec<InboundBytes>, String>> {
        Box::pin(async {
            let Some(traffic) = self.0.now().traffic else {
                return Ok(Vec::new());
            };
            let totals = traffic.handle.inbounds().await;
            let totals = totals.map_err(|e| e.to_string())?.into_iter();
            let bytes = totals.map(|of| InboundBytes {
                xray: of.xray,
                tag: of.tag,
                bytes: Bytes {
                    up: of.bytes.up,
                    down: of.bytes.down,
                },
            });
            Ok(bytes.collect())
        })
    }

    fn of_users(&self) -> BoxFuture<'_, Result<HashMap<UserId, u64>, String>> {
        Box::pin(async {
            let Some(traffic) = self.0.now().traffic else {
                return Ok(HashMap::new());
            };
            let used = traffic.handle.used().await.map_err(|e| e.to_string())?;
            let totals = used.into_iter();
            Ok(totals
                .map(|(user, of)| (user, of.bytes().total()))
                .collect())
        })
    }
}
