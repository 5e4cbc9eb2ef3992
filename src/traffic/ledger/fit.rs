//! Which bytes a sink can be told of at all. The others stay open, and are counted.

use std::fmt;
use std::sync::Arc;

use crate::model::desired::InboundKey;
use crate::model::ids::UserId;

type Judge = dyn Fn(&InboundKey, UserId) -> bool + Send + Sync;

/// Tells which bytes can be told; all, where nothing else is said. Must not block.
#[derive(Clone, Default)]
pub struct Fit(Option<Arc<Judge>>);

impl Fit {
    /// Those of which `judge` says so.
    pub fn of(judge: impl Fn(&InboundKey, UserId) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(judge)))
    }

    /// Whether these can.
    pub(super) fn takes(&self, inbound: Option<&InboundKey>, user: UserId) -> bool {
        match (&self.0, inbound) {
            (Some(judge), Some(inbound)) => judge(inbound, user),
            _ => true,
        }
    }
}

impl fmt::Debug for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judges = self.0.is_some();
        f.debug_struct("Fit").field("judges", &judges).finish()
    }
}
