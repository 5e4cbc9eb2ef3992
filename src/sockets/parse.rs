//! The kernel's answer to a dump of its TCP sockets (`sock_diag(7)`, `netlink(7)`), datagram by
//! datagram. Pure; no bytes make it panic.
//!
//! Invariant: an answer is done only after the kernel said that it was whole. Attributes are
//! skipped: they differ between kernels, and nothing here needs them.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::InetResponseHeader;
use rustix::io::Errno;

use super::error::SocketsError;

/// Whose table a socket is in. An IPv4 peer of a dual-stack listener is in that of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl Family {
    /// Each of them; together they hold every TCP socket once.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Its number on the wire.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }
}

/// One TCP socket of the kernel, with all that names it in a later request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Whose table it is in.
    pub family: Family,
    /// Our end; IPv4 also where the kernel has it mapped into IPv6. Without scope.
    pub local: SocketAddr,
    /// The other end, in the same form.
    pub peer: SocketAddr,
    /// Its state by the kernel's number; 1 is ESTABLISHED.
    pub state: u8,
    /// Number of the interface it is bound to; 0 for none.
    pub interface: u32,
    /// What tells it from a later socket between the same ends.
    pub cookie: [u8; 8],
}

/// The kernel's number of the state LISTEN.
const LISTEN: u8 = 10;

impl Socket {
    /// Whether it waits for connections.
    pub fn listens(&self) -> bool {
        self.state == LISTEN
    }
}

/// What has come of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Sockets in the kernel's order.
    pub(super) sockets: Vec<Socket>,
    /// The kernel saw changes that make the list unreliable.
    pub(super) interrupted: bool,
    /// Nothing follows.
    pub(super) done: bool,
}

impl Answer {
    /// Takes the next datagram of the answer to request number `sequence`; messages to other
    /// requests are skipped. Fails if the kernel refused, or said what cannot be read.
    pub(super) fn take(&mut self, datagram: &[u8], sequence: u32) -> Result<(), SocketsError> {
        let mut rest = datagram;
        while !rest.is_empty() && !self.done {
            let message = NetlinkMessage::<Entry>::deserialize(rest)
                .map_err(|error| SocketsError::Garbled(error.to_string()))?;
            // At least the header's own length, and at most what is there: just checked.
            let length = message.header.length as usize;
            // The last one may come without its padding.
            let next = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
            rest = rest.get(next..).unwrap_or_default();
            if message.header.sequence_number == sequence {
                self.note(message)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, message: NetlinkMessage<Entry>) -> Result<(), SocketsError> {
        self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(Entry(socket)) => self.sockets.push(socket),
            NetlinkPayload::Done(end) => {
                accepted(end.code)?;
                self.done = true;
            }
            NetlinkPayload::Error(error) => accepted(error.raw_code())?,
            NetlinkPayload::Overrun(_) => {
                return Err(SocketsError::Garbled("a part of it was lost".into()));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the kernel did with request number `sequence`, if this datagram tells: it did it, or its
/// reason not to.
pub(super) fn acknowledged(
    datagram: &[u8],
    sequence: u32,
) -> Result<Option<Result<(), Errno>>, SocketsError> {
    let message = NetlinkMessage::<Entry>::deserialize(datagram)
        .map_err(|error| SocketsError::Garbled(error.to_string()))?;
    match message.payload {
        NetlinkPayload::Error(error) if message.header.sequence_number == sequence => {
            let refused = refusal(error.raw_code())?;
            Ok(Some(refused.map_or(Ok(()), Err)))
        }
        _ => Ok(None),
    }
}

/// The kernel's code at the end of an answer: a negative errno, or nothing of note.
fn accepted(code: i32) -> Result<(), SocketsError> {
    refusal(code)?.map_or(Ok(()), |errno| Err(errno.into()))
}

fn refusal(code: i32) -> Result<Option<Errno>, SocketsError> {
    if code >= 0 {
        return Ok(None);
    }
    let error = code.checked_neg().map(io::Error::from_raw_os_error);
    match error.as_ref().and_then(Errno::from_io_error) {
        Some(errno) => Ok(Some(errno)),
        None => Err(SocketsError::Garbled(format!("its code is {code}"))),
    }
}

/// A socket as it stands in one message.
struct Entry(Socket);

impl NetlinkDeserializable for Entry {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        if header.message_type != SOCK_DIAG_BY_FAMILY {
            return Err(format!("a message of type {}", header.message_type).into());
        }
        InetResponseHeader::parse(payload).map(|response| Self(socket(response)))
    }
}

fn socket(response: InetResponseHeader) -> Socket {
    let id = response.socket_id;
    // The parser lets these two families through only.
    let family = if response.family == AF_INET {
        Family::V4
    } else {
        Family::V6
    };
    Socket {
        family,
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        peer: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        state: response.state,
        interface: id.interface_id,
        cookie: id.cookie,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DoneMessage, ErrorMessage};
    use netlink_packet_sock_diag::SockDiagMessage;
    use netlink_packet_sock_diag::inet::{InetResponse, SocketId};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const OURS: u32 = 7;

    /// A message as the kernel writes it.
    fn message(payload: NetlinkPayload<SockDiagMessage>, sequence: u32, flags: u16) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn end(code: i32) -> Vec<u8> {
        let mut done = DoneMessage::default();
        done.code = code;
        message(NetlinkPayload::Done(done), OURS, 0)
    }

    fn refusal(code: i32) -> Vec<u8> {
        let mut error = ErrorMessage::default();
        error.code = std::num::NonZeroI32::new(code);
        message(NetlinkPayload::Error(error), OURS, 0)
    }

    fn listed(local: &str, peer: &str, flags: u16, sequence: u32) -> Vec<u8> {
        let (local, peer): (SocketAddr, SocketAddr) =
            (local.parse().unwrap(), peer.parse().unwrap());
        let header = InetResponseHeader {
            family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
            state: 1,
            timer: None,
            socket_id: SocketId {
                source_port: local.port(),
                destination_port: peer.port(),
                source_address: local.ip(),
                destination_address: peer.ip(),
                interface_id: 2,
                cookie: [3; 8],
            },
            recv_queue: 0,
            send_queue: 0,
            uid: 0,
            inode: 0,
        };
        let nlas = Vec::new().into();
        let response = SockDiagMessage::InetResponse(Box::new(InetResponse { header, nlas }));
        message(response.into(), sequence, flags)
    }

    fn one() -> Vec<u8> {
        listed("192.0.2.1:443", "198.51.100.9:5000", 0, OURS)
    }

    fn taken(datagram: &[u8]) -> Result<Answer, SocketsError> {
        let mut answer = Answer::default();
        answer.take(datagram, OURS).map(|()| answer)
    }

    #[test]
    fn both_families_are_read_and_mapped_addresses_become_ipv4() {
        let table = [
            ("192.0.2.1:443", "198.51.100.9:5000", Family::V4),
            ("[2001:db8::1]:443", "[2001:db8::9]:5000", Family::V6),
            (
                "[::ffff:192.0.2.1]:443",
                "[::ffff:198.51.100.9]:5000",
                Family::V6,
            ),
        ];
        for (local, peer, family) in table {
            let answer = taken(&listed(local, peer, 0, OURS)).unwrap();
            let plain = |text: &str| -> SocketAddr {
                let address: SocketAddr = text.parse().unwrap();
                SocketAddr::new(address.ip().to_canonical(), address.port())
            };
            let expected = Socket {
                family,
                local: plain(local),
                peer: plain(peer),
                state: 1,
                interface: 2,
                cookie: [3; 8],
            };
            assert_eq!(answer.sockets, [expected]);
            assert!(!answer.done && !answer.interrupted);
        }
    }

    #[test]
    fn an_answer_ends_with_the_kernels_word_only_and_nothing_after_it_counts() {
        let answer = taken(&[one(), one()].concat()).unwrap();
        assert_eq!((answer.sockets.len(), answer.done), (2, false));
        let answer = taken(&[one(), end(0), one()].concat()).unwrap();
        assert_eq!((answer.sockets.len(), answer.done), (1, true));
    }

    #[test]
    fn a_list_that_changed_while_it_was_read_is_marked() {
        let changed = listed("[::1]:1", "[::1]:2", NLM_F_DUMP_INTR, OURS);
        assert!(
            taken(&[one(), changed, one()].concat())
                .unwrap()
                .interrupted
        );
        let end = message(
            NetlinkPayload::Done(DoneMessage::default()),
            OURS,
            NLM_F_DUMP_INTR,
        );
        assert!(taken(&end).unwrap().interrupted);
    }

    #[test]
    fn answers_to_other_requests_are_skipped() {
        let other = listed("[::1]:1", "[::1]:2", NLM_F_DUMP_INTR, OURS + 1);
        let answer = taken(&[other, one()].concat()).unwrap();
        assert_eq!((answer.sockets.len(), answer.interrupted), (1, false));
    }

    #[test]
    fn a_refusal_is_told_wherever_the_kernel_puts_it() {
        let (enoent, eperm) = (-2, -1);
        for datagram in [end(enoent), refusal(enoent)] {
            let error = taken(&datagram).unwrap_err();
            assert!(matches!(error, SocketsError::Unavailable(_)), "{error}");
        }
        let error = taken(&refusal(eperm)).unwrap_err();
        assert!(matches!(error, SocketsError::Forbidden(_)), "{error}");
        for code in [i32::MIN, -4_096] {
            let error = taken(&refusal(code)).unwrap_err();
            assert!(matches!(error, SocketsError::Garbled(_)), "{error}");
        }
        assert!(
            !taken(&refusal(0)).unwrap().done,
            "an acknowledgement is no end"
        );
    }

    #[test]
    fn what_became_of_a_request_is_told_by_the_answer_to_it_alone() {
        let (enoent, eperm) = (-2, -1);
        let told = |datagram: &[u8]| acknowledged(datagram, OURS).unwrap();
        assert_eq!(told(&refusal(0)), Some(Ok(())));
        assert_eq!(told(&refusal(enoent)), Some(Err(Errno::NOENT)));
        assert_eq!(told(&refusal(eperm)), Some(Err(Errno::PERM)));
        assert_eq!(told(&one()), None);
        assert_eq!(acknowledged(&refusal(0), OURS + 1).unwrap(), None);
        assert!(acknowledged(&refusal(i32::MIN), OURS).is_err());
    }

    #[test]
    fn a_message_that_is_cut_is_no_answer() {
        let whole = one();
        for length in 1..whole.len() {
            let error = taken(&whole[..length]).unwrap_err();
            assert!(
                matches!(error, SocketsError::Garbled(_)),
                "{length}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_from_netlink_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = taken(&bytes);
            let _ = acknowledged(&bytes, OURS);
        }

        #[test]
        fn no_bytes_within_a_message_make_it_panic(
            kind in prop_oneof![0u16..5, Just(SOCK_DIAG_BY_FAMILY)],
            body in vec(any::<u8>(), 0..120),
        ) {
            let length = u32::try_from(16 + body.len()).unwrap();
            let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2]].concat();
            let datagram = [head, OURS.to_ne_bytes().to_vec(), vec![0; 4], body].concat();
            let _ = taken(&datagram);
            let _ = acknowledged(&datagram, OURS);
        }

        #[test]
        fn a_spoiled_answer_is_an_error_or_brings_no_more_than_was_sent(
            count in 1usize..5, place: prop::sample::Index, value: u8, ended: bool
        ) {
            let mut datagram = one().repeat(count);
            if ended {
                datagram.extend(end(0));
            }
            let at = place.index(datagram.len());
            datagram[at] = value;
            if let Ok(answer) = taken(&datagram) {
                prop_assert!(answer.sockets.len() <= count);
            }
        }
    }
}
