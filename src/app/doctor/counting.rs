//! Whether one Xray counts users' traffic and keeps who is connected: by its configuration file, else
//! by what its counters show, else that cannot be told yet.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::xray_file::{Concern, Lack, Needs, XrayFile, to_paste};
use crate::model::email::Emails;
use crate::traffic::switches;
use crate::xray::client::XrayClient;
use crate::xray::counters::Direction;

const CHECK: &str = "counting";

/// What a running Xray shows of its switches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Which directions each of our users is counted in.
    counted: BTreeMap<String, (bool, bool)>,
    /// Our users who are connected, and were before the counters were read.
    online: BTreeSet<String>,
    /// Whether it keeps lists of who is connected, as far as that can be seen.
    pub(super) lists_kept: Option<bool>,
    /// What a running agent has found to lack.
    pub(super) not_counting: Option<String>,
}

/// What follows from what was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inferred {
    Counts,
    CountsNobody,
    CountsOneWay(Direction),
    Unknown,
}

impl Shown {
    /// Reads the counters of those users whose e-mails any of these knows for ours.
    pub(super) async fn by(client: &XrayClient, emails: &[Emails]) -> Self {
        let is_ours = |email: &str| emails.iter().any(|it| it.read(email).is_some());
        // In this order: who is connected has counters.
        let online = client.online_users().await.unwrap_or_default();
        let counters = client.user_counters().await.unwrap_or_default();
        let mut shown = Self::default();
        for counter in counters.iter().filter(|it| is_ours(it.email)) {
            let ways = shown.counted.entry(counter.email.to_owned()).or_default();
            match counter.direction {
                Direction::Up => ways.0 = true,
                Direction::Down => ways.1 = true,
            }
        }
        shown.online = online.into_iter().filter(|it| is_ours(it)).collect();
        shown
    }

    fn infer(&self) -> Inferred {
        let ways = || self.counted.values();
        if ways().any(|(up, down)| *up && !*down) {
            return Inferred::CountsOneWay(Direction::Up);
        }
        if ways().any(|(up, down)| !*up && *down) {
            return Inferred::CountsOneWay(Direction::Down);
        }
        let is_counted = |email: &String| self.counted.contains_key(email);
        if !self.online.iter().all(is_counted) {
            return Inferred::CountsNobody;
        }
        if self.counted.is_empty() {
            return Inferred::Unknown;
        }
        Inferred::Counts
    }
}

/// One finding: what lacks by the file, else by what is shown (`None`: Xray cannot be asked).
pub(super) fn judge(file: Option<&XrayFile>, needs: &Needs, shown: Option<&Shown>) -> Finding {
    if !needs.counts && !needs.cuts {
        return Finding::good(
            CHECK,
            "traffic is not to be counted (ENABLE_TRAFFIC_REPORT)",
        );
    }
    let lacks = file.map(|file| file.lacks(needs)).unwrap_or_default();
    let is_ours = |lack: &Lack| lack.concern() == Concern::Counting;
    let lacks: Vec<_> = lacks.into_iter().filter(is_ours).collect();
    if !lacks.is_empty() {
        let missing: Vec<_> = lacks.iter().map(Lack::what).collect();
        return Finding::bad(
            CHECK,
            format!("by Xray's configuration: {}", missing.join("; ")),
        )
        .mend("merge into it, and restart Xray (--fix-xray-config FILE prints the whole):")
        .mends(to_paste(&lacks, needs));
    }
    let Some(shown) = shown else {
        return match file {
            Some(_) => Finding::good(
                CHECK,
                "Xray's configuration has stats and the policy's switches",
            ),
            None => Finding::note(CHECK, "cannot tell: Xray's counters cannot be read"),
        };
    };
    of_shown(shown, file.is_some(), needs)
}

fn of_shown(shown: &Shown, has_file: bool, needs: &Needs) -> Finding {
    let inferred = if needs.counts {
        shown.infer()
    } else {
        Inferred::Counts
    };
    let what = match (inferred, &shown.not_counting, shown.lists_kept) {
        (Inferred::CountsOneWay(Direction::Up), ..) => {
            "Xray counts what users send, but not what they get"
        }
        (Inferred::CountsOneWay(Direction::Down), ..) => {
            "Xray counts what users get, but not what they send"
        }
        (Inferred::CountsNobody, ..) => "users are connected, and Xray does not count them",
        (Inferred::Unknown, Some(_), _) if needs.counts => {
            "people have been connected for a minute, and Xray counts nobody's traffic"
        }
        (_, _, Some(false)) if needs.cuts => {
            "Xray keeps no list of who is connected: nobody can be cut off"
        }
        (Inferred::Counts, ..) => {
            return Finding::good(CHECK, "Xray counts its users, both ways");
        }
        (Inferred::Unknown, ..) if has_file => {
            let what = "Xray's configuration has stats and the policy's switches";
            return Finding::good(CHECK, what);
        }
        (Inferred::Unknown, ..) => return cannot_tell_yet(needs),
    };
    let finding = Finding::bad(CHECK, what);
    if has_file {
        let mend = "Xray's configuration has what it takes, and Xray runs with another: restart it";
        return finding.mend(mend);
    }
    finding
        .mend("merge into Xray's configuration, and restart Xray:")
        .mend(members(needs))
}

fn cannot_tell_yet(needs: &Needs) -> Finding {
    let what = "cannot tell yet whether Xray counts its users: none of the agent's has come in since \
                it started";
    Finding::note(CHECK, what)
        .mend("show its configuration (--xray-config FILE); it needs")
        .mend(members(needs))
}

fn members(needs: &Needs) -> String {
    switches::Lack::StatsOrPolicy.members(&needs.levels)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::config::XrayAddress;

    fn shown(counted: &[(&str, bool, bool)], online: &[&str]) -> Shown {
        Shown {
            counted: counted
                .iter()
                .map(|(email, up, down)| ((*email).to_owned(), (*up, *down)))
                .collect(),
            online: online.iter().map(|email| (*email).to_owned()).collect(),
            ..Shown::default()
        }
    }

    fn needs(counts: bool, cuts: bool) -> Needs {
        Needs {
            address: XrayAddress::Tcp("127.0.0.1:1".to_owned()),
            levels: [0].into(),
            counts,
            cuts,
            block_outbound: None,
        }
    }

    #[test]
    fn what_is_switched_on_follows_from_who_is_counted() {
        use Inferred::{Counts, CountsNobody, CountsOneWay, Unknown};
        let table = [
            (shown(&[], &[]), Unknown),
            (shown(&[("a", true, true)], &[]), Counts),
            (shown(&[("a", true, true)], &["a"]), Counts),
            (shown(&[], &["a"]), CountsNobody),
            (shown(&[("a", true, true)], &["a", "b"]), CountsNobody),
            (
                shown(&[("a", true, false)], &[]),
                CountsOneWay(Direction::Up),
            ),
            (
                shown(&[("a", true, true), ("b", false, true)], &[]),
                CountsOneWay(Direction::Down),
            ),
        ];
        for (shown, expected) in table {
            assert_eq!(shown.infer(), expected, "{shown:?}");
        }
    }

    #[test]
    fn the_file_goes_first_then_what_is_shown_then_nothing_is_known() {
        let both = needs(true, true);
        let verdict = |file: Option<&str>, shown: Option<&Shown>, needs: &Needs| {
            let file = file.map(|text| XrayFile::read(text).unwrap());
            judge(file.as_ref(), needs, shown).verdict
        };
        let quiet = Shown::default();
        let right = r#"{"stats": {}, "policy": {"levels": {"0": {"statsUserUplink": true,
            "statsUserDownlink": true, "statsUserOnline": true}}}}"#;
        assert_eq!(verdict(None, Some(&quiet), &both), Verdict::Note);
        assert_eq!(verdict(None, None, &both), Verdict::Note);
        assert_eq!(verdict(Some(right), Some(&quiet), &both), Verdict::Good);
        assert_eq!(verdict(Some(right), None, &both), Verdict::Good);
        assert_eq!(verdict(Some("{}"), Some(&quiet), &both), Verdict::Bad);
        assert_eq!(
            verdict(Some("{}"), None, &needs(false, false)),
            Verdict::Good
        );
        // A file that is not the one it runs with.
        let uncounted = shown(&[], &["a"]);
        assert_eq!(verdict(Some(right), Some(&uncounted), &both), Verdict::Bad);
        let said = Shown {
            not_counting: Some("it lacks".to_owned()),
            ..Shown::default()
        };
        assert_eq!(verdict(None, Some(&said), &both), Verdict::Bad);
    }

    #[test]
    fn lists_of_who_is_connected_matter_to_who_cuts() {
        let blind = Shown {
            lists_kept: Some(false),
            ..shown(&[("a", true, true)], &[])
        };
        let of = |cuts| judge(None, &needs(true, cuts), Some(&blind));
        assert_eq!(of(false).verdict, Verdict::Good);
        let found = of(true);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.mend[1].contains("statsUserOnline"), "{found:?}");
    }
}
