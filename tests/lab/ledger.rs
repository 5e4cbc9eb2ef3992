//! What the scripted panel makes of a report of traffic: the real panel's checks, refusals by
//! user, and a ledger of all that it accepted. Holds no socket and reads no clock.
//!
//! Invariant: the sums are those of the log's counted entries, and nothing is ever taken back.
use std::collections::{BTreeMap, HashSet};

use hyper::HeaderMap;
use serde_json::Value;

use super::answer::Answer;
use super::contract::header;

/// By which a panel that knows it recognises a repeat.
pub const KEY_HEADER: &str = "idempotency-key";

/// A report that the panel answered with success, or would have but for the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its place among all requests to report traffic, the first being 1.
    pub arrival: u64,
    pub node: u64,
    pub uuid: String,
    /// Bytes.
    pub upload: u64,
    /// Bytes.
    pub download: u64,
    /// Its `Idempotency-Key`.
    pub key: Option<String>,
    /// A report with the same key was accepted before.
    pub repeat: bool,
    /// Its bytes were added to the user's: of all but a repeat at a panel that dedupes.
    pub counted: bool,
}

#[derive(Clone, Default)]
pub struct Ledger {
    /// Drops repeats, and shows so by echoing the key in its answers.
    pub dedupes: bool,
    /// Users whose reports get that answer, and do not count.
    pub refused: BTreeMap<String, Answer>,
    log: Vec<Report>,
    keys: HashSet<String>,
    billed: BTreeMap<(u64, String), (u64, u64)>,
    total: (u64, u64),
}

/// The body of a report.
struct Claim {
    node: u64,
    uuid: String,
    upload: u64,
    download: u64,
}

impl Ledger {
    /// The panel's answer to a report whose token is right; it is counted unless refused.
    pub fn take(&mut self, arrival: u64, headers: &HeaderMap, body: &[u8]) -> Answer {
        let claim = match read(headers, body) {
            Ok(claim) => claim,
            Err(answer) => return answer,
        };
        if let Some(refusal) = self.refused.get(&claim.uuid) {
            return refusal.clone();
        }
        self.accept(arrival, key_of(headers), claim);
        Answer::success()
    }

    fn accept(&mut self, arrival: u64, key: Option<String>, claim: Claim) {
        let repeat = key.as_ref().is_some_and(|key| self.keys.contains(key));
        let counted = !(repeat && self.dedupes);
        if counted {
            let of_user = (claim.node, claim.uuid.clone());
            add(self.billed.entry(of_user).or_default(), &claim);
            add(&mut self.total, &claim);
        }
        self.keys.extend(key.clone());
        self.log.push(Report {
            arrival,
            node: claim.node,
            uuid: claim.uuid,
            upload: claim.upload,
            download: claim.download,
            key,
            repeat,
            counted,
        });
    }

    /// That answer as this kind of panel gives it: with the request's key or without.
    pub fn signed(&self, headers: &HeaderMap, answer: Answer) -> Answer {
        match key_of(headers) {
            Some(key) if self.dedupes => answer.echoing(KEY_HEADER, key),
            _ => answer,
        }
    }

    /// Every accepted report, repeats included, in order of acceptance.
    pub fn log(&self) -> &[Report] {
        &self.log
    }

    /// Bytes up and down.
    pub fn billed(&self, node: u64, uuid: &str) -> (u64, u64) {
        let of_user = (node, uuid.to_owned());
        self.billed.get(&of_user).copied().unwrap_or_default()
    }

    /// Bytes up and down of all users on all nodes.
    pub fn total(&self) -> (u64, u64) {
        self.total
    }
}

fn add(sum: &mut (u64, u64), claim: &Claim) {
    sum.0 += claim.upload;
    sum.1 += claim.download;
}

pub fn key_of(headers: &HeaderMap) -> Option<String> {
    header(headers, KEY_HEADER).map(str::to_owned)
}

/// What the real panel checks. A body under another type than JSON is one that it never parses.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<Claim, Answer> {
    let kind = header(headers, "content-type");
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(Answer::error(400, "uuid and node_id are required"));
    }
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Answer::error(500, &format!("not JSON: {error}")))?;
    let number = |name: &str| body[name].as_u64();
    let claim = Claim {
        node: number("node_id").ok_or_else(|| Answer::error(400, "invalid node_id"))?,
        uuid: body["uuid"]
            .as_str()
            .ok_or_else(|| Answer::error(400, "invalid uuid"))?
            .to_owned(),
        upload: number("upload").ok_or_else(|| Answer::error(400, "invalid upload"))?,
        download: number("download").ok_or_else(|| Answer::error(400, "invalid download"))?,
    };
    if claim.upload == 0 && claim.download == 0 {
        return Err(Answer::error(400, "upload and download are both 0"));
    }
    Ok(claim)
}
