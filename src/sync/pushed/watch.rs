//! Looks after quotas: sees by the counted bytes who ran out or has room again, has him taken off or
//! added at once, writes that down, and tells it until somebody has taken note; that is written down,
//! too. A crash in between has it told twice, never not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::quota::{QuotaChanged, QuotaWatch, Room, Untold, used_in_force};
use super::record::Stored;
use super::set::{Change, Exhausted, Told};
use super::{Pushed, Scope, Whose, lock, read, write};
use crate::base::failpoint;
use crate::base::supervise::{Heartbeat, Shutdown};

/// At the latest after this the loop wakes, so that it can be seen to live.
const WAKE: Duration = Duration::from_secs(30);
/// Who did not take note is told again after this: he may wait for a full disk.
const AGAIN: Duration = Duration::from_secs(5);
/// So many changes are told before that is written down, and before the next look at who ran out.
const TOLD_AT_ONCE: usize = 64;

/// Runs until the end is asked for. `reconcile` asks for a pass without waiting for it.
pub(in crate::sync) async fn run(
    pushed: Arc<Pushed>,
    watch: Arc<dyn QuotaWatch>,
    reconcile: impl Fn(),
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let mut tells_at = Instant::now();
    loop {
        heartbeat.beat();
        if pushed.turn().await {
            reconcile();
        }
        if tells_at <= Instant::now() && !pushed.tell(&*watch, &heartbeat).await {
            tells_at = Instant::now() + AGAIN;
        }
        let wakes_at = if lock(&pushed.news).is_empty() {
            Instant::now() + WAKE
        } else {
            tells_at
        };
        // All arms are cancel-safe.
        tokio::select! {
            () = shutdown.requested() => return,
            () = pushed.bell.notified() => {}
            () = tokio::time::sleep_until(wakes_at) => {}
        }
    }
}

impl Pushed {
    /// Tells of some of the quotas that changed; whether somebody took note of all of those.
    async fn tell(self: &Arc<Self>, watch: &dyn QuotaWatch, heartbeat: &Heartbeat) -> bool {
        let mut done = Vec::new();
        let mut is_heard = true;
        for (whose, change) in self.untold() {
            let Some(change) = change else {
                done.push((whose, None));
                continue;
            };
            let current = change.current;
            failpoint::reach("pushed.tell.before");
            is_heard = watch.changed(change).await;
            heartbeat.beat();
            if !is_heard {
                break;
            }
            failpoint::reach("pushed.tell.after");
            done.push((whose, Some(current)));
        }
        if !done.is_empty() {
            let kept = self.mutate(|pushed| {
                pushed.keep_told(done);
                Ok(())
            });
            if let Err(error) = kept.await {
                warn!("{error}");
            }
        }
        is_heard
    }

    /// Some of the changes that are to be told; nothing of whoever went meanwhile.
    pub(super) fn untold(&self) -> Vec<(Whose, Option<QuotaChanged>)> {
        let sets = read(&self.sets);
        let news = lock(&self.news);
        let some = news.iter().take(TOLD_AT_ONCE).map(|whose| {
            let user = sets.get(&whose.0).and_then(|slot| slot.set.get(&whose.1));
            (whose.clone(), user.and_then(Stored::news))
        });
        some.collect()
    }

    /// Writes down of what somebody took note, with how the user stood by it.
    pub(super) fn keep_told(&self, done: Vec<(Whose, Option<Room>)>) {
        let mut told: BTreeMap<&Scope, Vec<(&str, Room)>> = BTreeMap::new();
        for ((scope, id), current) in &done {
            if let Some(current) = current {
                told.entry(scope).or_default().push((id, *current));
            }
        }
        for (scope, of_set) in told {
            self.hold(scope, || {
                let changes = of_set.iter().map(|(id, current)| {
                    Change::Told(Told {
                        id: (*id).into(),
                        current: *current,
                    })
                });
                changes.collect()
            });
        }
        let sets = read(&self.sets);
        let mut news = lock(&self.news);
        for (whose, _) in done {
            let user = sets.get(&whose.0).and_then(|slot| slot.set.get(&whose.1));
            if user.is_none_or(|user| user.untold.is_none()) {
                news.remove(&whose);
            }
        }
    }

    /// Writes changes down. Where that fails they hold all the same, until a restart: who was taken off
    /// has to be known.
    fn hold(&self, scope: &Scope, changes: impl Fn() -> Vec<Change>) {
        if let Err(error) = self.commit(scope, changes()) {
            warn!("{error}; quotas that changed are told once more after a restart");
            if let Some(slot) = write(&self.sets).get_mut(scope) {
                for change in changes() {
                    slot.set.apply(change, &self.key);
                }
            }
            self.changed();
        }
    }
}

/// Users of a set who ran out or have room again.
type Turned = BTreeMap<Scope, BTreeMap<Arc<str>, Untold>>;

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
                    of_set.insert(user.id.clone(), Untold { previous, current });
                }
            }
            if !of_set.is_empty() {
                turned.insert(scope.clone(), of_set);
            }
        }
        turned
    }

    /// Writes it down, to be told then.
    fn keep_turned(&self, turned: Turned) {
        for (scope, of_set) in turned {
            self.hold(&scope, || {
                let changes = of_set.iter().map(|(id, untold)| {
                    Change::Exhausted(Exhausted {
                        id: Box::from(&**id),
                        is: untold.current.is_exhausted(),
                        untold: Some(*untold),
                    })
                });
                changes.collect()
            });
            let whose = of_set.into_keys().map(|id| (scope.clone(), id));
            lock(&self.news).extend(whose);
        }
    }
}
