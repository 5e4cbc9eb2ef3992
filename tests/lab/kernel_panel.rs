//! A panel that pushes: it takes node events, users' events and records of traffic at the paths that
//! `kernel.md` names, and callbacks at any other, and keeps all of them. What it is told without its
//! token, or with a signature that is not right, it refuses with 401 and keeps apart.
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use aws_lc_rs::hmac;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::{Answer, Sending};
use super::origin::accept;
use super::ports::free_port;
use super::secrets::base64;

/// Where the agent pushes node events.
pub const EVENTS: &str = "/api/v1/kernel/events";
/// Where it pushes traffic.
pub const TRAFFIC: &str = "/api/v1/kernel/traffic";

/// Something that it was told.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
    pub at: Instant,
}

impl Call {
    /// The number by which a repeat is known.
    pub fn event_id(&self) -> Option<&str> {
        self.headers.get("x-event-id")?.to_str().ok()
    }
}

/// Serves until dropped.
pub struct KernelPanel {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: JoinSet<()>,
}

struct State {
    token: String,
    taken: Vec<Call>,
    refused: Vec<Call>,
    answers: BTreeMap<String, Answer>,
    /// Takes what comes and closes the connection instead of answering.
    is_mute: bool,
}

impl KernelPanel {
    pub async fn start(token: &str) -> Result<Self> {
        let state = State {
            token: token.to_owned(),
            taken: Vec::new(),
            refused: Vec::new(),
            answers: BTreeMap::new(),
            is_mute: false,
        };
        let mut panel = Self {
            addr: (Ipv4Addr::LOCALHOST, free_port()?).into(),
            state: Arc::new(Mutex::new(state)),
            tasks: JoinSet::new(),
        };
        panel.resume().await?;
        Ok(panel)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of a path of it, for a registration.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// What came to a path and was taken, oldest first.
    pub fn calls(&self, path: &str) -> Vec<Call> {
        let state = self.state();
        let calls = state.taken.iter().filter(|call| call.path == path);
        calls.cloned().collect()
    }

    /// The names of the events that came to a path, each once, in the order in which they came first.
    pub fn events(&self, path: &str) -> Vec<String> {
        let mut seen = std::collections::BTreeSet::new();
        let calls = self.calls(path).into_iter();
        let first = calls.filter(|call| seen.insert(call.event_id().map(str::to_owned)));
        first
            .map(|call| call.body["event"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The records of traffic that came to a path and were taken.
    pub fn records(&self, path: &str) -> Vec<Value> {
        let calls = self.calls(path).into_iter();
        let records = calls.filter_map(|call| call.body["records"].as_array().cloned());
        records.flatten().collect()
    }

    /// Bytes of a user in the records that came to a path: up and down.
    pub fn bytes(&self, path: &str, user_id: u64) -> (u64, u64) {
        let records = self.records(path).into_iter();
        let of_user = records.filter(|record| record["user_id"] == user_id);
        of_user.fold((0, 0), |(up, down), record| {
            let amount = |name: &str| record[name].as_u64().expect("bytes are a number");
            (up + amount("bytes_up"), down + amount("bytes_down"))
        })
    }

    /// What came without the token, or wrongly signed.
    pub fn refused(&self) -> Vec<Call> {
        self.state().refused.clone()
    }

    /// From now on this, at a path; what is answered with a failure is not taken.
    pub fn set_answer(&self, path: &str, answer: Option<Answer>) {
        let mut state = self.state();
        match answer {
            Some(answer) => state.answers.insert(path.to_owned(), answer),
            None => state.answers.remove(path),
        };
    }

    /// Whether it takes what comes and then breaks the connection.
    pub fn set_mute(&self, is_mute: bool) {
        self.state().is_mute = is_mute;
    }

    /// Goes away: open connections end, new ones are refused.
    pub async fn pause(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Comes back on the same port.
    pub async fn resume(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.addr).await?;
        let state = Arc::clone(&self.state);
        self.tasks.spawn(accept(listener, move |stream| {
            serve(stream, Arc::clone(&state))
        }));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let answer = service_fn(|request| answer(request, Arc::clone(&state)));
    // Ends with an error whenever the script says to close.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> io::Result<Response<Sending>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let answer = lock(&state).take(head.uri.path(), head.headers, &body);
    answer.send().await
}

impl State {
    fn take(&mut self, path: &str, headers: HeaderMap, body: &[u8]) -> Answer {
        let is_ours = self.is_right(&headers, body);
        let call = Call {
            path: path.to_owned(),
            headers,
            body: serde_json::from_slice(body).unwrap_or_default(),
            at: Instant::now(),
        };
        if !is_ours {
            self.refused.push(call);
            return Answer::json(401, &json!({"code": 401, "message": "bad token"}));
        }
        if let Some(answer) = self.answers.get(path) {
            return answer.clone();
        }
        let records = call.body["records"].as_array().map(Vec::len);
        self.taken.push(call);
        if self.is_mute {
            return Answer::close();
        }
        match records {
            Some(count) => Answer::json(200, &json!({"accepted": count, "failed": 0})),
            None => Answer::json(200, &json!({"code": 200})),
        }
    }

    /// With the token, and, where it is signed, signed rightly (Standard Webhooks).
    fn is_right(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let has_token = text("x-znp-webhook-token") == Some(&self.token);
        let signature = text("webhook-signature").map(|given| {
            let id = text("webhook-id").unwrap_or_default();
            let time = text("webhook-timestamp").unwrap_or_default();
            let key = hmac::Key::new(hmac::HMAC_SHA256, self.token.as_bytes());
            let signed = [format!("{id}.{time}.").as_bytes(), body].concat();
            given == format!("v1,{}", base64(hmac::sign(&key, &signed).as_ref()))
        });
        has_token && signature != Some(false)
    }
}
