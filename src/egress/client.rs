//! HTTP calls on a user's behalf. Keeps: every hop's URL is judged and its name looked up once, and
//! the connection is made to one of those addresses; redirects are followed only where a call asks
//! for it, each judged anew; no time, body or chain of redirects is without an end; the
//! environment's proxies are not read.
//!
//! HTTP/1.1 only: there a body that nobody asked for has not been sent (`base/handover`).

use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;
use reqwest::{Body, Client, RequestBuilder, Response, redirect as by_itself, retry};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::call::{Answer, Call};
use super::dial::Gate;
use super::error::{Cause, EgressError};
use super::pins::{Pinned, Pins};
use super::policy::Policy;
use super::proxy::ByProxy;
use super::redirect;
use super::resolve::{Names, SystemNames};
use super::target::shown_url;
use crate::base::handover::{self, Handover};
use crate::config::Proxy;

/// Longest wait for a connection: a host that swallows packets must not use up a long call's time
/// and leave it in doubt whether it was sent.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest call: timers are not made for years, and the clock cannot count to every duration.
const CALL_MAX: Duration = Duration::from_hours(30 * 24);
/// A connection idle for longer is not used again: common servers close theirs after 5 s, and a
/// request that meets the close is in doubt.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections kept for one host: as many as jobs may run there at once.
const IDLE_PER_HOST_MAX: usize = 8;

/// A client for one kind of caller; clones share its connections.
#[derive(Clone, Debug)]
pub struct EgressClient {
    http: Client,
    gate: Gate,
    proxy: Option<ByProxy>,
}

impl EgressClient {
    /// A client that looks names up as the system does. Fails when the system's certificates cannot
    /// be loaded or the proxy's address cannot be used.
    pub fn new(policy: Policy, proxy: Option<&Proxy>) -> Result<Self, String> {
        Self::with_names(policy, proxy, SystemNames)
    }

    /// A client with other names.
    pub fn with_names(
        policy: Policy,
        proxy: Option<&Proxy>,
        names: impl Names + Clone,
    ) -> Result<Self, String> {
        let plain = |error: reqwest::Error| Cause::of(&error.without_url()).to_string();
        let mut builder = Client::builder()
            .no_proxy()
            .no_gzip()
            .redirect(by_itself::Policy::none())
            .retry(retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .user_agent(concat!("xray-agent/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Pinned) as Arc<dyn Resolve>);
        if let Some(proxy) = proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy.0.clone()).map_err(plain)?);
        }
        let by_proxy = proxy.map(|it| ByProxy::new(it, names.clone())).transpose();
        let by_proxy = by_proxy.map_err(|refusal| refusal.to_string())?;
        Ok(Self {
            http: builder.build().map_err(plain)?,
            proxy: by_proxy,
            gate: Gate::with_names(policy, names),
        })
    }

    /// What judges its calls.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Makes the call and follows as many redirects as it allows. May be dropped at any time; its
    /// outcome is then not known.
    pub async fn send(&self, mut call: Call) -> Result<Answer, EgressError> {
        let deadline = Instant::now() + call.timeout.min(CALL_MAX);
        call.drop_framing();
        let mut redirects = 0;
        loop {
            let exchange = self.exchange(&call, deadline).await;
            let response = exchange.map_err(|error| after(redirects, error))?;
            let (status, headers) = (response.status(), response.headers());
            let to = redirect::location(&call.url, status, headers);
            let Some(to) = to.filter(|_| redirects < call.redirects) else {
                return Ok(Answer::read(response, &call, redirects, deadline).await);
            };
            redirects += 1;
            redirect::follow(&mut call, status, to);
        }
    }

    /// One hop: judged, looked up, sent.
    async fn exchange(&self, call: &Call, deadline: Instant) -> Result<Response, EgressError> {
        let late = || Cause::Timeout(call.timeout);
        let not_sent = |cause| EgressError::NotSent {
            target: shown_url(&call.url),
            cause,
        };
        let pins = timeout_at(deadline, self.pins(&call.url)).await;
        let pins = pins.map_err(|_| not_sent(late()))??;
        let (request, handover) = self.request(call);
        // The runtime looks at its sockets before it comes back: a connection that was closed by
        // the other end is then known to be, and not used.
        tokio::task::yield_now().await;
        let sent = pins.hold_for(request.send());
        let (is_unsent, cause) = match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => {
                let is_unsent = error.is_connect() || error.is_builder();
                (is_unsent, cause_of(error, call.timeout))
            }
            Err(_) => (false, late()),
        };
        if is_unsent || handover.is_some_and(|it| it.take_back()) {
            return Err(not_sent(cause));
        }
        let target = shown_url(&call.url);
        Err(EgressError::Lost { target, cause })
    }

    fn request(&self, call: &Call) -> (RequestBuilder, Option<Handover>) {
        let mut headers = call.headers.clone();
        for (name, value) in &call.own_headers {
            headers.insert(name, value.clone());
        }
        let request = self
            .http
            .request(call.method.clone(), call.url.clone())
            .headers(headers);
        if call.body.is_empty() {
            return (request, None);
        }
        let (content, handover) = handover::of(call.body.clone());
        (request.body(Body::wrap(content)), Some(handover))
    }

    /// Judges where a URL leads, and says what a connection may be made to.
    async fn pins(&self, url: &Url) -> Result<Pins, EgressError> {
        let target = self.gate.policy().judge_url(url)?;
        let mut pins = Pins::default();
        if let Some(proxy) = &self.proxy {
            let checked = proxy.gate.check(&proxy.target).await?;
            pins.add(&proxy.name, &checked);
            if proxy.looks_up && target.name().is_some() {
                return Ok(pins);
            }
        }
        let checked = self.gate.check(&target).await?;
        pins.add(url.host_str().unwrap_or_default(), &checked);
        Ok(pins)
    }
}

/// An error of a later hop: the first have been answered, so to repeat the call is not safe.
fn after(redirects: u32, error: EgressError) -> EgressError {
    match error {
        EgressError::Refused { refusal, .. } => EgressError::Refused { refusal, redirects },
        EgressError::NotSent { target, cause } if redirects > 0 => {
            EgressError::Lost { target, cause }
        }
        error => error,
    }
}

fn cause_of(error: reqwest::Error, limit: Duration) -> Cause {
    if error.is_timeout() {
        Cause::Timeout(limit.min(CONNECT_MAX))
    } else {
        Cause::of(&error.without_url())
    }
}
