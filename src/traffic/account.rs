//! One bulk read put to account: which boot it is of, whether its bytes are new or were there before
//! us, and what is new. The whole rule of what a user is billed for; pure.

use std::sync::Arc;

use super::baselines::Baselines;
use super::delta::{Against, Counted, Reading, count, has_grown};
use super::forms::Forms;
use super::identity::{Birth, Identity, identify, is_older_than, twins};
use crate::xray::boot::Boot;
use crate::xray::counters::UserCounters;

/// One bulk read within one boot.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// The boot, seen before and after the counters.
    pub boot: &'a Boot,
    /// Whether the Xray may be on another host.
    pub remote: bool,
    /// The counters.
    pub counters: &'a UserCounters,
}

/// What the ledger knows of an Xray.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a> {
    /// Whose counters are whose.
    pub forms: &'a Forms,
    /// Since when it knows it.
    pub birth: &'a Birth,
    /// Its boots, the last seen first.
    pub known: &'a [Boot],
    /// Whether bytes of a boot older than the ledger are adopted; else they are billed.
    pub adopts: bool,
}

/// What a read comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The known boot that it is of, by its place; `None`: a new one.
    pub boot: Option<usize>,
    /// What is new.
    pub counted: Counted,
    /// Whether the boot was seen before another one that also still answers: two processes are
    /// behind one address.
    pub alternates: bool,
}

/// Puts `read` to account. `baselines` gives those of the known boot at a place.
pub fn account<E>(
    read: Read<'_>,
    books: Books<'_>,
    mut baselines: impl FnMut(usize) -> Result<Arc<Baselines>, E>,
) -> Result<Entry, E> {
    let place = match identify(books.known, read.boot, read.remote) {
        Identity::Same(place) => Some(place),
        Identity::New => None,
        Identity::Perhaps(places) => {
            let mut found = None;
            for place in places {
                if has_grown(books.forms, &*baselines(place)?, read.counters) {
                    found = Some(place);
                    break;
                }
            }
            found
        }
    };
    let own = match place {
        Some(place) => baselines(place)?,
        None => Arc::default(),
    };
    let twins = twins(books.known, read.boot, place)
        .into_iter()
        .map(&mut baselines)
        .collect::<Result<Vec<_>, E>>()?;
    let twins: Vec<&Baselines> = twins.iter().map(|twin| &**twin).collect();
    let is_before_us = || is_older_than(read.boot, books.birth);
    let reading = if place.is_none() && books.adopts && is_before_us() {
        Reading::Adopt
    } else {
        Reading::Count
    };
    let against = Against {
        forms: books.forms,
        baselines: &own,
        twins: &twins,
        reading,
    };
    Ok(Entry {
        boot: place,
        counted: count(against, read.counters),
        alternates: place.is_some_and(|place| place > 0),
    })
}
