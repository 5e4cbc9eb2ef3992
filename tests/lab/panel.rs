//! A scripted panel. By default it keeps the real panel's contract (token, envelope, weak `ETag`,
//! idle connections closed after 5 s); a test may put any [`Answer`] in its place. Reports of
//! traffic: `reports.rs` and `ledger.rs`.
//!
//! Lists are rendered once, when they are set, so that a bench with 100 000 users does not
//! measure the panel. `PUT` and `DELETE /demo/users/UUID` change the lists by hand, unguarded.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::{Answer, Sending};
use super::calls;
use super::contract::State;
use super::origin::accept;
use super::ports::free_port;
use super::reports;
use super::wait::eventually;

/// Node closes an idle keep-alive connection after this time.
const IDLE: Duration = Duration::from_secs(5);
/// For a request that the agent is to make; it polls every few seconds at most.
pub(super) const REQUEST_BOUND: Duration = Duration::from_mins(1);
/// Serves until dropped.
pub struct Panel {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: JoinSet<()>,
}

impl Panel {
    pub async fn start(token: &str) -> Result<Self> {
        let addr = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let state = Arc::new(Mutex::new(State::new(token)));
        let mut panel = Self {
            addr,
            state,
            tasks: JoinSet::new(),
        };
        panel.resume().await?;
        Ok(panel)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As the agent's `PANEL_BASE_URL`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The users that a node is allowed, in this order, well-formed or not.
    pub fn set_users(&self, node: u64, uuids: Vec<String>) {
        self.state().set_users(node, uuids);
    }

    pub fn users(&self, node: u64) -> Vec<String> {
        let state = self.state();
        let list = state.nodes.get(&node).and_then(|node| node.list.as_ref());
        list.map(|list| list.uuids.clone()).unwrap_or_default()
    }

    /// From now on this, whoever asks, until [`Panel::clear_answer`].
    pub fn set_answer(&self, node: u64, answer: Answer) {
        self.state().nodes.entry(node).or_default().answer = Some(answer);
    }

    /// The contract again.
    pub fn clear_answer(&self, node: u64) {
        self.state().nodes.entry(node).or_default().answer = None;
    }

    /// Whether answers carry an `ETag` and `If-None-Match` is heeded; they do at first.
    pub fn set_etags(&self, on: bool) {
        self.state().etags = on;
    }

    pub fn set_token(&self, token: &str) {
        token.clone_into(&mut self.state().token);
    }

    /// Requests that came for that node so far, answered or not.
    pub fn requests(&self, node: u64) -> usize {
        self.state()
            .nodes
            .get(&node)
            .map_or(0, |node| node.requests)
    }

    /// When the last request for that node was answered.
    pub fn answered(&self, node: u64) -> Option<Instant> {
        self.state().nodes.get(&node)?.answered
    }

    /// The headers of the last requests for that node, oldest first.
    pub fn headers(&self, node: u64) -> Vec<HeaderMap> {
        let state = self.state();
        state
            .nodes
            .get(&node)
            .map(|node| node.headers.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// TCP connections accepted so far, whatever they were used for.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// Waits until more than `before` requests have come for that node; how many then.
    pub async fn await_request_after(&self, node: u64, before: usize) -> Result<usize> {
        eventually("another request to the panel", REQUEST_BOUND, async || {
            Some(self.requests(node)).filter(|requests| *requests > before)
        })
        .await
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
            lock(&state).connections += 1;
            serve(stream, Arc::clone(&state))
        }));
        Ok(())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let answer = service_fn(|request| answer(request, Arc::clone(&state)));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    // Ends with an error whenever the script says to close.
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> io::Result<Response<Sending>> {
    if reports::is_report(&request) {
        return reports::serve(request, &state).await;
    }
    if calls::is_registration(&request) {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let answer = lock(&state).register(&head.headers, &body);
        return answer.send().await;
    }
    let answer = lock(&state).answer(&request);
    answer.send().await
}
