//! What the agent is measured against: axum's own server with one handler that returns given bytes.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use bytes::Bytes;

/// The first word of such a process's arguments.
pub const WORD: &str = "serve-bare";

/// Where it serves, and the file with what it returns.
pub struct Order {
    address: SocketAddr,
    file: PathBuf,
}

impl Order {
    /// Of this process, if it is one.
    pub fn of_process() -> Option<Self> {
        let mut arguments = std::env::args().skip(1).skip_while(|a| a != WORD).skip(1);
        Some(Self {
            address: arguments.next()?.parse().ok()?,
            file: arguments.next()?.into(),
        })
    }
}

/// Serves until it is killed, with a runtime like the agent's.
#[tokio::main]
pub async fn serve(order: &Order) -> Result<()> {
    let bytes = Bytes::from(std::fs::read(&order.file)?);
    let answer = move || {
        let bytes = bytes.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], bytes) }
    };
    let listener = tokio::net::TcpListener::bind(order.address).await?;
    let routes = Router::new().route("/", get(answer));
    axum::serve(listener, routes).await.context("serving")
}
