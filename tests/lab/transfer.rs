//! A transfer of an exact number of bytes each way. The client sends a head (bytes up, then bytes
//! down, 8 bytes each, big endian) and the bytes up; the origin sends the bytes down.
//!
//! Invariant: what a user's connection carries is exactly 16 + up bytes one way and down bytes the
//! other. The origin always has sent the same share of its bytes as it has received: whoever
//! paces the one direction paces both.
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::origin::Origin;
use super::socks;

/// Bytes of the head, which count as uplink.
pub const HEAD_BYTES: u64 = 16;
/// Bytes that move in one go where no pace is asked for; a multiple of the pattern's length.
const CHUNK_BYTES: u64 = 251 * 256;
/// On top of the pauses, against hanging; 100 MB take a few seconds on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

/// How many bytes, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub up: u64,
    pub down: u64,
    /// The most that moves between two pauses, in either direction, bytes.
    pub chunk: u64,
    pub pause: Duration,
}

impl Transfer {
    /// As fast as it goes.
    pub fn at_once(up: u64, down: u64) -> Self {
        Self {
            up,
            down,
            chunk: CHUNK_BYTES,
            pause: Duration::ZERO,
        }
    }

    /// In chunks of at most that many bytes, with that pause after each.
    pub fn paced(self, chunk: u64, pause: Duration) -> Self {
        Self {
            chunk,
            pause,
            ..self
        }
    }

    fn steps(&self) -> u64 {
        self.up.max(self.down).div_ceil(self.chunk)
    }

    /// Does it through a SOCKS port, and waits for the end of the stream: milliseconds, but some
    /// seconds where nothing comes down.
    ///
    /// # Errors
    /// When the connection breaks or stalls, or when other bytes come than were to.
    pub async fn run(self, socks_port: u16, origin: SocketAddr) -> Result<()> {
        ensure!(
            self.pause.is_zero() || self.up >= self.steps(),
            "a paced transfer needs a byte up for each of its {} steps",
            self.steps()
        );
        let pauses = self.pause * u32::try_from(self.steps()).unwrap_or(u32::MAX);
        let moved = async {
            let mut stream = socks::connect(socks_port, origin).await?;
            let (mut from, mut to) = stream.split();
            // Both at once: each side's buffers are smaller than a large transfer.
            tokio::try_join!(self.send(&mut to), self.receive(&mut from))?;
            // The client's Xray cuts a half-closed connection at once, and what it still held is
            // lost; the last byte down is the proof that none is on its way up any more.
            if self.down > 0 {
                to.shutdown().await.context("ending the stream")?;
            }
            let more = from.read(&mut [0]).await.context("the stream's end")?;
            ensure!(more == 0, "more bytes came than were to");
            anyhow::Ok(())
        };
        tokio::time::timeout(BOUND + pauses, moved)
            .await
            .context("the transfer does not end")?
    }

    async fn send(&self, to: &mut WriteHalf<'_>) -> Result<()> {
        let head = [self.up.to_be_bytes(), self.down.to_be_bytes()].concat();
        to.write_all(&head).await.context("sending the head")?;
        let mut sent = 0;
        for step in 1..=self.steps() {
            let due = share(self.up, step, self.steps());
            write_pattern(to, sent, due).await.context("sending")?;
            sent = due;
            tokio::time::sleep(self.pause).await;
        }
        Ok(())
    }

    async fn receive(&self, from: &mut ReadHalf<'_>) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(CHUNK_BYTES)?];
        let mut received = 0;
        while received < self.down {
            let read = from.read(&mut buffer).await.context("receiving")?;
            ensure!(read > 0, "only {received} of {} bytes came", self.down);
            let expected = pattern(received, received + read as u64);
            ensure!(
                buffer[..read] == *expected,
                "other bytes came than were sent"
            );
            received += read as u64;
        }
        ensure!(received == self.down, "more bytes came than were to");
        Ok(())
    }
}

/// The origin's side of one connection.
pub async fn serve(mut stream: TcpStream) {
    // The other side may go away at any moment: no fault of the origin.
    let _ = answer(&mut stream).await;
}

async fn answer(stream: &mut TcpStream) -> Result<()> {
    let up = stream.read_u64().await?;
    let down = stream.read_u64().await?;
    let mut buffer = vec![0; usize::try_from(CHUNK_BYTES)?];
    let (mut received, mut sent) = (0, 0);
    let (mut from, mut to) = stream.split();
    loop {
        let due = if up == 0 {
            down
        } else {
            share(down, received, up)
        };
        write_pattern(&mut to, sent, due).await?;
        sent = due;
        if received == up {
            break;
        }
        let most = usize::try_from(CHUNK_BYTES.min(up - received))?;
        let read = from.read(&mut buffer[..most]).await?;
        ensure!(read > 0, "the client ended early");
        received += read as u64;
    }
    to.shutdown().await?;
    Ok(())
}

/// `part` of `whole` parts of that many bytes, rounded down.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(part) / u128::from(whole);
    u64::try_from(share).expect("invariant: no more than the whole")
}

async fn write_pattern(
    to: &mut (impl AsyncWriteExt + Unpin),
    mut from: u64,
    until: u64,
) -> Result<()> {
    while from < until {
        let next = until.min(from + CHUNK_BYTES);
        to.write_all(pattern(from, next)).await?;
        from = next;
    }
    Ok(())
}

/// The bytes of [`Origin::bytes`] from one place to another, 64 KiB at most.
pub fn pattern(from: u64, until: u64) -> &'static [u8] {
    /// A chunk from any place of the pattern is a slice of it.
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| Origin::bytes(251 * 263));
    let skipped = usize::try_from(from % 251).expect("invariant: below 251");
    let length = usize::try_from(until - from).expect("invariant: a chunk at most");
    &BYTES[skipped..skipped + length]
}
