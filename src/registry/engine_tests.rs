//! Nodes over restarts of the agent and steps of the clock: each change is told once and none is lost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use super::engine::{Handle, RegistryError};
use super::inbounds::{Look, Managed};
use super::lives::{Node, Refused, Said};
use crate::base::clock::Clock;
use crate::events::Events;
use crate::events::bus::{Bounds, Heard, Subscription};
use crate::events::outbox::{Limits, Outbox};
use crate::model::delivery::Render;
use crate::model::event::Event;
use crate::model::health::Thresholds;
use crate::store::agent;

/// The promises are about order, not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";

struct NoBodies;

impl Render for NoBodies {
    fn body(&self, _owner: &str, _form: &str, _event: &Event) -> Option<String> {
        None
    }
}

/// One run of the agent.
struct Run {
    registry: Handle,
    heard: Subscription,
    events: Events,
}

impl Run {
    /// Begins so many seconds after the first.
    async fn begin(folder: &Path, second: i64) -> Self {
        let clock = Clock::following(Timestamp::from_second(1_800_000_000 + second).unwrap());
        let store = agent::start(folder, clock).unwrap();
        let outbox = Outbox::new(store, Limits::default(), clock);
        let events = Events::start(outbox, Arc::new(NoBodies), Bounds::default()).await;
        let heard = events.bus().subscribe(None);
        let registry = Handle::open(events.clone(), Thresholds::default(), clock).await;
        Self {
            registry,
            heard,
            events,
        }
    }

    async fn end(self) {
        let store = self.events.outbox().store().clone();
        drop((self.registry, self.heard, self.events));
        store.close().await;
    }

    /// What was told since the last time: names and node.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(Heard::Event(event)) = self.heard.try_next() {
            let payload: Value = serde_json::from_str(event.payload.get()).unwrap();
            assert_eq!(payload["event"], event.name.name());
            assert!(payload["triggered_at"].is_string());
            let node = payload["node_id"].as_str().unwrap();
            told.push(format!("{} {node}", event.name));
        }
        told
    }

    async fn passed(&self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        self.registry.look_at_silence().await.unwrap();
    }

    async fn looked(&self, id: &str, failures: u32) {
        let look = Look {
            id: id.to_owned(),
            protocol: Some("vless".to_owned()),
            failures,
            message: None,
        };
        self.registry.looked(look).await.unwrap();
    }

    async fn manage(&self, ids: &[&str]) {
        let managed = ids.iter().map(|id| Managed {
            id: (*id).to_owned(),
            protocol: None,
        });
        self.registry.manage(managed.collect()).await.unwrap();
    }
}

fn folder() -> TempDir {
    tempfile::tempdir_in(IN_MEMORY).unwrap()
}

fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        role: "listener".to_owned(),
        protocol: "vless".to_owned(),
        tags: Vec::new(),
        description: None,
        listen: None,
        connect: None,
        ttl: Duration::from_secs(90),
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_told_unhealthy_and_then_removed() {
    let folder = folder();
    let mut run = Run::begin(folder.path(), 0).await;
    run.registry.register(node("a")).await.unwrap();
    run.passed(89).await;
    assert_eq!(run.told(), ["node_added a"]);
    run.passed(1).await;
    assert_eq!(run.told(), ["node_unhealthy a"]);
    let lease = run.registry.heartbeat("a", Said::Healthy, None).await;
    assert_eq!(lease.unwrap().heartbeat_interval, Duration::from_secs(30));
    assert_eq!(run.told(), ["node_healthy a"]);
    run.passed(270).await;
    assert_eq!(run.told(), ["node_unhealthy a", "node_removed a"]);
    assert!(run.registry.list().is_empty());
    let late = run.registry.heartbeat("a", Said::Healthy, None).await;
    assert!(matches!(
        late,
        Err(RegistryError::Refused(Refused::Unknown))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_node_has_a_heartbeat_interval_to_come_back_after_the_agent_was_down() {
    let folder = folder();
    let mut run = Run::begin(folder.path(), 0).await;
    for id in ["comes", "stays-away"] {
        run.registry.register(node(id)).await.unwrap();
    }
    assert_eq!(run.told().len(), 2);
    run.end().await;
    let mut run = Run::begin(folder.path(), 1_000).await;
    assert_eq!(run.registry.list().len(), 2);
    run.passed(29).await;
    assert!(run.told().is_empty());
    let came = run.registry.heartbeat("comes", Said::Healthy, None).await;
    came.unwrap();
    run.passed(1).await;
    let gone = ["node_unhealthy stays-away", "node_removed stays-away"];
    assert_eq!(run.told(), gone);
    assert_eq!(run.registry.list()[0].node.id, "comes");
}

#[tokio::test(start_paused = true)]
async fn a_registration_with_the_id_of_a_managed_inbound_is_refused_and_an_older_one_gives_way() {
    let folder = folder();
    let mut run = Run::begin(folder.path(), 0).await;
    run.registry.register(node("a")).await.unwrap();
    run.manage(&["a"]).await;
    let told = ["node_added a", "node_removed a", "node_added a"];
    assert_eq!(run.told(), told);
    let refused = run.registry.register(node("a")).await;
    assert!(matches!(refused, Err(RegistryError::Managed(id)) if id == "a"));
    assert!(matches!(
        run.registry.remove("a").await,
        Err(RegistryError::Refused(Refused::Unknown))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_managed_inbound_comes_and_goes_by_the_configuration_and_not_by_a_restart() {
    let folder = folder();
    let mut run = Run::begin(folder.path(), 0).await;
    run.manage(&["a", "b"]).await;
    assert_eq!(run.told(), ["node_added a", "node_added b"]);
    run.end().await;
    let mut run = Run::begin(folder.path(), 10).await;
    run.manage(&["a", "b"]).await;
    run.looked("a", 0).await;
    assert!(run.told().is_empty());
    run.manage(&["b", "c"]).await;
    assert_eq!(run.told(), ["node_removed a", "node_added c"]);
}

#[tokio::test(start_paused = true)]
async fn what_became_of_an_inbound_while_the_agent_was_down_is_told_at_the_first_look() {
    let folder = folder();
    let mut run = Run::begin(folder.path(), 0).await;
    run.manage(&["a"]).await;
    for failures in 0..5 {
        run.looked("a", failures).await;
    }
    let told = ["node_added a", "node_degraded a", "node_unhealthy a"];
    assert_eq!(run.told(), told);
    run.end().await;
    let mut run = Run::begin(folder.path(), 10).await;
    run.manage(&["a"]).await;
    run.looked("a", 1).await;
    assert!(run.told().is_empty(), "it was unhealthy before");
    assert_eq!(run.registry.inbounds()[0].health.word(), "unhealthy");
    run.looked("a", 0).await;
    assert_eq!(run.told(), ["node_healthy a"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_too_much_is_refused_and_its_last_words_are_cut() {
    let folder = folder();
    let run = Run::begin(folder.path(), 0).await;
    let long = Node {
        tags: vec!["x".repeat(5_000)],
        ..node("a")
    };
    let refused = run.registry.register(long).await;
    assert!(matches!(refused, Err(RegistryError::TooLong)));
    run.registry.register(node("a")).await.unwrap();
    let words = Some("words\n".repeat(1_000));
    let heard = run.registry.heartbeat("a", Said::Degraded, words).await;
    heard.unwrap();
    let message = run.registry.list()[0].message.clone().unwrap();
    assert!(
        message.len() < 1_000 && !message.contains('\n'),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_that_come_together_are_all_taken() {
    let folder = folder();
    let mut run = Run::begin(folder.path(), 0).await;
    let ids: Vec<_> = (0..50).map(|n| format!("node-{n:02}")).collect();
    let registrations = ids.iter().map(|id| run.registry.register(node(id)));
    for taken in futures_util::future::join_all(registrations).await {
        taken.unwrap();
    }
    let unwell = ids
        .iter()
        .map(|id| run.registry.heartbeat(id, Said::Unhealthy, None));
    for taken in futures_util::future::join_all(unwell).await {
        taken.unwrap();
    }
    let told = run.told();
    assert_eq!(told.len(), 100);
    for id in &ids {
        let of_node: Vec<_> = told.iter().filter(|it| it.ends_with(id.as_str())).collect();
        let right = [format!("node_added {id}"), format!("node_unhealthy {id}")];
        assert_eq!(of_node, right.iter().collect::<Vec<_>>());
    }
    let shown = run.registry.list();
    assert!(shown.iter().all(|node| node.health.word() == "unhealthy"));
    assert_eq!(shown.len(), 50);
}
