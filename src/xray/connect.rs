//! How the channel reaches Xray's API, how many connections there were, and how the loss of one is
//! noticed at once: the stream tells when it is dropped, which is when its peer went away. Nothing is
//! polled for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::config::XrayAddress;

/// No connection was made, so no call was sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect: {0}")]
pub(super) struct NotConnected(#[source] pub(super) io::Error);

/// Connects to `address` within `limit`.
pub(super) async fn connect(
    address: XrayAddress,
    limit: Duration,
    tally: Arc<Tally>,
) -> Result<TokioIo<Connection>, NotConnected> {
    let dial = async {
        Ok(match address {
            XrayAddress::Tcp(host) => {
                let stream = TcpStream::connect(host).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            XrayAddress::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            XrayAddress::Abstract(name) => {
                Stream::Unix(UnixStream::connect(format!("\0{name}")).await?)
            }
        })
    };
    let stream = tokio::time::timeout(limit, dial)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(NotConnected)?;
    tally.count_one();
    Ok(TokioIo::new(Connection {
        stream,
        _lost: Lost(tally),
    }))
}

/// Counts the connections to one Xray.
#[derive(Debug, Default)]
pub(super) struct Tally {
    made: AtomicU64,
    lost: watch::Sender<u64>,
}

/// How the tally stood. While it stands so, it is the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    made: u64,
    lost: u64,
}

impl Tally {
    /// A connection was made.
    pub(super) fn count_one(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// How it stands.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            made: self.made.load(Ordering::Relaxed),
            lost: *self.lost.borrow(),
        }
    }

    /// Changes each time a connection is gone.
    pub(super) fn lost(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }
}

/// One connection to Xray.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    _lost: Lost,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Counts up when the connection it belongs to is gone.
#[derive(Debug)]
struct Lost(Arc<Tally>);

impl Drop for Lost {
    fn drop(&mut self) {
        self.0.lost.send_modify(|times| *times += 1);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(s) => Pin::new(s).poll_flush(cx),
            Stream::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
