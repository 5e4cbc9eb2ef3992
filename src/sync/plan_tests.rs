//! The plan, carried out on a model of Xray's table of users (`behaviour.md` §0.7, §2): entries by
//! e-mail without regard to case, users found by their secret, and a removal that takes its secret
//! from whoever else has it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sync::desired::without_collisions;
use crate::xray::account::{AccountSpec, typed};
use crate::xray::proto::xray::common::protocol::User;
use crate::xray::proto::xray::proxy::vless::Account;

#[derive(Clone, Debug, Default)]
struct Model {
    entries: BTreeMap<String, User>,
    by_secret: BTreeMap<SecretKey, String>,
}

impl Model {
    fn add(&mut self, user: User, spec: &AccountSpec) {
        let name = user.email.to_lowercase();
        assert!(
            !self.entries.contains_key(&name),
            "Xray would refuse {name}"
        );
        self.by_secret
            .insert(spec.secret_of(&user).unwrap(), name.clone());
        self.entries.insert(name, user);
    }

    fn remove(&mut self, email: &str, spec: &AccountSpec) {
        let user = self
            .entries
            .remove(&email.to_lowercase())
            .expect("Xray would not find it");
        self.by_secret.remove(&spec.secret_of(&user).unwrap());
    }

    fn carry_out(&mut self, plan: &Plan, spec: &AccountSpec, emails: &Emails) {
        for email in plan.removals.iter().flat_map(|removal| &removal.emails) {
            self.remove(email, spec);
        }
        for repair in &plan.repairs {
            for email in &repair.emails {
                self.remove(email, spec);
            }
            self.add(
                spec.user(repair.user, emails.write(repair.user)).unwrap(),
                spec,
            );
        }
        for user in &plan.additions {
            self.add(spec.user(*user, emails.write(*user)).unwrap(), spec);
        }
    }

    fn live(&self, spec: &AccountSpec, emails: &Emails) -> LiveSet {
        LiveSet::of(self.entries.values().cloned(), spec, emails)
    }
}

fn spec() -> AccountSpec {
    AccountSpec::new(AccountKind::Vless { flow: "f".into() }, 0)
}

/// One of 48 users, every third of whom shares a secret with another.
fn user(number: u8) -> UserId {
    let mut bytes = [number / 3; 16];
    bytes[7] = if number.is_multiple_of(3) { 1 } else { 2 };
    bytes[15] = number % 3 % 2;
    UserId::from_bytes(bytes)
}

/// An entry as it may be found: whose e-mail, in which spelling, with whose secret and which flow.
fn entry() -> impl Strategy<Value = User> {
    (
        0u8..48,
        0u8..5,
        prop_oneof![6 => Just(None), 1 => (0u8..48).prop_map(Some)],
        0u8..8,
    )
        .prop_map(|(whose, spelling, secret, flow)| {
            let text = user(whose).text();
            let email = match spelling {
                0 => text.to_uppercase(),
                1 => format!("in.{text}"),
                2 => format!("someone{whose}@else"),
                _ => text,
            };
            let id = user(secret.unwrap_or(whose)).text();
            let flow = if flow == 0 {
                "g".to_owned()
            } else {
                "f".to_owned()
            };
            let account = typed(&Account {
                id,
                flow,
                ..Default::default()
            });
            User {
                level: 0,
                email,
                account: Some(account),
            }
        })
}

fn model(entries: Vec<User>) -> Model {
    let mut model = Model::default();
    for entry in entries {
        if !model.entries.contains_key(&entry.email.to_lowercase()) {
            model.add(entry, &spec());
        }
    }
    model
}

fn planned(model: &Model, wanted: &[UserId], emails: &Emails, exclusive: bool) -> Plan {
    let (spec, live) = (spec(), model.live(&spec(), emails));
    let confirmed = leaving(&live, wanted);
    plan(
        &live,
        wanted,
        &confirmed,
        Rules {
            kind: &spec.kind,
            emails,
            exclusive,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(
        entries in prop::collection::vec(entry(), 0..40),
        numbers in prop::collection::btree_set(0u8..48, 0..30),
        alone: bool,
        exclusive: bool,
    ) {
        let (spec, emails) = (spec(), Emails::first("in", alone));
        let mut wanted: Vec<UserId> = numbers.into_iter().map(user).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let (wanted, _) = without_collisions(&wanted.into(), &spec.kind);
        let mut model = model(entries);
        let foreign_before = model.live(&spec, &emails).foreign.len();

        let plan = planned(&model, &wanted, &emails, exclusive);
        model.carry_out(&plan, &spec, &emails);

        let live = model.live(&spec, &emails);
        let refused = |user: &UserId| plan.conflicts.contains(user);
        let expected: Vec<_> = wanted.iter().copied().filter(|user| !refused(user)).collect();
        let fit: Vec<_> = live.fit.iter().copied().filter(|user| !refused(user)).collect();
        prop_assert_eq!(&fit, &expected);
        prop_assert!(live.odd.keys().all(refused));
        prop_assert_eq!(live.foreign.len(), if exclusive { 0 } else { foreign_before });
        // Served means found by the secret, not only listed.
        for user in &expected {
            prop_assert!(model.by_secret.contains_key(&spec.kind.secret_key(*user)), "{}", user);
        }
        prop_assert_eq!(planned(&model, &wanted, &emails, exclusive).len(), 0);
    }
}

#[test]
fn who_is_held_stays_as_he_is() {
    let (spec, emails) = (spec(), Emails::first("in", true));
    let mut model = Model::default();
    for number in [0, 3, 6] {
        model.add(
            spec.user(user(number), emails.write(user(number))).unwrap(),
            &spec,
        );
    }
    let live = model.live(&spec, &emails);
    let rules = Rules {
        kind: &spec.kind,
        emails: &emails,
        exclusive: false,
    };
    let plan = plan(&live, &[user(9)], &[user(3)], rules);
    assert_eq!(plan.additions, [user(9)]);
    assert_eq!(
        plan.removals,
        [Removal {
            user: Some(user(3)),
            emails: vec![user(3).text()]
        }]
    );
}

#[test]
fn a_foreign_user_with_the_secret_of_an_allowed_one_is_a_conflict() {
    let (spec, emails) = (spec(), Emails::first("in", true));
    let mut model = Model::default();
    model.add(spec.user(user(0), "admin@home".into()).unwrap(), &spec);
    let plan = planned(&model, &[user(0)], &emails, false);
    assert_eq!((plan.len(), plan.conflicts), (0, vec![user(0)]));
}

#[test]
fn an_entry_of_another_protocol_is_never_touched() {
    let (spec, emails) = (spec(), Emails::first("in", true));
    let vmess = AccountSpec {
        kind: AccountKind::Vmess,
        ..spec.clone()
    };
    let [wanted, unwanted, other] = [user(0), user(3), user(6)];
    let listed = [
        vmess.user(wanted, wanted.text()),
        vmess.user(unwanted, unwanted.text()),
        vmess.user(other, "admin@home".into()),
    ];
    let live = LiveSet::of(listed.into_iter().flatten(), &spec, &emails);
    assert_eq!(live.aliens(), 3);
    let rules = Rules {
        kind: &spec.kind,
        emails: &emails,
        exclusive: true,
    };
    let leaving = leaving(&live, &[wanted, other]);
    let plan = plan(&live, &[wanted, other], &leaving, rules);
    let expected = Plan {
        additions: vec![other],
        conflicts: vec![wanted],
        ..Plan::default()
    };
    assert_eq!(plan, expected);
}

#[test]
fn a_user_listed_twice_is_written_once() {
    let (spec, emails) = (spec(), Emails::first("in", true));
    let twice = [
        spec.user(user(0), user(0).text()),
        spec.user(user(0), user(0).text()),
    ];
    let live = LiveSet::of(twice.into_iter().flatten(), &spec, &emails);
    let rules = Rules {
        kind: &spec.kind,
        emails: &emails,
        exclusive: false,
    };
    let plan = plan(&live, &[user(0)], &[], rules);
    let emails = vec![user(0).text(), user(0).text()];
    assert_eq!(
        plan.repairs,
        [Repair {
            user: user(0),
            emails
        }]
    );
}

#[test]
fn users_who_look_alike_are_planned_for_as_fast_as_others() {
    const MANY: u32 = 60_000;
    let (spec, emails) = (spec(), Emails::first("in", true));
    let users: Vec<_> = (0..MANY)
        .map(|n| UserId::from_bytes(u128::from(n).to_be_bytes()))
        .collect();
    let ours = users
        .iter()
        .filter_map(|user| spec.user(*user, user.text()));
    let foreign = users
        .iter()
        .filter_map(|user| spec.user(*user, format!("{}@home", user.text())));
    let mut live = LiveSet::of(ours.chain(foreign), &spec, &emails);
    let (stay, go) = users.split_at(users.len() / 2);
    let rules = Rules {
        kind: &spec.kind,
        emails: &emails,
        exclusive: true,
    };
    let begun = std::time::Instant::now();
    let plan = plan(&live, stay, go, rules);
    assert_eq!(plan.removals.len(), users.len() + go.len());
    assert_eq!(plan.repairs.len(), stay.len());
    let gone: Vec<_> = live
        .foreign
        .iter()
        .map(|entry| entry.email.clone())
        .collect();
    live.after(go, stay, &gone);
    assert_eq!((live.fit.len(), live.foreign.len()), (stay.len(), 0));
    // Twenty times what it takes; looking at each pair takes minutes.
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}
