//! Sends deliveries: where an address was written in the configuration, to wherever it leads; where
//! somebody named it over the API, only to where the policy lets callbacks go.
//!
//! Kept here: no redirect is followed, an answer counts from its head on, and nothing that is told of a
//! failure holds a secret or a path.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method};
use url::Url;

use super::call::{Answer, Call};
use super::client::EgressClient;
use super::policy::{Own, Policy};
use crate::model::allowed::Allowed;
use crate::model::delivery::{
    Origin, Post, PostAnswer, PostForAnswer, PostReply, PostRequest, Unanswered,
};

/// Whoever calls waits 30 s: an answer whose body does not come is to be an answer before that.
const CALL_TAKES: Duration = Duration::from_secs(25);
/// Of an answer's body so many bytes are read, so that the connection can be used again.
const BODY_BYTES_MAX: usize = 4 << 10;

/// A handle; clones share the clients, and hear of another policy.
#[derive(Clone, Debug)]
pub struct Courier(Arc<Mutex<Clients>>);

/// Clients by who named an address; each is made by its first call, for one takes a MiB or more.
#[derive(Debug)]
struct Clients {
    /// What may be reached on the API's word.
    listed: Policy,
    of_api: Option<EgressClient>,
    of_configuration: Option<EgressClient>,
}

impl Courier {
    /// One that reaches, on the API's word, the internet and `allowed`, but nothing of `own`.
    pub fn new(own: Own, allowed: Vec<Allowed>) -> Self {
        Self(Arc::new(Mutex::new(Clients {
            listed: Policy::listed(own, allowed),
            of_api: None,
            of_configuration: None,
        })))
    }

    /// What counts from the next call on; connections made by the former are not used again.
    pub fn exchange(&self, own: Own, allowed: Vec<Allowed>) {
        let mut clients = self.clients();
        clients.listed = Policy::listed(own, allowed);
        clients.of_api = None;
    }

    /// What is judged by when somebody names an address over the API.
    pub fn listed(&self) -> Policy {
        self.clients().listed.clone()
    }

    fn client(&self, origin: Origin) -> Result<EgressClient, String> {
        let mut clients = self.clients();
        let Clients {
            listed,
            of_api,
            of_configuration,
        } = &mut *clients;
        let (made, policy) = match origin {
            Origin::Api => (of_api, listed.clone()),
            Origin::Configuration => (of_configuration, Policy::anything()),
        };
        if let Some(client) = made {
            return Ok(client.clone());
        }
        let client = EgressClient::new(policy, None)?;
        *made = Some(client.clone());
        Ok(client)
    }

    /// A panic while it was held leaves it whole: it is changed by what cannot fail.
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PostForAnswer for Courier {
    fn post_for_answer(
        &self,
        request: PostRequest,
        body_bytes_max: usize,
    ) -> BoxFuture<'_, Result<PostReply, Unanswered>> {
        Box::pin(async move {
            let client = self.client(request.origin).map_err(Unanswered::NotSent)?;
            client.post_for_answer(request, body_bytes_max).await
        })
    }
}

impl Post for Courier {
    fn post(&self, request: PostRequest) -> BoxFuture<'_, Result<PostAnswer, String>> {
        Box::pin(async move {
            let client = self.client(request.origin)?;
            let sent = client
                .send(call(&request, CALL_TAKES, BODY_BYTES_MAX)?)
                .await;
            sent.map(|answer| head_of(&answer))
                .map_err(|e| e.to_string())
        })
    }
}

/// The call that sends it.
pub(super) fn call(
    request: &PostRequest,
    limit: Duration,
    body_bytes_max: usize,
) -> Result<Call, String> {
    // What the reader of URLs says of one that is none does not repeat it.
    let url = Url::parse(&request.url).map_err(|e| format!("the address is no URL: {e}"))?;
    let mut call = Call::new(Method::POST, url, limit);
    for (name, value) in &request.headers {
        let unfit = |_| format!("the header {name} cannot be sent with this value");
        let mut value = HeaderValue::from_str(value.expose()).map_err(unfit)?;
        value.set_sensitive(true);
        call.own_headers
            .insert(HeaderName::from_static(name), value);
    }
    call.body = request.body.clone();
    call.body_bytes_max = body_bytes_max;
    Ok(call)
}

/// What of an answer says how it was taken.
pub(super) fn head_of(answer: &Answer) -> PostAnswer {
    let text = |name| {
        let value: &HeaderValue = answer.headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let location = text(LOCATION).and_then(|to| Url::parse(&to).ok());
    PostAnswer {
        status: answer.status.as_u16(),
        retry_after: text(RETRY_AFTER),
        location_host: location.and_then(|to| to.host_str().map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::base::secret::Secret;

    /// Answers every connection with this, once it was sent all of a request.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut seen = Vec::new();
                let mut part = [0; 1024];
                while !seen.ends_with(b"{}") {
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => break,
                        Ok(read) => seen.extend_from_slice(&part[..read]),
                    }
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    fn request(at: SocketAddr, origin: Origin) -> PostRequest {
        PostRequest {
            url: format!("http://{at}/canary"),
            origin,
            headers: vec![("x-event-id", Secret::new("canary"))],
            body: bytes::Bytes::from_static(b"{}"),
        }
    }

    const TAKEN: &str = "HTTP/1.1 204 x\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn an_address_of_the_api_is_reached_if_it_is_listed_and_one_of_the_configuration_always()
    {
        let at = server(TAKEN);
        let courier = Courier::new(Own::default(), Vec::new());
        let refused = courier.post(request(at, Origin::Api)).await.unwrap_err();
        assert!(refused.contains("list of allowed targets"), "{refused}");
        assert!(!refused.contains("canary"), "{refused}");
        let taken = courier.post(request(at, Origin::Configuration)).await;
        assert_eq!(taken.unwrap().status, 204);
        courier.exchange(Own::default(), vec!["127.0.0.1".parse().unwrap()]);
        let taken = courier.post(request(at, Origin::Api)).await;
        assert_eq!(taken.unwrap().status, 204);
    }

    #[tokio::test]
    async fn what_is_ours_is_never_reached_on_the_apis_word() {
        let at = server(TAKEN);
        let allowed = vec!["127.0.0.1".parse().unwrap()];
        let courier = Courier::new(Own::default().listener(at), allowed);
        let refused = courier.post(request(at, Origin::Api)).await.unwrap_err();
        assert!(refused.contains("own listeners"), "{refused}");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_that_names_its_host() {
        let at = server(
            "HTTP/1.1 302 x\r\nLocation: https://elsewhere.example/canary\r\nRetry-After: 7\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
        );
        let courier = Courier::new(Own::default(), Vec::new());
        let answer = courier.post(request(at, Origin::Configuration)).await;
        let redirect = PostAnswer {
            status: 302,
            retry_after: Some("7".to_owned()),
            location_host: Some("elsewhere.example".to_owned()),
        };
        assert_eq!(answer, Ok(redirect));
    }

    #[tokio::test]
    async fn an_answer_counts_though_its_body_breaks_off() {
        let at = server("HTTP/1.1 200 x\r\nContent-Length: 100\r\nConnection: close\r\n\r\nx");
        let courier = Courier::new(Own::default(), Vec::new());
        let answer = courier.post(request(at, Origin::Configuration)).await;
        assert_eq!(answer.unwrap().status, 200);
    }

    #[tokio::test]
    async fn a_header_that_cannot_be_sent_is_named_without_its_value() {
        let courier = Courier::new(Own::default(), Vec::new());
        let mut request = request("127.0.0.1:1".parse().unwrap(), Origin::Configuration);
        request.headers = vec![("x-event-id", Secret::new("canary\n"))];
        let refused = courier.post(request).await.unwrap_err();
        assert!(
            refused.contains("x-event-id") && !refused.contains("canary"),
            "{refused}"
        );
    }
}
