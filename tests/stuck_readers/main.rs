//! Readers of streams that are stuck cost little and delay nobody: 16 of 64 never read.
//!
//! A program of its own, so that what it takes of memory is its own.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "it uses a part of what the tests share"
)]
#![allow(clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../lab/mod.rs"]
mod lab;
#[path = "../it/streams_stage.rs"]
mod streams_stage;
#[path = "../it/support.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use xray_agent::base::supervise::Ended;
use xray_agent::events::bus::Bounds;
use xray_agent::kernel::streams::{Cut, Snapshots};
use xray_agent::model::event::EventName;

use crate::lab::eventually;
use crate::streams_stage::{Life, Place, Sse, Ws};
use crate::support::LONG;

/// Readers that read.
const QUICK: usize = 48;
/// What readers that do not read ask for, each of it so many times.
const STUCK: [&str; 4] = [
    "/v1/events/stream",
    "/v1/events/ws",
    "/v1/status/stream?interval=1&include=all",
    "/v1/status/ws?interval=1&include=all",
];
const STUCK_EACH: usize = 4;
/// Bytes of an event's payload, and of a snapshot: near to the largest that is told.
const EVENT_BYTES: usize = 64 << 10;
const SNAPSHOT_BYTES: usize = 350 << 10;
/// Events that are told in a row; the bus remembers 4 MiB.
const IN_A_ROW: u64 = 8;
/// Events to settle what each reader takes, and then beside those that are stuck: more than fits into
/// all buffers, by far.
const FIRST: u64 = 80;
const ALL: u64 = 240;
/// What a stuck reader may cost (promise E1), and what the allocator may keep besides.
const STUCK_BYTES_MAX: usize = 1 << 20;
const SLACK_BYTES: usize = 8 << 20;
/// From the telling to the last of those that read: 24 MiB in all, a second of work for who reads.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
/// A reader that takes nothing has 25 s, and as much again on a machine with other work.
const CUT_WITHIN: Duration = Duration::from_secs(50);

/// A snapshot that is large, and another each time.
struct Large(AtomicU64);

impl Snapshots for Large {
    fn snapshot<'a>(&'a self, _cut: &'a Cut) -> BoxFuture<'a, Value> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let padding = "x".repeat(SNAPSHOT_BYTES);
        Box::pin(ready(json!({"n": n, "padding": padding})))
    }
}

/// Those that read, and how many events each has heard.
#[derive(Default)]
struct Readers {
    heard: Arc<Vec<AtomicU64>>,
    reading: JoinSet<Result<()>>,
}

impl Readers {
    /// Half of them by server-sent events, half over WebSockets.
    async fn open(place: &Place) -> Result<Self> {
        let mut readers = Self {
            heard: Arc::new((0..QUICK).map(|_| AtomicU64::new(0)).collect()),
            ..Self::default()
        };
        for who in 0..QUICK {
            let heard = Arc::clone(&readers.heard);
            if who % 2 == 0 {
                let mut sse: Sse = place.sse("/v1/events/stream", None).await?;
                readers.reading.spawn(async move {
                    loop {
                        hear(&heard[who], &sse.event().await?.json()?)?;
                    }
                });
            } else {
                let mut ws: Ws = place.ws("/v1/events/ws").await?;
                readers.reading.spawn(async move {
                    loop {
                        hear(&heard[who], &ws.json().await?)?;
                    }
                });
            }
        }
        Ok(readers)
    }

    /// Tells these events, some in a row, and waits until each reader has heard them; the longest wait.
    async fn tell(&mut self, life: &Life, from: u64, to: u64) -> Result<Duration> {
        let text = "x".repeat(EVENT_BYTES);
        let mut longest = Duration::ZERO;
        for first in (from..to).step_by(usize::try_from(IN_A_ROW)?) {
            for n in first..first + IN_A_ROW {
                let event = json!({"n": n, "text": text});
                life.publish(EventName::UsersSynced, &event).await?;
            }
            let told = Instant::now();
            eventually("all have heard it", LONG, async || {
                let all = |heard: &AtomicU64| heard.load(Ordering::Relaxed) == first + IN_A_ROW;
                self.heard.iter().all(all)
            })
            .await
            .or_else(|late| match self.reading.try_join_next() {
                Some(ended) => ended?.context("a reader ended"),
                None => Err(late),
            })?;
            longest = longest.max(told.elapsed());
        }
        Ok(longest)
    }
}

/// Counts an event, which is the next one.
fn hear(heard: &AtomicU64, event: &Value) -> Result<()> {
    let next = heard.load(Ordering::Relaxed);
    let n = event["payload"]["n"].as_u64();
    ensure!(n == Some(next), "{n:?} instead of {next}");
    heard.store(next + 1, Ordering::Relaxed);
    Ok(())
}

/// Asks for a stream and never reads it; little room of its own.
async fn get_stuck(at: SocketAddr, path: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4 << 10)?;
    let mut stream = socket.connect(at).await?;
    let upgrade = if path.contains("/ws") {
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    } else {
        ""
    };
    let head = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\n{upgrade}\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// What this process takes of memory, in bytes.
fn resident() -> Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).context("no resident pages")?;
    Ok(pages.parse::<usize>()? * rustix::param::page_size())
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_stuck_readers_cost_1_mib_each_at_most_and_the_others_wait_for_none() -> Result<()>
{
    let place = Place::new(Bounds::default(), Arc::new(Large(AtomicU64::new(0))))?;
    let life = place.start().await?;
    let mut readers = Readers::open(&place).await?;
    let alone = readers.tell(&life, 0, FIRST).await?;
    let before = resident()?;
    let mut stuck = Vec::new();
    for path in STUCK.iter().cycle().take(STUCK.len() * STUCK_EACH) {
        stuck.push(get_stuck(place.address, path).await?);
    }
    let all = QUICK + stuck.len();
    eventually("all are open", LONG, async || life.streams.open() == all).await?;
    let beside = readers.tell(&life, FIRST, ALL).await?;
    let cost = resident()?.saturating_sub(before);
    println!(
        "{cost} bytes for {} stuck readers; others waited {alone:?}, {beside:?}",
        stuck.len()
    );
    ensure!(
        cost < stuck.len() * STUCK_BYTES_MAX + SLACK_BYTES,
        "{cost} bytes"
    );
    ensure!(beside < TOLD_WITHIN, "{beside:?}");
    eventually("who takes nothing is cut", CUT_WITHIN, async || {
        life.streams.open() == QUICK
    })
    .await?;
    readers.tell(&life, ALL, ALL + IN_A_ROW).await?;
    let most = usize::try_from(ALL)? * EVENT_BYTES / 4;
    for mut stream in stuck {
        let mut rest = Vec::new();
        // It was cut: an end or an error, either will do.
        let _ = timeout(LONG, stream.read_to_end(&mut rest)).await?;
        ensure!(rest.len() < most, "{} bytes came through", rest.len());
    }
    ensure!(life.stop().await? == Ended::Stopped);
    Ok(())
}
