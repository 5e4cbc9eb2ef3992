//! Slow clients starve nobody: 500 of each kind are cut, and others are answered meanwhile.
//!
//! A program of its own, so that it has the machine to itself: cargo runs one after the other.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "it uses a part of what the tests share"
)]
#![allow(clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../it/http_stage.rs"]
mod http_stage;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../it/support.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use self::Slow::{BodyDrip, HalfALine, HeaderDrip, NeverReads, Silent};
use crate::http_stage::{Stage, ask, status};

/// Clients of each kind.
const CLIENTS: u8 = 250;
/// What a slow client may have: 25 s, and as much again for a machine that has other work.
const CUT_WITHIN: Duration = Duration::from_secs(50);
/// Besides, for who reads nothing: filling all buffers is work for the agent.
const FILLED_WITHIN: Duration = Duration::from_mins(1);
/// What others may wait on such a machine; alone it is under 100 ms.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Between two bytes of who drips.
const DRIP: Duration = Duration::from_secs(1);
/// Between two requests of the others.
const PAUSE: Duration = Duration::from_millis(250);
/// Requests that are sent by who reads no answer: more than fit into all buffers, by far.
const UNREAD: usize = 2000;

#[derive(Clone, Copy, Debug)]
enum Slow {
    Silent,
    HalfALine,
    HeaderDrip,
    BodyDrip,
    NeverReads,
}

impl Slow {
    /// Until it is cut.
    async fn plague(self, mut on: TcpStream) -> Result<()> {
        let drips = match self {
            Self::Silent => "",
            Self::HalfALine => {
                on.write_all(b"GET /hea").await?;
                ""
            }
            Self::HeaderDrip => {
                on.write_all(b"GET /healthz HTTP/1.1\r\n").await?;
                "x-drip: 1\r\n"
            }
            Self::BodyDrip => {
                let head =
                    "POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n";
                on.write_all(head.as_bytes()).await?;
                "x"
            }
            Self::NeverReads => {
                never_read(on).await;
                return Ok(());
            }
        };
        let (mut read, mut write) = on.into_split();
        let dripping = async {
            while write.write_all(drips.as_bytes()).await.is_ok() {
                sleep(DRIP).await;
            }
            std::future::pending::<()>().await;
        };
        let mut said = Vec::new();
        tokio::select! {
            // Cut by a reset or in order: both are an end.
            _ = read.read_to_end(&mut said) => {}
            () = dripping => {}
        }
        let said = String::from_utf8_lossy(&said);
        match self {
            Self::BodyDrip => ensure!(status(&said) == 408, "{said}"),
            _ => ensure!(said.is_empty(), "{said}"),
        }
        Ok(())
    }
}

/// Asks and asks, and reads nothing. A reset may get lost on the way to whom has no room for any
/// byte; who goes on asking hears of it.
async fn never_read(mut on: TcpStream) {
    let mut asked = "GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(UNREAD);
    while on.write_all(asked.as_bytes()).await.is_ok() {
        sleep(DRIP).await;
        asked.truncate(1);
    }
}

/// A connection from one of many addresses: one alone has but few.
async fn connect(to: SocketAddr, nth: u8) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Small, so that who does not read is known as such after few bytes.
    socket.set_recv_buffer_size(4096)?;
    socket.bind(([127, 0, 1, 1 + nth / 10], 0).into())?;
    socket
        .connect(to)
        .await
        .context("a slow client's connection")
}

/// Asks again and again, each time anew; the longest that it took.
async fn others(stage: &Stage) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    loop {
        let began = Instant::now();
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 2, 1], 0).into())?;
        let stream = socket.connect(stage.address).await?;
        let said = timeout(ANSWERED_WITHIN, ask(stream, &stage.head("GET", "/healthz"))).await;
        let said = said.context("others are starved")??;
        ensure!(status(&said) == 200, "others are refused: {said}");
        longest = longest.max(began.elapsed());
        sleep(PAUSE).await;
        if longest > ANSWERED_WITHIN {
            return Ok(longest);
        }
    }
}

/// 500 clients of a kind on an agent of their own.
async fn besieged(kind: Slow) -> Result<()> {
    let stage = Stage::new().await?;
    let agent = stage.command().env("RUST_LOG", "info").spawn()?;
    stage.await_answer().await?;
    let clients = (0..CLIENTS)
        .chain(0..CLIENTS)
        .map(|nth| connect(stage.address, nth));
    let clients = try_join_all(clients).await?;
    let all = join_all(clients.into_iter().map(|client| kind.plague(client)));
    let within = match kind {
        NeverReads => CUT_WITHIN + FILLED_WITHIN,
        _ => CUT_WITHIN,
    };
    let slow = tokio::select! {
        slow = timeout(within, all) => slow.context("not all were cut")?,
        longest = others(&stage) => anyhow::bail!("others waited for {:?}", longest?),
    };
    slow.into_iter().collect::<Result<Vec<()>>>()?;
    stage.await_answer().await?;
    ensure!(
        !agent.log().contains("refuses connections"),
        "{}",
        agent.log()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_of_every_kind_are_cut_and_starve_nobody() -> Result<()> {
    // A socket for each client, here and there.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let kinds = [Silent, HalfALine, HeaderDrip, BodyDrip, NeverReads];
    let all = kinds.map(async |kind| besieged(kind).await.with_context(|| format!("{kind:?}")));
    try_join_all(all).await.map(drop)
}
