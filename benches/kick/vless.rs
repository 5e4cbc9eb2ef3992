//! The least of a VLESS client: a connection of its own, on which bytes are seen when they come. A real
//! client would add its own delay, and need a process for a thousand of them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use uuid::Uuid;

use crate::lab::secrets::nth_uuid;
use crate::lab::stream::{Pace, Stream};

/// Of the answer's head: a version, and that no additions follow.
const ANSWER_HEAD_BYTES: usize = 2;

/// Where that user comes from, nobody else.
pub fn address(user: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + user)
}

/// A download of that user of the inbound at `port`, from `target`.
pub async fn download(port: u16, target: SocketAddr, user: u32, pace: Pace) -> Result<Stream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address(user), 0).into())?;
    let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request(target, user)?).await?;
    Ok(Stream::download_after(ANSWER_HEAD_BYTES, stream, pace))
}

fn request(target: SocketAddr, user: u32) -> Result<Vec<u8>> {
    let SocketAddr::V4(target) = target else {
        bail!("{target} is no IPv4 address");
    };
    let mut request = vec![0];
    request.extend(Uuid::parse_str(&nth_uuid(user))?.as_bytes());
    // No additions; TCP; the port; an IPv4 address.
    request.extend([0, 1]);
    request.extend(target.port().to_be_bytes());
    request.push(1);
    request.extend(target.ip().octets());
    Ok(request)
}
