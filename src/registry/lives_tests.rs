//! Lives and deaths of registered nodes, one by one and at random.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::lives::*;
use crate::model::health::Thresholds;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn node(id: &str, ttl_s: u64) -> Node {
    Node {
        id: id.to_owned(),
        role: "listener".to_owned(),
        protocol: "vless".to_owned(),
        tags: Vec::new(),
        description: None,
        listen: None,
        connect: None,
        ttl: Duration::from_secs(ttl_s),
    }
}

fn told(changes: impl IntoIterator<Item = Change>) -> Vec<(String, String)> {
    let word = |what| match what {
        What::Added => "added".to_owned(),
        What::Removed => "removed".to_owned(),
        What::Is(health) => health.word().to_owned(),
    };
    let changes = changes.into_iter();
    changes.map(|it| (it.node.node.id, word(it.what))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(id, word): &(&str, &str)| ((*id).to_owned(), (*word).to_owned());
    expected.iter().map(owned).collect()
}

#[test]
fn a_node_that_falls_silent_is_unhealthy_and_then_removed() {
    let mut lives = Lives::default();
    let (lease, change) = lives.register(node("a", 90), at(0)).unwrap();
    assert_eq!(lease.expires_at, at(90));
    assert_eq!(lease.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(told(change), pairs(&[("a", "added")]));
    assert_eq!(lives.next_tick(), Some(at(90)));
    assert_eq!(lives.tick(at(89)), []);
    assert_eq!(told(lives.tick(at(90))), pairs(&[("a", "unhealthy")]));
    assert_eq!(lives.tick(at(91)), []);
    assert_eq!(lives.next_tick(), Some(at(270)));
    assert_eq!(told(lives.tick(at(270))), pairs(&[("a", "removed")]));
    assert_eq!(lives.next_tick(), None);
    let late = lives.heartbeat("a", Said::Healthy, None, at(271));
    assert_eq!(late, Err(Refused::Unknown));
}

#[test]
fn what_was_missed_while_the_agent_was_away_is_told_in_its_order() {
    let mut lives = Lives::default();
    lives.register(node("slow", 90), at(0)).unwrap();
    lives.register(node("fast", 30), at(0)).unwrap();
    let kept: Vec<_> = lives.nodes().cloned().collect();
    let mut lives = Lives::new(kept, Thresholds::default());
    let expected = [
        ("fast", "unhealthy"),
        ("fast", "removed"),
        ("slow", "unhealthy"),
        ("slow", "removed"),
    ];
    assert_eq!(told(lives.tick(at(1_000))), pairs(&expected));
}

#[test]
fn a_sign_of_life_tells_how_it_is_and_only_news_are_told() {
    let mut lives = Lives::default();
    lives.register(node("a", 90), at(0)).unwrap();
    let mut says = |said, second| {
        let answer = lives.heartbeat("a", said, Some("words".to_owned()), at(second));
        let (lease, change) = answer.unwrap();
        assert_eq!(lease.expires_at, at(second + 90));
        told(change).pop().map(|(_, word)| word)
    };
    let degraded = Some("degraded".to_owned());
    assert_eq!(says(Said::Healthy, 1), None);
    assert_eq!(says(Said::Degraded, 2), degraded);
    assert_eq!(says(Said::Degraded, 3), None);
    assert_eq!(says(Said::Unhealthy, 4), Some("unhealthy".to_owned()));
    assert_eq!(says(Said::Degraded, 5), degraded);
    assert_eq!(says(Said::Healthy, 6), Some("healthy".to_owned()));
    assert_eq!(lives.get("a").unwrap().message.as_deref(), Some("words"));
}

#[test]
fn whoever_comes_back_from_silence_is_healthy_again() {
    let mut lives = Lives::default();
    lives.register(node("a", 30), at(0)).unwrap();
    lives.tick(at(30));
    let (_, change) = lives.heartbeat("a", Said::Healthy, None, at(40)).unwrap();
    assert_eq!(told(change), pairs(&[("a", "healthy")]));
    lives.tick(at(70));
    let (_, change) = lives.register(node("a", 60), at(80)).unwrap();
    assert_eq!(told(change), pairs(&[("a", "healthy")]));
    assert_eq!(lives.next_tick(), Some(at(140)));
}

#[test]
fn times_to_live_have_bounds_and_so_has_the_number_of_nodes() {
    let mut lives = Lives::default();
    for (id, said, taken) in [("a", 0, TTL_MIN), ("b", u64::MAX, TTL_MAX)] {
        let (lease, _) = lives.register(node(id, said), at(0)).unwrap();
        assert_eq!(lease.heartbeat_interval, taken / 3);
    }
    for other in 0..NODES_MAX - 2 {
        lives.register(node(&other.to_string(), 90), at(0)).unwrap();
    }
    let refused = lives.register(node("one more", 90), at(0));
    assert_eq!(refused, Err(Refused::TooMany));
    assert!(lives.register(node("a", 90), at(0)).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Register(u8, u64),
    Say(u8, Said),
    Remove(u8),
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let said = prop_oneof![
        Just(Said::Healthy),
        Just(Said::Degraded),
        Just(Said::Unhealthy)
    ];
    let step = prop_oneof![
        (0..4_u8, 3..120_u64).prop_map(|(id, ttl)| Step::Register(id, ttl)),
        (0..4_u8, said).prop_map(|(id, said)| Step::Say(id, said)),
        (0..4_u8).prop_map(Step::Remove),
        // The clock is set back, too.
        (-200..400_i64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn whoever_follows_the_changes_knows_everybody_as_he_is(steps in steps()) {
        let (mut lives, mut now) = (Lives::default(), 0);
        let mut followed = BTreeMap::new();
        for step in steps {
            let mut changes = lives.tick(at(now));
            match step {
                Step::Register(id, ttl) => {
                    let answer = lives.register(node(&id.to_string(), ttl), at(now));
                    changes.extend(answer.unwrap().1);
                }
                Step::Say(id, said) => {
                    let answer = lives.heartbeat(&id.to_string(), said, None, at(now));
                    changes.extend(answer.ok().and_then(|(_, change)| change));
                }
                Step::Remove(id) => changes.extend(lives.remove(&id.to_string())),
                Step::Wait(seconds) => {
                    now += seconds;
                    changes.extend(lives.tick(at(now)));
                }
            }
            for (id, word) in told(changes) {
                match word.as_str() {
                    "removed" => prop_assert!(followed.remove(&id).is_some(), "{id} was gone"),
                    "added" => {
                        let before = followed.insert(id.clone(), "healthy".to_owned());
                        prop_assert!(before.is_none(), "{id} was there");
                    }
                    _ => {
                        let before = followed.insert(id.clone(), word.clone());
                        prop_assert!(before.is_some_and(|it| it != word), "{id}: no news");
                    }
                }
            }
            let words = lives.nodes().map(|it| {
                (it.node.id.clone(), it.health.word().to_owned())
            });
            prop_assert_eq!(words.collect::<BTreeMap<_, _>>(), followed.clone());
            for it in lives.nodes() {
                let silent = at(now).duration_since(it.heard_at).as_secs();
                let ttl = i64::try_from(it.node.ttl.as_secs()).unwrap();
                prop_assert!(silent < 3 * ttl);
                prop_assert!(silent < ttl || it.expired);
            }
            prop_assert!(lives.next_tick().is_none_or(|next| next > at(now)));
        }
    }
}
