//! What must hold, to the byte. Each function names every violation in words. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::books::{Pair, Users, add, of, sum};
use super::report::{End, Report};
use crate::lab;

/// The last that is known of a boot of Xray.
#[derive(Clone)]
pub struct Last {
    pub end: End,
    /// Its counters at the last look: all that it ever counted, unless it died under traffic.
    pub counted: Users,
    /// What users had completed within the boot before that look.
    pub in_boot: Users,
    /// What the agent has surely collected of it.
    pub collected_for_certain: Users,
    /// No user can have moved more within it.
    pub at_most: Users,
    /// Bytes a second before the end, where that was measured.
    pub speed: Option<u64>,
}

/// Both books at the end.
pub struct Accounts<'a> {
    /// What the agent collected of all boots.
    pub collected: &'a Users,
    /// What users attempted to move.
    pub attempted: Users,
    /// Reports in the ledger: key, user, bytes.
    pub unknown: Vec<(String, String, Pair)>,
    pub rejected: Vec<(String, String, Pair)>,
    /// What the panel accepted.
    pub reports: Vec<lab::Report>,
}

/// Has nobody more in `these` than in `bound`?
pub fn all_within(these: &Users, bound: &Users) -> bool {
    first_beyond(these, bound).is_none()
}

fn first_beyond(these: &Users, bound: &Users) -> Option<String> {
    let beyond = these
        .iter()
        .find(|(user, pair)| !pair.is_within(of(bound, user)));
    beyond.map(|(user, pair)| format!("user {user}: {pair:?} beyond {:?}", of(bound, user)))
}

/// What is wrong with a boot of which the ledger holds `collected` for ever.
pub fn of_boot(last: &Last, collected: &Users) -> Vec<String> {
    let mut wrong = Wrong::default();
    wrong.beyond(
        "users completed more than Xray counted",
        &last.in_boot,
        &last.counted,
    );
    wrong.beyond(
        "less was collected than an interval before the end",
        &last.collected_for_certain,
        collected,
    );
    wrong.beyond(
        "more was collected than Xray can have counted",
        collected,
        &last.at_most,
    );
    match last.end {
        End::WithAgent => wrong.beyond(
            "a dead Xray's bytes were collected after the agent's death",
            collected,
            &last.collected_for_certain,
        ),
        End::Collected | End::Alive => wrong.beyond(
            "a collected Xray took bytes to its grave",
            &last.counted,
            collected,
        ),
        End::Still | End::UnderTraffic => {}
    }
    wrong.0
}

/// What is wrong with the sums.
pub fn of_sums(accounts: &Accounts<'_>, report: &Report) -> Vec<String> {
    let mut wrong = Wrong::default();
    let settled = settled(accounts);
    of_ledger(&mut wrong, accounts, report, &settled);
    of_panel(&mut wrong, accounts, report);
    let mut kept = settled;
    for (_, user, bytes) in accounts.unknown.iter().chain(&accounts.rejected) {
        *kept.entry(user.clone()).or_default() += *bytes;
    }
    let is_exact = all_within(&kept, accounts.collected) && all_within(accounts.collected, &kept);
    wrong.unless(is_exact, || {
        let (kept, collected) = (sum(kept.values()), sum(accounts.collected.values()));
        format!("settled + unknown + rejected is {kept:?}, but {collected:?} was collected")
    });
    wrong.beyond(
        "more was collected than users attempted to move",
        accounts.collected,
        &accounts.attempted,
    );
    wrong.0
}

/// By user: what the panel counted, but for what the agent does not know of.
fn settled(accounts: &Accounts<'_>) -> Users {
    let unknown: BTreeSet<&str> = accounts.unknown.iter().map(|(key, ..)| &**key).collect();
    let mut settled = Users::new();
    for report in accounts.reports.iter().filter(|report| report.counted) {
        let key = report.key.as_deref().unwrap_or_default();
        if !unknown.contains(key) {
            let of_user = settled.entry(report.uuid.clone()).or_default();
            *of_user += (report.upload, report.download).into();
        }
    }
    settled
}

/// The ledger in itself, and against what the panel says of what is settled.
fn of_ledger(wrong: &mut Wrong, accounts: &Accounts<'_>, report: &Report, settled: &Users) {
    let totals = &report.totals;
    wrong.equal(
        "counted in the ledger",
        totals.counted.into(),
        "in its baselines",
        sum(accounts.collected.values()),
    );
    wrong.equal(
        "settled in the ledger",
        totals.settled.bytes.into(),
        "at the panel without what is unknown",
        sum(settled.values()),
    );
    let of_reports = |reports: &[(String, String, Pair)]| sum(reports.iter().map(|(.., b)| b));
    wrong.equal(
        "unknown in the ledger",
        totals.unknown.bytes.into(),
        "in its reports",
        of_reports(&accounts.unknown),
    );
    wrong.equal(
        "rejected in the ledger",
        totals.rejected.bytes.into(),
        "in its reports",
        of_reports(&accounts.rejected),
    );
    let left = [totals.open, totals.pending, totals.sending];
    wrong.unless(left.iter().all(|amount| amount.bytes.is_zero()), || {
        format!("not drained: {left:?}")
    });
    wrong.unless(report.adopted.is_zero(), || {
        format!("adopted: {:?}", report.adopted)
    });
}

fn of_panel(wrong: &mut Wrong, accounts: &Accounts<'_>, report: &Report) {
    let mut billed = Users::new();
    let mut keys: BTreeMap<&str, u32> = BTreeMap::new();
    for accepted in accounts.reports.iter().filter(|accepted| accepted.counted) {
        let bytes = (accepted.upload, accepted.download).into();
        add(&mut billed, &Users::from([(accepted.uuid.clone(), bytes)]));
        *keys
            .entry(accepted.key.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    wrong.equal(
        "billed by the log",
        sum(billed.values()),
        "by the panel's sums",
        report.billed,
    );
    wrong.beyond(
        "more was billed than collected",
        &billed,
        accounts.collected,
    );
    let twice = keys.iter().find(|(_, times)| **times > 1);
    wrong.unless(twice.is_none(), || format!("billed twice: {twice:?}"));
    if report.options.dedupes {
        let left = accounts.unknown.len() + accounts.rejected.len();
        wrong.unless(left == 0, || format!("{left} reports are not settled"));
        wrong.equal(
            "billed",
            report.billed,
            "collected",
            sum(accounts.collected.values()),
        );
    } else {
        wrong.unless(report.repeats == 0, || {
            format!("{} repeats at a panel that counts them", report.repeats)
        });
    }
}

#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, words: impl FnOnce() -> String) {
        if !holds {
            self.0.push(words());
        }
    }

    fn beyond(&mut self, words: &str, these: &Users, bound: &Users) {
        let beyond = first_beyond(these, bound);
        self.0.extend(beyond.map(|who| format!("{words}: {who}")));
    }

    fn equal(&mut self, what: &str, this: Pair, other_what: &str, that: Pair) {
        self.unless(this == that, || {
            format!("{what}: {this:?}; {other_what}: {that:?}")
        });
    }
}

#[cfg(test)]
mod tests {
    use xray_agent::traffic::baselines::Bytes;
    use xray_agent::traffic::ledger::views::Amount;

    use super::super::campaign::Options;
    use super::*;

    fn users(up: u64, down: u64) -> Users {
        Users::from([("u".to_owned(), (up, down).into())])
    }

    #[test]
    fn a_byte_too_few_or_too_many_of_a_boot_is_found() {
        let last = |end| Last {
            end,
            counted: users(50, 70),
            in_boot: users(50, 60),
            collected_for_certain: users(20, 30),
            at_most: users(50, 70),
            speed: None,
        };
        let table = [
            (End::Still, (20, 30), 0, "as much as is certain"),
            (End::Still, (19, 30), 1, "less"),
            (End::Still, (50, 71), 1, "more than Xray counted"),
            (End::UnderTraffic, (50, 71), 1, "more than can be"),
            (End::Collected, (50, 70), 0, "all"),
            (End::Collected, (49, 70), 1, "not all"),
            (End::WithAgent, (20, 30), 0, "what it had when it died"),
            (End::WithAgent, (20, 31), 1, "more than then"),
        ];
        for (end, collected, wrongs, what) in table {
            let found = of_boot(&last(end), &users(collected.0, collected.1));
            assert_eq!(found.len(), wrongs, "{what}: {found:?}");
        }
        let mut unseen = last(End::Still);
        unseen.in_boot = users(51, 0);
        assert_eq!(of_boot(&unseen, &users(50, 70)).len(), 1);
    }

    fn pair(up: u64, down: u64) -> Pair {
        (up, down).into()
    }

    fn kept(key: &str, up: u64, down: u64) -> (String, String, Pair) {
        (key.to_owned(), "u".to_owned(), pair(up, down))
    }

    fn at_panel(key: &str, upload: u64, download: u64) -> lab::Report {
        lab::Report {
            arrival: 1,
            node: 1,
            uuid: "u".to_owned(),
            upload,
            download,
            key: Some(key.to_owned()),
            repeat: false,
            counted: true,
        }
    }

    /// Of 50 up and 70 down, one report is settled, one unknown though the panel counted it, and one
    /// rejected.
    fn exact(collected: &Users) -> (Accounts<'_>, Report) {
        let accounts = Accounts {
            collected,
            attempted: users(60, 80),
            unknown: vec![kept("b", 10, 20)],
            rejected: vec![kept("c", 10, 10)],
            reports: vec![at_panel("a", 30, 40), at_panel("b", 10, 20)],
        };
        let mut report = Report::new(Options {
            kills: 0,
            seed: 0,
            dedupes: false,
            users: 1,
        });
        let amount = |up, down| Amount {
            reports: 1,
            bytes: Bytes { up, down },
        };
        report.totals.counted = Bytes { up: 50, down: 70 };
        report.totals.settled = amount(30, 40);
        report.totals.unknown = amount(10, 20);
        report.totals.rejected = amount(10, 10);
        report.billed = pair(40, 60);
        (accounts, report)
    }

    #[test]
    fn a_byte_too_few_or_too_many_in_either_book_is_found() {
        type Spoil = fn(&mut Accounts<'_>, &mut Report);
        let table: [(Spoil, &str); 8] = [
            (
                |_, report| report.totals.counted.up += 1,
                "counted in the ledger",
            ),
            (
                |_, report| report.totals.settled.bytes.down -= 1,
                "settled in the ledger",
            ),
            (
                |accounts, _| accounts.unknown.clear(),
                "unknown in the ledger",
            ),
            (
                |accounts, _| accounts.reports.push(at_panel("a", 30, 40)),
                "billed twice",
            ),
            (
                |accounts, _| accounts.reports[0].upload += 11,
                "more was billed",
            ),
            (
                |accounts, _| drop(accounts.reports.remove(0)),
                "settled + unknown",
            ),
            (
                |_, report| report.totals.pending.bytes.up = 1,
                "not drained",
            ),
            (|_, report| report.repeats = 1, "1 repeats"),
        ];
        let collected = users(50, 70);
        let (accounts, report) = exact(&collected);
        assert!(of_sums(&accounts, &report).is_empty());
        for (spoil, words) in table {
            let (mut accounts, mut report) = exact(&collected);
            spoil(&mut accounts, &mut report);
            let found = of_sums(&accounts, &report);
            let is_named = found.iter().any(|found| found.contains(words));
            assert!(is_named, "{words}: {found:?}");
        }
    }
}
