//! Counts and lists of real sockets.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Takes IPv4 clients too, unless the machine is set up otherwise.
const BOTH: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Connections to one listener, both ends open.
struct Connections {
    listener: TcpListener,
    /// Keeps its port of the other family from anybody else, who would be counted too.
    _guard: Option<TcpListener>,
    /// Client's end, server's end.
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Connections {
    fn none(at: IpAddr) -> Self {
        let (listener, guard) = match at {
            V4 => on_a_port_of_its_own(V4, V6),
            V6 => on_a_port_of_its_own(V6, V4),
            _ => (TcpListener::bind((at, 0)).unwrap(), None),
        };
        Self {
            listener,
            _guard: guard,
            pairs: Vec::new(),
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn add(&mut self, count: usize, to: IpAddr) {
        for _ in 0..count {
            let client = TcpStream::connect((to, self.port())).unwrap();
            self.pairs.push((client, self.listener.accept().unwrap().0));
        }
    }

    fn counted(&self) -> usize {
        established_on(&[PortRange::single(self.port())]).unwrap()
    }
}

/// Listens at `at`, and at `other` on the same port, which nobody had at any address.
fn on_a_port_of_its_own(at: IpAddr, other: IpAddr) -> (TcpListener, Option<TcpListener>) {
    let attempt = || {
        let everywhere = TcpListener::bind((BOTH, 0)).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        drop(everywhere);
        // Another test may be quicker.
        let listener = TcpListener::bind((at, port)).ok()?;
        Some((listener, Some(TcpListener::bind((other, port)).ok()?)))
    };
    (0..100)
        .find_map(|_| attempt())
        .expect("a port that is free at 127.0.0.1 and at [::1]")
}

#[test]
fn connections_of_both_families_are_counted_exactly() {
    for at in [V4, V6] {
        let mut connections = Connections::none(at);
        assert_eq!(connections.counted(), 0, "a listener is no connection");
        connections.add(7, at);
        assert_eq!(connections.counted(), 7, "{at}");
    }
}

#[test]
fn clients_of_a_dual_stack_listener_count_once_each() {
    let mut connections = Connections::none(BOTH);
    connections.add(3, V4);
    connections.add(2, V6);
    assert_eq!(connections.counted(), 5);
}

#[test]
fn a_mapped_client_is_listed_under_its_ipv4_address() {
    let mut connections = Connections::none(BOTH);
    connections.add(1, V4);
    let client = connections.pairs[0].0.local_addr().unwrap();
    let server = SocketAddr::new(V4, connections.port());
    let between = |family, local, peer| {
        let listed = dump(family).unwrap();
        let found: Vec<Socket> = listed
            .into_iter()
            .filter(|socket| socket.local == local && socket.peer == peer)
            .collect();
        found
    };
    let ours = between(Family::V6, server, client);
    assert_eq!(ours.len(), 1);
    assert_eq!((ours[0].family, ours[0].state), (Family::V6, 1));
    assert_eq!(between(Family::V4, server, client), []);
    assert_eq!(between(Family::V4, client, server).len(), 1);
}

#[test]
fn ranges_that_overlap_count_a_connection_once_and_no_range_counts_none() {
    let (mut one, mut other) = (Connections::none(V4), Connections::none(V4));
    one.add(2, V4);
    other.add(3, V4);
    let (a, b) = (one.port(), other.port());
    let ranges = [a, b, a].map(PortRange::single);
    assert_eq!(established_on(&ranges).unwrap(), 5);
    assert_eq!(established_on(&ranges[..1]).unwrap(), 2);
    assert_eq!(established_on(&[]).unwrap(), 0);
    let wide = PortRange::new(a.min(b).into(), a.max(b).into()).unwrap();
    assert!(established_on(&[wide]).unwrap() >= 5);
}

#[test]
fn a_connection_that_its_client_closed_is_not_counted() {
    let mut connections = Connections::none(V4);
    connections.add(4, V4);
    let (client, mut server) = connections.pairs.pop().unwrap();
    drop(client);
    // The end of the stream is told together with the change of state.
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(connections.counted(), 3);
}

/// Room for so many open files.
fn make_room(files: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= files);
    assert!(
        enough(limit.maximum),
        "\"ulimit -Hn\" has to be {files} at least"
    );
    if !enough(limit.current) {
        let current = Some(files);
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    }
}

#[test]
fn an_answer_of_many_datagrams_is_read_to_its_end() {
    const COUNT: usize = 1_500;
    // At 88 bytes each, more than one datagram can hold.
    make_room(4_096);
    let mut connections = Connections::none(BOTH);
    connections.add(COUNT, V4);
    assert_eq!(connections.counted(), COUNT);
    let clients: BTreeSet<SocketAddr> = connections
        .pairs
        .iter()
        .map(|(client, _)| client.local_addr().unwrap())
        .collect();
    let port = connections.port();
    let begun = Instant::now();
    let listed = dump(Family::V6).unwrap();
    assert!(begun.elapsed() < BOUND);
    let peers: BTreeSet<SocketAddr> = listed
        .into_iter()
        .filter(|socket| socket.local.port() == port)
        .map(|socket| socket.peer)
        .collect();
    assert_eq!(peers, clients);
}
