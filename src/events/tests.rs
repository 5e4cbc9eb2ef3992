//! Streams: no gap and no repeat over disconnects and restarts, and no cost of those that are stuck.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::bus::{Bounds, Bus, Heard, Subscription};
use super::outbox::{Limits, Outbox};
use super::*;
use crate::base::clock::Clock;
use crate::model::event::{EventId, EventName};
use crate::store::agent;

/// The promises are about order, not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";
const NOBODY: EventId = EventId(uuid::Uuid::nil());

struct NoBodies;

impl Render for NoBodies {
    fn body(&self, _owner: &str, _form: &str, _event: &Event) -> Option<String> {
        None
    }
}

fn event(n: u32) -> Event {
    let payload = json!({ "n": n });
    Event::new(EventName::UsersSynced, Timestamp::UNIX_EPOCH, &payload).unwrap()
}

fn number(event: &Event) -> u32 {
    let payload: serde_json::Value = serde_json::from_str(event.payload.get()).unwrap();
    u32::try_from(payload["n"].as_u64().unwrap()).unwrap()
}

fn small(events: usize) -> Bounds {
    Bounds {
        events,
        bytes: usize::MAX,
    }
}

async fn events(folder: &std::path::Path, bounds: Bounds) -> Events {
    let store = agent::start(folder, Clock::system()).unwrap();
    let outbox = Outbox::new(store, Limits::default(), Clock::system());
    Events::start(outbox, Arc::new(NoBodies), bounds).await
}

/// A client of a stream: what it heard, and the last number that it would give back.
#[derive(Default)]
struct Client {
    heard: Vec<u32>,
    last: Option<EventId>,
    missed: bool,
}

impl Client {
    fn hear(&mut self, subscription: &mut Subscription, most: usize) {
        for _ in 0..most {
            match subscription.try_next() {
                None => return,
                Some(Heard::Missed(_)) => self.missed = true,
                Some(Heard::Event(event)) => {
                    self.heard.push(number(&event));
                    self.last = Some(event.id);
                }
            }
        }
    }
}

fn numbers(heard: impl IntoIterator<Item = Heard>) -> Vec<Result<u32, Option<u64>>> {
    heard
        .into_iter()
        .map(|heard| match heard {
            Heard::Event(event) => Ok(number(&event)),
            Heard::Missed(count) => Err(count),
        })
        .collect()
}

fn all(subscription: &mut Subscription) -> Vec<Result<u32, Option<u64>>> {
    numbers(std::iter::from_fn(|| subscription.try_next()))
}

#[test]
fn a_reader_that_fell_behind_is_told_how_much_it_missed() {
    let bus = Bus::new(small(3), []);
    let mut reader = bus.subscribe(None);
    (0..5).for_each(|n| bus.publish(event(n)));
    assert_eq!(all(&mut reader), [Err(Some(2)), Ok(2), Ok(3), Ok(4)]);
    bus.publish(event(5));
    assert_eq!(all(&mut reader), [Ok(5)]);
}

#[test]
fn a_stream_goes_on_after_the_number_it_names() {
    let known: Vec<_> = (0..4).map(event).collect();
    let bus = Bus::new(small(10), known.clone());
    let after = |id| all(&mut bus.subscribe(Some(id)));
    assert_eq!(after(known[1].id), [Ok(2), Ok(3)]);
    assert_eq!(after(known[3].id), []);
    assert!(all(&mut bus.subscribe(None)).is_empty());
}

#[test]
fn a_number_that_is_not_remembered_is_told_and_followed_by_what_is_younger() {
    let lost = event(0);
    let known: Vec<_> = (1..3).map(event).collect();
    let between = EventId::generate();
    let later = event(3);
    let bus = Bus::new(small(10), known.into_iter().chain([later]));
    let after = |id| all(&mut bus.subscribe(Some(id)));
    assert_eq!(after(lost.id), [Err(None), Ok(1), Ok(2), Ok(3)]);
    assert_eq!(after(between), [Err(None), Ok(3)]);
    assert_eq!(after(EventId::generate()), [Err(None)]);
    assert_eq!(after(NOBODY).len(), 4);
}

#[test]
fn what_is_remembered_is_bounded_by_bytes_whoever_listens() {
    let bounds = Bounds {
        events: 10_000,
        bytes: 100_000,
    };
    let bus = Bus::new(bounds, []);
    let mut stuck: Vec<_> = (0..16).map(|_| bus.subscribe(None)).collect();
    let mut quick = bus.subscribe(None);
    for n in 0..20_000 {
        bus.publish(event(n));
        assert_eq!(all(&mut quick), [Ok(n)]);
    }
    let (count, bytes) = bus.remembered();
    assert!(bytes <= 100_000 && count > 400, "{count} in {bytes} bytes");
    for reader in &mut stuck {
        assert!(size_of_val(reader) < 128);
        let heard = all(reader);
        assert_eq!(heard[0], Err(Some(20_000 - count as u64)));
        assert_eq!(heard.len(), count + 1);
    }
    // One that is larger than all of it is not remembered, and told of.
    let huge = json!({ "n": 1, "text": "x".repeat(200_000) });
    bus.publish(Event::new(EventName::UserAdded, Timestamp::UNIX_EPOCH, &huge).unwrap());
    assert_eq!(all(&mut quick), [Err(Some(1))]);
    assert_eq!(bus.remembered(), (0, 0));
}

#[tokio::test]
async fn a_reader_that_waits_hears_an_event_and_the_end_of_the_bus() {
    let bus = Bus::new(Bounds::default(), []);
    let mut reader = bus.subscribe(None);
    let publish = async {
        tokio::task::yield_now().await;
        bus.publish(event(7));
    };
    let (heard, ()) = tokio::join!(reader.next(), publish);
    assert_eq!(numbers(heard), [Ok(7)]);
    drop(bus);
    assert!(reader.next().await.is_none());
}

#[tokio::test]
async fn an_event_goes_with_its_transaction() {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let events = events(folder.path(), Bounds::default()).await;
    let mut reader = events.bus().subscribe(None);
    let recording = events.clone();
    let undone: Result<(), _> = events
        .outbox()
        .store()
        .write("test", move |work| {
            recording.record(work, event(1))?;
            Err(WorkError::from(rusqlite::Error::QueryReturnedNoRows))
        })
        .await;
    assert!(undone.is_err());
    events.publish(event(2)).await.unwrap();
    assert_eq!(all(&mut reader), [Ok(2)]);
}

#[tokio::test]
async fn what_the_store_does_not_take_streams_hear_all_the_same() {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let absent = folder.path().join("absent");
    let events = events(&absent, Bounds::default()).await;
    let mut reader = events.bus().subscribe(None);
    let done = events.publish(event(1)).await;
    assert!(matches!(done, Err(StoreError::Unavailable(_))), "{done:?}");
    assert_eq!(all(&mut reader), [Ok(1)]);
    std::fs::create_dir(absent).unwrap();
    events.publish(event(2)).await.unwrap();
    assert_eq!(all(&mut reader), [Ok(2)]);
}

#[tokio::test]
async fn the_journal_keeps_no_more_than_the_bus() {
    let bounds = Bounds {
        events: 400,
        bytes: 20 * event(0).bytes(),
    };
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let told = events(folder.path(), bounds).await;
    let publish = (0..512).map(|n| told.publish(event(n)));
    for done in futures_util::future::join_all(publish).await {
        done.unwrap();
    }
    let store = told.outbox().store().clone();
    let kept = store
        .read("test", |work| journal::read(work))
        .await
        .unwrap();
    let kept: Vec<_> = kept.iter().map(number).collect();
    let latest = (0..512).rev().take(kept.len());
    assert!(kept.len() < 25 && kept.iter().rev().copied().eq(latest));
    drop(told);
    store.close().await;
    let again = events(folder.path(), bounds).await;
    assert!(again.bus().remembered().1 <= bounds.bytes);
}

#[tokio::test]
async fn a_damaged_store_costs_the_streams_no_more_than_a_word() {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    std::fs::write(agent::file(folder.path()), "not a database at all").unwrap();
    let events = events(folder.path(), Bounds::default()).await;
    let mut reader = events.bus().subscribe(Some(EventId::generate()));
    events.publish(event(1)).await.unwrap();
    assert_eq!(all(&mut reader), [Err(None), Ok(1)]);
    let set_aside = events.outbox().store().health().set_aside.unwrap();
    assert_eq!(std::fs::read(set_aside).unwrap(), b"not a database at all");
}

#[tokio::test]
async fn readers_over_disconnects_and_restarts_hear_10_000_events_without_gap_or_repeat() {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let mut now = events(folder.path(), small(2_000)).await;
    let mut clients: Vec<_> = (0..8).map(|_| Client::default()).collect();
    let mut readers: Vec<_> = clients.iter().map(|_| now.bus().subscribe(None)).collect();
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    let mut next = 0;
    while next < 10_000 {
        // Told at once, so that they share commits; the order is that of the commits.
        let several: Vec<_> = (next..next + 50).map(event).collect();
        next += 50;
        let told = several.into_iter().map(|event| now.publish(event));
        for done in futures_util::future::join_all(told).await {
            done.unwrap();
        }
        if roll(20) == 0 {
            readers.clear();
            let store = now.outbox().store().clone();
            drop(now);
            store.close().await;
            now = events(folder.path(), small(2_000)).await;
            readers.extend(clients.iter().map(|c| now.bus().subscribe(c.last)));
        }
        for (client, reader) in clients.iter_mut().zip(&mut readers) {
            if roll(4) == 0 {
                *reader = now.bus().subscribe(client.last);
            }
            client.hear(reader, usize::try_from(roll(120)).unwrap());
        }
    }
    for (client, reader) in clients.iter_mut().zip(&mut readers) {
        client.hear(reader, usize::MAX);
        // One that had heard nothing before a restart has no number to go on from.
        let first = client.heard[0];
        assert!(!client.missed && first < 1_000, "{first}");
        assert!(client.heard.iter().copied().eq(first..10_000));
    }
}

proptest! {
    #[test]
    fn whoever_comes_back_hears_each_event_once_or_that_it_missed_some(
        steps in prop::collection::vec((0..12_u32, 0..15_usize, any::<bool>()), 1..60),
    ) {
        let bus = Bus::new(small(10), []);
        let (mut client, mut told) = (Client::default(), 0);
        let mut reader = bus.subscribe(None);
        for (publish, hear, comes_back) in steps {
            for _ in 0..publish {
                bus.publish(event(told));
                told += 1;
            }
            if comes_back && client.last.is_some() {
                reader = bus.subscribe(client.last);
            }
            for _ in 0..hear {
                let before = client.heard.last().copied();
                client.hear(&mut reader, 1);
                let now = client.heard.last().copied();
                if before != now {
                    let follows = before.zip(now).is_none_or(|(before, now)| {
                        now == before + 1 || (client.missed && now > before)
                    });
                    prop_assert!(follows, "{before:?}, {now:?}");
                    client.missed = false;
                }
            }
        }
    }
}
