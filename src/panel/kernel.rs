//! Sends records of traffic to the panel that pushes users (`kernel.md`). As with reports, three outcomes
//! are told apart: the panel cannot have taken them, it may have, or it has answered. A request is given
//! to one connection once, and the token goes to the configured address only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use reqwest::{Body, Client, Response};
use url::Url;

use super::error::{self, Reason};
use super::{PanelError, body, builder, redirected, report, retry_after};
use crate::base::handover;
use crate::base::secret::Secret;
use crate::config::Proxy;
use crate::model::batch::{BatchReply, Said};
use crate::model::report::Answer;
use crate::model::tally::Calls;

/// Most bytes of an answer: the panel's has under a hundred.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Where the panel that pushes users is.
#[derive(Clone, Debug)]
pub struct KernelPanel {
    /// Its address; paths are added to it.
    pub url: Url,
    /// By which it knows that it is us.
    pub token: Secret,
    /// For a request with its answer.
    pub timeout: Duration,
    /// By which it is reached.
    pub proxy: Option<Proxy>,
}

/// A client of it; clones share its connections.
#[derive(Clone, Debug)]
pub struct KernelClient {
    http: Client,
    config: KernelPanel,
    calls: Arc<Calls>,
}

/// Where a panel of this address takes records of traffic.
pub fn traffic_url(base: &Url) -> Url {
    let mut url = base.clone();
    let path = base.path().trim_end_matches('/');
    url.set_path(&format!("{path}/api/v1/kernel/traffic"));
    url
}

impl KernelClient {
    /// Fails when the system's certificates cannot be loaded, or the token does not fit in a header.
    pub fn new(config: KernelPanel) -> Result<Self, String> {
        let http = builder(config.timeout, config.proxy.as_ref())
            .and_then(|builder| report::client(builder, config.timeout))
            .map_err(|e| error::chain(&e))?;
        HeaderValue::from_bytes(config.token.expose().as_bytes())
            .map_err(|_| "the token does not fit in a header".to_owned())?;
        Ok(Self {
            http,
            config,
            calls: Arc::default(),
        })
    }

    /// The panel's address.
    pub fn base_url(&self) -> &Url {
        &self.config.url
    }

    /// Its requests that are over, by HTTP status; 0 for those without an answer.
    pub fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }

    /// Sends records, once. To be given up it may be dropped at any time; its outcome is then not known.
    pub async fn send_traffic(&self, records: Bytes) -> Answer {
        let url = traffic_url(&self.config.url);
        // A connection that the panel has closed is then known to be, and not used.
        tokio::task::yield_now().await;
        let (content, handover) = handover::of(records);
        let request = self
            .http
            .post(url.clone())
            .header("x-znp-webhook-token", self.token())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Body::wrap(content));
        let sent = request.send().await;
        let status = sent.as_ref().map_or(0, |answer| answer.status().as_u16());
        self.calls.count("kernel-traffic", status);
        let replied = match sent {
            Ok(response) => self.reply(&url, response).await,
            Err(error) => Err(Reason::of_transport(&error)),
        };
        match replied {
            Ok(reply) => Answer::Batch(reply),
            Err(reason) => {
                let is_unsent = handover.take_back();
                let why = self.line(&url, without_key(reason, is_unsent));
                if is_unsent {
                    Answer::NotSent { why }
                } else {
                    Answer::Lost { why }
                }
            }
        }
    }

    async fn reply(&self, url: &Url, response: Response) -> Result<BatchReply, Reason> {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let (said, reason) = if status.is_redirection() {
            (Said::Foreign, redirected(status, response.headers()))
        } else {
            let (said, content) = match body(response, BODY_BYTES_MAX).await {
                Err(Reason::TooLarge { .. }) => (Said::Foreign, Vec::new()),
                content => {
                    let content = content?;
                    (Said::read(&content, true), content)
                }
            };
            (
                said,
                Reason::malformed(status, retry_after, word(said), &content),
            )
        };
        Ok(BatchReply {
            status: status.as_u16(),
            said,
            tallies: true,
            retry_after,
            shown: self.line(url, reason),
        })
    }

    /// A reason in one line, fit to be shown.
    fn line(&self, url: &Url, reason: Reason) -> String {
        let url = url.to_string();
        let reason = reason.told(&self.config.token);
        PanelError { url, reason }.to_string()
    }

    /// Never printed by whoever logs requests.
    fn token(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(self.config.token.expose().as_bytes())
            .expect("invariant: it was one when the client was made");
        value.set_sensitive(true);
        value
    }
}

/// The usual words of a timeout name another setting.
fn without_key(reason: Reason, is_unsent: bool) -> Reason {
    match (reason, is_unsent) {
        (Reason::Timeout, true) => Reason::Transport("no connection in time".to_owned()),
        (Reason::Timeout, false) => {
            Reason::Transport("no answer in time (kernel.panel.timeout)".to_owned())
        }
        (other, _) => other,
    }
}

fn word(said: Said) -> String {
    match said {
        Said::Tally { accepted, failed } => {
            format!("it took {accepted} records and not {failed}")
        }
        Said::Nothing => "not with how many records it took".to_owned(),
        Said::Foreign => "not with the panel's JSON".to_owned(),
    }
}
