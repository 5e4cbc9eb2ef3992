//! Who cuts connections here.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::config::Config;
use crate::model::cut::{Cut, Cutter, Obstacle, Sockets};
use crate::model::ports::PortRange;
use crate::sockets;

struct Direct;
impl Cutter for Direct {
    fn cut<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Result<Sockets, Obstacle>> {
        let cut = cut.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || sockets::cut(&cut))
                .await
                .unwrap()
                .map_err(|e| Obstacle(e.to_string()))
        })
    }
    fn obstacle<'a>(&'a self, _ports: &'a [PortRange]) -> BoxFuture<'a, Option<Obstacle>> {
        Box::pin(async move { sockets::may_cut().err().map(|e| Obstacle(e.to_string())) })
    }
}

/// As configured; `None`: sessions are left to themselves.
pub(super) fn cutter(config: &Config) -> Option<Arc<dyn Cutter>> {
    config
        .kick
        .enabled
        .then(|| Arc::new(Direct) as Arc<dyn Cutter>)
}
