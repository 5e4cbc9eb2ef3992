//! From counters to bytes: what is new since they were last counted. Keeps: nothing is negative, and
//! no byte that Xray counted is counted here twice. Pure.

use std::collections::HashMap;

use super::baselines::{Baselines, Bytes, Moved, Name, Odd};
use super::forms::{Forms, Owner};
use crate::model::ids::{NodeId, UserId};
use crate::xray::counters::{Counter, UserCounters};

/// What a counter's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// New bytes are those above the baseline.
    Count,
    /// All of it was there before us: it becomes the baseline and nobody is billed.
    Adopt,
}

/// Against what counters are read.
#[derive(Clone, Copy, Debug)]
pub struct Against<'a> {
    /// Whose counters are whose.
    pub forms: &'a Forms,
    /// As last counted in this boot.
    pub baselines: &'a Baselines,
    /// As last counted in boots that may be this one; only what is above all of them is new.
    pub twins: &'a [&'a Baselines],
    /// What values mean.
    pub reading: Reading,
}

/// To whom bytes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// The node that they count for.
    pub node: NodeId,
    /// The inbound, by its place in the forms; `None` where it is not managed any more.
    pub inbound: Option<u16>,
    /// The user.
    pub user: UserId,
}

/// What one bulk read comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// New bytes of each user in each inbound, none of them zero.
    pub deltas: HashMap<At, Bytes>,
    /// Baselines that move.
    pub moved: Vec<Moved>,
    /// Bytes that were there before us.
    pub adopted: Bytes,
    /// Counters of ours that were read, each way by itself.
    pub ours: usize,
    /// Counters of others, each way by itself.
    pub foreign: usize,
    /// Their bytes, both ways, since Xray started.
    pub foreign_bytes: u64,
    /// Counters that went back within one boot: somebody else resets them.
    pub resets: usize,
}

/// Counts `counters`.
pub fn count(against: Against<'_>, counters: &UserCounters) -> Counted {
    let mut count = Count {
        against,
        moved: HashMap::new(),
        counted: Counted::default(),
    };
    for counter in counters.iter() {
        count.take(counter);
    }
    let Count {
        moved, mut counted, ..
    } = count;
    counted.moved = moved.into_values().collect();
    counted
}

/// Whether all of these baselines are there in `counters` and none is above its counter: so it is the
/// same Xray, or one that has moved more bytes of everybody since. `false` where there is nothing to
/// know it by.
pub fn has_grown(forms: &Forms, baselines: &Baselines, counters: &UserCounters) -> bool {
    nonzero(baselines) > 0 && !is_behind(forms, baselines, counters)
}

/// Whether one of these baselines is not there in `counters`, or above its counter.
pub fn is_behind(forms: &Forms, baselines: &Baselines, counters: &UserCounters) -> bool {
    let mut missing = nonzero(baselines);
    for counter in counters.iter() {
        let before = match known(forms, baselines, counter.email) {
            Some((_, before)) => before.of(counter.direction),
            None => continue,
        };
        if counter.bytes < before {
            return true;
        }
        missing = missing.saturating_sub(usize::from(before > 0));
    }
    missing > 0
}

struct Count<'a> {
    against: Against<'a>,
    moved: HashMap<Name, Moved>,
    counted: Counted,
}

impl Count<'_> {
    fn take(&mut self, counter: Counter<'_>) {
        let Against {
            forms, baselines, ..
        } = self.against;
        let Some((owner, at_rest)) = known(forms, baselines, counter.email) else {
            self.counted.foreign += 1;
            self.counted.foreign_bytes = self.counted.foreign_bytes.saturating_add(counter.bytes);
            return;
        };
        self.counted.ours += 1;
        if counter.bytes == at_rest.of(counter.direction) {
            return;
        }
        let name = owner
            .usual
            .map_or_else(|| Name::Odd(counter.email.into()), Name::Usual);
        // Its other way may have moved already, or, in a garbled answer, itself.
        let before = self.moved.get(&name).map_or(at_rest, |moved| moved.bytes);
        let came_before = before.of(counter.direction) != at_rest.of(counter.direction);
        if came_before && counter.bytes <= before.of(counter.direction) {
            return;
        }
        let (base, delta) = self.judge(counter, before.of(counter.direction));
        if delta > 0 {
            let at = At {
                node: owner.node,
                inbound: owner.inbound,
                user: owner.user,
            };
            let of_user = self.counted.deltas.entry(at).or_default();
            let sum = of_user.of_mut(counter.direction);
            *sum = sum.saturating_add(delta);
        }
        if base != before.of(counter.direction) {
            let moved = self.moved.entry(name.clone()).or_insert(Moved {
                name,
                node: owner.node,
                user: owner.user,
                bytes: before,
            });
            *moved.bytes.of_mut(counter.direction) = base;
        }
    }

    /// The new baseline of a counter, and the bytes that are new.
    fn judge(&mut self, counter: Counter<'_>, before: u64) -> (u64, u64) {
        let value = counter.bytes;
        if self.against.reading == Reading::Adopt {
            let adopted = self.counted.adopted.of_mut(counter.direction);
            *adopted = adopted.saturating_add(value.saturating_sub(before));
            return (value.max(before), 0);
        }
        let of_twins = self.against.twins.iter().filter_map(|twin| {
            known(self.against.forms, twin, counter.email)
                .map(|(_, bytes)| bytes.of(counter.direction))
        });
        let floor = of_twins.max().unwrap_or_default().max(before);
        if value >= floor {
            (value, value - floor)
        } else if self.against.twins.is_empty() {
            self.counted.resets += 1;
            (value, value)
        } else {
            // Reset, or the other process's: no telling, so nothing is new, and nothing of it will
            // be when the others are known no more.
            (value.max(before), 0)
        }
    }
}

/// Whose a counter is and its baseline; `None` for a foreign one.
fn known(forms: &Forms, baselines: &Baselines, email: &str) -> Option<(Owner, Bytes)> {
    let owner = forms.read(email);
    if let Some(name) = owner.and_then(|owner| owner.usual) {
        let before = baselines.usual.get(&name).copied();
        return owner.zip(Some(before.unwrap_or_default()));
    }
    match (owner, baselines.odd.get(email)) {
        (Some(owner), odd) => Some((owner, odd.map(|odd| odd.bytes).unwrap_or_default())),
        // Of an inbound that is not managed any more: ours as long as this boot lives.
        (None, Some(Odd { node, user, bytes })) => {
            let owner = Owner {
                node: *node,
                inbound: None,
                user: *user,
                usual: None,
            };
            Some((owner, *bytes))
        }
        (None, None) => None,
    }
}

/// How many counters are above zero, each way by itself.
fn nonzero(baselines: &Baselines) -> usize {
    let usual = baselines.usual.values();
    usual
        .chain(baselines.odd.values().map(|odd| &odd.bytes))
        .map(|bytes| usize::from(bytes.up > 0) + usize::from(bytes.down > 0))
        .sum()
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
