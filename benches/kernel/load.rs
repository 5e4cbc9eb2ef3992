//! Asks one route over and over on a few connections that stay open, as fast as it is answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Enough that the server always has work, and few enough that waiting is not all that is measured.
const CONNECTIONS: usize = 8;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    pub p99_ms: f64,
}

/// For so long, at `http://address` + `path`.
pub async fn measure(address: &str, path: &str, time: Duration) -> Result<Figures> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: {}\r\n\r\n",
        crate::stage::Stage::authorization()
    );
    let until = Instant::now() + time;
    let mut asking = JoinSet::new();
    for _ in 0..CONNECTIONS {
        asking.spawn(ask(address.to_owned(), head.clone(), until));
    }
    let mut all = Vec::new();
    while let Some(taken) = asking.join_next().await {
        all.extend(taken??);
    }
    let count = u32::try_from(all.len())?;
    Ok(Figures {
        per_second: f64::from(count) / time.as_secs_f64(),
        p99_ms: crate::figures::percentile(&all, 99),
    })
}

/// How long each answer took, in milliseconds.
async fn ask(address: String, head: String, until: Instant) -> Result<Vec<f64>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    let (mut took, mut line, mut body) = (Vec::new(), String::new(), Vec::new());
    while Instant::now() < until {
        let begun = Instant::now();
        stream.get_mut().write_all(head.as_bytes()).await?;
        let mut length = None;
        line.clear();
        stream.read_line(&mut line).await?;
        ensure!(line.starts_with("HTTP/1.1 200"), "answered {line}");
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>().ok();
            }
        }
        body.resize(length.context("no length")?, 0);
        stream.read_exact(&mut body).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}
