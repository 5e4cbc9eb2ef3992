//! One bulk read put to account: which boot it is of, whether its bytes are new or were there before
//! us, and what is new. The whole rule of what a user is billed for; pure.

use std::sync::Arc;

use super::baselines::Baselines;
use super::delta::{Against, Counted, Reading, count, has_grown, is_behind};
use super::forms::Forms;
use super::identity::{Birth, Identity, forerunners, identify, is_older_than, seen_again, twins};
use crate::xray::boot::Boot;
use crate::xray::counters::UserCounters;

/// One bulk read within one boot.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// The boot, seen before and after the counters.
    pub boot: &'a Boot,
    /// Whether the Xray may be on another host.
    pub remote: bool,
    /// Whether it came over the very connection that the last read came over, so that the same process
    /// answers for certain. Only then is a counter that went back one that somebody reset; else it may
    /// be another process's, behind the same port.
    pub same_connection: bool,
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
}

/// What a read comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The known boot that it is of, by its place; `None`: a new one.
    pub boot: Option<usize>,
    /// The boot as the ledger keeps it from now on, last seen.
    pub row: Boot,
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
    let Books { forms, known, .. } = books;
    let found = find(read, books, &mut baselines)?;
    let own = match found.place {
        Some(place) => baselines(place)?,
        None => Arc::default(),
    };
    let mut floors = twins(known, read.boot, read.remote, found.place);
    floors.extend(
        found
            .perhaps
            .into_iter()
            .filter(|&at| Some(at) != found.place),
    );
    let floors = floors
        .into_iter()
        .map(&mut baselines)
        .collect::<Result<Vec<_>, E>>()?;
    let floors: Vec<&Baselines> = floors.iter().map(|floor| &**floor).collect();
    let adopts = !found.is_known && is_older_than(read.boot, books.birth);
    let against = Against {
        forms,
        baselines: &own,
        twins: &floors,
        reading: if adopts {
            Reading::Adopt
        } else {
            Reading::Count
        },
    };
    Ok(Entry {
        boot: found.place,
        row: match found.place {
            Some(place) => seen_again(&known[place], read.boot, read.remote),
            None => read.boot.clone(),
        },
        counted: count(against, read.counters),
        alternates: found.place.is_some_and(|place| place > 0),
    })
}

struct Found {
    /// The known boot that it is, for certain enough to move its baselines.
    place: Option<usize>,
    /// Others that it may be.
    perhaps: Vec<usize>,
    /// Whether it is one of those that we know, be it not known which.
    is_known: bool,
}

fn find<E>(
    read: Read<'_>,
    books: Books<'_>,
    baselines: &mut impl FnMut(usize) -> Result<Arc<Baselines>, E>,
) -> Result<Found, E> {
    let Books { forms, known, .. } = books;
    let (place, perhaps, is_known) = match identify(known, read.boot, read.remote) {
        Identity::Same(place) => {
            let is_certain = read.same_connection && place == 0;
            let is_other = !is_certain && is_behind(forms, &*baselines(place)?, read.counters);
            let perhaps = if is_certain {
                Vec::new()
            } else {
                forerunners(known, read.boot, read.remote)
            };
            ((!is_other).then_some(place), perhaps, !is_other)
        }
        Identity::New => (None, Vec::new(), false),
        Identity::Perhaps(perhaps) => {
            let mut is_known = false;
            for &place in &perhaps {
                is_known |= has_grown(forms, &*baselines(place)?, read.counters);
            }
            let only = (is_known && perhaps.len() == 1).then(|| perhaps[0]);
            (only, perhaps, is_known)
        }
    };
    Ok(Found {
        place,
        perhaps,
        is_known,
    })
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
