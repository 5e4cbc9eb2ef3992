//! Says each call in the dialect of the core at the other end of the connection. Which that is gets
//! asked once for each connection, for a restart may bring another core; and an answer that may be
//! of another core than the one that was asked is none.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Response, Status};
use tower::{Service, ServiceExt};

use super::connect::{Seen, Tally};
use super::dialect::{Dialect, is_there};
use super::proto::xray::app::proxyman::command as handler;
use super::proto::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use super::proto::xray::app::stats::command as stats;
use super::proto::xray::app::stats::command::stats_service_client::StatsServiceClient;

/// The status of a call for which there is no such service or method, on the wire.
const UNIMPLEMENTED: &str = "12";

type BoxError = Box<dyn Error + Send + Sync>;
type Answer = Result<Response<stats::SysStatsResponse>, Status>;
type Calling = Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

/// The way to one core; clones share what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Spoken {
    channel: Channel,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tally: Arc<Tally>,
    last: Mutex<Option<Known>>,
    /// Held while the core is asked, so that it is asked once: whoever waits has a deadline.
    asking: tokio::sync::Mutex<()>,
}

/// Who answered on a connection.
#[derive(Clone, Copy, Debug)]
struct Known {
    dialect: Dialect,
    on: Seen,
}

impl Spoken {
    /// Over `channel`, whose connections are counted by `tally`.
    pub(super) fn new(channel: Channel, tally: Arc<Tally>) -> Self {
        Self {
            channel,
            shared: Arc::new(Shared {
                tally,
                last: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The dialect of the core that answers now.
    pub(super) async fn dialect(&self) -> Result<Dialect, Status> {
        Ok(self.known().await?.0.dialect)
    }

    /// `GetSysStats`: by it the core is asked who it is, so that the two are one call.
    pub(super) async fn sys_stats(&self) -> Answer {
        if let (_, Some(answer)) = self.known().await? {
            return answer;
        }
        let mut client = StatsServiceClient::new(self.clone());
        client.get_sys_stats(stats::SysStatsRequest {}).await
    }

    /// Who answers, and the answer by which that was told if it was asked for just now.
    async fn known(&self) -> Result<(Known, Option<Answer>), Status> {
        if let Some(known) = self.shared.known() {
            return Ok((known, None));
        }
        let _asking = self.shared.asking.lock().await;
        if let Some(known) = self.shared.known() {
            return Ok((known, None));
        }
        let (known, answer) = self.ask().await?;
        self.shared.learn(known);
        Ok((known, Some(answer)))
    }

    async fn ask(&self) -> Result<(Known, Answer), Status> {
        let mut dialect = Dialect::Xray;
        let mut answer = self.ask_stats(dialect).await;
        let on = self.shared.tally.seen();
        if !is_there(&answer)? {
            dialect = Dialect::V2Ray4;
            answer = self.ask_stats(dialect).await;
            if !is_there(&answer)? {
                dialect = self.ask_handlers().await?;
            }
        }
        if self.shared.tally.seen() != on {
            return Err(made_anew());
        }
        Ok((Known { dialect, on }, answer))
    }

    /// For a core without `StatsService`.
    async fn ask_handlers(&self) -> Result<Dialect, Status> {
        for dialect in Dialect::IN_ORDER {
            let mut client = HandlerServiceClient::new(self.as_if(dialect));
            let nobody = handler::GetInboundUserRequest::default();
            if is_there(&client.get_inbound_users_count(nobody).await)? {
                return Ok(dialect);
            }
        }
        Ok(Dialect::default())
    }

    async fn ask_stats(&self, dialect: Dialect) -> Answer {
        let mut client = StatsServiceClient::new(self.as_if(dialect));
        client.get_sys_stats(stats::SysStatsRequest {}).await
    }

    fn as_if(&self, dialect: Dialect) -> In {
        In {
            channel: self.channel.clone(),
            dialect,
        }
    }

    /// Whether `answer` says that there is no such call, and may be of another core.
    fn is_of_another(&self, known: Known, answer: &http::Response<Body>) -> bool {
        let status = answer.headers().get("grpc-status");
        status.is_some_and(|status| status == UNIMPLEMENTED) && self.shared.tally.seen() != known.on
    }
}

impl Shared {
    /// Who answered last, while that connection is there.
    fn known(&self) -> Option<Known> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|known| known.on == self.tally.seen())
    }

    fn learn(&self, known: Known) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|before| before.dialect != known.dialect) {
            tracing::debug!(core = known.dialect.name(), "a core was recognised");
        }
        *last = Some(known);
    }
}

fn made_anew() -> Status {
    Status::unavailable("the connection was made anew, perhaps to another core")
}

impl Service<http::Request<Body>> for Spoken {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Calling {
        let this = self.clone();
        Box::pin(async move {
            let (known, _) = this.known().await?;
            let answer = this.as_if(known.dialect).call(request).await?;
            if this.is_of_another(known, &answer) {
                return Err(made_anew().into());
            }
            Ok(answer)
        })
    }
}

/// The channel in one dialect, whoever answers.
#[derive(Clone, Debug)]
struct In {
    channel: Channel,
    dialect: Dialect,
}

impl Service<http::Request<Body>> for In {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Calling {
        let mut channel = self.channel.clone();
        let renamed = renamed(self.dialect, request.uri());
        Box::pin(async move {
            if let Some(uri) = renamed? {
                *request.uri_mut() = uri;
            }
            Ok(channel.ready().await?.call(request).await?)
        })
    }
}

/// The address of a call in that dialect; `None` where it stays.
fn renamed(dialect: Dialect, uri: &http::Uri) -> Result<Option<http::Uri>, BoxError> {
    let Some(path) = dialect.path_of(uri.path()) else {
        return Ok(None);
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path)?);
    Ok(Some(http::Uri::from_parts(parts)?))
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn answer(grpc_status: &str) -> http::Response<Body> {
        let answer = http::Response::builder().header("grpc-status", grpc_status);
        answer.body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn that_a_call_is_not_there_counts_on_the_connection_that_was_asked_only() {
        let tally = Arc::new(Tally::default());
        let channel = Endpoint::from_static("http://xray.invalid").connect_lazy();
        let spoken = Spoken::new(channel, tally.clone());
        let known = Known {
            dialect: Dialect::Xray,
            on: tally.seen(),
        };
        assert!(!spoken.is_of_another(known, &answer(UNIMPLEMENTED)));
        tally.count_one();
        assert!(spoken.is_of_another(known, &answer(UNIMPLEMENTED)));
        assert!(!spoken.is_of_another(known, &answer("2")));
    }

    #[test]
    fn only_the_path_of_an_address_is_renamed() {
        let uri = http::Uri::from_static("http://xray.invalid/xray.app.Service/Call");
        let in_v2ray = renamed(Dialect::V2Ray4, &uri).unwrap().unwrap();
        assert_eq!(in_v2ray, "http://xray.invalid/v2ray.core.app.Service/Call");
        assert_eq!(renamed(Dialect::Xray, &uri).unwrap(), None);
    }
}
