//! A download or an upload that never ends by itself, at a pace: what a user does while the user is
//! removed. Every byte is checked; when they came, and when and how it ended, is kept.
//!
//! The head is two numbers of 8 bytes, big endian: bytes that the origin sends in one go, and the
//! microseconds after each; bytes of 0 ask for an upload, which the origin answers with how much has
//! come so far.
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::transfer::pattern;
use super::wait::eventually;

/// Most bytes of one read or write.
const BUFFER_BYTES: usize = 1 << 16;
/// For bytes that are to flow; loopback takes milliseconds.
const FLOW_BOUND: Duration = Duration::from_mins(1);

/// How fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The most that moves between two pauses, bytes; at most 64 KiB.
    pub chunk: u64,
    pub pause: Duration,
}

impl Default for Pace {
    /// As a film: 800 KB a second.
    fn default() -> Self {
        Self {
            chunk: 16 << 10,
            pause: Duration::from_millis(20),
        }
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// In order, as far as the client can tell.
    Closed,
    /// By an error of the connection.
    Broken(io::ErrorKind),
    /// Other bytes came than were sent.
    Corrupt,
}

/// What has come of a stream so far.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Bytes that came down, or of which the origin said that they came up.
    pub bytes: u64,
    /// When bytes came last; at first: when it began.
    pub last_byte: Instant,
    /// The longest that none came.
    pub gap_max: Duration,
    pub ended: Option<(Instant, End)>,
}

/// Runs until it is cut or dropped.
pub struct Stream {
    seen: Arc<Mutex<Seen>>,
    _task: JoinSet<()>,
}

impl Stream {
    /// On a connection to [`super::Origin::stream_addr`].
    pub fn download(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, pace: Pace) -> Self {
        Self::download_after(0, io, pace)
    }

    /// The same where so many bytes of a proxy's own come first.
    pub fn download_after(
        bytes: usize,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        pace: Pace,
    ) -> Self {
        Self::start(|seen| async move { receive(bytes, io, pace, &seen).await })
    }

    /// On a connection to [`super::Origin::stream_addr`].
    pub fn upload(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, pace: Pace) -> Self {
        Self::start(|seen| async move { send(io, pace, &seen).await })
    }

    fn start<F>(run: impl FnOnce(Arc<Mutex<Seen>>) -> F) -> Self
    where
        F: Future<Output = io::Result<End>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Seen {
            bytes: 0,
            last_byte: Instant::now(),
            gap_max: Duration::ZERO,
            ended: None,
        }));
        let (running, seen_by_task) = (run(Arc::clone(&seen)), Arc::clone(&seen));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let end = running.await.unwrap_or_else(|e| End::Broken(e.kind()));
            lock(&seen_by_task).ended = Some((Instant::now(), end));
        });
        Self { seen, _task: task }
    }

    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    pub fn is_open(&self) -> bool {
        lock(&self.seen).ended.is_none()
    }

    /// Waits until so many more bytes have come than now.
    ///
    /// # Errors
    /// When it ends before.
    pub async fn await_more(&self, bytes: u64) -> Result<Seen> {
        let until = self.seen().bytes + bytes;
        let seen = eventually("bytes of a stream", FLOW_BOUND, async || {
            Some(self.seen()).filter(|seen| seen.bytes >= until || seen.ended.is_some())
        });
        let seen = seen.await.with_context(|| format!("{:?}", self.seen()))?;
        ensure!(seen.bytes >= until, "the stream ended: {seen:?}");
        Ok(seen)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it goes on, or ended because other bytes came than were sent.
    pub async fn await_end(&self, within: Duration) -> Result<Seen> {
        let ended = eventually("a stream's end", within, async || {
            Some(self.seen()).filter(|seen| seen.ended.is_some())
        });
        let seen = ended.await.with_context(|| format!("{:?}", self.seen()))?;
        let corrupt = matches!(seen.ended, Some((_, End::Corrupt)));
        ensure!(!corrupt, "other bytes came than were sent");
        Ok(seen)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn note(&mut self, bytes: u64) {
        let now = Instant::now();
        // The wait for the first is that for a connection.
        if self.bytes > 0 {
            self.gap_max = self.gap_max.max(now - self.last_byte);
        }
        self.last_byte = now;
        self.bytes = bytes;
    }
}

async fn receive(
    first_bytes: usize,
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    pace: Pace,
    seen: &Mutex<Seen>,
) -> io::Result<End> {
    let pause_us = u64::try_from(pace.pause.as_micros()).unwrap_or(u64::MAX);
    let head = [pace.chunk.to_be_bytes(), pause_us.to_be_bytes()].concat();
    io.write_all(&head).await?;
    io.flush().await?;
    io.read_exact(&mut vec![0; first_bytes]).await?;
    let (mut buffer, mut received) = (vec![0; BUFFER_BYTES], 0);
    loop {
        let read = io.read(&mut buffer).await?;
        if read == 0 {
            return Ok(End::Closed);
        }
        let until = received + read as u64;
        if buffer[..read] != *pattern(received, until) {
            return Ok(End::Corrupt);
        }
        received = until;
        lock(seen).note(received);
    }
}

async fn send(
    io: impl AsyncRead + AsyncWrite + Unpin,
    pace: Pace,
    seen: &Mutex<Seen>,
) -> io::Result<End> {
    let (mut from, mut to) = tokio::io::split(io);
    let sending = async {
        to.write_all(&[0; 16]).await?;
        send_paced(&mut to, pace).await
    };
    let receiving = async {
        loop {
            let received = from.read_u64().await?;
            lock(seen).note(received);
        }
    };
    tokio::select! {
        ended = sending => ended,
        ended = receiving => ended,
    }
}

/// Sends the pattern for ever.
async fn send_paced(to: &mut (impl AsyncWrite + Unpin), pace: Pace) -> io::Result<End> {
    let mut sent = 0;
    loop {
        to.write_all(pattern(sent, sent + pace.chunk)).await?;
        to.flush().await?;
        sent += pace.chunk;
        tokio::time::sleep(pace.pause).await;
    }
}

/// The origin's side of one connection.
pub async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) {
    // The other side may go away at any moment: no fault of the origin.
    let _ = answer(io).await;
}

async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<End> {
    let (chunk, pause_us) = (io.read_u64().await?, io.read_u64().await?);
    let (mut from, mut to) = tokio::io::split(io);
    if chunk == 0 {
        return acknowledge(&mut from, &mut to).await;
    }
    let pause = Duration::from_micros(pause_us);
    let sending = send_paced(&mut to, Pace { chunk, pause });
    // One who is cut in a pause is heard of here.
    let mut more = [0];
    let hearing = async { from.read(&mut more).await.map(|_| End::Closed) };
    tokio::select! {
        ended = sending => ended,
        ended = hearing => ended,
    }
}

async fn acknowledge(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<End> {
    let (mut buffer, mut received) = (vec![0; BUFFER_BYTES], 0);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(End::Closed);
        }
        let until = received + read as u64;
        if buffer[..read] != *pattern(received, until) {
            return Ok(End::Corrupt);
        }
        received = until;
        to.write_u64(received).await?;
        to.flush().await?;
    }
}
