//! The panel that is told of nodes without having registered for it (`kernel.md`, Events out): a target
//! of the outbox like those that were registered, from the configuration.

use super::callbacks::FORM_NODE;
use crate::base::secret::Secret;
use crate::model::delivery::{Origin, Wanted};
use crate::model::event::{EventName, Topic};

/// Whose target it is.
pub const OWNER: &str = "kernel-panel";
/// Where it takes node events, below its base URL.
const EVENTS_PATH: &str = "/api/v1/kernel/events";

/// A panel that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPanel {
    /// Its base URL.
    pub url: String,
    /// By which it knows us.
    pub token: Secret,
}

impl KernelPanel {
    /// What it is sent, and where.
    pub fn wanted(&self) -> Wanted {
        let names = EventName::ALL.iter().copied();
        Wanted {
            owner: OWNER.to_owned(),
            form: FORM_NODE.to_owned(),
            url: format!("{}{EVENTS_PATH}", self.url.trim_end_matches('/')),
            events: names.filter(|name| name.topic() == Topic::Node).collect(),
            origin: Origin::Configuration,
            secret: Some(self.token.clone()),
            bearer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_told_of_nodes_and_of_nothing_else() {
        for base in ["https://panel.example/base", "https://panel.example/base/"] {
            let panel = KernelPanel {
                url: base.to_owned(),
                token: Secret::new("token"),
            };
            let wanted = panel.wanted();
            let url = "https://panel.example/base/api/v1/kernel/events";
            assert_eq!(wanted.url, url);
            assert_eq!(wanted.check(), Ok(()));
            assert_eq!(wanted.events.len(), 5);
            let is_of_nodes = |name: &EventName| name.topic() == Topic::Node;
            assert!(wanted.events.iter().all(is_of_nodes));
        }
    }
}
