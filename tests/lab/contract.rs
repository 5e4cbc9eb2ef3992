//! What the scripted panel knows and how it answers by default: the real panel's contract. Holds
//! no socket and reads no clock.
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};
use serde_json::json;

use super::answer::Answer;
use super::calls::Calls;
use super::reports::Reports;

/// How many requests' headers are remembered for each node, and for reports.
pub const REMEMBERED: usize = 16;

pub struct State {
    pub token: String,
    pub etags: bool,
    pub nodes: BTreeMap<u64, Node>,
    pub reports: Reports,
    pub calls: Calls,
    /// TCP connections accepted so far.
    pub connections: usize,
}

#[derive(Default)]
pub struct Node {
    pub list: Option<List>,
    pub answer: Option<Answer>,
    pub requests: usize,
    /// When the last of them was answered.
    pub answered: Option<Instant>,
    pub headers: VecDeque<HeaderMap>,
}

pub struct List {
    pub uuids: Vec<String>,
    body: Bytes,
    etag: String,
}

impl State {
    pub fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            etags: true,
            nodes: BTreeMap::new(),
            reports: Reports::default(),
            calls: Calls::default(),
            connections: 0,
        }
    }

    /// The answer to any request but a report of traffic.
    pub fn answer(&mut self, request: &Request<Incoming>) -> Answer {
        let path: Vec<&str> = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .collect();
        match path[..] {
            ["api", "internal", "nodes", node, "allowed-uuids"] => match node.parse() {
                Ok(node) if request.method() == Method::GET => {
                    self.allowed_uuids(node, request.headers())
                }
                _ => Answer::error(400, "invalid node_id"),
            },
            ["api", "internal", "auth"] => {
                self.auth(request.headers(), request.uri().query().unwrap_or_default())
            }
            ["api", "internal", "user-traffic"] => {
                self.user_traffic(request.headers(), request.uri().query().unwrap_or_default())
            }
            ["demo", "users", uuid] => self.change_by_hand(request.method(), uuid),
            _ => Answer::error(404, "not found"),
        }
    }

    fn allowed_uuids(&mut self, id: u64, headers: &HeaderMap) -> Answer {
        let node = self.nodes.entry(id).or_default();
        node.requests += 1;
        node.answered = Some(Instant::now());
        node.headers.push_back(headers.clone());
        if node.headers.len() > REMEMBERED {
            node.headers.pop_front();
        }
        if let Some(answer) = &node.answer {
            return answer.clone();
        }
        if !is_trusted(headers, &self.token) {
            return Answer::error(403, "forbidden");
        }
        let Some(list) = &node.list else {
            return Answer::error(404, "node not found");
        };
        let whole = Answer::bytes(200, "application/json; charset=utf-8", list.body.clone());
        if !self.etags {
            return whole;
        }
        if header(headers, "if-none-match") == Some(list.etag.as_str()) {
            return Answer::not_modified(&list.etag);
        }
        whole.header("etag", &list.etag)
    }

    /// The contract's answer to the report of that number.
    pub fn take_report(&mut self, number: u64, headers: &HeaderMap, body: &[u8]) -> Answer {
        if !is_trusted(headers, &self.token) {
            return Answer::error(403, "forbidden");
        }
        self.reports.ledger.take(number, headers, body)
    }

    /// Renders the list, once.
    pub fn set_users(&mut self, id: u64, uuids: Vec<String>) {
        let data = json!({"node_id": id, "uuids": uuids});
        let body = json!({"code": 200, "message": "success", "data": data}).to_string();
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = format!("W/\"{:x}-{:x}\"", body.len(), hasher.finish());
        let list = List {
            uuids,
            body: body.into(),
            etag,
        };
        self.nodes.entry(id).or_default().list = Some(list);
    }

    /// Adds or removes one user on every node that has a list.
    fn change_by_hand(&mut self, method: &Method, uuid: &str) -> Answer {
        if method != Method::PUT && method != Method::DELETE {
            return Answer::error(405, "PUT or DELETE");
        }
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let mut left = 0;
        for id in ids {
            let Some(list) = self.nodes.entry(id).or_default().list.take() else {
                continue;
            };
            let mut uuids = list.uuids;
            uuids.retain(|listed| listed != uuid);
            if method == Method::PUT {
                uuids.push(uuid.to_owned());
            }
            left += uuids.len();
            self.set_users(id, uuids);
        }
        Answer::json(
            200,
            &json!({"code": 200, "message": "success", "users": left}),
        )
    }
}

pub fn is_trusted(headers: &HeaderMap, token: &str) -> bool {
    header(headers, "x-internal-token") == Some(token)
}

/// A header's value, where it is text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
