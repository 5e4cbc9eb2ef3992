//! How a node is, by what became of the last looks at it (`kernel.md`, `health.status`).

use serde::{Deserialize, Serialize};

/// How a node is; as JSON `"Healthy"` or `{"Degraded":{"consecutive_failures":2}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// The last look found nothing wrong.
    Healthy,
    /// It failed a little.
    Degraded {
        /// Looks that failed, one after the other; at least one.
        consecutive_failures: u32,
    },
    /// It fails for good, as far as one can tell.
    Unhealthy {
        /// Looks that failed, one after the other.
        consecutive_failures: u32,
    },
}

/// From how many failures in a row on a node is no more than degraded, and then unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// At least this many; not above `unhealthy`.
    pub degraded: u32,
    /// At least this many.
    pub unhealthy: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            degraded: 1,
            unhealthy: 3,
        }
    }
}

impl Health {
    /// After so many looks in a row that failed.
    pub fn after(consecutive_failures: u32, thresholds: Thresholds) -> Self {
        if consecutive_failures >= thresholds.unhealthy.max(1) {
            Self::Unhealthy {
                consecutive_failures,
            }
        } else if consecutive_failures >= thresholds.degraded.max(1) {
            Self::Degraded {
                consecutive_failures,
            }
        } else {
            Self::Healthy
        }
    }

    /// Looks that failed, one after the other.
    pub fn failures(self) -> u32 {
        match self {
            Self::Healthy => 0,
            Self::Degraded {
                consecutive_failures,
            }
            | Self::Unhealthy {
                consecutive_failures,
            } => consecutive_failures,
        }
    }

    /// The word for it, in lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded { .. } => "degraded",
            Self::Unhealthy { .. } => "unhealthy",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn three_failures_in_a_row_are_unhealthy_and_fewer_degraded() {
        let words: Vec<_> = (0..5)
            .map(|failures| Health::after(failures, Thresholds::default()).word())
            .collect();
        let expected = ["healthy", "degraded", "degraded", "unhealthy", "unhealthy"];
        assert_eq!(words, expected);
    }

    #[test]
    fn no_threshold_makes_a_node_that_never_failed_worse_than_healthy() {
        let none = Thresholds {
            degraded: 0,
            unhealthy: 0,
        };
        assert_eq!(Health::after(0, none), Health::Healthy);
        assert_eq!(Health::after(1, none).word(), "unhealthy");
    }

    #[test]
    fn it_is_written_as_the_contract_has_it() {
        let written = |failures| json!(Health::after(failures, Thresholds::default()));
        assert_eq!(written(0), json!("Healthy"));
        assert_eq!(written(2), json!({"Degraded": {"consecutive_failures": 2}}));
        assert_eq!(
            written(3),
            json!({"Unhealthy": {"consecutive_failures": 3}})
        );
    }
}
