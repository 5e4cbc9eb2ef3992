//! What a hook prints: read as fast as it comes, so that it never waits for us, and kept in little.
//!
//! Kept here: memory is bounded by [`KEPT_BYTES`] and [`TAIL_BYTES`] whatever a hook prints, and no
//! id in full and no control character leaves this file.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::{debug, warn};

use crate::model::ids::NodeId;

use super::error::Said;
use super::wording;

/// What is kept of both streams together, in bytes: more is of no use in a log.
const KEPT_BYTES: usize = 64 * 1024;
/// And in lines: each costs more in the log than its bytes.
const KEPT_LINES: usize = 500;
/// Longest line logged, in characters.
const LINE_CHARS: usize = 2_000;
/// What is kept of the end of stderr, in bytes: it tells why a hook failed. Ten times
/// [`SAID_CHARS`], as ids are shortened and characters have up to four bytes.
const TAIL_BYTES: usize = 4_000;
/// Longest quote of a hook in an error, in characters.
const SAID_CHARS: usize = 400;
/// Read at once, in bytes: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// One of a hook's two streams.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The kept part of a hook's output.
#[derive(Debug)]
pub(super) struct Output {
    lines: Vec<(Stream, Vec<u8>)>,
    room: usize,
    /// Of each stream, what has no end of line yet.
    partial: [Vec<u8>; 2],
    /// The end of stderr.
    tail: VecDeque<u8>,
    /// Whether stderr had more than its tail.
    tail_cut: bool,
    total: u64,
    thrown: u64,
}

/// Reads both streams until they end. May be dropped at any time: what was read is in `output`.
pub(super) async fn drain(
    mut stdout: impl AsyncRead + Unpin,
    mut stderr: impl AsyncRead + Unpin,
    output: &mut Output,
) {
    let (mut out, mut err) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        // Both arms are cancel-safe: a read that is dropped has taken nothing.
        tokio::select! {
            read = stdout.read(&mut out), if out_open => {
                let count = read.unwrap_or(0);
                output.take(Stream::Stdout, &out[..count]);
                out_open = count > 0;
            }
            read = stderr.read(&mut err), if err_open => {
                let count = read.unwrap_or(0);
                output.take(Stream::Stderr, &err[..count]);
                err_open = count > 0;
            }
        }
    }
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            lines: Vec::new(),
            room: KEPT_BYTES,
            partial: Default::default(),
            tail: VecDeque::new(),
            tail_cut: false,
            total: 0,
            thrown: 0,
        }
    }

    /// All bytes printed.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Those of them that were not kept.
    pub(super) fn thrown(&self) -> u64 {
        self.thrown
    }

    /// The end of stderr, for an error's message.
    pub(super) fn said(&self) -> Said {
        let (front, back) = self.tail.as_slices();
        let tail = [front, back].concat();
        let tail = if self.tail_cut {
            wording::without_cut_id(&tail)
        } else {
            &tail
        };
        Said(wording::last_words(tail, SAID_CHARS))
    }

    /// Logs the kept lines: a hook's chatter is of interest to everybody once it has failed.
    pub(super) fn log(mut self, node: NodeId, failed: bool) {
        self.finish();
        for (stream, line) in &self.lines {
            let text = wording::shown(line, LINE_CHARS);
            match stream {
                _ if text.is_empty() => {}
                Stream::Stdout if failed => warn!(target: "hook", %node, "{text}"),
                Stream::Stderr if failed => warn!(target: "hook", %node, "stderr: {text}"),
                Stream::Stdout => debug!(target: "hook", %node, "{text}"),
                Stream::Stderr => debug!(target: "hook", %node, "stderr: {text}"),
            }
        }
        let thrown = self.thrown();
        if thrown > 0 {
            warn!(target: "hook", %node, "{thrown} bytes more were printed, and not kept");
        }
    }

    fn take(&mut self, from: Stream, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if matches!(from, Stream::Stderr) {
            let fresh = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
            let over = (self.tail.len() + fresh.len()).saturating_sub(TAIL_BYTES);
            self.tail.drain(..over);
            self.tail_cut |= over > 0 || fresh.len() < bytes.len();
            self.tail.extend(fresh);
        }
        let mut rest = &bytes[..bytes.len().min(self.room)];
        let mut kept = 0;
        while !rest.is_empty() && self.lines.len() < KEPT_LINES {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let line = &mut self.partial[from as usize];
            line.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            if end.is_some() {
                self.lines.push((from, std::mem::take(line)));
            }
            let used = end.map_or(rest.len(), |end| end + 1);
            kept += used;
            rest = &rest[used..];
        }
        self.room -= kept;
        self.thrown += (bytes.len() - kept) as u64;
    }

    /// Turns what has no end of line into lines.
    fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(&mut self.partial[stream as usize]);
            self.lines.push((stream, line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

    fn lines(mut output: Output) -> Vec<String> {
        output.finish();
        output
            .lines
            .iter()
            .map(|(_, line)| wording::shown(line, LINE_CHARS))
            .collect()
    }

    #[test]
    fn lines_are_put_together_stream_by_stream() {
        let mut output = Output::new();
        output.take(Stream::Stdout, b"one\ntw");
        output.take(Stream::Stderr, b"err");
        output.take(Stream::Stdout, b"o\nthree");
        assert_eq!((output.total(), output.thrown()), (16, 0));
        assert_eq!(lines(output), ["one", "two", "three", "err"]);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_in_lines() {
        let mut output = Output::new();
        for _ in 0..100 {
            output.take(Stream::Stdout, &vec![b'x'; CHUNK_BYTES]);
        }
        assert_eq!(output.thrown(), 99 * CHUNK_BYTES as u64);

        let mut output = Output::new();
        output.take(Stream::Stdout, "\n".repeat(10_000).as_bytes());
        assert_eq!(output.thrown(), 10_000 - KEPT_LINES as u64);
        assert_eq!(output.lines.len(), KEPT_LINES);
    }

    #[test]
    fn an_id_at_a_cut_is_not_shown_nearly_whole() {
        let mut output = Output::new();
        let printed = format!("{}{ID}\n", " ".repeat(KEPT_BYTES - 35));
        output.take(Stream::Stdout, printed.as_bytes());
        assert_eq!(output.thrown(), 2);
        assert!(!lines(output).concat().contains("aaaaaaaa-"));

        let mut output = Output::new();
        let printed = format!("{ID}{}", "\n".repeat(TAIL_BYTES - 35));
        output.take(Stream::Stderr, printed.as_bytes());
        assert_eq!(output.said().0, "");
    }

    #[test]
    fn the_last_words_are_those_of_stderr_however_much_came_before() {
        let mut output = Output::new();
        for _ in 0..10_000 {
            output.take(Stream::Stderr, format!("{ID}\n").as_bytes());
        }
        output.take(Stream::Stderr, format!("no such user {ID}\n").as_bytes());
        output.take(Stream::Stdout, b"bye");
        assert_eq!(output.tail.len(), TAIL_BYTES);
        let said = output.said().0;
        assert!(said.ends_with("no such user aaaaaaaa…"), "{said}");
        assert!(
            !said.contains("-4ccc-") && said.chars().count() == SAID_CHARS + 1,
            "{said}"
        );
    }
}
