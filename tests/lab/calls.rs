//! The scripted panel's answers to an operator: `auth`, `user-traffic` and `register-node`, by the
//! contract.
use std::collections::BTreeMap;

use hyper::{HeaderMap, Method, Request};
use serde_json::{Value, json};

use super::answer::Answer;
use super::contract::{State, is_trusted};
use super::panel::Panel;

/// What the panel knows for them.
#[derive(Default)]
pub struct Calls {
    /// Why a user is refused everywhere; who is not here is allowed where he is listed.
    refusals: BTreeMap<String, String>,
    /// What `user-traffic` gives for a user.
    booked: BTreeMap<String, Value>,
    /// Nodes by address, port and protocol.
    nodes: BTreeMap<(String, u64, String), u64>,
    /// The bodies of all requests to register a node, in order.
    registrations: Vec<Value>,
}

impl Panel {
    /// From now on `auth` refuses that user for this reason; None: no more.
    pub fn set_refusal(&self, uuid: &str, reason: Option<&str>) {
        let refusals = &mut self.state().calls.refusals;
        match reason {
            Some(reason) => refusals.insert(uuid.to_owned(), reason.to_owned()),
            None => refusals.remove(uuid),
        };
    }

    /// What `user-traffic` gives for that user.
    pub fn set_booked(&self, uuid: &str, booked: Value) {
        self.state().calls.booked.insert(uuid.to_owned(), booked);
    }

    /// The bodies of all requests to register a node, in order.
    pub fn registrations(&self) -> Vec<Value> {
        self.state().calls.registrations.clone()
    }
}

/// Is that request for [`register`]?
pub fn is_registration<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/api/internal/register-node"
}

impl State {
    /// Whether the user may use the node, and why not.
    pub fn auth(&self, headers: &HeaderMap, query: &str) -> Answer {
        let (uuid, node) = (value_of(query, "uuid"), value_of(query, "node_id"));
        let node: Option<u64> = node.and_then(|node| node.parse().ok());
        let (Some(uuid), Some(node)) = (uuid, node) else {
            return Answer::error(400, "uuid and node_id are required");
        };
        if !is_trusted(headers, &self.token) {
            return Answer::error(403, "forbidden");
        }
        let list = self.nodes.get(&node).and_then(|node| node.list.as_ref());
        let is_listed = list.is_some_and(|list| list.uuids.iter().any(|it| it == uuid));
        let refusal = self.calls.refusals.get(uuid).map(String::as_str);
        let refusal = refusal.or((!is_listed).then_some("uuid_not_found"));
        success(match refusal {
            Some(reason) => json!({"allow": false, "reason": reason}),
            None => json!({"allow": true, "user_id": 7, "active_plan_ids": [1, 2]}),
        })
    }

    /// What is booked for the user.
    pub fn user_traffic(&self, headers: &HeaderMap, query: &str) -> Answer {
        if !is_trusted(headers, &self.token) {
            return Answer::error(403, "forbidden");
        }
        match value_of(query, "uuid").and_then(|uuid| self.calls.booked.get(uuid)) {
            Some(booked) => success(booked.clone()),
            None => Answer::error(404, "uuid not found"),
        }
    }

    /// Makes a node known, once for each address, port and protocol.
    pub fn register(&mut self, headers: &HeaderMap, body: &[u8]) -> Answer {
        if !is_trusted(headers, &self.token) {
            return Answer::error(403, "forbidden");
        }
        let Ok(node) = serde_json::from_slice::<Value>(body) else {
            return Answer::error(500, "Unexpected token in JSON");
        };
        let calls = &mut self.calls;
        calls.registrations.push(node.clone());
        let text = |name: &str| node[name].as_str().map(str::to_owned);
        let by = (text("address"), node["port"].as_u64(), text("protocol"));
        let (Some(address), Some(port), Some(protocol)) = by else {
            return Answer::error(400, "address, port and protocol are required");
        };
        if text("name").is_none() || !node["config"].is_object() || protocol == "unheard-of" {
            return Answer::error(400, "invalid node");
        }
        let next = 41 + calls.nodes.len() as u64;
        let id = *calls.nodes.entry((address, port, protocol)).or_insert(next);
        success(json!({"id": id, "name": node["name"]}))
    }
}

fn success(data: Value) -> Answer {
    Answer::json(
        200,
        &json!({"code": 200, "message": "success", "data": data}),
    )
}

/// Of a query without escapes.
fn value_of<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}
