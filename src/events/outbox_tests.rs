//! Queues: their order, their bounds, and that nothing leaves one but delivered or given up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use url::Url;

use super::bus::Bounds;
use super::outbox::{Limits, Next, Outbox, PutError, TargetStatus};
use super::*;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::model::delivery::{Fate, Origin, Outgoing, TargetId, Wanted};
use crate::model::event::{EventId, EventName};
use crate::store::agent;

/// The promises are about order, not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";

/// The body is the form and the number.
struct Plain;

impl Render for Plain {
    fn body(&self, _owner: &str, form: &str, event: &Event) -> Option<String> {
        (form != "none").then(|| format!("{form} {}", event.payload))
    }
}

fn wanted(host: &str, events: &[EventName]) -> Wanted {
    Wanted {
        owner: "test".to_owned(),
        form: "plain".to_owned(),
        url: format!("https://{host}/hook"),
        events: events.to_vec(),
        origin: Origin::Api,
        secret: None,
        bearer: None,
    }
}

fn event(n: u32) -> Event {
    Event::new(EventName::UserAdded, Timestamp::UNIX_EPOCH, &json!(n)).unwrap()
}

async fn open(folder: &Path, limits: Limits) -> Events {
    let store = agent::start(folder, Clock::system()).unwrap();
    let outbox = Outbox::new(store, limits, Clock::system());
    Events::start(outbox, Arc::new(Plain), Bounds::default()).await
}

async fn fresh(limits: Limits) -> (TempDir, Events) {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let events = open(folder.path(), limits).await;
    (folder, events)
}

async fn put(events: &Events, wanted: Wanted) -> TargetId {
    events.outbox().put(wanted).await.unwrap().id
}

async fn head(events: &Events, id: TargetId) -> Option<Box<Outgoing>> {
    match events.outbox().next(id).await.unwrap() {
        Next::Event(event) => Some(event),
        Next::Nothing | Next::Gone => None,
    }
}

async fn status(events: &Events, id: TargetId) -> TargetStatus {
    let mut all = events.outbox().targets().await.unwrap().into_iter();
    all.find(|status| status.target.id == id).unwrap()
}

async fn settle(events: &Events, id: TargetId, fate: Fate) {
    let sent = head(events, id).await.unwrap();
    events.outbox().settle(&sent, fate).await.unwrap();
}

fn given_up() -> Fate {
    Fate::GivenUp {
        why: "as the test wants".to_owned(),
    }
}

/// What was given up, oldest first.
async fn lost(events: &Events, id: TargetId) -> Vec<String> {
    let lost = events.outbox().given_up(id, 1_000).await.unwrap();
    lost.into_iter().rev().map(|lost| lost.body).collect()
}

/// Delivers all that waits.
async fn drain(events: &Events, id: TargetId) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some(sent) = head(events, id).await {
        bodies.push(sent.body.clone());
        events
            .outbox()
            .settle(&sent, Fate::Delivered)
            .await
            .unwrap();
    }
    bodies
}

#[tokio::test]
async fn an_event_goes_to_whoever_wants_it_in_their_form() {
    let (_folder, events) = fresh(Limits::default()).await;
    let all = put(&events, wanted("all", &[])).await;
    let some = put(&events, wanted("some", &[EventName::UserAdded])).await;
    let other = put(&events, wanted("other", &[EventName::NodeAdded])).await;
    let mut unfit = wanted("unfit", &[]);
    "none".clone_into(&mut unfit.form);
    let unfit = put(&events, unfit).await;
    events.publish(event(1)).await.unwrap();
    events.publish(event(2)).await.unwrap();
    for id in [all, some] {
        assert_eq!(drain(&events, id).await, ["plain 1", "plain 2"]);
        assert_eq!(status(&events, id).await.delivered, 2);
    }
    for id in [other, unfit] {
        assert!(drain(&events, id).await.is_empty());
    }
}

#[tokio::test]
async fn the_oldest_are_given_up_counted_and_listed_beyond_the_bounds() {
    let limits = Limits {
        queued: 3,
        kept: 2,
        ..Limits::default()
    };
    let (_folder, events) = fresh(limits).await;
    let id = put(&events, wanted("a", &[])).await;
    for n in 0..7 {
        events.publish(event(n)).await.unwrap();
    }
    let counts = status(&events, id).await;
    assert_eq!((counts.queued, counts.given_up), (3, 4));
    assert_eq!((counts.kept, counts.forgotten), (2, 2));
    assert_eq!(lost(&events, id).await, ["plain 2", "plain 3"]);
    assert_eq!(drain(&events, id).await, ["plain 4", "plain 5", "plain 6"]);
    assert_eq!(events.outbox().replay(id, None).await.unwrap(), 2);
    assert_eq!(drain(&events, id).await, ["plain 2", "plain 3"]);
    let counts = status(&events, id).await;
    assert_eq!((counts.delivered, counts.given_up, counts.kept), (5, 2, 0));
}

#[tokio::test]
async fn a_queue_is_bounded_by_bytes_even_for_one_body_that_is_larger() {
    let limits = Limits {
        queued_bytes: 20,
        ..Limits::default()
    };
    let (_folder, events) = fresh(limits).await;
    let id = put(&events, wanted("a", &[])).await;
    for n in 0..4 {
        events.publish(event(n)).await.unwrap();
    }
    assert_eq!(status(&events, id).await.queued_bytes, 14);
    let large = json!("x".repeat(100));
    let large = Event::new(EventName::UserAdded, Timestamp::UNIX_EPOCH, &large).unwrap();
    events.publish(large).await.unwrap();
    let counts = status(&events, id).await;
    assert_eq!((counts.queued, counts.queued_bytes), (0, 0));
    assert_eq!(counts.given_up, 5);
}

#[tokio::test]
async fn what_is_delivered_after_it_was_given_up_counts_as_delivered() {
    let limits = Limits {
        queued: 1,
        ..Limits::default()
    };
    let (_folder, events) = fresh(limits).await;
    let id = put(&events, wanted("a", &[])).await;
    events.publish(event(1)).await.unwrap();
    let under_way = head(&events, id).await.unwrap();
    events.publish(event(2)).await.unwrap();
    assert_eq!(lost(&events, id).await, ["plain 1"]);
    let outbox = events.outbox();
    outbox.settle(&under_way, Fate::Delivered).await.unwrap();
    // A second answer for the same one changes nothing.
    outbox.settle(&under_way, Fate::Delivered).await.unwrap();
    let counts = status(&events, id).await;
    assert_eq!((counts.delivered, counts.given_up, counts.kept), (1, 0, 0));
    assert_eq!(drain(&events, id).await, ["plain 2"]);
}

#[tokio::test]
async fn a_disabled_target_takes_nothing_until_it_is_enabled() {
    let (_folder, events) = fresh(Limits::default()).await;
    let id = put(&events, wanted("a", &[])).await;
    for n in 0..3 {
        events.publish(event(n)).await.unwrap();
    }
    let why = "gone".to_owned();
    settle(&events, id, Fate::Disabled { why }).await;
    events.publish(event(3)).await.unwrap();
    let gone = events.outbox().next(id).await.unwrap();
    assert!(matches!(gone, Next::Gone), "{gone:?}");
    let counts = status(&events, id).await;
    assert_eq!(counts.disabled.as_deref(), Some("gone"));
    assert_eq!((counts.queued, counts.kept), (0, 3));
    assert!(events.outbox().enable(id).await.unwrap());
    assert!(!events.outbox().enable(id).await.unwrap());
    events.publish(event(4)).await.unwrap();
    let first = events.outbox().given_up(id, 10).await.unwrap()[2].event;
    assert_eq!(events.outbox().replay(id, Some(first)).await.unwrap(), 1);
    assert_eq!(drain(&events, id).await, ["plain 0", "plain 4"]);
}

#[tokio::test]
async fn the_same_registration_twice_is_one_with_the_second_secret() {
    let (folder, events) = fresh(Limits::default()).await;
    let mut asked = wanted("a", &[EventName::NodeAdded, EventName::UserAdded]);
    asked.secret = Some(Secret::new("first-secret"));
    let first = events.outbox().put(asked.clone()).await.unwrap();
    asked.events.reverse();
    asked.secret = Some(Secret::new("second-secret"));
    let second = events.outbox().put(asked).await.unwrap();
    assert_eq!((first.id, first.created), (second.id, second.created));
    assert!(!format!("{second:?}").contains("second-secret"));
    drop(events);
    let events = open(folder.path(), Limits::default()).await;
    let kept = status(&events, first.id).await.target.wanted;
    assert_eq!(kept.secret, Some(Secret::new("second-secret")));
    assert!(events.outbox().remove(first.id).await.unwrap());
    assert!(!events.outbox().remove(first.id).await.unwrap());
}

#[tokio::test]
async fn targets_that_cannot_be_sent_to_are_refused() {
    let (_folder, events) = fresh(Limits::default()).await;
    let with_url = |url: &str| Wanted {
        url: url.to_owned(),
        ..wanted("a", &[])
    };
    let mut split = wanted("a", &[]);
    split.secret = Some(Secret::new("a\r\nx: y"));
    for unfit in [with_url("a"), with_url("ftp://a/"), with_url(""), split] {
        let refused = events.outbox().put(unfit).await;
        assert!(matches!(refused, Err(PutError::Unfit(_))), "{refused:?}");
    }
    for n in 0..256 {
        put(&events, wanted(&format!("host{n}"), &[])).await;
    }
    let refused = events.outbox().put(wanted("one-more", &[])).await;
    assert!(matches!(refused, Err(PutError::TooMany)), "{refused:?}");
    put(&events, wanted("host7", &[])).await;
}

#[tokio::test]
async fn configured_targets_follow_the_configuration_and_keep_their_queues() {
    let (_folder, events) = fresh(Limits::default()).await;
    let configured = |host: &str| Wanted {
        origin: Origin::Configuration,
        ..wanted(host, &[])
    };
    let outbox = events.outbox();
    let set =
        |hosts: &[&str]| outbox.configure("test", hosts.iter().map(|h| configured(h)).collect());
    set(&["a", "b"]).await.unwrap();
    let of_api = put(&events, wanted("c", &[])).await;
    events.publish(event(1)).await.unwrap();
    set(&["b", "d"]).await.unwrap();
    let mut queued = BTreeMap::new();
    for status in outbox.targets().await.unwrap() {
        let host = Url::parse(&status.target.wanted.url).unwrap();
        queued.insert(host.host_str().unwrap().to_owned(), status.queued);
    }
    let right = [("b", 1), ("c", 1), ("d", 0)];
    assert_eq!(queued, right.map(|(host, n)| (host.to_owned(), n)).into());
    assert_eq!(drain(&events, of_api).await, ["plain 1"]);
}

/// Something that happens to a target's queue.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many events are put in.
    Tell(u32),
    /// One is sent and taken, and that is written down.
    Deliver,
    /// One is sent and taken, and the agent dies before it is written down.
    DeliverAndCrash,
    /// One is sent and refused.
    Refuse,
    /// One is given up.
    GiveUp,
    /// What was given up waits again.
    Replay,
    /// The agent ends and starts.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..6_u32).prop_map(Step::Tell),
        Just(Step::Deliver),
        Just(Step::Deliver),
        Just(Step::DeliverAndCrash),
        Just(Step::Refuse),
        Just(Step::GiveUp),
        Just(Step::Replay),
        Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// What a target saw of a queue, step by step.
#[derive(Default)]
struct Seen {
    told: Vec<EventId>,
    taken: Vec<EventId>,
    replayed: bool,
}

async fn perform(step: Step, events: &mut Events, folder: &Path, id: TargetId, seen: &mut Seen) {
    let sent = head(events, id).await;
    match (step, sent) {
        (Step::Tell(count), _) => {
            for n in 0..count {
                let event = event(n);
                seen.told.push(event.id);
                events.publish(event).await.unwrap();
            }
        }
        (Step::Deliver, Some(sent)) => {
            seen.taken.push(sent.event);
            let outbox = events.outbox();
            outbox.settle(&sent, Fate::Delivered).await.unwrap();
        }
        (Step::DeliverAndCrash | Step::Reopen, sent) => {
            let sent = sent.filter(|_| matches!(step, Step::DeliverAndCrash));
            seen.taken.extend(sent.map(|sent| sent.event));
            let store = events.outbox().store().clone();
            *events = open(folder, Limits::default()).await;
            store.close().await;
        }
        (Step::Refuse, Some(sent)) => {
            let fate = Fate::Retry {
                pause: Duration::from_hours(1),
                refused: true,
                why: "no".to_owned(),
            };
            events.outbox().settle(&sent, fate).await.unwrap();
            let again = head(events, id).await.unwrap();
            assert_eq!(again.seq, sent.seq);
            assert_eq!(again.tried.refusals, sent.tried.refusals + 1);
            assert!(again.due > Some(Timestamp::now()) && again.tried.first.is_some());
        }
        (Step::GiveUp, Some(_)) => settle(events, id, given_up()).await,
        (Step::Replay, _) => {
            let replayed = events.outbox().replay(id, None).await.unwrap();
            seen.replayed |= replayed > 0;
        }
        (Step::Deliver | Step::Refuse | Step::GiveUp, None) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_is_lost_nor_out_of_order_whatever_happens_to_a_queue(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (folder, mut events) = fresh(Limits::default()).await;
            let id = put(&events, wanted("a", &[])).await;
            let mut seen = Seen::default();
            for step in steps {
                perform(step, &mut events, folder.path(), id, &mut seen).await;
            }
            let kept = events.outbox().given_up(id, 1_000).await.unwrap();
            let kept: Vec<_> = kept.into_iter().map(|kept| kept.event).collect();
            while let Some(sent) = head(&events, id).await {
                seen.taken.push(sent.event);
                events.outbox().settle(&sent, Fate::Delivered).await.unwrap();
            }
            // A crash repeats what was sent last, and nothing else.
            let mut once = seen.taken.clone();
            once.dedup();
            if !seen.replayed {
                assert!(once.is_sorted_by(|a, b| a < b));
            }
            let mut all: Vec<_> = once.iter().chain(&kept).copied().collect();
            all.sort();
            all.dedup();
            assert_eq!(all, seen.told);
            let counts = status(&events, id).await;
            assert_eq!((counts.queued, counts.queued_bytes), (0, 0));
            assert_eq!((counts.given_up, counts.kept), (kept.len() as u64, kept.len() as u64));
            assert_eq!(counts.delivered + counts.given_up, seen.told.len() as u64);
        });
    }
}
