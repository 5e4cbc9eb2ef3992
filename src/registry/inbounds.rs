//! What is told of a managed inbound, from the looks at it. Pure.
//!
//! Invariant: a change of how it is, is told once, however often the agent starts in between; a start
//! of the agent alone makes nobody better than he was.

use serde::{Deserialize, Serialize};

use crate::model::health::{Health, Thresholds};

/// A managed inbound that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// Its kernel id.
    pub id: String,
    /// What it speaks, where that is known.
    pub protocol: Option<String>,
}

/// A look at a managed inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its kernel id.
    pub id: String,
    /// What it speaks, where that is known.
    pub protocol: Option<String>,
    /// Passes over it that failed, one after the other, since the agent started; 0 after one that did
    /// not.
    pub failures: u32,
    /// Why the last one failed.
    pub message: Option<String>,
}

/// A managed inbound as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// Its kernel id.
    pub id: String,
    /// What it speaks, where that is known.
    pub protocol: Option<String>,
    /// How it is.
    pub health: Health,
    /// Why it is not well.
    pub message: Option<String>,
    /// Failures of the agent's runs before this one, which this one goes on counting from until a
    /// pass does not fail.
    #[serde(default)]
    before: u32,
}

impl Inbound {
    /// One that is new.
    pub fn new(managed: Managed) -> Self {
        Self {
            id: managed.id,
            protocol: managed.protocol,
            health: Health::Healthy,
            message: None,
            before: 0,
        }
    }

    /// The same in another run of the agent.
    #[must_use]
    pub fn resumed(self) -> Self {
        Self {
            before: self.health.failures(),
            ..self
        }
    }

    /// As it is after a look, and whether that is to be told.
    pub fn after(&self, look: &Look, thresholds: Thresholds) -> (Self, bool) {
        let before = if look.failures == 0 { 0 } else { self.before };
        let health = Health::after(before.saturating_add(look.failures), thresholds);
        let after = Self {
            id: self.id.clone(),
            protocol: look.protocol.clone().or_else(|| self.protocol.clone()),
            health,
            message: look.message.clone(),
            before,
        };
        let is_told = health.word() != self.health.word();
        (after, is_told)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(failures: u32) -> Look {
        Look {
            id: "a".to_owned(),
            protocol: None,
            failures,
            message: (failures > 0).then(|| "away".to_owned()),
        }
    }

    fn new() -> Inbound {
        Inbound::new(Managed {
            id: "a".to_owned(),
            protocol: Some("vless".to_owned()),
        })
    }

    fn told(inbound: &mut Inbound, failures: u32) -> Option<&'static str> {
        let (after, is_told) = inbound.after(&look(failures), Thresholds::default());
        *inbound = after;
        is_told.then(|| inbound.health.word())
    }

    #[test]
    fn a_failing_inbound_is_degraded_and_then_unhealthy_and_each_is_told_once() {
        let mut inbound = new();
        let words: Vec<_> = [0, 1, 2, 3, 4, 0, 0]
            .into_iter()
            .map(|failures| told(&mut inbound, failures))
            .collect();
        let (degraded, unhealthy) = (Some("degraded"), Some("unhealthy"));
        let right = [None, degraded, None, unhealthy, None, Some("healthy"), None];
        assert_eq!(words, right);
        assert_eq!(inbound.protocol.as_deref(), Some("vless"));
    }

    #[test]
    fn one_that_failed_before_a_start_of_the_agent_fails_on_after_it() {
        let mut inbound = new();
        told(&mut inbound, 3);
        let mut inbound = inbound.resumed();
        assert_eq!(told(&mut inbound, 1), None);
        assert_eq!(inbound.health.failures(), 4);
        assert_eq!(told(&mut inbound, 0), Some("healthy"));
        assert_eq!(told(&mut inbound, 1), Some("degraded"));
    }

    proptest! {
        #[test]
        fn starts_of_the_agent_tell_nothing(failures in 0..9_u32, starts in 1..4_usize) {
            let mut inbound = new();
            told(&mut inbound, failures);
            let before = inbound.health;
            for _ in 0..starts {
                inbound = inbound.resumed();
                prop_assert_eq!(inbound.health, before);
                prop_assert_eq!(told(&mut inbound, u32::from(failures > 0) * 3).is_some(),
                    failures > 0 && before.word() != "unhealthy");
                inbound.health = before;
            }
        }
    }
}
