//! Who cuts open sessions here.

use std::sync::Arc;

use crate::config::Config;
use crate::model::cut::Cutter;
use crate::sockets::KernelCutter;

/// As configured; `None`: sessions are left to themselves.
pub(super) fn cutter(config: &Config) -> Option<Arc<dyn Cutter>> {
    let kick = &config.kick;
    let cutter = || Arc::new(KernelCutter::new(kick.socket.clone())) as Arc<dyn Cutter>;
    kick.enabled.then(cutter)
}
