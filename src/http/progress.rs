//! A connection whose peer has to take what is sent to it. Reads wait as long as they like: others
//! bound those.
//!
//! Kept here: while bytes wait for the peer, some are taken within the limit, or the connection ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::admission::Seat;

/// A stream with an eye on its writes. It holds the connection's seat, which an upgrade takes along.
pub(super) struct Watched<S> {
    stream: S,
    limit: Duration,
    /// Running while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    _seat: Arc<Seat>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, limit: Duration, seat: Arc<Seat>) -> Self {
        Self {
            stream,
            limit,
            waiting: None,
            _seat: seat,
        }
    }

    /// What a write came to, unless it has been waiting for too long.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        // Whoever asks again gets the same answer at once.
        waiting.as_mut().reset(Instant::now());
        let why = format!("the peer took nothing for {limit:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        match flushed {
            // A plain socket has nothing to flush: this is no sign that the peer takes anything.
            Poll::Ready(_) => flushed,
            Poll::Pending => self.judge(cx, flushed),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::admission::Admission;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(25);
    const PIPE: usize = 1000;

    fn watched() -> (Watched<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let seat = Admission::default().enter(IpAddr::from([127, 0, 0, 1]));
        let (ours, theirs) = duplex(PIPE);
        (Watched::new(ours, LIMIT, Arc::new(seat.unwrap())), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_off_after_the_limit() {
        let (mut ours, _theirs) = watched();
        let began = Instant::now();
        let error = ours.write_all(&[0; PIPE + 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_byte_now_and_then_is_served_for_as_long_as_it_does() {
        let (mut ours, mut theirs) = watched();
        let reader = async {
            for _ in 0..100 {
                sleep(LIMIT.mul_f64(0.9)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; PIPE + 100]), reader);
        written.unwrap();
    }
}
