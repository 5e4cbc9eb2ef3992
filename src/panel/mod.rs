//! The adapter to the panel's internal API (`panel-internal.md`): who may use a node, reports of
//! their traffic, and what an operator asks by hand. A list is taken whole or not at all; whatever is wrong with one is an error, never an
//! empty list. The token goes to the configured address only: redirects are not followed.

mod answer;
mod calls;
#[cfg(test)]
mod calls_tests;
mod error;
pub mod kernel;
mod report;
#[cfg(test)]
mod report_tests;

use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use reqwest::{Client, ClientBuilder, Response, redirect};
use url::Url;

use crate::base::clock::Clock;
use crate::config::{Panel, Proxy};
use crate::model::ids::NodeId;
use crate::model::tally::Calls;
use crate::model::user_list::UserList;

pub use calls::{Booked, Registration, Verdict};
pub use error::{PanelError, Reason};

/// The panel's server closes a connection that was idle for 5 s; one idle for longer than this is
/// not used again.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// A client of one panel; clones share its connections.
#[derive(Clone, Debug)]
pub struct PanelClient {
    http: Client,
    config: Panel,
    calls: Arc<Calls>,
}

/// What the panel says of a node.
#[derive(Debug)]
pub enum Allowed {
    /// The same as when it gave this `ETag`.
    Unchanged,
    /// These users.
    List {
        /// The users.
        list: UserList,
        /// To be given back at the next poll, once the list has been applied.
        etag: Option<String>,
    },
}

impl PanelClient {
    /// A client that asks the configured panel. Fails when the system's certificates cannot be loaded.
    pub fn new(config: Panel) -> Result<Self, String> {
        let http = builder(config.timeout, config.proxy.as_ref()).and_then(ClientBuilder::build);
        Self::with(http, config)
    }

    /// A client that reports to it; not for questions, which may be repeated.
    pub fn for_reports(config: Panel) -> Result<Self, String> {
        let timeout = config.timeout;
        let http = builder(timeout, config.proxy.as_ref())
            .and_then(|builder| report::client(builder, timeout));
        Self::with(http, config)
    }

    fn with(http: reqwest::Result<Client>, config: Panel) -> Result<Self, String> {
        let http = http.map_err(|e| error::chain(&e))?;
        Ok(Self {
            http,
            config,
            calls: Arc::default(),
        })
    }

    /// How it is configured.
    pub fn config(&self) -> &Panel {
        &self.config
    }

    /// The panel's address.
    pub fn base_url(&self) -> &Url {
        &self.config.url
    }

    /// The longest that asking for users may take.
    pub fn longest_call(&self) -> Duration {
        self.config.timeout
    }

    /// Its requests that are over, by HTTP status; 0 for those without an answer.
    pub fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }

    /// Counts a request and gives its outcome back.
    fn counted(
        &self,
        call: &'static str,
        outcome: reqwest::Result<Response>,
    ) -> reqwest::Result<Response> {
        let status = outcome
            .as_ref()
            .map_or(0, |answer| answer.status().as_u16());
        self.calls.count(call, status);
        outcome
    }

    /// Asks who may use `node`. With the `ETag` of the last answer the panel may say that it still
    /// holds.
    pub async fn allowed(&self, node: NodeId, etag: Option<&str>) -> Result<Allowed, PanelError> {
        self.ask_allowed(node, etag, &mut None).await
    }

    /// [`PanelClient::allowed`] without an `ETag`, and what the panel's clock showed, where its
    /// answer tells (`Date`).
    pub async fn allowed_and_date(
        &self,
        node: NodeId,
    ) -> (Result<Allowed, PanelError>, Option<Timestamp>) {
        let mut date = None;
        let answer = self.ask_allowed(node, None, &mut date).await;
        (answer, date)
    }

    async fn ask_allowed(
        &self,
        node: NodeId,
        etag: Option<&str>,
        date: &mut Option<Timestamp>,
    ) -> Result<Allowed, PanelError> {
        let url = self.url(&format!("api/internal/nodes/{node}/allowed-uuids"));
        let fail = |reason: Reason| PanelError {
            url: url.to_string(),
            reason: reason.told(&self.config.token),
        };
        let mut request = self
            .http
            .get(url.clone())
            .header("x-internal-token", self.token());
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = self
            .counted("allowed-uuids", request.send().await)
            .map_err(|e| fail(Reason::of_transport(&e)))?;
        let shown = response.headers().get(DATE).and_then(|it| it.to_str().ok());
        *date = shown.and_then(answer::date);
        if response.status() == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok(Allowed::Unchanged);
        }
        self.read(node, response).await.map_err(fail)
    }

    async fn read(&self, node: NodeId, response: Response) -> Result<Allowed, Reason> {
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED {
            let why = "nobody asked whether the list changed (no ETag was sent)";
            return Err(Reason::malformed(status, None, why, b""));
        }
        if status.is_redirection() {
            return Err(redirected(status, response.headers()));
        }
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let etag = header(ETAG).map(str::to_owned);
        let retry_after = retry_after(response.headers());
        let body = body(response, self.config.body_bytes_max).await?;
        let data = answer::data(status, retry_after, &body)?;
        let list = answer::allowed(data, node, self.config.users_max)?;
        Ok(Allowed::List { list, etag })
    }

    /// Any text that fits in a header; never printed by whoever logs requests.
    fn token(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(self.config.token.expose().as_bytes())
            .expect("invariant: the configuration refuses a token with control characters");
        value.set_sensitive(true);
        value
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.config.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }
}

/// What polls and reports have in common.
fn builder(timeout: Duration, proxy: Option<&Proxy>) -> reqwest::Result<ClientBuilder> {
    let builder = Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .pool_idle_timeout(IDLE_MAX)
        .user_agent(concat!("xray-agent/", env!("CARGO_PKG_VERSION")))
        .no_proxy();
    match proxy {
        Some(proxy) => Ok(builder.proxy(reqwest::Proxy::all(proxy.0.clone())?)),
        None => Ok(builder),
    }
}

/// The whole body, decompressed, up to `bytes_max`.
async fn body(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Reason> {
    let status = response.status();
    let mut body = Vec::new();
    while let Some(part) = response
        .chunk()
        .await
        .map_err(|e| Reason::of_body(status, &e))?
    {
        if body.len() + part.len() > bytes_max {
            return Err(Reason::TooLarge { status, bytes_max });
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    answer::retry_after(text, Clock::system().now())
}

fn redirected(status: StatusCode, headers: &HeaderMap) -> Reason {
    Reason::Redirected {
        status,
        to: host_of(headers),
    }
}

/// Only the host of a redirect is told: the rest may hold what must not be seen.
fn host_of(headers: &HeaderMap) -> String {
    headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .map_or_else(String::new, |to| match Url::parse(to) {
            Ok(url) => url.host_str().unwrap_or_default().to_owned(),
            Err(_) => "the same host".to_owned(),
        })
}
