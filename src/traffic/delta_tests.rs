//! Each rule of counting by itself: a table of one counter's values, then what only shows with more
//! than one counter.

use super::*;
use crate::model::desired::InboundKey;
use crate::model::email::{EmailForm, Emails};
use crate::traffic::baselines::Baselines;

const ID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn emails(form: EmailForm, kernel_id: &str) -> Emails {
    Emails {
        form,
        kernel_id: kernel_id.to_owned(),
        former_ids: Vec::new(),
    }
}

/// Node 1 writes `in-a.<uuid>`, node 2 the bare UUID.
fn two_nodes() -> Forms {
    let (a, b) = (
        emails(EmailForm::Prefixed, "in-a"),
        emails(EmailForm::Bare, "in-b"),
    );
    Forms::of([
        (InboundKey::of(NodeId(1), "main", "in-1"), &a),
        (InboundKey::of(NodeId(2), "main", "in-2"), &b),
    ])
}

/// The user at a node; of the ninth no inbound is managed.
fn at(node: u64) -> At {
    At {
        node: NodeId(node),
        inbound: [(1, 0), (2, 1)]
            .iter()
            .find(|(n, _)| *n == node)
            .map(|(_, place)| *place),
        user: user(),
    }
}

fn user() -> UserId {
    UserId::parse(ID).unwrap()
}

fn counters(values: &[(&str, &str, i64)]) -> UserCounters {
    UserCounters::of(
        values
            .iter()
            .map(|(email, way, value)| (format!("user>>>{email}>>>traffic>>>{way}"), *value)),
    )
}

fn baselines(forms: &Forms, rows: &[(&str, u64, u64)]) -> Baselines {
    let mut all = Baselines::default();
    for &(email, up, down) in rows {
        all.restore(forms, email, NodeId(9), Bytes { up, down });
    }
    all
}

fn counted(
    (own, twins): (&Baselines, &[&Baselines]),
    reading: Reading,
    values: &[(&str, &str, i64)],
) -> Counted {
    let forms = two_nodes();
    let against = Against {
        forms: &forms,
        baselines: own,
        twins,
        reading,
    };
    count(against, &counters(values))
}

#[test]
fn one_counter_by_every_rule() {
    use Reading::{Adopt, Count};
    struct Row {
        what: &'static str,
        reading: Reading,
        own: Option<u64>,
        twin: Option<u64>,
        value: i64,
        /// Billed, the new baseline where it moves, adopted, told as resets.
        expected: (u64, Option<u64>, u64, usize),
    }
    let row = |what, reading, own, twin, value, expected| Row {
        what,
        reading,
        own,
        twin,
        value,
        expected,
    };
    let forms = two_nodes();
    let table = [
        row("adopted", Adopt, None, None, 70, (0, Some(70), 70, 0)),
        row("first", Count, None, None, 70, (70, Some(70), 0, 0)),
        row("grown", Count, Some(50), None, 70, (20, Some(70), 0, 0)),
        row("unmoved", Count, Some(70), None, 70, (0, None, 0, 0)),
        row("reset", Count, Some(90), None, 70, (70, Some(70), 0, 1)),
        row("reset to 0", Count, Some(90), None, 0, (0, Some(0), 0, 1)),
        row("negative", Count, None, None, -5, (0, None, 0, 0)),
        row("huge", Count, Some(1), None, i64::MAX, {
            let all = i64::MAX.unsigned_abs();
            (all - 1, Some(all), 0, 0)
        }),
        row("above", Count, Some(10), Some(50), 70, (20, Some(70), 0, 0)),
        row(
            "between",
            Count,
            Some(10),
            Some(90),
            70,
            (0, Some(70), 0, 0),
        ),
        row("new, below", Count, None, Some(90), 70, (0, Some(70), 0, 0)),
        row("below all", Count, Some(80), Some(90), 70, (0, None, 0, 0)),
        row(
            "own is most",
            Count,
            Some(60),
            Some(5),
            70,
            (10, Some(70), 0, 0),
        ),
    ];
    for row in table {
        let one = |value: Option<u64>| {
            let rows = value.map(|down| (ID, 3, down));
            baselines(&forms, rows.as_slice())
        };
        let (own, twin) = (one(row.own), row.twin.map(|twin| one(Some(twin))));
        let twins: Vec<_> = twin.iter().collect();
        let said = counted((&own, &twins), row.reading, &[(ID, "downlink", row.value)]);
        let delta = said.deltas.get(&at(2));
        let moved = said.moved.first().map(|moved| moved.bytes);
        let (billed, base, adopted, resets) = row.expected;
        assert_eq!(delta.map_or(0, |bytes| bytes.down), billed, "{}", row.what);
        assert!(delta.is_none_or(|bytes| bytes.up == 0 && bytes.down > 0));
        assert_eq!(moved.map(|bytes| bytes.down), base, "{}", row.what);
        let up = if row.own.is_some() { 3 } else { 0 };
        assert!(moved.is_none_or(|bytes| bytes.up == up), "{}", row.what);
        assert_eq!(said.adopted.total(), adopted, "{}", row.what);
        assert_eq!((said.resets, said.ours), (resets, 1), "{}", row.what);
    }
}

#[test]
fn up_and_down_are_counted_apart_and_move_one_baseline() {
    let own = baselines(&two_nodes(), &[(ID, 10, 90)]);
    let said = counted(
        (&own, &[]),
        Reading::Count,
        &[(ID, "uplink", 15), (ID, "downlink", 40)],
    );
    let expected = Bytes { up: 5, down: 40 };
    assert_eq!(said.deltas[&at(2)], expected);
    let [moved] = &said.moved[..] else {
        panic!("one row, not {:?}", said.moved);
    };
    assert_eq!(moved.bytes, Bytes { up: 15, down: 40 });
    assert_eq!((said.resets, said.ours), (1, 2));
}

#[test]
fn every_spelling_is_a_counter_of_its_own_and_none_counts_for_two_nodes() {
    let upper = ID.to_uppercase();
    let own = baselines(&two_nodes(), &[(ID, 0, 50)]);
    let said = counted(
        (&own, &[]),
        Reading::Count,
        &[
            (ID, "downlink", 51),
            (&upper, "downlink", 7),
            (&format!("in-a.{ID}"), "downlink", 100),
            (&format!("IN-A.{ID}"), "downlink", 1_000),
        ],
    );
    let down = |down| Bytes { up: 0, down };
    assert_eq!(said.deltas.len(), 2);
    assert_eq!(said.deltas[&at(1)], down(1_100));
    assert_eq!(said.deltas[&at(2)], down(8));
    assert_eq!(said.moved.len(), 4);
    let mut next = own.clone();
    next.absorb(&said.moved);
    let again = counted((&next, &[]), Reading::Count, &[(&upper, "downlink", 9)]);
    assert_eq!(again.deltas[&at(2)], down(2));
}

#[test]
fn counters_of_an_inbound_that_is_managed_no_more_stay_ours_and_others_are_foreign() {
    let gone = format!("gone.{ID}");
    let own = baselines(&two_nodes(), &[(&gone, 0, 50)]);
    let said = counted(
        (&own, &[]),
        Reading::Count,
        &[
            (&gone, "downlink", 60),
            (&format!("never.{ID}"), "downlink", 70),
            ("a@b", "uplink", 5),
        ],
    );
    assert_eq!(said.deltas.len(), 1);
    let bytes = said.deltas[&at(9)];
    assert_eq!(bytes, Bytes { up: 0, down: 10 });
    assert_eq!((said.ours, said.foreign, said.foreign_bytes), (1, 2, 75));
}

#[test]
fn a_name_that_comes_twice_in_one_answer_bills_its_highest_value_once() {
    let own = baselines(&two_nodes(), &[(ID, 0, 50)]);
    for values in [[80, 120], [120, 80], [120, 120], [50, 120], [120, 50]] {
        let twice = values.map(|value| (ID, "downlink", value));
        let said = counted((&own, &[]), Reading::Count, &twice);
        let bytes = said.deltas[&at(2)];
        assert_eq!(bytes, Bytes { up: 0, down: 70 }, "{values:?}");
        assert_eq!(said.moved[0].bytes.down, 120, "{values:?}");
    }
}

#[test]
fn counters_have_grown_when_all_are_there_and_none_went_back() {
    let gone = format!("gone.{ID}");
    let forms = two_nodes();
    let own = baselines(&forms, &[(ID, 10, 20), (&gone, 0, 5)]);
    let seen = |up, down, odd| {
        vec![
            (ID, "uplink", up),
            (ID, "downlink", down),
            (gone.as_str(), "downlink", odd),
        ]
    };
    let table = [
        (seen(10, 20, 5), true, "as they were"),
        (seen(11, 22, 6), true, "grown"),
        (seen(9, 22, 6), false, "one went back"),
        (seen(11, 22, 4), false, "an odd one went back"),
        (seen(11, 22, 6)[..2].to_vec(), false, "one is missing"),
    ];
    for (values, expected, what) in table {
        let grown = has_grown(&forms, &own, &counters(&values));
        assert_eq!(grown, expected, "{what}");
    }
    let none = Baselines::default();
    let any = counters(&seen(1, 1, 1));
    assert!(!has_grown(&forms, &none, &any), "nothing to know it by");
}
