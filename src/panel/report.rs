//! Sends reports of traffic (`panel-internal.md`, `report-traffic`) and tells three outcomes apart,
//! for users pay for what is counted twice: the panel cannot have taken it, it may have, or it has
//! answered. What an answer means is decided elsewhere. A report is given to one connection once:
//! nothing here repeats it.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use reqwest::{Body, Client, ClientBuilder, Response, retry};
use serde::Serialize;
use url::Url;

use super::error::Reason;
use super::{PanelClient, PanelError, answer, body, redirected, retry_after};
use crate::base::handover::{self, Handover};
use crate::model::report::{Answer, Envelope, Reply, Report, ReportId};

/// Longest wait for a connection: a host that swallows packets must not use up the time of the
/// whole request for one that was never sent.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Most bytes of an answer: the panel's has under a hundred.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The report's number; a panel that knows the header drops repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(Serialize)]
struct Wire {
    uuid: String,
    node_id: u64,
    upload: u64,
    download: u64,
}

/// The client that reports go by. Polls have another one: they may be repeated.
///
/// HTTP/1.1 only: a server ends such a connection with an answer that says so. On HTTP/2 it does so at
/// any time (nginx: after every 1000 requests), and reports under way are in doubt, all at once.
pub(super) fn client(builder: ClientBuilder, timeout: Duration) -> reqwest::Result<Client> {
    builder
        .connect_timeout((timeout / 2).min(CONNECT_TIMEOUT_MAX))
        .http1_only()
        .retry(retry::never())
        .build()
}

impl PanelClient {
    /// Sends a report, once, by a client made [for reports](Self::for_reports). To be given up it may be dropped at any time; its outcome is then not
    /// known.
    pub async fn report(&self, report: &Report) -> Answer {
        let url = self.url("api/internal/report-traffic");
        // The runtime looks at its sockets before it comes back: a connection that the panel has
        // closed is then known to be, and not used.
        tokio::task::yield_now().await;
        let (content, handover) = handover::of(wire(report));
        let request = self
            .http
            .post(url.clone())
            .header("x-internal-token", self.token())
            .header(IDEMPOTENCY_KEY, report.id.to_string())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Body::wrap(content));
        let replied = match self.counted("report-traffic", request.send().await) {
            Ok(response) => self.reply(report.id, &url, response).await,
            Err(error) => Err(Reason::of_transport(&error)),
        };
        match replied {
            Ok(reply) => Answer::Replied(reply),
            Err(reason) => self.failed(&url, reason, &handover),
        }
    }

    fn failed(&self, url: &Url, reason: Reason, handover: &Handover) -> Answer {
        if !handover.take_back() {
            let why = self.line(url, reason);
            return Answer::Lost { why };
        }
        let reason = match reason {
            Reason::Timeout => Reason::Transport("no connection in time".to_owned()),
            other => other,
        };
        let why = self.line(url, reason);
        Answer::NotSent { why }
    }

    async fn reply(&self, id: ReportId, url: &Url, response: Response) -> Result<Reply, Reason> {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let echoes_key = echoes(response.headers(), id);
        let (envelope, reason) = if status.is_redirection() {
            (None, redirected(status, response.headers()))
        } else {
            word(response, retry_after).await?
        };
        Ok(Reply {
            status: status.as_u16(),
            envelope,
            retry_after,
            echoes_key,
            shown: self.line(url, reason),
        })
    }

    /// A reason in one line, fit to be shown.
    fn line(&self, url: &Url, reason: Reason) -> String {
        let url = url.to_string();
        let reason = reason.told(&self.config.token);
        PanelError { url, reason }.to_string()
    }
}

/// The panel's word, if it is one, and the answer in words.
async fn word(
    response: Response,
    retry_after: Option<Duration>,
) -> Result<(Option<Envelope>, Reason), Reason> {
    let status = response.status();
    let body = match body(response, BODY_BYTES_MAX).await {
        Err(Reason::TooLarge { bytes_max, .. }) => {
            let why = format!("with more than {bytes_max} bytes");
            let reason = Reason::malformed(status, retry_after, why, b"");
            return Ok((None, reason));
        }
        body => body?,
    };
    Ok(match answer::envelope(&body) {
        Ok(envelope) => {
            let reason = envelope.refusal(status, retry_after);
            let message = envelope.message.unwrap_or_default().into_owned();
            let code = envelope.code;
            (Some(Envelope { code, message }), reason)
        }
        Err(why) => (None, Reason::malformed(status, retry_after, why, &body)),
    })
}

fn wire(report: &Report) -> Bytes {
    let wire = Wire {
        uuid: report.user.text(),
        node_id: report.node.0,
        upload: report.up,
        download: report.down,
    };
    serde_json::to_vec(&wire)
        .expect("invariant: text and numbers are always JSON")
        .into()
}

fn echoes(headers: &HeaderMap, id: ReportId) -> bool {
    headers
        .get(IDEMPOTENCY_KEY)
        .is_some_and(|echo| echo.as_bytes() == id.to_string().as_bytes())
}
