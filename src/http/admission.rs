//! Who may be connected: so many in all, so many strangers from one address, so many streams.
//!
//! Kept here: a seat is given back exactly once, whatever ends the connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::{CONNECTIONS_MAX, STRANGERS_MAX, STREAMS_MAX};

/// The bits of an IPv6 address that tell one customer from another: within them each has as many
/// addresses as he likes.
const V6_NETWORK: u128 = !0 << 64;

/// Counts connections, over all listeners. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    streams: usize,
    strangers: HashMap<IpAddr, usize>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// In all.
    #[error("{CONNECTIONS_MAX} connections are open already")]
    Full,
    /// Of this address, before anybody has shown a credential on them.
    #[error("{STRANGERS_MAX} connections of this address without a credential are open already")]
    Strangers,
    /// As streams.
    #[error("{STREAMS_MAX} streams are open already")]
    Streams,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    admission: Admission,
    address: IpAddr,
    held: Mutex<Held>,
}

/// What a seat is counted as.
#[derive(Clone, Copy, Debug)]
struct Held {
    stranger: bool,
    stream: bool,
}

impl Admission {
    /// Takes a seat for a peer nobody knows yet.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Seat, Refused> {
        let address = customer(peer);
        let mut counts = self.counts();
        if counts.connections >= CONNECTIONS_MAX {
            return Err(Refused::Full);
        }
        let strangers = counts.strangers.entry(address).or_default();
        if *strangers >= STRANGERS_MAX {
            return Err(Refused::Strangers);
        }
        *strangers += 1;
        counts.connections += 1;
        Ok(Seat {
            admission: self.clone(),
            address,
            held: Mutex::new(Held {
                stranger: true,
                stream: false,
            }),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        locked(&self.0)
    }
}

impl Seat {
    /// Somebody has shown a credential: the connection is no stranger's any more.
    pub(super) fn authenticated(&self) {
        let mut held = locked(&self.held);
        if std::mem::take(&mut held.stranger) {
            self.admission.counts().known(self.address);
        }
    }

    /// The connection becomes a stream, for as long as it lives.
    pub(super) fn become_stream(&self) -> Result<(), Refused> {
        let mut held = locked(&self.held);
        let mut counts = self.admission.counts();
        if !held.stream {
            if counts.streams >= STREAMS_MAX {
                return Err(Refused::Streams);
            }
            counts.streams += 1;
            counts.connections -= 1;
            held.stream = true;
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let held = *locked(&self.held);
        let mut counts = self.admission.counts();
        if held.stranger {
            counts.known(self.address);
        }
        if held.stream {
            counts.streams -= 1;
        } else {
            counts.connections -= 1;
        }
    }
}

impl Counts {
    fn known(&mut self, address: IpAddr) {
        if let Some(strangers) = self.strangers.get_mut(&address) {
            *strangers -= 1;
            if *strangers == 0 {
                self.strangers.remove(&address);
            }
        }
    }
}

/// What of an address stands for one customer.
fn customer(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & V6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// A panic elsewhere leaves the counts whole: nothing here fails half way.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: usize) -> IpAddr {
        IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())
    }

    fn enter(admission: &Admission, peer: IpAddr) -> Option<Seat> {
        admission.enter(peer).ok()
    }

    #[test]
    fn one_address_gets_so_many_seats_until_it_shows_a_credential() {
        let admission = Admission::default();
        let mut seats: Vec<_> = (0..STRANGERS_MAX)
            .map(|_| admission.enter(v4(1)).unwrap())
            .collect();
        assert_eq!(admission.enter(v4(1)).unwrap_err(), Refused::Strangers);
        assert!(enter(&admission, v4(2)).is_some(), "another address");
        seats[0].authenticated();
        seats[0].authenticated();
        seats.push(admission.enter(v4(1)).unwrap());
        assert!(enter(&admission, v4(1)).is_none(), "counted once only");
        drop(seats);
        let counts = admission.counts();
        assert_eq!((counts.connections, counts.strangers.len()), (0, 0));
    }

    #[test]
    fn networks_of_ipv6_count_as_one_address_and_mapped_ones_as_ipv4() {
        let of = |text: &str| customer(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn streams_are_counted_apart_and_everything_is_bounded() {
        let admission = Admission::default();
        let many = CONNECTIONS_MAX + STREAMS_MAX;
        let mut streams = Vec::new();
        for n in 0..STREAMS_MAX {
            let seat = admission.enter(v4(n)).unwrap();
            seat.become_stream().unwrap();
            seat.become_stream().unwrap();
            streams.push(seat);
        }
        let seats: Vec<_> = (STREAMS_MAX..many)
            .map(|n| admission.enter(v4(n)).unwrap())
            .collect();
        assert_eq!(admission.enter(v4(many)).unwrap_err(), Refused::Full);
        assert_eq!(seats[0].become_stream(), Err(Refused::Streams));
        drop(streams.pop());
        seats[0].become_stream().unwrap();
        assert!(enter(&admission, v4(many)).is_some());
    }
}
