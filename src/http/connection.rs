//! One connection, from its first byte to its last, on hyper's own HTTP/1.1: axum's server has no
//! timer and keeps clients that say nothing.
//!
//! Kept here: a connection that says nothing, says it slowly or takes nothing ends by itself, and all
//! end within [`STOP_TAKES`] of a stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::admission::Seat;
use super::client::Client;
use super::exchange::Served;
use super::limits::{
    HANDSHAKE_TAKES, HEAD_BYTES_MAX, HEAD_TAKES, HEADERS_MAX, PEER_TAKES, SEND_BUFFER_BYTES,
    STOP_TAKES,
};
use super::progress::Watched;
use crate::base::supervise::Shutdown;

/// A connection that was accepted and has a seat.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) is_local: bool,
    pub(super) seat: Seat,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) served: Arc<Served>,
    pub(super) shutdown: Shutdown,
}

impl Connection {
    /// Serves it to its end.
    pub(super) async fn serve(self) {
        prepare(&self.stream);
        let seat = Arc::new(self.seat);
        let mut shutdown = self.shutdown.clone();
        let client = Client::new(self.peer, self.is_local, seat.clone(), self.shutdown);
        let stream = Watched::new(self.stream, PEER_TAKES, seat);
        let Some(tls) = self.tls else {
            return exchanges(stream, client, self.served, shutdown).await;
        };
        // Both arms are cancel-safe: whatever is left behind is dropped with its connection.
        let handshake = tokio::select! {
            handshake = timeout(HANDSHAKE_TAKES, tls.accept(stream)) => handshake,
            () = shutdown.requested() => return,
        };
        match handshake {
            Ok(Ok(stream)) => exchanges(stream, client, self.served, shutdown).await,
            Ok(Err(error)) => debug!(peer = %self.peer, %error, "TLS handshake failed"),
            Err(_) => debug!(peer = %self.peer, "no TLS handshake within {HANDSHAKE_TAKES:?}"),
        }
    }
}

/// Answers go out at once, and a peer that vanished with unread bytes is noticed.
fn prepare(stream: &TcpStream) {
    let limit = Duration::as_millis(&PEER_TAKES)
        .try_into()
        .unwrap_or(u32::MAX);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| Ok(sockopt::set_tcp_user_timeout(stream, limit)?))
        .and_then(|()| {
            Ok(sockopt::set_socket_send_buffer_size(
                stream,
                SEND_BUFFER_BYTES,
            )?)
        });
    if let Err(error) = set {
        debug!(%error, "cannot set a connection's options");
    }
}

/// Request after request.
async fn exchanges<S>(stream: S, client: Client, served: Arc<Served>, mut shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = client.peer();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let service = service_fn(move |request| {
        begins.store(true, Ordering::Relaxed);
        let (served, client) = (served.clone(), client.clone());
        async move { Ok::<_, Infallible>(served.answer(&client, request).await) }
    });
    let connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TAKES)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // Both arms are cancel-safe: the connection is only lent.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            // No request has come yet: there is nothing to end in order.
            if !begun.load(Ordering::Relaxed) {
                return;
            }
            connection.as_mut().graceful_shutdown();
            match timeout(STOP_TAKES, connection).await {
                Ok(ended) => ended,
                Err(_) => return debug!(%peer, "cut, as it did not end within {STOP_TAKES:?}"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, "connection ended: {}", reason(&error));
    }
}

/// The error with what is behind it.
fn reason(error: &hyper::Error) -> String {
    let behind = std::error::Error::source(error);
    behind.map_or_else(|| error.to_string(), |behind| format!("{error}: {behind}"))
}
