//! Deliveries to real servers on this host: order, what an answer does, targets that are dead, ends
//! and crashes at any moment.
//!
//! In one file of some length: one real server plays all panels, and each test is one thing that it does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use futures_util::future::BoxFuture;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use url::Url;

use super::*;
use crate::base::secret::Secret;
use crate::base::supervise::{Kind, Supervisor};
use crate::events::Events;
use crate::events::bus::Bounds;
use crate::events::outbox::{Limits, TargetStatus};
use crate::model::delivery::{Origin, PostAnswer, Render, Wanted};
use crate::model::event::{Event, EventName};
use crate::store::agent;

/// The promises are about order, not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";
/// A bound against hanging.
const LONG: Duration = Duration::from_secs(100);

/// How a server answers.
#[derive(Clone, Copy, Debug)]
enum Reply {
    /// With this status, and this header line more.
    Status(u16, &'static str),
    /// Never.
    Nothing,
    /// By hanging up.
    HangUp,
}

const OK: Reply = Reply::Status(204, "");

/// What a server was sent.
#[derive(Debug)]
struct Request {
    headers: BTreeMap<String, String>,
    body: String,
    at: Instant,
}

struct Server {
    address: SocketAddr,
    requests: UnboundedReceiver<Request>,
}

impl Server {
    /// One that answers its nth request so. One connection at a time is enough: a target is sent one
    /// request at a time.
    fn start(mut answer: impl FnMut(usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, requests) = unbounded_channel();
        std::thread::spawn(move || {
            let mut hung = Vec::new();
            for (n, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                hung.extend(serve(stream, answer(n), &seen));
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    async fn next(&mut self) -> Request {
        let next = timeout(LONG, self.requests.recv()).await;
        next.expect("a request in time").unwrap()
    }

    async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            bodies.push(self.next().await.body);
        }
        bodies
    }
}

/// Reads a request whole, tells it, and answers; the connection, if it is to hang. A client that left
/// in the midst was never served.
fn serve(
    mut stream: TcpStream,
    reply: Reply,
    seen: &UnboundedSender<Request>,
) -> Option<TcpStream> {
    let mut bytes = Vec::new();
    let request = loop {
        if let Some(request) = parse(&bytes) {
            break request;
        }
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
        }
    };
    let _ = seen.send(request);
    match reply {
        Reply::Nothing => return Some(stream),
        Reply::HangUp => {}
        Reply::Status(status, header) => {
            // 204 has no length.
            let length = if status == 204 {
                ""
            } else {
                "Content-Length: 0\r\n"
            };
            let answer =
                format!("HTTP/1.1 {status} x\r\n{header}{length}Connection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    }
    None
}

fn parse(bytes: &[u8]) -> Option<Request> {
    let text = str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let headers: BTreeMap<_, _> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    (body.len() == length).then(|| Request {
        headers,
        body: body.to_owned(),
        at: Instant::now(),
    })
}

/// Posts as the agent's own client does, without its rules for addresses.
struct Client(reqwest::Client);

impl Post for Client {
    fn post(&self, request: PostRequest) -> BoxFuture<'_, Result<PostAnswer, String>> {
        Box::pin(async move {
            let mut post = self.0.post(&request.url).body(request.body);
            for (name, value) in request.headers {
                post = post.header(name, value.expose());
            }
            let answer = post.send().await.map_err(|e| e.without_url().to_string())?;
            let header = |name: &str| {
                let value = answer.headers().get(name)?;
                value.to_str().ok().map(str::to_owned)
            };
            let location = header("location").and_then(|to| Url::parse(&to).ok());
            Ok(PostAnswer {
                status: answer.status().as_u16(),
                retry_after: header("retry-after"),
                location_host: location.and_then(|to| to.host_str().map(str::to_owned)),
            })
        })
    }
}

fn client() -> Arc<dyn Post> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    Arc::new(Client(client.unwrap()))
}

struct Payload;

impl Render for Payload {
    fn body(&self, _owner: &str, _form: &str, event: &Event) -> Option<String> {
        Some(event.payload.get().to_owned())
    }
}

async fn open(folder: &Path) -> Events {
    let store = agent::start(folder, Clock::system()).unwrap();
    let outbox = Outbox::new(store, Limits::default(), Clock::system());
    Events::start(outbox, Arc::new(Payload), Bounds::default()).await
}

async fn fresh() -> (TempDir, Events) {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let events = open(folder.path()).await;
    (folder, events)
}

async fn put(events: &Events, url: String) -> TargetId {
    let wanted = Wanted {
        owner: "test".to_owned(),
        form: String::new(),
        url,
        events: Vec::new(),
        origin: Origin::Api,
        secret: Some(Secret::new("canary-secret")),
        bearer: None,
    };
    events.outbox().put(wanted).await.unwrap().id
}

/// One after the other: those that are told at once have no order among them.
async fn tell(events: &Events, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let event = Event::new(EventName::UserAdded, Timestamp::UNIX_EPOCH, &json!(n));
        events.publish(event.unwrap()).await.unwrap();
    }
}

fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

/// Runs the engine while `steps` run, and ends it then.
async fn while_sending<T>(
    events: &Events,
    post: Arc<dyn Post>,
    grace: Duration,
    steps: impl Future<Output = T>,
) -> T {
    let engine = Engine::new(events.outbox().clone(), post, Clock::system());
    let mut supervisor = Supervisor::new();
    supervisor
        .tasks()
        .task("deliver", Kind::Leaf, move |shutdown, heartbeat| {
            engine.clone().run(shutdown, heartbeat)
        });
    let mut done = None;
    supervisor
        .run(async { done = Some(steps.await) }, grace)
        .await;
    done.unwrap()
}

/// Waits for a state of a target.
async fn until(
    events: &Events,
    id: TargetId,
    is_so: impl Fn(&TargetStatus) -> bool,
) -> TargetStatus {
    let looking = async {
        loop {
            let all = events.outbox().targets().await.unwrap();
            let status = all.into_iter().find(|status| status.target.id == id);
            if let Some(status) = status.filter(&is_so) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, looking).await.expect("a state in time")
}

#[tokio::test]
async fn events_arrive_signed_and_in_order() {
    let (_folder, events) = fresh().await;
    let mut server = Server::start(|_| OK);
    let id = put(&events, server.url()).await;
    tell(&events, 0..10).await;
    while_sending(&events, client(), LONG, async {
        let first = server.next().await;
        assert_eq!(first.headers["x-event-id"], first.headers["webhook-id"]);
        assert_eq!(first.headers["x-znp-webhook-token"], "canary-secret");
        assert_eq!(first.headers["content-type"], "application/json");
        assert!(first.headers["webhook-signature"].starts_with("v1,"));
        assert_eq!(server.bodies(9).await, texts(1..10));
        // What is told while the target waits is sent at once.
        tell(&events, 10..20).await;
        assert_eq!(server.bodies(10).await, texts(10..20));
        until(&events, id, |status| status.delivered == 20).await;
        // And so is what is told to a target that comes in the midst.
        let mut late = Server::start(|_| OK);
        put(&events, late.url()).await;
        tell(&events, 20..21).await;
        assert_eq!(late.bodies(1).await, texts(20..21));
    })
    .await;
}

#[tokio::test]
async fn a_dead_target_delays_no_other() {
    let (_folder, events) = fresh().await;
    let mut hanging = Server::start(|_| Reply::Nothing);
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut well = Server::start(|_| OK);
    put(&events, hanging.url()).await;
    put(&events, format!("http://{refusing}/")).await;
    put(&events, well.url()).await;
    tell(&events, 0..200).await;
    while_sending(&events, client(), Duration::ZERO, async {
        assert_eq!(hanging.next().await.body, "0");
        let began = Instant::now();
        assert_eq!(well.bodies(200).await, texts(0..200));
        assert!(began.elapsed() < ANSWERED_WITHIN, "{:?}", began.elapsed());
        assert!(hanging.requests.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_target_that_asks_for_patience_gets_it_and_then_the_same_event() {
    let (_folder, events) = fresh().await;
    let mut server = Server::start(|n| match n {
        0 => Reply::Status(429, "Retry-After: 3\r\n"),
        1 => Reply::HangUp,
        2 => Reply::Status(500, ""),
        _ => OK,
    });
    let id = put(&events, server.url()).await;
    tell(&events, 0..2).await;
    while_sending(&events, client(), LONG, async {
        let first = server.next().await;
        let again = server.next().await;
        assert!(again.at - first.at >= Duration::from_millis(2_990));
        assert_eq!(first.headers["x-event-id"], again.headers["x-event-id"]);
        assert_eq!(server.bodies(3).await, ["0", "0", "1"]);
        let status = until(&events, id, |status| status.delivered == 2).await;
        assert_eq!((status.failed, status.trouble), (3, None));
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_refused_three_times_is_given_up_and_the_next_one_sent() {
    let (_folder, events) = fresh().await;
    let mut server = Server::start(|n| if n < 3 { Reply::Status(422, "") } else { OK });
    let id = put(&events, server.url()).await;
    tell(&events, 0..2).await;
    while_sending(&events, client(), LONG, async {
        assert_eq!(server.bodies(4).await, ["0", "0", "0", "1"]);
        let status = until(&events, id, |status| status.delivered == 1).await;
        assert_eq!((status.given_up, status.kept), (1, 1));
        let lost = events.outbox().given_up(id, 10).await.unwrap();
        assert_eq!((lost[0].tries, &*lost[0].why), (3, "answered 422"));
        assert_eq!(events.outbox().replay(id, None).await.unwrap(), 1);
        assert_eq!(server.bodies(1).await, ["0"]);
    })
    .await;
}

#[tokio::test]
async fn a_target_that_is_gone_is_sent_nothing_more_until_it_is_enabled() {
    let (_folder, events) = fresh().await;
    let mut server = Server::start(|n| if n == 0 { Reply::Status(410, "") } else { OK });
    let id = put(&events, server.url()).await;
    tell(&events, 0..3).await;
    while_sending(&events, client(), LONG, async {
        assert_eq!(server.bodies(1).await, ["0"]);
        let status = until(&events, id, |status| status.disabled.is_some()).await;
        assert_eq!((status.queued, status.kept), (0, 3));
        tell(&events, 3..4).await;
        events.outbox().enable(id).await.unwrap();
        tell(&events, 4..5).await;
        assert_eq!(server.bodies(1).await, ["4"]);
    })
    .await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_but_named() {
    let (_folder, events) = fresh().await;
    let mut elsewhere = Server::start(|_| OK);
    let to = "Location: http://elsewhere.example/new?token=canary\r\n";
    let mut server = Server::start(move |_| Reply::Status(302, to));
    let id = put(&events, server.url()).await;
    tell(&events, 0..1).await;
    while_sending(&events, client(), LONG, async {
        server.next().await;
        let status = until(&events, id, |status| status.trouble.is_some()).await;
        let trouble = status.trouble.unwrap();
        assert!(trouble.contains("elsewhere.example") && !trouble.contains("canary"));
    })
    .await;
    assert!(elsewhere.requests.try_recv().is_err());
}

#[tokio::test]
async fn ends_at_any_moment_lose_nothing_and_repeat_only_what_was_under_way() {
    const COUNT: u32 = 300;
    let (folder, mut events) = fresh().await;
    let mut server = Server::start(|_| OK);
    let id = put(&events, server.url()).await;
    tell(&events, 0..COUNT).await;
    let mut seen = Vec::new();
    for round in 0..12 {
        while_sending(&events, client(), Duration::ZERO, async {
            seen.extend(server.bodies(1 + round * 7 % 16).await);
        })
        .await;
        let store = events.outbox().store().clone();
        drop(events);
        store.close().await;
        events = open(folder.path()).await;
    }
    while_sending(&events, client(), LONG, async {
        let all = |status: &TargetStatus| status.delivered == u64::from(COUNT);
        until(&events, id, all).await;
    })
    .await;
    while let Ok(request) = server.requests.try_recv() {
        seen.push(request.body);
    }
    assert!(seen.len() <= 300 + 12, "{}", seen.len());
    seen.dedup();
    assert_eq!(seen, texts(0..COUNT));
}

/// Set for the child below only; without it the test that it runs does nothing.
const CHILD: &str = "XRAY_AGENT_DELIVER_TEST_CHILD";

/// Sends what waits in the folder that the parent names, until nothing does.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let events = open(Path::new(&folder)).await;
    let id = events.outbox().targets().await.unwrap()[0].target.id;
    while_sending(&events, client(), LONG, async {
        until(&events, id, |status| status.queued == 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_kill_between_sending_and_writing_down_repeats_one_event_and_loses_none() {
    let (folder, events) = fresh().await;
    let mut server = Server::start(|_| OK);
    put(&events, server.url()).await;
    tell(&events, 0..12).await;
    let store = events.outbox().store().clone();
    drop(events);
    store.close().await;
    let child = |failpoint: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "deliver::tests::child"])
            .env(CHILD, folder.path())
            .env("XRAY_AGENT_FAILPOINT", failpoint)
            .output()
            .unwrap()
            .status
    };
    for failpoint in [
        "agent.settle.before_commit:4",
        "agent.settle.after_commit:4",
        "agent.settle.before_commit",
    ] {
        assert_eq!(child(failpoint).signal(), Some(9), "{failpoint}");
    }
    assert!(child("").success());
    let mut seen = Vec::new();
    while let Ok(request) = server.requests.try_recv() {
        seen.push(request.body);
    }
    let right = [
        "0", "1", "2", "3", "3", "4", "5", "6", "7", "7", "8", "9", "10", "11",
    ];
    assert_eq!(seen, right);
}

/// Answers as it is told, at once, and counts what it was sent.
struct Scripted(UnboundedSender<(String, Timestamp)>, Clock);

impl Post for Scripted {
    fn post(&self, request: PostRequest) -> BoxFuture<'_, Result<PostAnswer, String>> {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let answer = if body == "0" {
            Err("connection refused".to_owned())
        } else {
            Ok(PostAnswer {
                status: 200,
                ..PostAnswer::default()
            })
        };
        self.0.send((body, self.1.now())).unwrap();
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_is_tried_for_a_day_and_holds_up_no_longer() {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let clock = Clock::following("2026-01-01T00:00:00Z".parse().unwrap());
    let store = agent::start(folder.path(), clock).unwrap();
    let outbox = Outbox::new(store, Limits::default(), clock);
    let events = Events::start(outbox.clone(), Arc::new(Payload), Bounds::default()).await;
    let id = put(&events, "http://a.example/".to_owned()).await;
    tell(&events, 0..2).await;
    let (posted, mut posts) = unbounded_channel();
    let engine = Engine::new(outbox, Arc::new(Scripted(posted, clock)), clock);
    let mut supervisor = Supervisor::new();
    supervisor
        .tasks()
        .task("deliver", Kind::Leaf, move |shutdown, heartbeat| {
            engine.clone().run(shutdown, heartbeat)
        });
    let mut tries = Vec::new();
    let steps = async {
        while let Some((body, at)) = posts.recv().await {
            if body == "1" {
                break;
            }
            tries.push(at);
        }
    };
    supervisor.run(steps, LONG).await;
    let took = Duration::try_from(tries[tries.len() - 1].duration_since(tries[0])).unwrap();
    assert!(
        took >= Duration::from_hours(24) && took < Duration::from_hours(25),
        "{took:?}"
    );
    assert!(tries.len() > 250, "{}", tries.len());
    let lost = events.outbox().given_up(id, 10).await.unwrap();
    assert_eq!(lost[0].why, "connection refused");
    assert_eq!(lost[0].tries as usize, tries.len());
}
