//! The agent's HTTP server with the kernel API's streams on it, events in a store, and clients of both
//! kinds on real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use axum::Extension;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use xray_agent::base::clock::Clock;
use xray_agent::base::supervise::{Ended, Kind, Supervisor};
use xray_agent::events::Events;
use xray_agent::events::bus::Bounds;
use xray_agent::events::outbox::{Limits, Outbox};
use xray_agent::http::{Admission, Client, Listener, Reader, documented};
use xray_agent::kernel::streams::{Snapshots, Streams, routes};
use xray_agent::model::delivery::Render;
use xray_agent::model::event::{Event, EventName};
use xray_agent::store::agent;

use crate::lab::{eventually, free_port};
use crate::support::LONG;

/// These promises are not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";
/// What a stop may take: streams have 5 s, and the rest of the agent as much again.
const GRACE: Duration = Duration::from_secs(10);

struct NoBodies;

impl Render for NoBodies {
    fn body(&self, _owner: &str, _form: &str, _event: &Event) -> Option<String> {
        None
    }
}

/// What stays over a restart.
pub struct Place {
    pub folder: TempDir,
    pub address: SocketAddr,
    pub bounds: Bounds,
    pub snapshots: Arc<dyn Snapshots>,
    /// Whether the task of WebSockets runs.
    pub serves_sockets: bool,
}

/// A life of the agent.
pub struct Life {
    pub events: Events,
    pub streams: Streams,
    stop: oneshot::Sender<()>,
    running: JoinSet<Ended>,
}

impl Place {
    pub fn new(bounds: Bounds, snapshots: Arc<dyn Snapshots>) -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir_in(IN_MEMORY)?,
            address: ([127, 0, 0, 1], free_port()?).into(),
            bounds,
            snapshots,
            serves_sockets: true,
        })
    }

    /// Starts it, and waits until it listens.
    pub async fn start(&self) -> Result<Life> {
        let events = events(self.folder.path(), self.bounds).await?;
        let hosts = ["panel.example".to_owned()];
        let streams = Streams::new(events.bus().clone(), Arc::clone(&self.snapshots), &hosts);
        let router = documented(routes(streams.clone()), Reader::default());
        let listener = Listener {
            name: "http",
            address: self.address,
            tls: None,
            hosts: Vec::new(),
            router: router.layer(from_fn(known)),
            admission: Admission::default(),
        };
        let mut supervisor = Supervisor::new();
        let serving = streams.clone();
        let tasks = supervisor.tasks();
        tasks.task("http", Kind::Essential, move |shutdown, _| {
            listener.clone().run(shutdown, || {})
        });
        if self.serves_sockets {
            tasks.task("streams", Kind::Essential, move |shutdown, beat| {
                serving.clone().run(shutdown, beat)
            });
        }
        let (stop, stopped) = oneshot::channel();
        let mut running = JoinSet::new();
        running.spawn(supervisor.run(async { drop(stopped.await) }, GRACE));
        eventually("the server listens", LONG, async || {
            TcpStream::connect(self.address).await.is_ok()
        })
        .await?;
        Ok(Life {
            events,
            streams,
            stop,
            running,
        })
    }

    pub async fn sse(&self, path: &str, last: Option<&str>) -> Result<Sse> {
        Sse::open(self.address, path, last).await
    }

    pub async fn ws(&self, path: &str) -> Result<Ws> {
        Ws::open(self.address, path).await
    }
}

impl Life {
    /// Stops it in order.
    pub async fn stop(mut self) -> Result<Ended> {
        drop(self.stop);
        let ended = timeout(LONG, self.running.join_next()).await?;
        let ended = ended.context("it does not run")??;
        let store = self.events.outbox().store().clone();
        drop(self.events);
        store.close().await;
        Ok(ended)
    }

    /// Tells of it, on the disk.
    pub async fn publish(&self, name: EventName, payload: &Value) -> Result<Event> {
        let event = Event::new(name, Timestamp::UNIX_EPOCH, payload)?;
        self.events.publish(event.clone()).await?;
        Ok(event)
    }
}

/// All who ask have shown a credential: this address may have many connections.
async fn known(
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> axum::response::Response {
    client.authenticated();
    next.run(request).await
}

async fn events(folder: &Path, bounds: Bounds) -> Result<Events> {
    let store = agent::start(folder, Clock::system())?;
    let outbox = Outbox::new(store, Limits::default(), Clock::system());
    Ok(Events::start(outbox, Arc::new(NoBodies), bounds).await)
}

/// A client of server-sent events.
pub struct Sse {
    answer: reqwest::Response,
    unread: Vec<u8>,
    /// Bytes of it that hold no end of an event.
    searched: usize,
}

/// A server-sent event, or a comment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub id: Option<String>,
    pub event: String,
    pub data: String,
    pub comment: Option<String>,
}

impl Block {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.data).with_context(|| format!("{self:?}"))
    }
}

impl Sse {
    pub async fn open(at: SocketAddr, path: &str, last: Option<&str>) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut request = client.get(format!("http://{at}{path}"));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        Self::of(request).await
    }

    /// The answer to a request that may show a credential.
    pub async fn of(request: reqwest::RequestBuilder) -> Result<Self> {
        let answer = timeout(LONG, request.send()).await??;
        let kind = answer.headers().get("content-type");
        let is_stream = kind.is_some_and(|kind| kind == "text/event-stream");
        if !is_stream {
            let status = answer.status();
            bail!("{status} {}", answer.text().await?);
        }
        Ok(Self {
            answer,
            unread: Vec::new(),
            searched: 0,
        })
    }

    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Block>> {
        loop {
            let mut pairs = self.unread[self.searched..].windows(2);
            if let Some(end) = pairs.position(|two| two == b"\n\n") {
                let end = std::mem::take(&mut self.searched) + end + 2;
                let block: Vec<_> = self.unread.drain(..end).collect();
                return Ok(Some(block_of(std::str::from_utf8(&block)?)?));
            }
            self.searched = self.unread.len().saturating_sub(1);
            match timeout(LONG, self.answer.chunk()).await?? {
                Some(chunk) => self.unread.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    /// The next one that is no comment.
    pub async fn event(&mut self) -> Result<Block> {
        loop {
            let block = self.next().await?.context("the stream is over")?;
            if block.comment.is_none() {
                return Ok(block);
            }
        }
    }
}

fn block_of(text: &str) -> Result<Block> {
    let mut block = Block::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(':').context("a line without a field")?;
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "" => block.comment = Some(value),
            "id" => block.id = Some(value),
            "event" => block.event = value,
            "data" => block.data.push_str(&value),
            other => bail!("a field {other}"),
        }
    }
    Ok(block)
}

/// A client over a WebSocket.
pub struct Ws(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Ws {
    pub async fn open(at: SocketAddr, path: &str) -> Result<Self> {
        let request = format!("ws://{at}{path}").into_client_request()?;
        let (socket, answer) = timeout(LONG, connect_async(request)).await??;
        ensure!(answer.status() == 101, "{answer:?}");
        Ok(Self(socket))
    }

    /// The next message that is no ping; an error at the end.
    pub async fn message(&mut self) -> Result<Message> {
        loop {
            let message = timeout(LONG, self.0.next()).await?;
            let message = message.context("the stream is over")??;
            if !message.is_ping() {
                return Ok(message);
            }
        }
    }

    pub async fn json(&mut self) -> Result<Value> {
        let message = self.message().await?;
        let text = message.to_text()?;
        serde_json::from_str(text).with_context(|| format!("{message:?}"))
    }
}
