//! Each rule of putting a read to account, one at a time: boots by the clocks, counters by hand.

use std::convert::Infallible;

use super::*;
use crate::model::desired::InboundKey;
use crate::model::email::{EmailForm, Emails};
use crate::model::ids::NodeId;
use crate::traffic::baselines::Bytes;

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";

fn boot(kernel: &str, started_ms: i64, uptime_s: u32, grown: u64) -> Boot {
    Boot {
        kernel_boot_id: kernel.into(),
        started_ms,
        started_awake_ms: Some(started_ms),
        uptime_s,
        total_alloc: grown,
        mallocs: grown,
    }
}

/// A ledger that was born at 10 s under kernel `k`.
struct Shelf {
    forms: Forms,
    rows: Vec<(Boot, Arc<Baselines>)>,
    birth: Birth,
}

impl Shelf {
    fn new(rows: &[(Boot, &[(&str, u64)])]) -> Self {
        let emails = Emails {
            form: EmailForm::Bare,
            kernel_id: "in-a".to_owned(),
            former_ids: Vec::new(),
        };
        let forms = Forms::of([(InboundKey::of(NodeId(1), "main", "in-1"), &emails)]);
        let baselines = |counters: &[(&str, u64)]| {
            let mut all = Baselines::default();
            for &(email, down) in counters {
                all.restore(&forms, email, NodeId(1), Bytes { up: 0, down });
            }
            Arc::new(all)
        };
        let rows = rows.iter();
        let rows = rows.map(|(boot, counters)| (boot.clone(), baselines(counters)));
        Self {
            rows: rows.collect(),
            forms,
            birth: Birth {
                kernel: "k".to_owned(),
                at_ms: 10_000,
            },
        }
    }

    fn account(&self, boot: &Boot, how: How, values: &[(&str, i64)]) -> Entry {
        let named =
            |&(email, value): &(&str, i64)| (format!("user>>>{email}>>>traffic>>>downlink"), value);
        let counters = UserCounters::of(values.iter().map(named));
        let known: Vec<_> = self.rows.iter().map(|(boot, _)| boot.clone()).collect();
        let read = Read {
            boot,
            remote: how == How::Elsewhere,
            same_connection: how == How::HereSameConnection,
            counters: &counters,
        };
        let books = Books {
            forms: &self.forms,
            birth: &self.birth,
            known: &known,
        };
        let Ok(entry) = account(read, books, |place| {
            Ok::<_, Infallible>(Arc::clone(&self.rows[place].1))
        });
        entry
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Here,
    HereSameConnection,
    Elsewhere,
}

fn billed(entry: &Entry) -> u64 {
    entry.counted.deltas.values().map(|bytes| bytes.down).sum()
}

#[test]
fn a_first_read_is_adopted_when_xray_is_older_than_the_ledger_and_counted_when_not() {
    let mut nothing = Shelf::new(&[]);
    let (old, new) = (boot("k", 5_000, 6, 1), boot("k", 30_000, 6, 1));
    let entry = nothing.account(&old, How::Here, &[(A, 70)]);
    assert_eq!((entry.boot, billed(&entry)), (None, 0));
    assert_eq!(entry.counted.adopted.down, 70);
    assert_eq!(entry.row, old);
    let entry = nothing.account(&new, How::Here, &[(A, 70)]);
    assert_eq!((entry.boot, billed(&entry)), (None, 70));
    nothing.birth = Birth::of_all_time("k");
    let entry = nothing.account(&old, How::Here, &[(A, 70)]);
    assert_eq!((billed(&entry), entry.counted.adopted.down), (70, 0));
}

#[test]
fn a_counter_that_appears_after_the_first_read_counts_whole_also_of_an_older_xray() {
    let shelf = Shelf::new(&[(boot("k", 5_000, 6, 1), &[(A, 70)])]);
    let later = boot("k", 5_400, 16, 2);
    let entry = shelf.account(&later, How::Here, &[(A, 75), (B, 9)]);
    assert_eq!((entry.boot, billed(&entry)), (Some(0), 14));
    assert_eq!(entry.row.started_ms, 5_000);
    assert_eq!(entry.row.total_alloc, 2);
}

#[test]
fn a_restart_counts_whole_however_much_the_last_boot_had() {
    let shelf = Shelf::new(&[(boot("k", 20_000, 600, 90), &[(A, 1_000)])]);
    let entry = shelf.account(&boot("k", 630_000, 1, 95), How::Here, &[(A, 30)]);
    assert_eq!((entry.boot, billed(&entry)), (None, 30));
    assert_eq!(entry.counted.resets, 0);
}

#[test]
fn a_reset_is_believed_only_over_the_connection_of_the_last_read() {
    let shelf = Shelf::new(&[(boot("k", 20_000, 6, 1), &[(A, 1_000), (B, 40)])]);
    let later = boot("k", 20_000, 16, 2);
    let entry = shelf.account(&later, How::HereSameConnection, &[(A, 30), (B, 50)]);
    assert_eq!((entry.boot, billed(&entry)), (Some(0), 40));
    assert_eq!(entry.counted.resets, 1);
    // Another process behind the same port has counters of its own: only what no boot had is new.
    let entry = shelf.account(&later, How::Here, &[(A, 30), (B, 50)]);
    assert_eq!((entry.boot, billed(&entry)), (None, 10));
    assert_eq!(entry.counted.resets, 0);
    let entry = shelf.account(&later, How::Here, &[(A, 1_000)]);
    assert_eq!(entry.boot, None, "it lacks a counter that never goes");
}

#[test]
fn two_on_one_port_that_started_together_share_what_was_billed() {
    let started = |ms, grown| boot("k", ms, 60, grown);
    let shelf = Shelf::new(&[
        (started(20_000, 50), &[(A, 500)]),
        (started(23_500, 10), &[(A, 900)]),
    ]);
    let table = [
        (started(20_000, 60), 800, 0, "below the other's"),
        (started(20_000, 60), 950, 50, "above both"),
        (started(21_900, 60), 950, 50, "within reach of both"),
        (started(18_500, 60), 600, 100, "the other is out of reach"),
    ];
    for (seen, value, expected, what) in table {
        let entry = shelf.account(&seen, How::HereSameConnection, &[(A, value)]);
        assert_eq!((entry.boot, billed(&entry)), (Some(0), expected), "{what}");
    }
}

#[test]
fn after_a_boot_of_our_host_a_remote_xray_goes_on_from_its_baselines() {
    let shelf = Shelf::new(&[(boot("k", 20_000, 600, 90), &[(A, 1_000)])]);
    let later = boot("l", -700_000, 710, 99);
    let entry = shelf.account(&later, How::Elsewhere, &[(A, 1_030)]);
    assert_eq!((entry.boot, billed(&entry)), (Some(0), 30));
    assert_eq!(entry.row, later, "laid on the clocks of the new kernel");
    // A counter went back: another process, older than this kernel, so perhaps billed before.
    let entry = shelf.account(&later, How::Elsewhere, &[(A, 30)]);
    assert_eq!((entry.boot, billed(&entry)), (None, 0));
    assert_eq!(entry.counted.adopted.down, 30);
}

#[test]
fn of_several_that_it_may_be_none_is_taken_over_and_only_what_none_had_is_new() {
    let shelf = Shelf::new(&[
        (boot("k", 300_000, 100, 40), &[(A, 400)]),
        (boot("k", 20_000, 600, 90), &[(A, 1_000)]),
    ]);
    let later = boot("l", -700_000, 710, 99);
    let entry = shelf.account(&later, How::Elsewhere, &[(A, 1_030), (B, 5)]);
    assert_eq!((entry.boot, billed(&entry)), (None, 35));
    let moved: u64 = entry.counted.moved.iter().map(|row| row.bytes.down).sum();
    assert_eq!(moved, 1_035, "all of it is its baseline from now on");
}

#[test]
fn what_was_billed_before_our_host_booted_stays_billed_when_a_twin_answers_first() {
    let rows: [(Boot, &[(&str, u64)]); 2] = [
        (boot("l", -600_000, 660, 40), &[(A, 16)]),
        (boot("k", 20_000, 600, 62), &[(A, 628)]),
    ];
    let shelf = Shelf::new(&rows);
    let seen = boot("l", -600_500, 661, 76);
    let entry = shelf.account(&seen, How::Elsewhere, &[(A, 640)]);
    assert_eq!((entry.boot, billed(&entry)), (Some(0), 12));
}

#[test]
fn an_xray_that_answers_in_turn_with_another_is_told() {
    let shelf = Shelf::new(&[
        (boot("k", 90_000, 6, 1), &[(A, 1)]),
        (boot("k", 20_000, 76, 9), &[(A, 5)]),
    ]);
    let entry = shelf.account(&boot("k", 20_000, 80, 10), How::Here, &[(A, 7)]);
    assert_eq!((entry.boot, billed(&entry)), (Some(1), 2));
    assert!(entry.alternates);
    let entry = shelf.account(&boot("k", 90_000, 10, 2), How::Here, &[(A, 7)]);
    assert_eq!((entry.boot, billed(&entry)), (Some(0), 6));
    assert!(!entry.alternates);
}
