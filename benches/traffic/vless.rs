//! The least of a VLESS client: one short connection a user, so that Xray makes and moves the user's
//! counters. A real client would need a process for all of them and minutes for 100 000.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::lab::secrets::nth_uuid;

/// Connections at once: more do not make Xray faster.
const AT_ONCE: usize = 64;
/// What a connection carries, both ways.
const PAYLOAD: &[u8; 16] = b"0123456789abcdef";
/// Of the answer's head: a version, and that no additions follow.
const ANSWER_HEAD_BYTES: usize = 2;

/// Connects once as each of these users of the inbound at `port`, to an echo at `target`.
pub async fn touch(
    port: u16,
    target: SocketAddr,
    users: impl IntoIterator<Item = u32>,
) -> Result<()> {
    let all = stream::iter(users).map(|user| connect_once(port, target, user));
    all.buffer_unordered(AT_ONCE)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
}

async fn connect_once(port: u16, target: SocketAddr, user: u32) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request(target, user)?).await?;
    let mut answer = [0; ANSWER_HEAD_BYTES + PAYLOAD.len()];
    let read = stream.read_exact(&mut answer).await;
    read.with_context(|| format!("the echo of user {user}"))?;
    ensure!(answer[ANSWER_HEAD_BYTES..] == *PAYLOAD, "{answer:?}");
    // A port that waits for stray packets is missing for the next connection.
    stream.set_zero_linger()?;
    Ok(())
}

fn request(target: SocketAddr, user: u32) -> Result<Vec<u8>> {
    let SocketAddr::V4(target) = target else {
        bail!("{target} is no IPv4 address");
    };
    let id = Uuid::parse_str(&nth_uuid(user))?;
    let mut request = vec![0];
    request.extend(id.as_bytes());
    // No additions; TCP; the port; an IPv4 address.
    request.extend([0, 1]);
    request.extend(target.port().to_be_bytes());
    request.push(1);
    request.extend(target.ip().octets());
    request.extend(PAYLOAD);
    Ok(request)
}
