//! How much and how long a client may take: every limit of the server, in one place. Pure.

use std::time::Duration;

/// For a TLS handshake: several round trips of a bad line.
pub(super) const HANDSHAKE_TAKES: Duration = Duration::from_secs(5);
/// For a request's head, and for the pause before it: a client that says nothing holds a seat.
pub(super) const HEAD_TAKES: Duration = Duration::from_secs(5);
/// Largest head in bytes: twice what browsers send at most.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most headers in a head.
pub(super) const HEADERS_MAX: usize = 64;
/// From the end of a request's body to the beginning of its answer.
pub(super) const ANSWER_TAKES: Duration = Duration::from_secs(30);
/// A connection whose peer takes no byte of what waits for it for so long is cut.
pub(super) const PEER_TAKES: Duration = Duration::from_secs(25);
/// Bytes that the kernel keeps for a peer (it doubles them): else it takes 4 MiB for each that reads
/// nothing. Enough for 1 MB/s over a line of 100 ms.
pub(super) const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Connections at once, over all listeners. Each that is stuck costs some 200 KiB.
pub(super) const CONNECTIONS_MAX: usize = 1024;
/// Connections at once of one address on which nobody has shown a credential yet.
pub(super) const STRANGERS_MAX: usize = 32;
/// Connections at once that became streams; they are not among the others.
pub(super) const STREAMS_MAX: usize = 256;
/// Requests under way have so long to end once the agent is to stop.
pub(super) const STOP_TAKES: Duration = Duration::from_secs(5);

/// What a request's body may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Largest body in bytes.
    pub bytes_max: u64,
    /// From the end of the head to the end of the body, for a body of no bytes.
    pub takes: Duration,
    /// Bytes that buy a further second; 0 where none do.
    pub bytes_per_second_min: u64,
    /// At the latest then the body has ended.
    pub takes_max: Duration,
}

impl BodyLimits {
    /// For all routes but those of bulk.
    pub const DEFAULT: Self = Self {
        bytes_max: 64 << 10,
        takes: Duration::from_secs(20),
        bytes_per_second_min: 0,
        takes_max: Duration::from_secs(20),
    };
    /// For routes that take whole lists of users: 100 000 of them are some 20 MiB.
    pub const BULK: Self = Self {
        bytes_max: 64 << 20,
        takes: Duration::from_secs(20),
        bytes_per_second_min: 64 << 10,
        takes_max: Duration::from_mins(2),
    };

    /// How long after the head the body must have ended of which so many bytes have come.
    pub(super) fn due(&self, received: u64) -> Duration {
        let earned = received
            .checked_div(self.bytes_per_second_min)
            .unwrap_or_default();
        self.takes
            .saturating_add(Duration::from_secs(earned))
            .min(self.takes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bulk_body_that_keeps_coming_gets_more_time() {
        let seconds = |limits: BodyLimits, received| limits.due(received).as_secs();
        assert_eq!(seconds(BodyLimits::DEFAULT, 0), 20);
        assert_eq!(seconds(BodyLimits::DEFAULT, 64 << 10), 20);
        assert_eq!(seconds(BodyLimits::BULK, 0), 20);
        assert_eq!(seconds(BodyLimits::BULK, 640 << 10), 30);
        assert_eq!(seconds(BodyLimits::BULK, 64 << 20), 120);
        assert_eq!(seconds(BodyLimits::BULK, u64::MAX), 120);
    }
}
