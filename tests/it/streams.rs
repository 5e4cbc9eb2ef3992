//! The kernel API's streams over real sockets: what they tell, who may open them, how they go on after
//! a disconnect, and how they end. Readers that are stuck are in `stuck_readers`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures_util::SinkExt;
use futures_util::future::{BoxFuture, ready, try_join_all};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use xray_agent::base::supervise::Ended;
use xray_agent::events::bus::Bounds;
use xray_agent::kernel::streams::{Cut, Snapshots};
use xray_agent::model::event::{Event, EventName};

use crate::http_stage::{ask, body, header, status};
use crate::lab::eventually;
use crate::streams_stage::{Life, Place, Sse, Ws};
use crate::support::LONG;

/// Events of the test of resumption.
const EVENTS: u64 = 10_000;
/// After so many of them the agent is started anew.
const LIFE: u64 = 2_500;
/// Streams at once, over all listeners.
const STREAMS_MAX: usize = 256;
/// Streams end so soon after a stop.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(5);

/// A snapshot that is another each time.
#[derive(Default)]
struct Changing(AtomicU64);

impl Snapshots for Changing {
    fn snapshot<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Value> {
        let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let mut snapshot = json!({
            "n": n, "nodes": [{"id": "edge-1", "message": null}], "users": {"total": n * 2},
            "redacted": cut.redact_users, "lists_users": cut.lists_users(), "none": null,
        });
        snapshot[format!("k{}", n % 2)] = json!(n);
        Box::pin(ready(snapshot))
    }
}

fn large() -> Bounds {
    Bounds {
        events: 20_000,
        bytes: 64 << 20,
    }
}

fn place() -> Result<Place> {
    Place::new(large(), Arc::new(Changing::default()))
}

/// Takes a message into what a client knows of the snapshot; whether it was a patch.
fn take(known: &mut Value, message: &Value) -> bool {
    let is_patch = message["type"] == "diff";
    if is_patch {
        json_patch::merge(known, &message["patch"]);
    } else {
        *known = message["snapshot"].clone();
    }
    let n = known["n"].as_u64().unwrap();
    let whole = json!({
        "n": n, "nodes": [{"id": "edge-1"}], "users": {"total": n * 2},
        "redacted": true, "lists_users": true, format!("k{}", n % 2): n,
    });
    assert_eq!(*known, whole);
    is_patch
}

#[tokio::test]
async fn the_status_is_told_whole_and_then_in_patches_that_make_it() -> Result<()> {
    let place = place()?;
    let life = place.start().await?;
    let query = "interval=1&mode=diff&include=users,nodes&redact_users=true";
    let path = format!("/v1/status/stream?{query}");
    let mut sse = place.sse(&path, None).await?;
    let mut ws = place.ws(&format!("/v1/status/ws?{query}")).await?;
    let path = "/v1/status/stream?interval=1&fields=all";
    let mut whole = place.sse(path, None).await?;
    let (mut by_sse, mut by_ws) = (Value::Null, Value::Null);
    let first = sse.event().await?;
    ensure!(first.event == "status.full" && first.id.is_none());
    ensure!(!take(&mut by_sse, &first.json()?) && !take(&mut by_ws, &ws.json().await?));
    ensure!(life.streams.open() == 3);
    let mut patches = 0;
    // They may have begun with different turns.
    while patches < 6 || by_sse != by_ws {
        if by_sse["n"].as_u64() <= by_ws["n"].as_u64() {
            let block = sse.event().await?;
            ensure!(block.event == format!("status.{}", block.json()?["type"].as_str().unwrap()));
            patches += u32::from(take(&mut by_sse, &block.json()?));
        } else {
            patches += u32::from(take(&mut by_ws, &ws.json().await?));
        }
    }
    for _ in 0..3 {
        ensure!(whole.event().await?.event == "status.full");
    }
    drop((sse, ws, whole));
    eventually("streams that were left are closed", LONG, async || {
        life.streams.open() == 0
    })
    .await?;
    ensure!(life.stop().await? == Ended::Stopped);
    Ok(())
}

#[tokio::test]
async fn events_are_told_by_topic_between_snapshots_and_alone() -> Result<()> {
    let place = place()?;
    let life = place.start().await?;
    let mut status = place
        .sse("/v1/status/stream?interval=60&events=node", None)
        .await?;
    ensure!(status.event().await?.event == "status.full");
    let mut all = place.ws("/v1/events/ws").await?;
    let mut service = place.sse("/v1/events/stream?events=service", None).await?;
    let payload = json!({"event": "node_degraded", "node_id": "edge-1"});
    life.publish(EventName::UsersSynced, &json!({})).await?;
    let node = life.publish(EventName::NodeDegraded, &payload).await?;
    life.publish(EventName::UserQuotaChanged, &json!({}))
        .await?;
    let block = status.event().await?;
    ensure!(block.event == "node.degraded" && block.id == Some(node.id.to_string()));
    let expected = json!({
        "event": "node.degraded", "event_id": node.id.to_string(),
        "occurred_at_ms": 0, "payload": payload,
    });
    ensure!(block.json()? == expected, "{block:?}");
    for name in [
        "runtime.users_synced",
        "node.degraded",
        "user.quota.changed",
    ] {
        let event = all.json().await?;
        ensure!(event["event"] == name, "{event}");
    }
    ensure!(service.event().await?.event == "user.quota.changed");
    Ok(())
}

#[tokio::test]
async fn what_is_no_longer_remembered_is_told_to_who_comes_back() -> Result<()> {
    let few = Bounds {
        events: 3,
        ..large()
    };
    let place = Place::new(few, Arc::new(Changing::default()))?;
    let life = place.start().await?;
    let first = life.publish(EventName::NodeAdded, &json!({"n": 0})).await?;
    for n in 1..6 {
        life.publish(EventName::NodeAdded, &json!({ "n": n }))
            .await?;
    }
    let id = first.id.to_string();
    let mut sse = place.sse("/v1/events/stream", Some(&id)).await?;
    let mut ws = place
        .ws(&format!("/v1/events/ws?last_event_id={id}"))
        .await?;
    let missed = sse.event().await?;
    ensure!(
        missed.event == "missed" && missed.data == r#"{"missed":null}"#,
        "{missed:?}"
    );
    ensure!(ws.json().await? == json!({"missed": null}));
    for n in 3..6 {
        ensure!(sse.event().await?.json()?["payload"]["n"] == n);
        ensure!(ws.json().await?["payload"]["n"] == n);
    }
    Ok(())
}

/// The lines of a handshake.
const UPGRADE: &str = "connection: upgrade, close\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn upgrade_from(page: &str) -> String {
    format!("{UPGRADE}origin: {page}\r\n")
}

#[tokio::test]
async fn what_makes_no_sense_or_comes_from_a_foreign_page_is_refused_in_words() -> Result<()> {
    let place = place()?;
    let _life = place.start().await?;
    let plain = |path| (400, "BAD_REQUEST", path, "connection: close\r\n".to_owned());
    let cases = [
        plain("/v1/status/stream?interval=0"),
        plain("/v1/status/stream?mode=some"),
        plain("/v1/status/stream?redact_users=maybe"),
        plain("/v1/events/stream?events=nodes"),
        plain("/v1/events/stream?last_event_id=1"),
        plain("/v1/events/ws"),
        (
            400,
            "BAD_REQUEST",
            "/v1/status/ws?interval=61",
            UPGRADE.to_owned(),
        ),
        (
            403,
            "FORBIDDEN",
            "/v1/events/ws",
            upgrade_from("http://evil.example"),
        ),
        (403, "FORBIDDEN", "/v1/status/ws", upgrade_from("null")),
    ];
    for (expected, code, path, lines) in cases {
        let host = place.address;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n");
        let said = ask(TcpStream::connect(host).await?, &head).await?;
        ensure!(status(&said) == expected, "{head}{said}");
        ensure!(
            header(&said, "content-type") == "application/json",
            "{said}"
        );
        let words: Value = serde_json::from_str(body(&said))?;
        ensure!(
            words["code"] == code && words["message"].is_string(),
            "{said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn pages_of_this_host_and_of_the_configuration_may_open_a_websocket() -> Result<()> {
    let place = place()?;
    let _life = place.start().await?;
    let host = place.address;
    for page in [
        "http://localhost:8080",
        "https://panel.example",
        "http://127.0.0.1",
    ] {
        let lines = upgrade_from(page);
        let head = format!("GET /v1/events/ws HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n");
        let said = first_line(TcpStream::connect(host).await?, &head).await?;
        ensure!(said == "HTTP/1.1 101 Switching Protocols", "{page}: {said}");
    }
    Ok(())
}

/// The first line of the answer.
async fn first_line(stream: TcpStream, head: &str) -> Result<String> {
    let mut stream = BufReader::new(stream);
    stream.write_all(head.as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

#[tokio::test]
async fn what_a_client_says_is_passed_over_unless_it_is_too_much() -> Result<()> {
    let place = place()?;
    let life = place.start().await?;
    let mut ws = place.ws("/v1/events/ws").await?;
    ws.0.send(Message::text("x".repeat(1024))).await?;
    ws.0.send(Message::Ping("are you there".into())).await?;
    let pong = ws.message().await?;
    ensure!(pong == Message::Pong("are you there".into()), "{pong:?}");
    life.publish(EventName::NodeAdded, &json!({})).await?;
    ensure!(ws.json().await?["event"] == "node.added");
    ws.0.send(Message::text("x".repeat(1025))).await?;
    ensure!(closed_with(&mut ws).await? == CloseCode::Policy);
    let mut ws = place.ws("/v1/events/ws").await?;
    for _ in 0..101 {
        // It may be closed before all is said.
        let _ = ws.0.send(Message::text("hello")).await;
    }
    ensure!(closed_with(&mut ws).await? == CloseCode::Policy);
    Ok(())
}

#[tokio::test]
async fn a_websocket_that_nobody_serves_is_closed_with_the_word_to_come_back() -> Result<()> {
    let mut place = place()?;
    place.serves_sockets = false;
    let life = place.start().await?;
    let mut ws = place.ws("/v1/events/ws").await?;
    ensure!(closed_with(&mut ws).await? == CloseCode::Again);
    drop(ws);
    eventually("it is not counted", LONG, async || life.streams.open() == 0).await
}

#[tokio::test]
async fn there_are_so_many_streams_and_one_that_ends_makes_room() -> Result<()> {
    let place = place()?;
    let life = place.start().await?;
    let host = place.address;
    let head = format!("GET /v1/events/stream HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(head.as_bytes()).await?;
        open.push(stream);
    }
    let is_full = async || life.streams.open() == STREAMS_MAX;
    eventually("all are open", LONG, is_full).await?;
    let close = head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let said = ask(TcpStream::connect(host).await?, &close).await?;
    let words: Value = serde_json::from_str(body(&said))?;
    ensure!(
        status(&said) == 503 && words["code"] == "UNAVAILABLE",
        "{said}"
    );
    open.pop();
    eventually("there is room again", LONG, async || {
        place.ws("/v1/events/ws").await.is_ok()
    })
    .await
}

async fn closed_with(ws: &mut Ws) -> Result<CloseCode> {
    loop {
        match ws.message().await? {
            Message::Close(Some(frame)) => return Ok(frame.code),
            Message::Text(_) | Message::Pong(_) => {}
            other => bail!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stop_is_told_to_all_streams_and_waits_for_none_that_is_stuck() -> Result<()> {
    let place = place()?;
    let life = place.start().await?;
    let mut sse = place.sse("/v1/status/stream?interval=60", None).await?;
    ensure!(sse.event().await?.event == "status.full");
    let mut events = place.sse("/v1/events/stream", None).await?;
    let mut ws = place.ws("/v1/events/ws").await?;
    // It never answers the close.
    let _stuck = place.ws("/v1/status/ws?interval=60").await?;
    eventually("all are open", LONG, async || life.streams.open() == 4).await?;
    let asked = Instant::now();
    let client = async {
        let mut last = Vec::new();
        for sse in [&mut sse, &mut events] {
            while let Some(block) = sse.next().await? {
                last.push(block.comment);
            }
        }
        let bye = Some("bye".to_owned());
        ensure!(last == [bye.clone(), bye], "{last:?}");
        ensure!(closed_with(&mut ws).await? == CloseCode::Away);
        ensure!(
            asked.elapsed() < STREAMS_END_WITHIN,
            "{:?}",
            asked.elapsed()
        );
        Ok(())
    };
    let (told, ended) = tokio::join!(client, life.stop());
    told?;
    ensure!(ended? == Ended::Stopped);
    ensure!(
        asked.elapsed() < 2 * STREAMS_END_WITHIN,
        "{:?}",
        asked.elapsed()
    );
    Ok(())
}

/// A client that comes back again and again, and what it knows to go on from.
struct Returning {
    is_ws: bool,
    last: String,
    next: u64,
    dice: u64,
    connects: u32,
}

enum Connected {
    Sse(Sse),
    Ws(Ws),
}

impl Connected {
    async fn event(&mut self) -> Result<Value> {
        match self {
            Self::Sse(sse) => sse.event().await?.json(),
            Self::Ws(ws) => ws.json().await,
        }
    }
}

impl Returning {
    fn new(is_ws: bool, after: &Event, seed: u64) -> Self {
        Self {
            is_ws,
            last: after.id.to_string(),
            next: 0,
            dice: 0x9e37_79b9_7f4a_7c15 ^ seed,
            connects: 0,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    async fn connect(&self, place: &Place) -> Result<Connected> {
        if self.is_ws {
            let path = format!("/v1/events/ws?last_event_id={}", self.last);
            return Ok(Connected::Ws(place.ws(&path).await?));
        }
        let path = "/v1/events/stream?events=runtime";
        Ok(Connected::Sse(place.sse(path, Some(&self.last)).await?))
    }

    /// Hears all of them, with disconnects of both sides.
    async fn hear(mut self, place: &Place) -> Result<u32> {
        while self.next < EVENTS {
            let connected = eventually("a connection", LONG, async || {
                self.connect(place).await.ok()
            });
            let mut connected = connected.await?;
            self.connects += 1;
            for _ in 0..=self.roll(400) {
                // The agent is being started anew, or that was the last one.
                let Ok(event) = connected.event().await else {
                    break;
                };
                let heard = &event["payload"]["n"];
                ensure!(*heard == self.next, "{event} instead of {}", self.next);
                event["event_id"]
                    .as_str()
                    .unwrap()
                    .clone_into(&mut self.last);
                self.next += 1;
                if self.next == EVENTS {
                    break;
                }
            }
        }
        Ok(self.connects)
    }
}

/// One after the other: who tells several at once does not say which is first.
async fn tell_all(place: &Place, mut life: Life) -> Result<Life> {
    for n in 0..EVENTS {
        life.publish(EventName::UsersSynced, &json!({ "n": n }))
            .await?;
        if (n + 1).is_multiple_of(LIFE) {
            ensure!(life.stop().await? == Ended::Stopped);
            life = place.start().await?;
        }
    }
    Ok(life)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_by_id_hears_10_000_events_once_each_over_disconnects_and_restarts()
-> Result<()> {
    let place = place()?;
    let life = place.start().await?;
    let before = life.publish(EventName::AgentStarted, &json!({})).await?;
    let clients = (0..4).map(|n| Returning::new(n % 2 == 0, &before, n).hear(&place));
    let (life, connects) = tokio::try_join!(tell_all(&place, life), try_join_all(clients))?;
    ensure!(connects.iter().all(|count| *count > 20), "{connects:?}");
    ensure!(life.stop().await? == Ended::Stopped);
    Ok(())
}
