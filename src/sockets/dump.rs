//! Asks the kernel for its TCP sockets and waits for the whole answer.
//!
//! Invariant: a call ends within [`BOUND`], with every such socket of the family or an error.

use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::IPPROTO_TCP;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};

use super::error::SocketsError;
use super::parse::{Answer, Family, Socket};

/// The longest that a dump may take, its repetitions included. The kernel answers 10 000 sockets
/// within tens of milliseconds; this is against hanging.
pub const BOUND: Duration = Duration::from_secs(5);
/// Readings of sockets that keep changing under them.
const READINGS_MAX: u32 = 3;
/// The kernel makes datagrams of at most 32 KiB; one that does not fit would be cut in silence.
const BUFFER_BYTES: usize = 64 << 10;
/// Each request has a netlink socket of its own, so that any number does.
const SEQUENCE: u32 = 1;

/// The ESTABLISHED TCP sockets of a family in this thread's network namespace, each once, in no
/// order. Needs no privilege. Blocks for at most [`BOUND`].
pub fn dump(family: Family) -> Result<Vec<Socket>, SocketsError> {
    dump_in(family, &StateFlags::ESTABLISHED)
}

/// [`dump`] of the sockets in any of `states`.
pub(super) fn dump_in(family: Family, states: &StateFlags) -> Result<Vec<Socket>, SocketsError> {
    let deadline = Instant::now() + BOUND;
    let mut sockets = settled(|| read_once(family, states, deadline))?;
    // A change between two datagrams shifts the kernel's walk: it may tell of a socket twice.
    sockets.sort_unstable_by_key(|socket| socket.cookie);
    sockets.dedup_by_key(|socket| socket.cookie);
    Ok(sockets)
}

/// Reads until the kernel saw no change that makes the answer unreliable, a few times at most.
fn settled(
    mut read: impl FnMut() -> Result<Answer, SocketsError>,
) -> Result<Vec<Socket>, SocketsError> {
    for _ in 0..READINGS_MAX {
        let answer = read()?;
        if !answer.interrupted {
            return Ok(answer.sockets);
        }
    }
    Err(SocketsError::Unsettled(READINGS_MAX))
}

fn read_once(
    family: Family,
    states: &StateFlags,
    deadline: Instant,
) -> Result<Answer, SocketsError> {
    let netlink = to_the_kernel()?;
    // The kernel takes a request at once and as a whole.
    netlink.send(&request(family, states), 0)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut answer = Answer::default();
    while !answer.done {
        let length = receive(&netlink, &mut buffer, deadline)?;
        let datagram = buffer.get(..length).ok_or_else(|| {
            SocketsError::Garbled(format!("a datagram of {length} bytes was cut"))
        })?;
        answer.take(datagram, SEQUENCE)?;
    }
    Ok(answer)
}

/// A netlink socket that hears nobody but the kernel.
pub(super) fn to_the_kernel() -> Result<Netlink, SocketsError> {
    let netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
    // The kernel's address is 0.
    netlink.connect(&NetlinkAddr::new(0, 0))?;
    Ok(netlink)
}

/// The whole length of the next datagram, of which as much as fits is in `buffer`.
pub(super) fn receive(
    netlink: &Netlink,
    buffer: &mut [u8],
    deadline: Instant,
) -> Result<usize, SocketsError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SocketsError::Timeout(BOUND));
        }
        sockopt::set_socket_timeout(netlink, sockopt::Timeout::Recv, Some(left))?;
        match recv(netlink, &mut *buffer, RecvFlags::TRUNC) {
            Ok((_, length)) => return Ok(length),
            // A signal, or the time is up: the deadline tells which.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn request(family: Family, states: &StateFlags) -> Vec<u8> {
    let any = match family {
        Family::V4 => SocketId::new_v4(),
        Family::V6 => SocketId::new_v6(),
    };
    let wanted = SockDiagMessage::InetRequest(InetRequest {
        family: family.number(),
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: states.clone(),
        socket_id: any,
    });
    framed(NLM_F_DUMP, SEQUENCE, wanted)
}

/// A request as the kernel takes it, with these flags besides.
pub(super) fn framed<T>(flags: u16, sequence: u32, request: T) -> Vec<u8>
where
    T: NetlinkSerializable + Into<NetlinkPayload<T>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_changed_is_read_anew_until_one_is_settled() {
        let mut readings = 0;
        let sockets = settled(|| {
            readings += 1;
            Ok(Answer {
                interrupted: readings < READINGS_MAX,
                done: true,
                ..Answer::default()
            })
        });
        assert_eq!((sockets.unwrap(), readings), (vec![], READINGS_MAX));
    }

    #[test]
    fn a_list_that_never_settles_is_given_up() {
        let mut readings = 0;
        let sockets = settled(|| {
            readings += 1;
            Ok(Answer {
                interrupted: true,
                ..Answer::default()
            })
        });
        assert!(matches!(sockets, Err(SocketsError::Unsettled(_))));
        assert_eq!(readings, READINGS_MAX);
    }

    #[test]
    fn a_kernel_that_falls_silent_is_not_waited_for_beyond_the_deadline() {
        let netlink = Netlink::new(NETLINK_SOCK_DIAG).unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let silence = receive(&netlink, &mut [0; 16], deadline);
        assert!(matches!(silence, Err(SocketsError::Timeout(_))));
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn a_datagram_that_does_not_fit_is_told_by_its_whole_length() {
        let netlink = to_the_kernel().unwrap();
        netlink
            .send(&request(Family::V4, &StateFlags::ESTABLISHED), 0)
            .unwrap();
        let mut small = [0; 4];
        let length = receive(&netlink, &mut small, Instant::now() + BOUND).unwrap();
        assert!(length > small.len());
    }
}
