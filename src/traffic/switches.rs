//! Tells an Xray that counts no traffic from one that nobody uses: both answer alike, without a
//! counter. Pure.
//!
//! Invariant: no counter says something only after a minute through which, at every look, somebody
//! was connected; and one counter of anybody's says that nothing lacks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// For so long connections are seen without a counter before that says something. Xray makes a
/// user's counters at his first request; who does not log in is cut after seconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// What a level of Xray's policy has to hold: without the last, who is online is not known.
const COUNTED: &str =
    r#"{"statsUserUplink": true, "statsUserDownlink": true, "statsUserOnline": true}"#;

/// What one read of Xray's counters showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// At least one traffic counter, of any user: ours or foreign.
    Counters,
    /// No traffic counter of any user.
    NoCounters {
        /// Connections to the managed inbounds at that time; `None`: that cannot be told.
        established: Option<usize>,
    },
    /// This Xray does not offer the call.
    NoService,
}

/// What Xray's configuration lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Its API does not offer `StatsService`.
    StatsService,
    /// `stats`, or the policy that has users counted, or both: from outside they look alike.
    StatsOrPolicy,
}

/// What has been seen of one Xray. What lacks is mended by a restart of Xray only, so a new run of
/// it may be given a new one of these.
#[derive(Clone, Debug, Default)]
pub struct Switches {
    lacks: Option<Lack>,
    /// Since when every look showed connections and no counter.
    connected_since: Option<Instant>,
}

impl Switches {
    /// Takes in one read, made at `now`; reads come in the order of time. Whether what lacks is
    /// another than before.
    pub fn read(&mut self, now: Instant, seen: Seen) -> bool {
        let before = self.lacks;
        match seen {
            Seen::Counters => *self = Self::default(),
            Seen::NoService => {
                self.lacks = Some(Lack::StatsService);
                self.connected_since = None;
            }
            Seen::NoCounters {
                established: None | Some(0),
            } => self.connected_since = None,
            Seen::NoCounters { .. } => {
                let since = *self.connected_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= PATIENCE {
                    self.lacks = Some(Lack::StatsOrPolicy);
                }
            }
        }
        self.lacks != before
    }

    /// What lacks, as far as is known. Stays until a counter comes.
    pub fn lacks(&self) -> Option<Lack> {
        self.lacks
    }
}

impl Lack {
    /// What was seen and what mends it, in one line, with the exact members of Xray's
    /// configuration for users of these policy levels (none: level 0).
    pub fn mend(self, levels: &[u32]) -> String {
        let levels: BTreeSet<u32> = levels.iter().copied().collect();
        let levels = if levels.is_empty() {
            [0].into()
        } else {
            levels
        };
        let (what, how) = match self {
            Self::StatsService => (
                "Xray's API does not offer StatsService, so no traffic can be read",
                "keep what else stands in its \"api\"",
            ),
            Self::StatsOrPolicy => (
                "people have been connected for a minute, and Xray counts nobody's traffic",
                "nothing needs doing if none of them is a user",
            ),
        };
        format!(
            "{what}: merge into Xray's configuration {} and restart Xray; {how}; {}",
            self.members(&levels),
            whose(&levels)
        )
    }

    /// The members of Xray's configuration that it needs for users of these policy levels, as they
    /// stand between its outer braces.
    pub fn members(self, levels: &BTreeSet<u32>) -> String {
        let counted: Vec<_> = levels
            .iter()
            .map(|level| format!("\"{level}\": {COUNTED}"))
            .collect();
        let counting = format!(
            r#""stats": {{}}, "policy": {{"levels": {{{}}}}}"#,
            counted.join(", ")
        );
        match self {
            Self::StatsService => {
                format!(r#""api": {{"services": ["HandlerService", "StatsService"]}}, {counting}"#)
            }
            Self::StatsOrPolicy => counting,
        }
    }
}

/// To whom the levels belong.
fn whose(levels: &BTreeSet<u32>) -> String {
    let others = "users of any other level need the same for theirs";
    if levels.iter().all(|level| *level == 0) {
        return others.to_owned();
    }
    let levels: Vec<_> = levels.iter().map(u32::to_string).collect();
    let levels = levels.join(", ");
    format!("the inbounds' users are configured with level {levels}; {others}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const COUNTERS: Seen = Seen::Counters;
    const NO_SERVICE: Seen = Seen::NoService;
    const UNKNOWN: Seen = Seen::NoCounters { established: None };
    const NOBODY: Seen = Seen::NoCounters {
        established: Some(0),
    };
    const ONE: Seen = Seen::NoCounters {
        established: Some(1),
    };
    const MANY: Seen = Seen::NoCounters {
        established: Some(9_000),
    };
    const SERVICE: Option<Lack> = Some(Lack::StatsService);
    const SWITCH: Option<Lack> = Some(Lack::StatsOrPolicy);

    #[test]
    fn what_lacks_follows_from_what_was_seen() {
        // Each read: the second at which it was made, what it showed, what lacks after it.
        let table: [&[(u64, Seen, Option<Lack>)]; 11] = [
            &[(0, COUNTERS, None)],
            &[(0, NO_SERVICE, SERVICE)],
            &[
                (0, ONE, None),
                (10, MANY, None),
                (59, ONE, None),
                (60, ONE, SWITCH),
            ],
            &[(0, ONE, None), (70, MANY, SWITCH)],
            // Nobody there, for a day.
            &[(0, NOBODY, None), (86_400, NOBODY, None)],
            &[(0, UNKNOWN, None), (86_400, UNKNOWN, None)],
            // A look without connections, or that cannot be told, starts the minute anew.
            &[
                (0, ONE, None),
                (50, NOBODY, None),
                (60, ONE, None),
                (119, ONE, None),
                (120, ONE, SWITCH),
            ],
            &[
                (0, ONE, None),
                (50, UNKNOWN, None),
                (60, ONE, None),
                (119, ONE, None),
                (120, ONE, SWITCH),
            ],
            // A counter does too.
            &[
                (0, ONE, None),
                (50, COUNTERS, None),
                (60, ONE, None),
                (120, ONE, SWITCH),
            ],
            // It stays until a counter comes.
            &[
                (0, ONE, None),
                (60, ONE, SWITCH),
                (70, NOBODY, SWITCH),
                (80, UNKNOWN, SWITCH),
                (90, ONE, SWITCH),
                (100, COUNTERS, None),
                (110, ONE, None),
            ],
            // The service came, and still nobody is counted; then it went again.
            &[
                (0, ONE, None),
                (50, NO_SERVICE, SERVICE),
                (60, ONE, SERVICE),
                (119, ONE, SERVICE),
                (120, ONE, SWITCH),
                (130, NO_SERVICE, SERVICE),
                (140, COUNTERS, None),
            ],
        ];
        let start = Instant::now();
        for reads in table {
            let mut switches = Switches::default();
            for (second, seen, lacks) in reads {
                let before = switches.lacks();
                let changed = switches.read(start + Duration::from_secs(*second), *seen);
                assert_eq!(switches.lacks(), *lacks, "{second} s of {reads:?}");
                assert_eq!(changed, before != *lacks, "{second} s of {reads:?}");
            }
        }
    }

    /// What stands between the text before and after it, put between braces.
    fn pasted(lack: Lack, levels: &[u32]) -> Value {
        let text = lack.mend(levels);
        let (_, rest) = text.split_once("configuration ").unwrap();
        let (members, _) = rest.split_once(" and restart Xray").unwrap();
        assert!(!text.contains('\n'), "{text}");
        serde_json::from_str(&format!("{{{members}}}")).unwrap()
    }

    #[test]
    fn the_mend_can_be_pasted_and_has_every_level() {
        let counted =
            json!({"statsUserUplink": true, "statsUserDownlink": true, "statsUserOnline": true});
        let services = json!({"services": ["HandlerService", "StatsService"]});
        for levels in [&[][..], &[0], &[0, 0]] {
            let policy = json!({"levels": {"0": counted}});
            assert_eq!(
                pasted(Lack::StatsOrPolicy, levels),
                json!({"stats": {}, "policy": policy})
            );
            assert_eq!(
                pasted(Lack::StatsService, levels),
                json!({"api": services, "stats": {}, "policy": policy})
            );
        }
        let policy = json!({"levels": {"0": counted, "7": counted}});
        assert_eq!(
            pasted(Lack::StatsOrPolicy, &[7, 0, 7]),
            json!({"stats": {}, "policy": policy})
        );
    }

    #[test]
    fn a_level_is_named_when_it_is_not_0() {
        for lack in [Lack::StatsService, Lack::StatsOrPolicy] {
            assert!(!lack.mend(&[0]).contains("configured with level"));
            assert!(lack.mend(&[7, 0]).contains("configured with level 0, 7;"));
            assert!(lack.mend(&[3]).contains("configured with level 3;"));
        }
    }
}
