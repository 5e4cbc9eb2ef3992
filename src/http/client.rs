//! What a route may know of the connection that its request came on, and tell it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::admission::{Refused, Seat};
use crate::base::supervise::Shutdown;

/// The connection of a request; an extension of every request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    peer: SocketAddr,
    is_local: bool,
    seat: Arc<Seat>,
    shutdown: Shutdown,
}

impl Client {
    pub(super) fn new(peer: SocketAddr, is_local: bool, seat: Arc<Seat>, stop: Shutdown) -> Self {
        Self {
            peer,
            is_local,
            seat,
            shutdown: stop,
        }
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the listener is on loopback: whoever asks is on this host, or behind a proxy here.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// A valid credential was shown: from now on the connection is not counted among the strangers'.
    pub fn authenticated(&self) {
        self.seat.authenticated();
    }

    /// From now on the connection is a stream, which is counted apart, until it ends.
    pub fn become_stream(&self) -> Result<(), Refused> {
        self.seat.become_stream()
    }

    /// Tells when the agent is to stop: a stream then says good-bye and ends within 5 s.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }
}
