//! The real program with its HTTP server, and clients on bare sockets.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lab::leaks::Uuids;
use crate::lab::{Agent, AgentCommand, Panel, eventually, free_port};
use crate::support::{LONG, TOKEN, agent, folder};

/// A panel, a folder, and an address for the agent's server.
pub struct Stage {
    pub panel: Panel,
    pub folder: TempDir,
    pub address: SocketAddr,
}

impl Stage {
    pub async fn new() -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, Vec::new());
        Ok(Self {
            panel,
            folder: folder()?,
            address: ([127, 0, 0, 1], free_port()?).into(),
        })
    }

    /// The program; it only writes files besides.
    pub fn command(&self) -> AgentCommand {
        agent(&self.panel.base_url(), self.folder.path())
            .env("HTTP_LISTEN", self.address.to_string())
    }

    /// The program, once it listens.
    pub async fn start(&self) -> Result<Agent> {
        let agent = self.command().spawn()?;
        agent.await_log(&["http listens"], LONG).await?;
        Ok(agent)
    }

    /// A request without a body on a connection of its own, and its whole answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.ask(&self.head("GET", path)).await
    }

    /// The head of a request on a connection of its own.
    pub fn head(&self, method: &str, path: &str) -> String {
        let host = self.address;
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    }

    /// These bytes on a connection of their own, and all that comes back.
    pub async fn ask(&self, bytes: &str) -> Result<String> {
        let said = ask(self.connect().await?, bytes).await?;
        self.command()
            .canaries()
            .assert_none_in(&said, Uuids::Never);
        Ok(said)
    }

    pub async fn connect(&self) -> Result<TcpStream> {
        let connected = TcpStream::connect(self.address).await;
        connected.with_context(|| format!("connecting to {}", self.address))
    }

    /// Waits until somebody answers there.
    pub async fn await_answer(&self) -> Result<()> {
        eventually("an answer over HTTP", LONG, async || {
            self.get("/healthz")
                .await
                .is_ok_and(|said| said.ends_with("ok"))
        })
        .await
    }
}

/// Sends these bytes and reads to the end. A peer that stops reading us may be one that answered.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut on: S, bytes: &str) -> Result<String> {
    let _ = on.write_all(bytes.as_bytes()).await;
    let mut answer = Vec::new();
    let read = timeout(LONG, on.read_to_end(&mut answer)).await;
    let read = read.context("the connection stays open")?;
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status of an answer; 0 where there is none.
pub fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1);
    status
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// The body of an answer.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// A header of an answer; empty where it has none.
pub fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    headers
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map_or("", |(_, value)| value)
}
