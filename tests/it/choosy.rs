//! A real Xray behind a door of ours, for what it cannot be made to do when a test wants it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use prost::Message;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use xray_agent::xray::proto::xray::app::stats::command as stats;
use xray_agent::xray::proto::xray::app::stats::command::stats_service_client::StatsServiceClient;

use self::generated::handler_service_server::{HandlerService, HandlerServiceServer};
use self::generated::stats_service_server::{StatsService, StatsServiceServer};
use crate::lab::free_port;

/// Servers for the tests, generated beside the library's clients.
#[allow(clippy::pedantic, unreachable_pub, missing_docs, reason = "generated")]
mod generated {
    include!(concat!(
        env!("OUT_DIR"),
        "/servers/xray.app.proxyman.command.rs"
    ));
    include!(concat!(
        env!("OUT_DIR"),
        "/servers/xray.app.stats.command.rs"
    ));
}

/// A real Xray, but for what the real one cannot be made to do when a test wants it: it refuses
/// some users, well-formed as they are, and other hands add one just after a list was read.
#[derive(Clone)]
pub struct Choosy {
    xray: HandlerServiceClient<Channel>,
    stats: StatsServiceClient<Channel>,
    refused: Arc<Mutex<Vec<String>>>,
    /// What another hand does after the next list was read.
    pub meddler: Arc<Mutex<Option<handler::AlterInboundRequest>>>,
}

impl Choosy {
    /// In front of the Xray whose API is at `api`.
    pub async fn before(api: &str) -> Result<(Self, SocketAddr, JoinSet<()>)> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{api}"))?;
        let channel = endpoint.connect().await?;
        let choosy = Self {
            xray: HandlerServiceClient::new(channel.clone()),
            stats: StatsServiceClient::new(channel),
            refused: Arc::default(),
            meddler: Arc::default(),
        };
        let address = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let server = tonic::transport::Server::builder()
            .add_service(HandlerServiceServer::new(choosy.clone()))
            .add_service(StatsServiceServer::new(choosy.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = server.serve(address).await;
        });
        Ok((choosy, address, tasks))
    }

    /// From now on every call for one of these users is refused.
    pub fn refuse(&self, users: &[String]) {
        *locked(&self.refused) = users.to_vec();
    }

    fn refuses(&self, operation: &[u8]) -> bool {
        let text = String::from_utf8_lossy(operation);
        locked(&self.refused).iter().any(|user| text.contains(user))
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl StatsService for Choosy {
    async fn get_sys_stats(
        &self,
        request: Request<stats::SysStatsRequest>,
    ) -> Result<Response<stats::SysStatsResponse>, Status> {
        self.stats.clone().get_sys_stats(request.into_inner()).await
    }

    async fn query_stats(
        &self,
        request: Request<stats::QueryStatsRequest>,
    ) -> Result<Response<stats::QueryStatsResponse>, Status> {
        self.stats.clone().query_stats(request.into_inner()).await
    }

    async fn get_stats(
        &self,
        request: Request<stats::GetStatsRequest>,
    ) -> Result<Response<stats::GetStatsResponse>, Status> {
        self.stats.clone().get_stats(request.into_inner()).await
    }

    async fn get_stats_online_ip_list(
        &self,
        request: Request<stats::GetStatsRequest>,
    ) -> Result<Response<stats::GetStatsOnlineIpListResponse>, Status> {
        let request = request.into_inner();
        self.stats.clone().get_stats_online_ip_list(request).await
    }

    async fn get_all_online_users(
        &self,
        request: Request<stats::GetAllOnlineUsersRequest>,
    ) -> Result<Response<stats::GetAllOnlineUsersResponse>, Status> {
        let request = request.into_inner();
        self.stats.clone().get_all_online_users(request).await
    }

    async fn get_users_stats(
        &self,
        request: Request<stats::GetUsersStatsRequest>,
    ) -> Result<Response<stats::GetUsersStatsResponse>, Status> {
        let request = request.into_inner();
        self.stats.clone().get_users_stats(request).await
    }
}

#[tonic::async_trait]
impl HandlerService for Choosy {
    async fn alter_inbound(
        &self,
        request: Request<handler::AlterInboundRequest>,
    ) -> Result<Response<handler::AlterInboundResponse>, Status> {
        let request = request.into_inner();
        if self.refuses(&request.encode_to_vec()) {
            return Err(Status::unknown("proxy/vless: not this one"));
        }
        self.xray.clone().alter_inbound(request).await
    }

    async fn list_inbounds(
        &self,
        request: Request<handler::ListInboundsRequest>,
    ) -> Result<Response<handler::ListInboundsResponse>, Status> {
        self.xray.clone().list_inbounds(request.into_inner()).await
    }

    async fn get_inbound_users(
        &self,
        request: Request<handler::GetInboundUserRequest>,
    ) -> Result<Response<handler::GetInboundUserResponse>, Status> {
        let request = request.into_inner();
        let answer = self.xray.clone().get_inbound_users(request).await;
        let meddler = locked(&self.meddler).take();
        if let Some(adding) = meddler {
            self.xray.clone().alter_inbound(adding).await?;
        }
        answer
    }

    async fn get_inbound_users_count(
        &self,
        request: Request<handler::GetInboundUserRequest>,
    ) -> Result<Response<handler::GetInboundUsersCountResponse>, Status> {
        let request = request.into_inner();
        self.xray.clone().get_inbound_users_count(request).await
    }

    async fn remove_inbound(
        &self,
        _request: Request<handler::RemoveInboundRequest>,
    ) -> Result<Response<handler::RemoveInboundResponse>, Status> {
        Err(Status::permission_denied("nobody is to ask for this"))
    }
}
