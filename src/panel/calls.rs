//! What an operator asks the panel by hand (`panel-internal.md`): whether it lets a user in, what it
//! has booked for him, and to know a node. Keeps: a user is in the address that is asked and in no
//! error; nothing that the panel says of itself is told before token and users are taken out.

use http::header::CONTENT_TYPE;
use reqwest::RequestBuilder;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::error::{Reason, make_tellable};
use super::{PanelClient, PanelError, answer, body, redirected, retry_after};
use crate::base::secret::Secret;
use crate::model::ids::{NodeId, UserId};

/// Most plans of a user that are shown.
const PLANS_MAX: usize = 100;

/// Whether the panel lets a user in at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it does.
    pub allow: bool,
    /// Why it does not: `uuid_not_found`, `uuid_disabled`, `user_banned`, `traffic_exceeded`,
    /// `no_active_plan`, `node_not_allowed`.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its number of the user.
    #[serde(default)]
    pub user_id: Option<u64>,
    /// The user's plans.
    #[serde(default)]
    pub active_plan_ids: Option<Vec<u64>>,
}

/// What the panel has booked for a user; amounts in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Booked {
    /// Its number of the user.
    pub user_id: Option<u64>,
    /// Its word or number for how the user stands.
    #[serde(deserialize_with = "shown")]
    pub status: Option<String>,
    /// What the user may move.
    #[serde(deserialize_with = "amount")]
    pub traffic_total: Option<u64>,
    /// What he has moved.
    #[serde(deserialize_with = "amount")]
    pub traffic_used: Option<u64>,
    /// From him, within a day.
    #[serde(deserialize_with = "amount")]
    pub upload_24h: Option<u64>,
    /// To him, within a day.
    #[serde(deserialize_with = "amount")]
    pub download_24h: Option<u64>,
}

/// A node to be known to the panel, which finds one again by address, port and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// What users see.
    pub name: String,
    /// The host that clients connect to.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// As the panel calls it, such as `vless`.
    pub protocol: String,
    /// What the panel needs to write links for it.
    pub config: Value,
    /// The panel's word or number for whether it is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// Its place in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort_order: Option<i64>,
    /// The plans that it is part of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan_ids: Vec<u64>,
}

#[derive(Deserialize)]
struct Registered {
    id: u64,
}

impl PanelClient {
    /// Asks whether `user` may use `node` now.
    pub async fn auth(&self, user: UserId, node: NodeId) -> Result<Verdict, PanelError> {
        let url = self.url("api/internal/auth");
        let mut asked = url.clone();
        asked
            .query_pairs_mut()
            .append_pair("uuid", &user.text())
            .append_pair("node_id", &node.to_string());
        let request = self.http.get(asked);
        self.ask("auth", &url, request, verdict).await
    }

    /// Asks what is booked for `user`.
    pub async fn booked(&self, user: UserId) -> Result<Booked, PanelError> {
        let url = self.url("api/internal/user-traffic");
        let mut asked = url.clone();
        asked.query_pairs_mut().append_pair("uuid", &user.text());
        let request = self.http.get(asked);
        self.ask("user-traffic", &url, request, booked).await
    }

    /// Makes a node known; its id, which is the old one where the panel knew it.
    pub async fn register(&self, node: &Registration) -> Result<NodeId, PanelError> {
        let url = self.url("api/internal/register-node");
        let content = serde_json::to_vec(node)
            .expect("invariant: text, numbers and values of JSON are always JSON");
        let request = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(content);
        self.ask("register-node", &url, request, |data, _| registered(data))
            .await
    }

    /// Sends a request and reads the data of its answer. `url` is what errors name.
    async fn ask<T>(
        &self,
        call: &'static str,
        url: &Url,
        request: RequestBuilder,
        read: impl FnOnce(&RawValue, &Secret) -> Result<T, Reason>,
    ) -> Result<T, PanelError> {
        let request = request.header("x-internal-token", self.token());
        let answered = match self.counted(call, request.send().await) {
            Ok(response) => self.read_data(response, read).await,
            Err(error) => Err(Reason::of_transport(&error)),
        };
        answered.map_err(|reason| PanelError {
            url: url.to_string(),
            reason: reason.told(&self.config.token),
        })
    }

    async fn read_data<T>(
        &self,
        response: reqwest::Response,
        read: impl FnOnce(&RawValue, &Secret) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        let status = response.status();
        if status.is_redirection() {
            return Err(redirected(status, response.headers()));
        }
        let retry_after = retry_after(response.headers());
        let body = body(response, self.config.body_bytes_max).await?;
        let data = answer::data(status, retry_after, &body)?;
        read(data, &self.config.token)
    }
}

fn verdict(data: &RawValue, token: &Secret) -> Result<Verdict, Reason> {
    let mut verdict: Verdict = object(data, "{allow, reason}")?;
    if let Some(reason) = &mut verdict.reason {
        make_tellable(reason, token);
    }
    if let Some(plans) = &mut verdict.active_plan_ids {
        plans.truncate(PLANS_MAX);
    }
    Ok(verdict)
}

fn booked(data: &RawValue, token: &Secret) -> Result<Booked, Reason> {
    let mut booked: Booked = object(data, "{traffic_total, traffic_used}")?;
    if let Some(status) = &mut booked.status {
        make_tellable(status, token);
    }
    Ok(booked)
}

fn registered(data: &RawValue) -> Result<NodeId, Reason> {
    let registered: Registered = object(data, "{id}")?;
    Ok(NodeId(registered.id))
}

/// Serde would take a list of the fields' values, too.
fn object<'a, T: Deserialize<'a>>(data: &'a RawValue, what: &str) -> Result<T, Reason> {
    let not_it = |why: String| Reason::Unfit(format!("the answer's data is not {what}{why}"));
    if !data.get().starts_with('{') {
        return Err(not_it(String::new()));
    }
    serde_json::from_str(data.get()).map_err(|e| not_it(format!(": {e}")))
}

/// A number, or a text that is one: databases give sums as text.
fn amount<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let unfit = || serde::de::Error::custom("an amount is not a whole number of bytes");
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::Number(number) => number.as_u64().map(Some).ok_or_else(unfit),
        Value::String(text) => text.parse().map(Some).map_err(|_| unfit()),
        _ => Err(unfit()),
    }
}

/// A word or a number.
fn shown<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err(serde::de::Error::custom(
            "the status is neither word nor number",
        )),
    }
}
