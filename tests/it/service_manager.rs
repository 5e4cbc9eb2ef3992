//! What the service manager hears: ready, alive, how the nodes stand, and the end; and that the units
//! shut the program off alike.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::lab::Answer;
use crate::lab::agent::Signal;
use crate::program::files_only;
use crate::support::LONG;

/// Takes messages until one begins with `word`.
pub async fn until_it_says(socket: &UnixDatagram, word: &str) -> Result<String> {
    let mut told = [0; 1024];
    let heard = async {
        loop {
            let length = socket.recv(&mut told).await?;
            let message = String::from_utf8_lossy(&told[..length]).into_owned();
            if message.starts_with(word) {
                return anyhow::Ok(message);
            }
        }
    };
    timeout(LONG, heard)
        .await
        .with_context(|| format!("no {word}"))?
}

#[tokio::test]
async fn the_service_manager_is_told_that_it_is_ready_alive_how_it_stands_and_ends() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let command = command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000");
    let mut agent = command.spawn()?;
    let ready = until_it_says(&socket, "READY=1").await?;
    ensure!(ready.contains("STATUS=node 1: 3 users allowed"), "{ready}");
    for _ in 0..3 {
        until_it_says(&socket, "WATCHDOG=1").await?;
    }
    panel.set_answer(1, Answer::html(502));
    let line = until_it_says(&socket, "STATUS=node 1: 3 users allowed; 1 wrong: ").await?;
    ensure!(line.contains("node 1: panel: "), "{line}");
    agent.signal(Signal::TERM)?;
    until_it_says(&socket, "STOPPING=1").await?;
    ensure!(agent.wait_exit(LONG).await?.code() == Some(0));
    Ok(())
}

#[tokio::test]
async fn without_a_watchdog_no_sign_of_life_is_sent() -> Result<()> {
    let (_panel, folder, command) = files_only(3).await?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let mut agent = command.env("NOTIFY_SOCKET", &path).spawn()?;
    until_it_says(&socket, "READY=1").await?;
    agent.signal(Signal::TERM)?;
    until_it_says(&socket, "STOPPING=1").await?;
    agent.wait_exit(LONG).await?;
    let mut told = [0; 1024];
    while let Ok(length) = socket.try_recv(&mut told) {
        ensure!(!told[..length].starts_with(b"WATCHDOG"));
    }
    Ok(())
}

#[test]
fn the_single_pass_is_shut_off_as_the_agent_is() {
    let hardening = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("systemd")
            .join(name);
        let unit = fs::read_to_string(path).unwrap();
        let (_, rest) = unit.split_once("NoNewPrivileges").unwrap();
        let end = rest.find("\n[").unwrap_or(rest.len());
        rest[..end].trim_end().to_owned()
    };
    assert_eq!(
        hardening("xray-agent-once.service"),
        hardening("xray-agent.service")
    );
}
