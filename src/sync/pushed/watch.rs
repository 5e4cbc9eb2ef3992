//! Looks after quotas: sees by the counted bytes who ran out or has room again, has him taken off or
//! added at once, writes that down, and then tells it, so that nothing is told twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::quota::{QuotaChanged, QuotaWatch, Room, used_in_force};
use super::set::{Change, Exhausted};
use super::{Pushed, Scope, lock, read, write};
use crate::base::supervise::{Heartbeat, Shutdown};

/// At the latest after this the loop wakes, so that it can be seen to live.
const WAKE: Duration = Duration::from_secs(30);

/// Runs until the end is asked for. `reconcile` asks for a pass without waiting for it.
pub(in crate::sync) async fn run(
    pushed: Arc<Pushed>,
    watch: Arc<dyn QuotaWatch>,
    reconcile: impl Fn(),
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    loop {
        heartbeat.beat();
        if pushed.turn().await {
            reconcile();
        }
        let news = std::mem::take(&mut *lock(&pushed.news));
        for change in news {
            watch.changed(change).await;
            heartbeat.beat();
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = pushed.bell.notified() => {}
            () = tokio::time::sleep(WAKE) => {}
        }
    }
}

/// Users of a set who ran out or have room again.
type Turned = BTreeMap<Scope, Vec<QuotaChanged>>;

impl Pushed {
    /// Takes whoever ran out off, and whoever has room again in; whether there was somebody.
    async fn turn(self: &Arc<Self>) -> bool {
        if !lock(&self.counts).are_touched() {
            return false;
        }
        let done = self.mutate(|pushed| Ok(pushed.turn_now()));
        done.await.unwrap_or_else(|error| {
            warn!("{error}");
            true
        })
    }

    /// The same, for whoever is the one writer.
    pub(super) fn turn_now(&self) -> bool {
        let turned = self.find_turned();
        let is_news = !turned.is_empty();
        self.keep_turned(turned);
        is_news
    }

    /// Whose counted bytes make a difference.
    fn find_turned(&self) -> Turned {
        let mut turned = Turned::new();
        let sets = read(&self.sets);
        let mut counts = lock(&self.counts);
        let before = counts.take_touched();
        for (scope, slot) in sets.iter() {
            let mut of_set = BTreeMap::new();
            for user in before.keys().flat_map(|user| slot.set.owning(*user)) {
                let room = |counted| {
                    let used = used_in_force(user.quota.used, counted, user.base);
                    Room::of(user.quota, used)
                };
                let current = room(counts.counted(user));
                if current.is_exhausted() != user.exhausted {
                    let previous = room(counts.counted_before(user, &before));
                    of_set.insert(user.id.clone(), user.news(previous, current));
                }
            }
            if !of_set.is_empty() {
                turned.insert(scope.clone(), of_set.into_values().collect());
            }
        }
        turned
    }

    /// Writes it down, to be told then. Where that fails it holds and is told all the same: who was
    /// taken off has to be known.
    fn keep_turned(&self, turned: Turned) {
        for (scope, of_set) in turned {
            let changes = of_set.iter().map(|change| {
                Change::Exhausted(Exhausted {
                    id: change.id.0.clone(),
                    is: change.exhausted,
                })
            });
            if let Err(error) = self.commit(&scope, changes.collect()) {
                warn!("{error}; quotas that ran out are told once more after a restart");
                if let Some(slot) = write(&self.sets).get_mut(&scope) {
                    for change in &of_set {
                        slot.set.set_exhausted(&change.id.0, change.exhausted);
                    }
                }
                self.changed();
            }
            lock(&self.news).extend(of_set);
        }
    }
}
