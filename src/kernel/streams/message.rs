//! A message of a stream, written once for all who hear it: as a server-sent event, in which the JSON
//! of a WebSocket's frame is a part. Pure.
//!
//! Kept here: none is larger than [`BYTES_MAX`], and none breaks the framing of server-sent events.

use std::io::{self, Write};
use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

use super::super::error::bad_request;
use crate::http::HttpError;
use crate::model::event::EventId;

/// Largest message. A reader that is stuck holds one, in a buffer that grows to twice of it, and the
/// kernel's buffer: together it must stay under 1 MiB. That is some 2 000 users.
pub(super) const BYTES_MAX: usize = 384 << 10;

/// A message. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Message {
    sse: Bytes,
    json: Range<usize>,
}

/// What was to be told is larger than a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is larger than {BYTES_MAX} bytes; name fewer parts with include")]
pub(super) struct TooLarge;

impl From<TooLarge> for HttpError {
    fn from(too_large: TooLarge) -> Self {
        bad_request(too_large.to_string())
    }
}

impl Message {
    /// Writes one; `id` is what a client gives back as `Last-Event-ID`. `content` is of those that are
    /// always JSON.
    pub(super) fn new(
        name: &str,
        id: Option<EventId>,
        content: &impl Serialize,
    ) -> Result<Self, TooLarge> {
        let mut written = Capped(Vec::new());
        let head = match id {
            Some(id) => format!("id: {id}\nevent: {name}\ndata: "),
            None => format!("event: {name}\ndata: "),
        };
        written.0.extend_from_slice(head.as_bytes());
        serde_json::to_writer(&mut written, content).map_err(|_| TooLarge)?;
        let Capped(mut text) = written;
        let json = head.len()..text.len();
        // JSON has them between its tokens only, where they mean nothing.
        let breaks = text[json.clone()].iter_mut();
        breaks
            .filter(|byte| matches!(byte, b'\n' | b'\r'))
            .for_each(|byte| *byte = b' ');
        text.extend_from_slice(b"\n\n");
        text.shrink_to_fit();
        Ok(Self {
            sse: text.into(),
            json,
        })
    }

    /// As a server-sent event.
    pub(super) fn sse(self) -> Bytes {
        self.sse
    }

    /// Its JSON alone.
    pub(super) fn json(&self) -> Bytes {
        self.sse.slice(self.json.clone())
    }
}

/// Takes no more than a message may have, so that what is far too large is not written to its end.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    fn text(bytes: Bytes) -> String {
        String::from_utf8(bytes.into()).unwrap()
    }

    #[test]
    fn a_message_is_a_server_sent_event_around_its_json() {
        let message = Message::new("status.full", None, &json!({"a": "\n"})).unwrap();
        assert_eq!(text(message.json()), r#"{"a":"\n"}"#);
        let expected = "event: status.full\ndata: {\"a\":\"\\n\"}\n\n";
        assert_eq!(text(message.sse()), expected);
        let id = EventId(uuid::Uuid::nil());
        let message = Message::new("node.added", Some(id), &1).unwrap();
        let expected = "id: 00000000-0000-0000-0000-000000000000\nevent: node.added\ndata: 1\n\n";
        assert_eq!(text(message.sse()), expected);
    }

    #[test]
    fn json_over_several_lines_stays_one_event() {
        let raw = RawValue::from_string("{\"a\":\r\n 1}".to_owned()).unwrap();
        let message = Message::new("x", None, &raw).unwrap();
        assert_eq!(text(message.sse()), "event: x\ndata: {\"a\":   1}\n\n");
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        let of = |bytes: usize| Message::new("x", None, &"a".repeat(bytes)).map(drop);
        assert_eq!(of(BYTES_MAX - 100), Ok(()));
        assert_eq!(of(BYTES_MAX), Err(TooLarge));
    }
}
