//! A listener: bound sooner or later, accepting for as long as the agent runs.
//!
//! Kept here: a port that is taken or a certificate that is bad is told and tried again, and never
//! ends anything else; every connection belongs to the listener's task and none outlives it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use super::admission::{Admission, Refused};
use super::connection::Connection;
use super::exchange::Served;
use super::host::Hosts;
use super::tls::{Certificate, TlsError};
use crate::base::retry::Backoff;
use crate::base::said::Said;
use crate::base::supervise::Shutdown;
use crate::config::Tls;

/// Pauses before a listener that could not be opened is tried again (jitter adds up to as much).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted. A client that comes when there is no room for it believes
/// for a while that it is connected.
const BACKLOG: u32 = 1024;
/// After an accept that failed: out of descriptors, for one, and asking at once would be a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at the certificate's files, and between two signs of life.
const RENEWAL_LOOK: Duration = Duration::from_secs(5);
/// To whom has no seat. It may not arrive, as nothing of the request is read.
const NO_SEAT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 32\r\nconnection: close\r\n\r\n{\"error\":\"too many connections\"}";

/// Where something is served, and what.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name in the log.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// Certificate and key; `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// On loopback: names under which it may be asked, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// What it serves.
    pub router: Router,
    /// Counts the connections of all listeners that share it.
    pub admission: Admission,
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {0}: {1}")]
    Bind(SocketAddr, io::Error),
}

impl Listener {
    /// Serves until the end is asked for, and on until requests under way have ended or had their
    /// time. Dropping it cuts them. Until the end is asked for it says `alive` at least every 20 s.
    pub async fn run(self, mut shutdown: Shutdown, alive: impl Fn()) {
        let mut certificate = self.tls.clone().map(Certificate::new);
        // Both arms are cancel-safe: a listener that is half open is dropped.
        let listener = tokio::select! {
            listener = self.open(&mut certificate, &alive) => listener,
            () = shutdown.requested() => return,
        };
        info!(address = %self.address, tls = self.tls.is_some(), "{} listens", self.name);
        let mut connections = JoinSet::new();
        let accepting = self.accept(listener, certificate, &mut connections, shutdown, alive);
        accepting.await;
        while let Some(ended) = connections.join_next().await {
            tell(ended);
        }
    }

    /// Tries until it is open.
    async fn open(&self, certificate: &mut Option<Certificate>, alive: &impl Fn()) -> TcpListener {
        let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        let mut said = Said::default();
        loop {
            alive();
            match self.try_open(certificate).await {
                Ok(listener) => {
                    said.state(self.name, None);
                    return listener;
                }
                Err(error) => {
                    let trouble = format!("not served, tried again: {error}");
                    said.state(self.name, Some(&trouble));
                }
            }
            sleep(backoff.next_pause()).await;
        }
    }

    async fn try_open(
        &self,
        certificate: &mut Option<Certificate>,
    ) -> Result<TcpListener, OpenError> {
        if let Some(certificate) = certificate {
            certificate.refresh().await?;
        }
        bind(self.address).map_err(|error| OpenError::Bind(self.address, error))
    }

    /// Accepts until the end is asked for.
    async fn accept(
        &self,
        listener: TcpListener,
        mut certificate: Option<Certificate>,
        connections: &mut JoinSet<()>,
        mut shutdown: Shutdown,
        alive: impl Fn(),
    ) {
        let is_local = self.address.ip().to_canonical().is_loopback();
        let hosts = is_local.then(|| Hosts::new(&self.hosts));
        let served = Arc::new(Served::new(self.router.clone(), hosts));
        let mut said = Said::default();
        let stop = shutdown.clone();
        let mut look = interval(RENEWAL_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                () = shutdown.requested() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Some(seat) = self.seat(&stream, peer, &mut said) else { continue };
                        let tls = certificate.as_ref().and_then(Certificate::acceptor);
                        let (served, shutdown) = (served.clone(), stop.clone());
                        let connection =
                            Connection { stream, peer, is_local, seat, tls, served, shutdown };
                        connections.spawn(connection.serve());
                    }
                    Err(error) => {
                        said.failure(format!("{}: cannot accept a connection: {error}", self.name));
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => tell(ended),
                _ = look.tick() => {
                    alive();
                    if let Some(certificate) = &mut certificate {
                        certificate.renew().await;
                    }
                }
            }
        }
    }

    /// A seat for a connection, or a word to whom gets none.
    fn seat(
        &self,
        stream: &TcpStream,
        peer: SocketAddr,
        said: &mut Said,
    ) -> Option<super::admission::Seat> {
        let refused = match self.admission.enter(peer.ip()) {
            Ok(seat) => return Some(seat),
            Err(refused) => refused,
        };
        debug!(%peer, "refused: {refused}");
        let kind = match refused {
            Refused::Full => "full",
            Refused::Strangers | Refused::Streams => "strangers",
        };
        said.once(kind, || {
            warn!(%peer, "{} refuses connections: {refused} (told once)", self.name);
        });
        if self.tls.is_none() {
            // A fresh socket has room for so little; and who does not listen has no use for it.
            let _ = stream.try_write(NO_SEAT);
        }
        None
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Connections of the agent before us may still be ending.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A connection's task ends in order; a panic in one is a fault of ours, and ends nothing else.
fn tell(ended: Result<(), JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!("a connection ended by a panic: {failure}");
    }
}
