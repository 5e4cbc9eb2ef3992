//! What readers are told, on paused time: who shares what, who gets a patch and who all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, pending};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::message::{self, Message};
use super::query::{EventsQuery, StatusQuery};
use super::room::Rooms;
use super::snapshot::{Cut, Snapshots};
use super::source::{Next, SIGN_EVERY, Source};
use crate::events::bus::{Bounds, Bus};
use crate::model::event::{Event, EventName};

/// Counts how often it was asked.
#[derive(Default)]
struct Counting {
    asked: AtomicUsize,
    /// Asked so often, it never answers again.
    silent_from: Option<usize>,
    /// Asked for so many times, it panics once.
    panics_at: Option<usize>,
    /// Bytes of padding.
    padding: AtomicUsize,
}

impl Snapshots for Counting {
    fn snapshot<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Value> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if self.silent_from.is_some_and(|from| asked >= from) {
            return pending().boxed();
        }
        assert_ne!(self.panics_at, Some(asked), "of a snapshot");
        // What changes, what comes and goes, and what is null.
        let mut snapshot = json!({
            "n": asked,
            "nothing": null,
            "nodes": [{"id": "edge-1", "message": null}],
            "users": {"total": asked / 3},
            "cut": cut.include,
            "padding": "x".repeat(self.padding.load(Ordering::Relaxed)),
        });
        snapshot[format!("k{}", asked % 3)] = json!({"at": asked, "none": null});
        async move { snapshot }.boxed()
    }
}

struct World {
    snapshots: Arc<Counting>,
    rooms: Rooms,
    bus: Bus,
}

impl World {
    fn new(snapshots: Counting) -> Self {
        let snapshots = Arc::new(snapshots);
        Self {
            rooms: Rooms::new(snapshots.clone()),
            snapshots,
            bus: Bus::new(Bounds::default(), []),
        }
    }

    async fn status(&self, query: Value) -> Source {
        let query: StatusQuery = serde_json::from_value(query).unwrap();
        let asked = query.asked(&http::HeaderMap::new()).unwrap();
        let source = Source::of_status(&self.rooms, &self.bus, asked).await;
        source.unwrap()
    }

    fn publish(&self, name: EventName, payload: &Value) {
        let event = Event::new(name, Timestamp::UNIX_EPOCH, payload);
        self.bus.publish(event.unwrap());
    }

    fn asked(&self) -> usize {
        self.snapshots.asked.load(Ordering::Relaxed)
    }
}

fn content(message: &Message) -> Value {
    serde_json::from_slice(&message.json()).unwrap()
}

async fn message(source: &mut Source) -> Value {
    loop {
        match source.next().await {
            Next::Message(message) => return content(&message),
            Next::Sign => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Takes a message into a client's idea of the snapshot.
fn take(known: &mut Value, message: &Value) {
    match message["type"].as_str() {
        Some("full") => *known = message["snapshot"].clone(),
        Some("diff") => json_patch::merge(known, &message["patch"]),
        _ => panic!("{message}"),
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_cut_share_a_snapshot_and_its_text_each_turn() {
    let world = World::new(Counting::default());
    let readers = (0..64).map(|_| world.status(json!({"mode": "diff"})));
    let mut readers = join_all(readers).await;
    assert_eq!(world.asked(), 1);
    for turn in 0..4 {
        let told = join_all(readers.iter_mut().map(Source::next)).await;
        assert_eq!(world.asked(), turn + 1);
        let told = told.into_iter().map(|next| match next {
            Next::Message(message) => message.sse(),
            other => panic!("{other:?}"),
        });
        let told: Vec<_> = told.collect();
        // Each made its first patch of what it began with; from then on they share one.
        if turn != 1 {
            assert!(told.iter().all(|text| text.as_ptr() == told[0].as_ptr()));
        }
        assert!(told.iter().all(|text| text == &told[0]));
    }
    let mut other = world
        .status(json!({"mode": "diff", "include": "nodes"}))
        .await;
    assert_eq!(world.asked(), 5);
    assert_eq!(
        message(&mut other).await["snapshot"]["cut"],
        json!(["nodes"])
    );
    assert_eq!(world.rooms.count(), 2);
    drop(readers);
    world.status(json!({})).await;
    assert_eq!(world.rooms.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_begins_with_what_is_true_then() {
    let world = World::new(Counting::default());
    let mut first = world.status(json!({"interval": "60"})).await;
    assert_eq!(message(&mut first).await["snapshot"]["n"], 1);
    sleep(Duration::from_secs(20)).await;
    let mut second = world.status(json!({"interval": "60"})).await;
    assert_eq!(message(&mut second).await["snapshot"]["n"], 2);
    let (one, two) = tokio::join!(message(&mut first), message(&mut second));
    assert_eq!(one, two);
    assert_eq!(world.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_pace_is_kept_and_patches_make_the_snapshot() {
    let world = World::new(Counting::default());
    let began = Instant::now();
    let mut whole = world.status(json!({"interval": "7"})).await;
    let mut patched = world.status(json!({"interval": "7", "mode": "diff"})).await;
    let mut known = Value::Null;
    for turn in 0..20_u64 {
        let (whole, patch) = tokio::join!(message(&mut whole), message(&mut patched));
        assert_eq!(began.elapsed().as_secs(), 7 * turn);
        assert_eq!(patch["type"], if turn == 0 { "full" } else { "diff" });
        take(&mut known, &patch);
        assert_eq!(known, whole["snapshot"]);
        assert!(known.get("nothing").is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_two_messages_behind_gets_the_newest_one_whole() {
    let world = World::new(Counting::default());
    let query = json!({"interval": "5", "mode": "diff"});
    let mut slow = world.status(query.clone()).await;
    let mut quick = world.status(query).await;
    for _ in 0..3 {
        message(&mut quick).await;
    }
    for _ in 0..2 {
        message(&mut slow).await;
    }
    for _ in 0..3 {
        message(&mut quick).await;
    }
    let newest = message(&mut slow).await;
    assert_eq!(newest["type"], "full");
    assert_eq!(newest["snapshot"]["n"], world.asked());
    let next = tokio::join!(message(&mut slow), message(&mut quick));
    assert_eq!(next.0, next.1);
    assert_eq!(next.0["type"], "diff");
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_nothing_to_tell_gives_signs_of_life() {
    let world = World::new(Counting::default());
    let mut status = world
        .status(json!({"interval": "60", "events": "node"}))
        .await;
    message(&mut status).await;
    for _ in 0..5 {
        let began = Instant::now();
        world.publish(EventName::UsersSynced, &json!({}));
        assert!(matches!(status.next().await, Next::Sign));
        assert_eq!(began.elapsed(), SIGN_EVERY);
    }
    assert!(SIGN_EVERY <= Duration::from_secs(15));
    world.publish(EventName::NodeAdded, &json!({"id": "edge-1"}));
    assert_eq!(message(&mut status).await["event"], "node.added");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_never_comes_delays_nothing_but_itself() {
    let world = World::new(Counting {
        silent_from: Some(2),
        ..Counting::default()
    });
    let mut status = world.status(json!({"events": "runtime"})).await;
    assert_eq!(message(&mut status).await["type"], "full");
    let began = Instant::now();
    assert!(matches!(status.next().await, Next::Sign));
    world.publish(EventName::UsersSynced, &json!({}));
    assert_eq!(message(&mut status).await["event"], "runtime.users_synced");
    assert_eq!(began.elapsed(), SIGN_EVERY);
    for _ in 0..10 {
        assert!(matches!(status.next().await, Next::Sign));
    }
    let query: StatusQuery = serde_json::from_value(json!({})).unwrap();
    let asked = query.asked(&http::HeaderMap::new()).unwrap();
    let refused = Source::of_status(&world.rooms, &world.bus, asked).await;
    assert!(refused.is_err(), "begun without a snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_panics_costs_its_turn_and_no_reader() {
    let world = World::new(Counting {
        panics_at: Some(2),
        ..Counting::default()
    });
    let query = json!({"mode": "diff"});
    let mut readers = [world.status(query.clone()).await, world.status(query).await];
    for n in [1, 3] {
        for told in join_all(readers.iter_mut().map(message)).await {
            let mut known = json!({});
            take(&mut known, &told);
            assert_eq!(known["n"], n, "{told}");
        }
    }
    assert_eq!(world.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_told_and_costs_no_memory() {
    let world = World::new(Counting::default());
    let mut status = world.status(json!({"events": "runtime"})).await;
    message(&mut status).await;
    let huge = json!({"text": "x".repeat(message::BYTES_MAX)});
    world.publish(EventName::UsersSynced, &huge);
    world.publish(EventName::UserAdded, &json!({}));
    assert_eq!(message(&mut status).await, json!({"missed": 1}));
    assert_eq!(message(&mut status).await["event"], "runtime.user_added");
    world
        .snapshots
        .padding
        .store(message::BYTES_MAX, Ordering::Relaxed);
    assert!(matches!(status.next().await, Next::TooLarge(_)));
}

#[tokio::test]
async fn who_missed_events_is_told_before_the_next_one() {
    let world = World::new(Counting::default());
    world.publish(EventName::NodeAdded, &json!({"n": 0}));
    let query = json!({"last_event_id": uuid::Uuid::nil().to_string(), "events": "node"});
    let query: EventsQuery = serde_json::from_value(query).unwrap();
    let asked = query.asked(&http::HeaderMap::new()).unwrap();
    let mut events = Source::of_events(&world.bus, asked);
    assert_eq!(message(&mut events).await, json!({"missed": null}));
    assert_eq!(message(&mut events).await["payload"]["n"], 0);
    for n in 1..=Bounds::default().events + 5 {
        world.publish(EventName::NodeAdded, &json!({ "n": n }));
    }
    let told = message(&mut events).await;
    assert!(told["missed"].as_u64().unwrap() >= 5, "{told}");
    drop(world);
    while let Next::Message(_) = events.next().await {}
    assert!(matches!(events.next().await, Next::Over));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whoever_reads_when_it_likes_knows_the_snapshot_after_each_message(
        pauses in prop::collection::vec((0..20_u64, 0..3_usize), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new(Counting::default());
            let query = json!({"interval": "3", "mode": "diff"});
            let mut readers = Vec::new();
            for _ in 0..3 {
                readers.push((world.status(query.clone()).await, Value::Null));
                sleep(Duration::from_millis(700)).await;
            }
            for (pause, which) in pauses {
                sleep(Duration::from_secs(pause)).await;
                let (source, known) = &mut readers[which];
                let was = known["n"].as_u64();
                take(known, &message(source).await);
                // Which snapshot it is stands in all of its parts.
                let n = known["n"].as_u64().unwrap();
                assert!(was.is_none_or(|was| was < n), "{was:?}, {n}");
                assert_eq!(known["users"]["total"], n / 3);
                assert_eq!(known[format!("k{}", n % 3)], json!({"at": n}));
                assert_eq!(known.as_object().unwrap().len(), 5, "{known}");
            }
        });
    }
}
