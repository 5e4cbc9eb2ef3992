//! What a user does through a proxy: SOCKS5 CONNECT, then a small HTTP GET or a long-lived echo
//! stream. Xray answers CONNECT before it has reached anything: a refused user shows only later,
//! as an end of stream (VLESS, Trojan, SS-2022) or as silence (VMess, Shadowsocks).
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// For one exchange on a session; loopback takes a millisecond.
const ECHO_BOUND: Duration = Duration::from_secs(5);

/// A stream to `target` through the SOCKS inbound on that port.
pub async fn connect(socks_port: u16, target: SocketAddr) -> Result<TcpStream> {
    let SocketAddr::V4(target) = target else {
        bail!("{target} is not an IPv4 address")
    };
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, socks_port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream
        .read_exact(&mut method)
        .await
        .context("SOCKS greeting")?;
    ensure!(method == [5, 0], "SOCKS wants another method: {method:?}");

    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.context("SOCKS reply")?;
    ensure!(reply[1] == 0, "SOCKS CONNECT failed with {}", reply[1]);
    Ok(stream)
}

/// A GET on a connection of its own; its body. It does not wait for the end of the stream, which
/// Xray passes on only after two seconds.
pub async fn get(socks_port: u16, origin: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut stream = BufReader::new(connect(socks_port, origin).await?);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let status = head_line(&mut stream).await?;
    ensure!(status.starts_with("http/1.1 200 "), "not served: {status}");
    let mut length = None;
    loop {
        let line = head_line(&mut stream).await?;
        if line.is_empty() {
            break;
        }
        length = length.or(line.strip_prefix("content-length: ").map(str::parse));
    }
    let mut body = vec![0; length.context("no content-length")??];
    stream
        .read_exact(&mut body)
        .await
        .context("the body is too short")?;
    Ok(body)
}

async fn head_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await?;
    ensure!(read > 0, "the stream ended before an HTTP answer");
    Ok(line.trim_end().to_ascii_lowercase())
}

/// A long-lived stream through the proxy to the origin's echo port.
pub struct Session {
    stream: TcpStream,
}

impl Session {
    /// Opens it, and proves by one exchange that it works.
    pub async fn open(socks_port: u16, echo: SocketAddr) -> Result<Self> {
        let connecting = connect(socks_port, echo);
        let stream = tokio::time::timeout(ECHO_BOUND, connecting)
            .await
            .context("too slow")??;
        let mut session = Self { stream };
        session.send_and_receive(b"first").await?;
        Ok(session)
    }

    /// Sends `bytes` and returns what came back, as many.
    pub async fn send_and_receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let exchange = async {
            self.stream.write_all(bytes).await?;
            let mut back = vec![0; bytes.len()];
            self.stream.read_exact(&mut back).await?;
            anyhow::Ok(back)
        };
        tokio::time::timeout(ECHO_BOUND, exchange)
            .await
            .context("no echo came")?
    }

    pub async fn is_alive(&mut self) -> bool {
        self.send_and_receive(b"still there?")
            .await
            .is_ok_and(|back| back == b"still there?")
    }
}
