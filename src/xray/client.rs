//! The calls to one Xray over one HTTP/2 connection, made when it is first needed and made anew
//! when it breaks. Every call has a deadline. No keepalive pings: Xray ends an idle connection that
//! pings.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};

use super::account::{protocol_of_account, typed};
use super::connect::{Tally, connect};
use super::counters::UserCounters;
use super::dialect::Dialect;
use super::error::XrayError;
use super::inbound::InboundInfo;
pub(super) use super::proto::xray::app::proxyman::command as handler;
use super::proto::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use super::proto::xray::app::router::command::routing_service_client::RoutingServiceClient;
pub(super) use super::proto::xray::app::stats::command as stats;
use super::proto::xray::app::stats::command::stats_service_client::StatsServiceClient;
use super::proto::xray::common::protocol::User;
use super::proto::xray::common::serial::TypedMessage;
use super::spoken::Spoken;
use crate::config::{Xray, XrayAddress};
use crate::model::ids::InboundTag;
use crate::model::tally::Calls;

pub use super::proto::xray::app::stats::command::SysStatsResponse as SysStats;

/// Largest answer taken: lists of users and counters come in one message, 100 bytes a user.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// Windows that let a list of 100 000 users flow without waiting for our acknowledgements.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A bulk read gets this many times the deadline of a single call.
pub(super) const BULK_FACTOR: u32 = 6;

/// A handle to one Xray; clones share the connection.
#[derive(Clone, Debug)]
pub struct XrayClient {
    pub(super) handler: HandlerServiceClient<Spoken>,
    pub(super) stats: StatsServiceClient<Spoken>,
    pub(super) routing: RoutingServiceClient<Spoken>,
    /// What all of them go through.
    spoken: Spoken,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Xray,
    lost: watch::Receiver<u64>,
    calls: Arc<Calls>,
}

/// Users of an inbound as Xray sent them, decoded one at a time.
#[derive(Debug)]
pub struct RawUsers(Vec<Bytes>);

impl From<Vec<Bytes>> for RawUsers {
    fn from(users: Vec<Bytes>) -> Self {
        Self(users)
    }
}

impl RawUsers {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each user; one that cannot be decoded is an error of its own.
    pub fn iter(&self) -> impl Iterator<Item = Result<User, XrayError>> + '_ {
        self.0.iter().map(|raw| {
            User::decode(raw.clone()).map_err(|e| XrayError::Garbled(format!("a user: {e}")))
        })
    }
}

impl XrayClient {
    /// A client that connects at its first call. Must be made inside a tokio runtime.
    pub fn new(config: Xray) -> Self {
        let tally = Arc::new(Tally::default());
        let lost = tally.lost();
        let (address, limit, counts) = (config.address.clone(), config.rpc_timeout, tally.clone());
        let connector =
            tower::service_fn(move |_: http::Uri| connect(address.clone(), limit, counts.clone()));
        let channel = Endpoint::from_static("http://xray.invalid")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector_lazy(connector);
        let spoken = Spoken::new(channel, tally);
        Self {
            handler: HandlerServiceClient::new(spoken.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX),
            stats: StatsServiceClient::new(spoken.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX),
            routing: RoutingServiceClient::new(spoken.clone()),
            spoken,
            shared: Arc::new(Shared {
                config,
                lost,
                calls: Arc::default(),
            }),
        }
    }

    /// How it is configured.
    pub fn config(&self) -> &Xray {
        &self.shared.config
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Whether its API may be on another host: a clock here says little about that one.
    pub fn may_be_remote(&self) -> bool {
        match &self.shared.config.address {
            XrayAddress::Unix(_) | XrayAddress::Abstract(_) => false,
            XrayAddress::Tcp(address) => !is_loopback(address),
        }
    }

    /// Where its API is, as it would be configured.
    pub fn address(&self) -> String {
        self.shared.config.address.to_string()
    }

    /// Most AlterInbound calls to have under way at once for one inbound.
    pub fn in_flight(&self) -> usize {
        self.shared.config.in_flight
    }

    /// The longest that one call can take.
    pub fn longest_call(&self) -> Duration {
        self.shared.config.rpc_timeout * BULK_FACTOR
    }

    /// Changes each time a connection is gone: the first sign that Xray ended.
    pub fn lost_connections(&self) -> watch::Receiver<u64> {
        self.shared.lost.clone()
    }

    /// Its calls that are over, by method and gRPC status.
    pub fn calls(&self) -> Arc<Calls> {
        self.shared.calls.clone()
    }

    /// What kind of core answers; asks it at most once for each connection.
    pub async fn dialect(&self) -> Result<Dialect, XrayError> {
        let limit = self.shared.config.rpc_timeout;
        // Counted by nobody: nearly always the answer is known.
        outcome(limit, timeout(limit, self.spoken.dialect()).await)
    }

    /// Uptime and memory counters, from which a boot is told (GetSysStats).
    pub async fn sys_stats(&self) -> Result<SysStats, XrayError> {
        self.within("GetSysStats", 1, self.spoken.sys_stats()).await
    }

    /// The traffic counters of all users in one message, none of them reset (QueryStats).
    pub async fn user_counters(&self) -> Result<UserCounters, XrayError> {
        let mut client = self.stats.clone();
        let request = stats::QueryStatsRequest {
            pattern: "user>>>".to_owned(),
            reset: false,
        };
        let answer = self
            .within("QueryStats", BULK_FACTOR, client.query_stats(request))
            .await?;
        Ok(UserCounters(answer.stat))
    }

    /// All inbounds with what can be known of them without reading secrets.
    pub async fn list_inbounds(&self) -> Result<Vec<InboundInfo>, XrayError> {
        let mut client = self.handler.clone();
        let request = handler::ListInboundsRequest {
            is_only_tags: false,
        };
        let answer = self
            .within("ListInbounds", BULK_FACTOR, client.list_inbounds(request))
            .await?;
        Ok(answer.inbounds.into_iter().map(InboundInfo::from).collect())
    }

    /// All users of an inbound.
    pub async fn users(&self, tag: &InboundTag) -> Result<RawUsers, XrayError> {
        let mut client = self.handler.clone();
        let answer = self
            .within(
                "GetInboundUsers",
                BULK_FACTOR,
                client.get_inbound_users(about(tag, String::new())),
            )
            .await?;
        Ok(RawUsers(answer.users))
    }

    /// One user of an inbound; Xray looks e-mails up without regard to case.
    pub async fn user(&self, tag: &InboundTag, email: &str) -> Result<Option<User>, XrayError> {
        let mut client = self.handler.clone();
        let request = about(tag, email.to_owned());
        let answer = self
            .within("GetInboundUsers", 1, client.get_inbound_users(request))
            .await?;
        // An unknown user is answered with one empty entry.
        let found = RawUsers(answer.users)
            .iter()
            .collect::<Result<Vec<_>, _>>()?;
        Ok(found.into_iter().find(|user| !user.email.is_empty()))
    }

    /// How many users an inbound has.
    pub async fn users_count(&self, tag: &InboundTag) -> Result<i64, XrayError> {
        let mut client = self.handler.clone();
        let request = about(tag, String::new());
        Ok(self
            .within(
                "GetInboundUsersCount",
                BULK_FACTOR,
                client.get_inbound_users_count(request),
            )
            .await?
            .count)
    }

    /// Adds a user. Not for two calls of one user at once: Xray does not keep their order. What
    /// this core cannot take is refused here, for it could end the core.
    pub async fn add_user(&self, tag: &InboundTag, mut user: User) -> Result<(), XrayError> {
        let dialect = self.dialect().await?;
        if let Some(account) = &mut user.account {
            let protocol = protocol_of_account(&account.r#type);
            if protocol.is_some_and(|protocol| !dialect.manages(protocol)) {
                return Err(XrayError::NotUserManager);
            }
            account.r#type = dialect.name_of(std::mem::take(&mut account.r#type));
        }
        let operation = handler::AddUserOperation { user: Some(user) };
        self.alter(dialect, tag, typed(&operation)).await
    }

    /// Removes an inbound with all its users, until Xray is started again.
    pub async fn remove_inbound(&self, tag: &InboundTag) -> Result<(), XrayError> {
        let mut client = self.handler.clone();
        let tag = tag.0.clone();
        let request = handler::RemoveInboundRequest { tag };
        self.within("RemoveInbound", 1, client.remove_inbound(request))
            .await
            .map(drop)
    }

    /// Removes the user of that e-mail. Sessions that are open go on.
    pub async fn remove_user(&self, tag: &InboundTag, email: &str) -> Result<(), XrayError> {
        let dialect = self.dialect().await?;
        let operation = handler::RemoveUserOperation {
            email: email.to_owned(),
        };
        self.alter(dialect, tag, typed(&operation)).await
    }

    async fn alter(
        &self,
        dialect: Dialect,
        tag: &InboundTag,
        mut operation: TypedMessage,
    ) -> Result<(), XrayError> {
        let mut client = self.handler.clone();
        operation.r#type = dialect.name_of(operation.r#type);
        let request = handler::AlterInboundRequest {
            tag: tag.0.clone(),
            operation: Some(operation),
        };
        let answer = self
            .within("AlterInbound", 1, client.alter_inbound(request))
            .await;
        match answer {
            // Another core has come in between, which knows nothing under that name.
            Err(XrayError::TypeUnknown(text)) if self.dialect().await? != dialect => {
                Err(XrayError::Broken(text))
            }
            answer => answer.map(drop),
        }
    }

    /// The answer, given so many times the deadline of a single call. Every call goes through here
    /// and is counted under its method.
    pub(super) async fn within<T>(
        &self,
        method: &'static str,
        factor: u32,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, XrayError> {
        let limit: Duration = self.shared.config.rpc_timeout * factor;
        let answer = timeout(limit, call).await;
        let code = match &answer {
            Ok(answer) => answer.as_ref().err().map_or(Code::Ok, Status::code),
            Err(_) => Code::DeadlineExceeded,
        };
        self.shared.calls.count(method, code as u16);
        outcome(limit, answer).map(Response::into_inner)
    }
}

/// What an answer, or none within the limit, comes to.
fn outcome<T>(limit: Duration, answer: Result<Result<T, Status>, Elapsed>) -> Result<T, XrayError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) if status.code() == Code::DeadlineExceeded => {
            Err(XrayError::Timeout(limit))
        }
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(XrayError::Timeout(limit)),
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

fn about(tag: &InboundTag, email: String) -> handler::GetInboundUserRequest {
    handler::GetInboundUserRequest {
        tag: tag.0.clone(),
        email,
    }
}

impl std::fmt::Display for XrayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host) => f.write_str(host),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}
