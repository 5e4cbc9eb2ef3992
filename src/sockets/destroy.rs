//! Destroys TCP sockets by the kernel's own names for them, one at a time.
//!
//! Invariant: only the very socket that was listed is hit. Its cookie goes with the request, so a
//! later socket between the same ends is left alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_sock_diag::constants::IPPROTO_TCP;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::Socket as Netlink;
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;

use super::dump::{framed, receive, to_the_kernel};
use super::error::SocketsError;
use super::parse::{Family, Socket, acknowledged};

/// The longest that the destruction of all chosen sockets may take. One takes the kernel
/// microseconds; this is against hanging.
pub(super) const BOUND: Duration = Duration::from_secs(5);
/// An answer repeats the request, which has 72 bytes; the kernel's explanations have some more.
const BUFFER_BYTES: usize = 8 << 10;

/// A conversation with the kernel in which sockets are destroyed.
pub(super) struct Destroyer {
    netlink: Netlink,
    sequence: u32,
    deadline: Instant,
}

impl Destroyer {
    /// One that ends after [`BOUND`].
    pub(super) fn new() -> Result<Self, SocketsError> {
        Ok(Self {
            netlink: to_the_kernel()?,
            sequence: 0,
            deadline: Instant::now() + BOUND,
        })
    }

    /// Whether the socket was destroyed; false where there was nothing left of it.
    pub(super) fn destroy(&mut self, socket: &Socket) -> Result<bool, SocketsError> {
        match self.ask(socket)? {
            Ok(()) => Ok(true),
            // What its program has closed may live on as a remnant in which no byte can move; older
            // kernels refuse to destroy that one.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(SocketsError::of_destroying(errno)),
        }
    }

    fn ask(&mut self, socket: &Socket) -> Result<Result<(), Errno>, SocketsError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.netlink.send(&request(socket, self.sequence), 0)?;
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let length = receive(&self.netlink, &mut buffer, self.deadline)?;
            let datagram = buffer.get(..length).ok_or_else(|| {
                SocketsError::Garbled(format!("a datagram of {length} bytes was cut"))
            })?;
            if let Some(outcome) = acknowledged(datagram, self.sequence)? {
                return Ok(outcome);
            }
        }
    }
}

/// Whether this process may destroy sockets of this thread's network namespace, and the kernel can.
/// It is tried on a listener of our own, on loopback, that lives for no longer: the kernel looks for
/// the socket before it looks at who asks, so that one which is not there shows nothing, and a
/// capability counts only in the user namespace that the network belongs to. Blocks, for
/// microseconds.
pub fn may_cut() -> Result<(), SocketsError> {
    let victim = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = Socket {
        family: Family::V4,
        local: victim.local_addr()?,
        peer: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        state: 0,
        interface: 0,
        cookie: in_halves(socket_cookie(&victim)?),
    };
    let outcome = Destroyer::new()?.ask(&socket)?;
    outcome.map_err(SocketsError::of_destroying)
}

/// A cookie as netlink has it: the lower half first, each half in the machine's order.
fn in_halves(cookie: u64) -> [u8; 8] {
    let halves = if cfg!(target_endian = "big") {
        cookie.rotate_left(32)
    } else {
        cookie
    };
    halves.to_ne_bytes()
}

fn request(socket: &Socket, sequence: u32) -> Vec<u8> {
    let in_family = |address: IpAddr| match (socket.family, address) {
        (Family::V6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        _ => address,
    };
    let wanted = SockDiagMessage::InetRequest(InetRequest {
        family: socket.family.number(),
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: socket.local.port(),
            destination_port: socket.peer.port(),
            source_address: in_family(socket.local.ip()),
            destination_address: in_family(socket.peer.ip()),
            interface_id: socket.interface,
            cookie: socket.cookie,
        },
    });
    framed(NLM_F_ACK, sequence, SockDiagDestroy::new(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_peer_is_named_in_the_family_of_its_socket() {
        let socket = |family| Socket {
            family,
            local: "192.0.2.1:443".parse().unwrap(),
            peer: "198.51.100.9:5000".parse().unwrap(),
            state: 1,
            interface: 0,
            cookie: [1, 2, 3, 4, 5, 6, 7, 8],
        };
        let mapped = [&[0; 10][..], &[0xff, 0xff, 198, 51, 100, 9]].concat();
        let bytes = request(&socket(Family::V6), 1);
        assert_eq!((bytes[4], bytes[16]), (21, Family::V6.number()));
        assert_eq!(bytes[44..60], mapped);
        let bytes = request(&socket(Family::V4), 1);
        assert_eq!(bytes[44..60], [&[198, 51, 100, 9][..], &[0; 12]].concat());
        assert_eq!(bytes[64..72], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_cookie_is_written_as_the_kernel_lists_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let local = listener.local_addr().unwrap();
        let listed = super::super::dump::dump_in(Family::V4, &StateFlags::LISTEN).unwrap();
        let ours = listed.iter().find(|socket| socket.local == local).unwrap();
        assert_eq!(in_halves(socket_cookie(&listener).unwrap()), ours.cookie);
    }
}
