//! A request's body that tells whether it ever left our hands: either the connection asks for it
//! first, and from then on it may have arrived, or its sender takes it back first, and then not a
//! byte of it is ever given out. So who was meant by a body that was taken back has seen nothing of it,
//! even where a head was written: what matters must stand in the body only.
//!
//! Why a connection that never asked has written nothing: hyper puts the head of an HTTP/1.1 request
//! into its buffer and asks for the body in the same turn, before it flushes. A request that it
//! sends once more by itself, when a pooled connection turns out to be closed, it had not begun. (On
//! HTTP/2 the head may go first; the body, still, only after it was asked for.)

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Connection,
    Sender,
}

/// The sender's half.
#[derive(Debug)]
pub struct Handover(Arc<OnceLock<First>>);

/// The connection's half. Its size is exact, so that the request has a `Content-Length`.
#[derive(Debug)]
pub struct Content {
    first: Arc<OnceLock<First>>,
    /// `None` once it was given out.
    bytes: Option<Bytes>,
}

/// A body, and the means to take it back.
pub fn of(bytes: Bytes) -> (Content, Handover) {
    let first = Arc::new(OnceLock::new());
    let content = Content {
        first: first.clone(),
        bytes: Some(bytes),
    };
    (content, Handover(first))
}

impl Handover {
    /// Takes the body back; false where the connection has asked for it before.
    pub fn take_back(&self) -> bool {
        *self.0.get_or_init(|| First::Sender) == First::Sender
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if *self.first.get_or_init(|| First::Connection) == First::Sender {
            return Poll::Ready(Some(Err(io::Error::other("the request was given up"))));
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(content: &mut Content) -> Option<io::Result<Bytes>> {
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        match Pin::new(content).poll_frame(&mut nobody) {
            Poll::Ready(frame) => frame.map(|frame| frame.map(|f| f.into_data().unwrap())),
            Poll::Pending => panic!("it never waits"),
        }
    }

    #[test]
    fn what_was_asked_for_cannot_be_taken_back() {
        let (mut content, handover) = of(Bytes::from_static(b"abc"));
        assert_eq!(content.size_hint().exact(), Some(3));
        assert!(!content.is_end_stream());
        assert_eq!(ask(&mut content).unwrap().unwrap(), "abc");
        assert!(content.is_end_stream() && ask(&mut content).is_none());
        assert!(!handover.take_back());
    }

    #[test]
    fn what_was_taken_back_is_never_given_out() {
        let (mut content, handover) = of(Bytes::from_static(b"abc"));
        assert!(handover.take_back() && handover.take_back());
        assert!(ask(&mut content).unwrap().is_err());
    }
}
