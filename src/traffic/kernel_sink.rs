//! Sinks of panels that push users: the configured one, and whoever registered for `user.traffic.reported`.
//! Each takes up to [`RECORDS_MAX`] records in one request and answers for all of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::ledger::Fit;
use super::receivers::{KERNEL, SinkName, of_registration};
use super::records::{Needs, Record, records, to_panel, to_registration};
use super::sink::Sink;
use crate::base::clock::Clock;
use crate::base::redact;
use crate::base::secret::Secret;
use crate::model::batch::{BatchReply, Bindings, RECORDS_MAX, Said};
use crate::model::delivery::{
    Origin, PostForAnswer, PostReply, PostRequest, TargetId, Unanswered, host_of, retry_after,
};
use crate::model::desired::InboundKey;
use crate::model::event::EventId;
use crate::model::ids::UserId;
use crate::model::pushed::Owners;
use crate::model::report::{Answer, Report};
use crate::model::sign;
use crate::model::tally::Calls;
use crate::panel::kernel::KernelClient;

/// A registration that has not answered by then may have taken what it was sent or not.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are read.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Most characters of an answer that are shown.
const SHOWN_CHARS: usize = 200;

/// Who knows users and inbounds by the panel's numbers.
#[derive(Clone)]
pub struct Numbers {
    /// Users.
    pub owners: Arc<dyn Owners>,
    /// Inbounds.
    pub bindings: Arc<dyn Bindings>,
}

impl Numbers {
    fn fit(&self, needs: Needs) -> Fit {
        let these = self.clone();
        Fit::of(move |inbound, user| these.has(needs, inbound, user))
    }

    fn has(&self, needs: Needs, inbound: &InboundKey, user: UserId) -> bool {
        let is_bound = needs == Needs::Owner || self.bindings.binding(inbound).is_some();
        is_bound && self.owners.owner(user).is_some()
    }

    fn records(&self, reports: &[Report], needs: Needs) -> Result<Vec<Record>, Answer> {
        let made = records(reports, needs, &*self.owners, &*self.bindings);
        made.ok_or_else(|| Answer::NotSent {
            why: "a user or an inbound has no number of the panel's any more".to_owned(),
        })
    }
}

/// The configured panel.
pub struct KernelPanelSink {
    client: KernelClient,
    numbers: Numbers,
}

impl KernelPanelSink {
    /// The panel of `client`.
    pub fn new(client: KernelClient, numbers: Numbers) -> Self {
        Self { client, numbers }
    }
}

impl Sink for KernelPanelSink {
    fn name(&self) -> SinkName {
        KERNEL.into()
    }

    fn address(&self) -> String {
        self.client.base_url().to_string()
    }

    fn calls(&self) -> Arc<Calls> {
        self.client.calls()
    }

    fn batch_max(&self) -> usize {
        RECORDS_MAX
    }

    fn fit(&self) -> Fit {
        self.numbers.fit(Needs::Binding)
    }

    fn send<'a>(&'a self, reports: &'a [Report]) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match self.numbers.records(reports, Needs::Binding) {
                Ok(records) => self.client.send_traffic(to_panel(&records).into()).await,
                Err(answer) => answer,
            }
        })
    }
}

/// Who registered for `user.traffic.reported`. One whose address is the configured panel's own for
/// traffic is that panel: it must not be made a sink besides it.
#[derive(Clone)]
pub struct Registration {
    /// Its id.
    pub id: TargetId,
    /// Where records go.
    pub url: String,
    /// With it the receiver is shown that it is us.
    pub secret: Option<Secret>,
}

/// The sink of a registration.
pub struct RegistrationSink {
    registration: Registration,
    post: Arc<dyn PostForAnswer>,
    numbers: Numbers,
    clock: Clock,
    calls: Arc<Calls>,
}

impl RegistrationSink {
    /// One that sends through `post`.
    pub fn new(
        registration: Registration,
        post: Arc<dyn PostForAnswer>,
        numbers: Numbers,
        clock: Clock,
    ) -> Self {
        Self {
            registration,
            post,
            numbers,
            clock,
            calls: Arc::default(),
        }
    }

    async fn post(&self, records: &[Record]) -> Answer {
        let (event, now) = (EventId::generate(), self.clock.now());
        let body = Bytes::from(to_registration(records, event, now));
        let secret = self.registration.secret.as_ref();
        let request = PostRequest {
            url: self.registration.url.clone(),
            origin: Origin::Api,
            headers: sign::headers(event, now, &body, secret, None),
            body,
        };
        let posted = self.post.post_for_answer(request, BODY_BYTES_MAX);
        let answer = match timeout(ANSWERED_WITHIN, posted).await {
            Ok(Ok(reply)) => Answer::Batch(self.reply(&reply)),
            Ok(Err(Unanswered::NotSent(why))) => Answer::NotSent { why },
            Ok(Err(Unanswered::Lost(why))) => Answer::Lost { why },
            Err(_) => Answer::Lost {
                why: format!("no answer within {ANSWERED_WITHIN:?}"),
            },
        };
        let status = match &answer {
            Answer::Batch(reply) => reply.status,
            _ => 0,
        };
        self.calls.count("registered-traffic", status);
        answer
    }

    fn reply(&self, reply: &PostReply) -> BatchReply {
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let text = match &self.registration.secret {
            Some(secret) => text.replace(secret.expose(), "***"),
            None => text,
        };
        let (host, status) = (host_of(&self.registration.url), reply.answer.status);
        let beginning = redact::line(&text, SHOWN_CHARS);
        let asked = reply.answer.retry_after.as_deref();
        BatchReply {
            status,
            said: Said::read(&reply.body, reply.is_whole),
            tallies: false,
            retry_after: asked.and_then(|text| retry_after(text, self.clock.now())),
            shown: format!("{host} answered {status}; it begins: {beginning:?}"),
        }
    }
}

impl Sink for RegistrationSink {
    fn name(&self) -> SinkName {
        of_registration(self.registration.id)
    }

    /// Its host: the whole address may be a secret.
    fn address(&self) -> String {
        host_of(&self.registration.url)
    }

    fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }

    fn batch_max(&self) -> usize {
        RECORDS_MAX
    }

    fn fit(&self) -> Fit {
        self.numbers.fit(Needs::Owner)
    }

    fn send<'a>(&'a self, reports: &'a [Report]) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match self.numbers.records(reports, Needs::Owner) {
                Ok(records) => self.post(&records).await,
                Err(answer) => answer,
            }
        })
    }
}
