//! Connections are cut by port and peer, on real sockets: those that are named end at once, and
//! nothing else does. It takes `CAP_NET_ADMIN`: without it each test runs itself again in a network
//! of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use xray_agent::model::cut::{Cut, Sockets};
use xray_agent::model::ports::PortRange;
use xray_agent::sockets::{SocketsError, cut, established_on, listens_on, may_cut};

/// Takes IPv4 clients too, unless the machine is set up otherwise.
const BOTH: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Marks a test that was started again, so that it is not again.
const AGAIN: &str = "XRAY_AGENT_TEST_AGAIN";

/// An address of the loopback network: each is a peer of its own.
pub fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Whether the calling test can go on here. Where it may not cut, it is run in a network of its own,
/// and has passed there.
pub fn may_cut_here(test: &str) -> bool {
    match may_cut() {
        Ok(()) => true,
        Err(SocketsError::NotAllowed) if !is_started_again() => {
            let script = "ip link set lo up && exec \"$0\" \"$@\"";
            let of_its_own = ["-Urn", "sh", "-c", script];
            again(Command::new("unshare").args(of_its_own), test);
            false
        }
        Err(error) => panic!("run this as root, or where `unshare -Urn` is allowed: {error}"),
    }
}

/// What starts a program that may do no more than any user's.
pub fn without_capabilities() -> Command {
    if may_cut().is_err() {
        // It takes a privilege to give them up.
        return Command::new("env");
    }
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all"]);
    command
}

/// Whether the calling test was started by [`again`].
pub fn is_started_again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// Runs the named test by itself through another command.
pub fn again(command: &mut Command, test: &str) {
    // By a descriptor, so that a user who cannot reach its folder can run it, too.
    let program = File::open(std::env::current_exe().unwrap()).unwrap();
    let command = command.args(["/proc/self/fd/0", "--exact", test, "--nocapture"]);
    let ended = command.stdin(program).env(AGAIN, "1").output();
    let ended = ended.unwrap_or_else(|e| panic!("{test} cannot be started as {command:?}: {e}"));
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && told.contains("1 passed"),
        "{test} failed as {command:?}: {ended:?}"
    );
}

/// Both ends of a connection.
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// From `from`, whose port may be 0, to the listener at `to`.
    pub fn open(listener: &TcpListener, from: SocketAddr, to: IpAddr) -> Self {
        let client = connected(from, to, listener);
        let server = listener.accept().unwrap().0;
        Self { client, server }
    }

    fn peer(&self) -> SocketAddr {
        self.client.local_addr().unwrap()
    }

    pub fn assert_lives(&mut self) {
        let mut byte = [0];
        for way in 0..2 {
            let (from, to) = if way == 0 {
                (&mut self.client, &mut self.server)
            } else {
                (&mut self.server, &mut self.client)
            };
            from.write_all(b"x").unwrap();
            to.read_exact(&mut byte).unwrap();
        }
    }

    /// Both ends learn it without a byte having been sent.
    pub fn assert_is_cut(&mut self) {
        let mut byte = [0];
        let ours = self.server.read(&mut byte).unwrap_err().kind();
        assert_eq!(ours, ErrorKind::ConnectionAborted);
        let theirs = self.client.read(&mut byte).unwrap_err().kind();
        assert_eq!(theirs, ErrorKind::ConnectionReset);
    }
}

/// Connected, perhaps not accepted yet.
fn connected(from: SocketAddr, to: IpAddr, listener: &TcpListener) -> TcpStream {
    let family = match from {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let client = socket(family, SocketType::STREAM, None).unwrap();
    bind(&client, &from).unwrap();
    let port = listener.local_addr().unwrap().port();
    connect(&client, &SocketAddr::new(to, port)).unwrap();
    client.into()
}

pub fn listen(at: IpAddr) -> (TcpListener, u16) {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that nobody else can have and nobody listens on.
pub fn held() -> (TcpStream, u16) {
    let held = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
    bind(&held, &any_port(BOTH)).unwrap();
    let held = TcpStream::from(held);
    let port = held.local_addr().unwrap().port();
    (held, port)
}

pub fn any_port(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}

fn cut_on(ports: &[u16], addresses: &[IpAddr]) -> Sockets {
    let wanted = Cut {
        ports: ports.iter().copied().map(PortRange::single).collect(),
        addresses: addresses.iter().copied().collect(),
    };
    cut(&wanted).unwrap()
}

#[test]
fn connections_of_the_named_peers_end_and_all_others_live_on() {
    if !may_cut_here("cutting::connections_of_the_named_peers_end_and_all_others_live_on") {
        return;
    }
    let (listener, port) = listen(Ipv4Addr::UNSPECIFIED.into());
    let (elsewhere, _) = listen(v4(1));
    let of = |last| Connection::open(&listener, any_port(v4(last)), v4(1));
    let mut named = [of(2), of(2), of(3)];
    let mut others = [of(4), Connection::open(&elsewhere, any_port(v4(2)), v4(1))];
    let counts = cut_on(&[port], &[v4(2), v4(3), v4(9)]);
    assert_eq!(counts, BTreeMap::from([(v4(2), 2), (v4(3), 1)]));
    named.iter_mut().for_each(Connection::assert_is_cut);
    others.iter_mut().for_each(Connection::assert_lives);
    assert!(cut_on(&[port], &[v4(2), v4(3)]).is_empty());
    of(2).assert_lives();
}

#[test]
fn peers_of_either_family_are_cut_at_a_dual_stack_listener() {
    if !may_cut_here("cutting::peers_of_either_family_are_cut_at_a_dual_stack_listener") {
        return;
    }
    let (listener, port) = listen(BOTH);
    let mut mapped = Connection::open(&listener, any_port(v4(2)), v4(1));
    let mut other = Connection::open(&listener, any_port(v4(3)), v4(1));
    let mut sixth = Connection::open(&listener, any_port(V6), V6);
    assert_eq!(cut_on(&[port], &[v4(2)]), BTreeMap::from([(v4(2), 1)]));
    mapped.assert_is_cut();
    sixth.assert_lives();
    assert_eq!(cut_on(&[port], &[V6]), BTreeMap::from([(V6, 1)]));
    sixth.assert_is_cut();
    other.assert_lives();
}

#[test]
fn peers_of_a_listener_on_ipv6_alone_are_cut() {
    if !may_cut_here("cutting::peers_of_a_listener_on_ipv6_alone_are_cut") {
        return;
    }
    let (listener, port) = listen(V6);
    let mut connection = Connection::open(&listener, any_port(V6), V6);
    assert_eq!(cut_on(&[port], &[V6]), BTreeMap::from([(V6, 1)]));
    connection.assert_is_cut();
}

#[test]
fn a_client_of_this_host_lives_on_whatever_its_own_port() {
    if !may_cut_here("cutting::a_client_of_this_host_lives_on_whatever_its_own_port") {
        return;
    }
    let (distant, _) = listen(v4(2));
    // A server's port at another address, and a port at which nobody listens.
    let (_server, port) = listen(v4(1));
    let from = |port| SocketAddr::new(v4(5), port);
    let mut clients = [port, 0].map(|port| Connection::open(&distant, from(port), v4(2)));
    let ports = clients.each_ref().map(|client| client.peer().port());
    assert_eq!(ports[0], port);
    assert!(cut_on(&ports, &[v4(1), v4(2), v4(5)]).is_empty());
    clients.iter_mut().for_each(Connection::assert_lives);
}

#[test]
fn a_connection_that_one_end_has_closed_is_cut_too() {
    if !may_cut_here("cutting::a_connection_that_one_end_has_closed_is_cut_too") {
        return;
    }
    let (listener, port) = listen(v4(1));
    let open = |last| Connection::open(&listener, any_port(v4(last)), v4(1));
    let (mut by_client, mut by_server) = (open(2), open(3));
    by_client.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(by_client.server.read(&mut [0]).unwrap(), 0);
    by_server.server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(by_server.client.read(&mut [0]).unwrap(), 0);
    let counts = cut_on(&[port], &[v4(2), v4(3)]);
    assert_eq!(counts, BTreeMap::from([(v4(2), 1), (v4(3), 1)]));
    let gone = [
        by_client.client.read(&mut [0]),
        by_server.client.write(&[0]),
    ];
    assert!(gone.iter().all(Result::is_err), "{gone:?}");
}

#[test]
fn a_connection_that_nobody_has_accepted_yet_is_cut() {
    if !may_cut_here("cutting::a_connection_that_nobody_has_accepted_yet_is_cut") {
        return;
    }
    let (listener, port) = listen(v4(1));
    let mut client = connected(any_port(v4(2)), v4(1), &listener);
    assert_eq!(cut_on(&[port], &[v4(2)]), BTreeMap::from([(v4(2), 1)]));
    assert!(client.read(&mut [0]).is_err());
}

#[test]
fn every_one_of_many_connections_is_cut() {
    const COUNT: usize = 400;
    if !may_cut_here("cutting::every_one_of_many_connections_is_cut") {
        return;
    }
    let (listener, port) = listen(BOTH);
    let mut open = Vec::new();
    for _ in 0..COUNT {
        open.push(Connection::open(&listener, any_port(v4(2)), v4(1)));
    }
    assert_eq!(cut_on(&[port], &[v4(2)]), BTreeMap::from([(v4(2), COUNT)]));
    open.iter_mut().for_each(Connection::assert_is_cut);
    assert_eq!(established_on(&[PortRange::single(port)]).unwrap(), 0);
}

#[test]
fn whether_anybody_listens_is_told_of_both_families() {
    for at in [v4(1), V6, BOTH] {
        let (_listener, port) = listen(at);
        assert!(listens_on(&[PortRange::single(port)]).unwrap(), "{at}");
    }
    let (_held, port) = held();
    assert!(!listens_on(&[PortRange::single(port)]).unwrap());
    assert!(!listens_on(&[]).unwrap());
}

#[test]
fn without_the_capability_nothing_is_cut_and_the_error_says_what_is_missing() {
    const NAME: &str =
        "cutting::without_the_capability_nothing_is_cut_and_the_error_says_what_is_missing";
    if !is_started_again() {
        again(&mut without_capabilities(), NAME);
        // As a unit with PrivateUsers=yes has it: over its own user name space, not over our network.
        again(Command::new("unshare").arg("-Ur"), NAME);
        return;
    }
    let (listener, port) = listen(v4(1));
    let mut connection = Connection::open(&listener, any_port(v4(2)), v4(1));
    let wanted = Cut {
        ports: vec![PortRange::single(port)],
        addresses: [v4(2)].into(),
    };
    let error = cut(&wanted).unwrap_err();
    assert!(matches!(error, SocketsError::NotAllowed), "{error:?}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    connection.assert_lives();
    assert!(listens_on(&wanted.ports).unwrap());
}
