//! What becomes of pushed users, told as events: quotas that change, and bytes that a panel took.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::super::agent_store::AgentStore;
use super::super::run::HANGS_AFTER;
use crate::base::supervise::{Heartbeat, Kind, Shutdown, Supervisor};
use crate::model::event::EventName;
use crate::model::pushed::{Owner, Owners};
use crate::model::report::{Taken, TakenBytes};
use crate::sync::pushed::Pushed;
use crate::sync::pushed::quota::{QuotaChanged, QuotaWatch, Room};

/// Events of taken bytes that wait; beyond it they are left out: streams show them, nobody is billed by
/// them.
const WAITING_MAX: usize = 256;
/// Records that one event names; of a larger batch it has the sums only, or it would fill the memory of
/// streams.
const RECORDS_MAX: usize = 100;
/// So often the task shows that it lives.
const NAP: std::time::Duration = std::time::Duration::from_secs(20);

/// Tells of quotas.
pub(in crate::app) struct Quotas(pub(in crate::app) AgentStore);

impl QuotaWatch for Quotas {
    fn changed(&self, change: QuotaChanged) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let payload = payload(&change);
            self.0.tell(EventName::UserQuotaChanged, &payload).await
        })
    }
}

/// The panel's number of the user where it has one, as in records of traffic.
fn payload(change: &QuotaChanged) -> Value {
    let user = change
        .user_id
        .map_or_else(|| json!(change.id.0), Value::from);
    let mut payload = json!({
        "user_id": user,
        "previous": room(change.previous),
        "current": room(change.current),
        "exhausted": change.exhausted,
    });
    if let Some(id) = change.subscription_id {
        payload["subscription_id"] = id.into();
    }
    payload
}

fn room(room: Room) -> Value {
    json!({ "used": room.used, "remaining": room.remaining })
}

/// Tells of bytes that panels took. Cheap to clone.
#[derive(Clone)]
pub(in crate::app) struct TakenTeller {
    waiting: Sender<Value>,
    coming: Arc<Mutex<Receiver<Value>>>,
    pushed: Arc<Pushed>,
}

impl TakenTeller {
    pub(in crate::app) fn new(pushed: Arc<Pushed>) -> Self {
        let (waiting, coming) = channel(WAITING_MAX);
        Self {
            waiting,
            coming: Arc::new(Mutex::new(coming)),
            pushed,
        }
    }

    /// Has them told for as long as the agent runs.
    pub(in crate::app) fn add(&self, store: &AgentStore, supervisor: &mut Supervisor) {
        let (coming, store) = (self.coming.clone(), store.clone());
        let tell = move |shutdown, beat| tell(coming.clone(), store.clone(), shutdown, beat);
        supervisor
            .tasks()
            .watched_task("taken bytes", Kind::Leaf, HANGS_AFTER, tell);
    }

    fn record(&self, taken: &Taken) -> Value {
        let mut record = json!({
            "inbound": taken.inbound.tag.0,
            "bytes_up": taken.up,
            "bytes_down": taken.down,
        });
        if let Some(Owner {
            user_id,
            subscription_id,
        }) = self.pushed.owner(taken.user)
        {
            record["user_id"] = user_id.into();
            record["subscription_id"] = subscription_id.into();
        }
        record
    }
}

impl TakenBytes for TakenTeller {
    fn taken(&self, sink: &str, records: &[Taken]) {
        let sum = |of: fn(&Taken) -> u64| records.iter().map(of).sum::<u64>();
        let mut payload = json!({
            "sink": sink,
            "users": records.len(),
            "bytes_up": sum(|it| it.up),
            "bytes_down": sum(|it| it.down),
        });
        if records.len() <= RECORDS_MAX {
            payload["records"] = records.iter().map(|it| self.record(it)).collect();
        }
        // Nobody waits here: see WAITING_MAX.
        let _ = self.waiting.try_send(payload);
    }
}

async fn tell(
    coming: Arc<Mutex<Receiver<Value>>>,
    store: AgentStore,
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let mut coming = coming.lock().await;
    loop {
        heartbeat.beat();
        // All arms are cancel-safe.
        tokio::select! {
            () = shutdown.requested() => return,
            Some(payload) = coming.recv() => {
                store.tell(EventName::UserTrafficReported, &payload).await;
            }
            () = tokio::time::sleep(NAP) => {}
        }
    }
}
