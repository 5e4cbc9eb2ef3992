//! A scripted Xray, for faults that the real one cannot be made to show. It keeps a table of users
//! with Xray's own semantics and texts (`behaviour.md`), and does what a test's script says instead
//! wherever that says something. It counts every call, and the calls under way.
//!
//! In one file of some length, for its services, its table and its script are one thing.
//! Like the real one it dies of an account of another protocol than the inbound's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream as StdStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use prost::{Message, Name};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::app::stats::command as stats;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::core::{InboundHandlerConfig, TypeOnly};
use xray_agent::xray::proto::xray::proxy;

use crate::lab::free_port;

use servers::handler::handler_service_server::{HandlerService, HandlerServiceServer};
use servers::stats::stats_service_server::{StatsService, StatsServiceServer};

#[allow(
    clippy::pedantic,
    missing_docs,
    reason = "generated from proto/, for the tests only"
)]
mod servers {
    pub mod handler {
        include!(concat!(
            env!("OUT_DIR"),
            "/servers/xray.app.proxyman.command.rs"
        ));
    }
    pub mod stats {
        include!(concat!(
            env!("OUT_DIR"),
            "/servers/xray.app.stats.command.rs"
        ));
    }
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Add,
    Remove,
    /// `GetInboundUsers` of all.
    Users,
    /// `GetInboundUsers` of one.
    User,
    Count,
    List,
    SysStats,
    /// `QueryStats`.
    Query,
}

use Method::{Add, Count, List, Query, Remove, SysStats, User as OneUser, Users};

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub tag: String,
    /// Lower-case; empty where the call names nobody.
    pub email: String,
    /// How many calls of this method came before it.
    pub before: usize,
    /// How many changes of this inbound were under way when it came.
    pub others: usize,
}

/// What happens instead of the usual.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Not carried out, never answered.
    Silence,
    /// Carried out, never answered.
    SilenceAfterwards,
    /// Carried out and answered after so long.
    Late(Duration),
    /// Not carried out; Xray's words under code UNKNOWN.
    Refuse(&'static str),
    /// The whole Xray ends under the call, and is there again at once.
    Crash,
}

type Script = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;
/// What it makes of a user that is added.
type Keeping = Box<dyn FnMut(User) -> User + Send>;

pub struct Scripted {
    addr: SocketAddr,
    core: Arc<Mutex<Core>>,
    later: Arc<Mutex<Vec<Deed>>>,
    tasks: JoinSet<()>,
}

/// Acts after the script has spoken and before its call is carried out.
pub struct OtherHand(Arc<Mutex<Vec<Deed>>>);

type Deed = Box<dyn FnOnce(&mut Core) + Send>;

impl OtherHand {
    /// Puts a user in.
    pub fn put(&self, tag: &str, user: User) {
        let tag = tag.to_owned();
        self.later(move |core| core.inbounds.get_mut(&tag).unwrap().users.push(user));
    }

    /// Restarts with an inbound of another protocol in the place of that of this tag.
    pub fn restart_as(&self, tag: &str, protocol: &str) {
        let (tag, (settings, account)) = (tag.to_owned(), types(protocol));
        self.later(move |core| {
            let inbound = core.inbounds.get_mut(&tag).unwrap();
            (inbound.settings, inbound.account) = (settings, account);
            core.restart();
        });
    }

    fn later(&self, deed: impl FnOnce(&mut Core) + Send + 'static) {
        let mut deeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        deeds.push(Box::new(deed));
    }
}

struct Inbound {
    settings: String,
    account: String,
    /// What its configuration gives it at each start.
    fixed: Vec<User>,
    users: Vec<User>,
    /// The count is this much more than the list.
    uncounted: i64,
}

struct Core {
    inbounds: BTreeMap<String, Inbound>,
    absent: BTreeSet<Method>,
    script: Script,
    keeping: Option<Keeping>,
    calls: Vec<Call>,
    counted: BTreeMap<Method, usize>,
    under_way: Vec<(String, String)>,
    most_at_once: BTreeMap<String, usize>,
    /// Users for whom two calls were under way at once.
    overlapping: BTreeSet<String>,
    connections: Vec<StdStream>,
    started: Instant,
    allocated: u64,
    /// Bytes up and down by e-mail.
    counters: BTreeMap<String, (i64, i64)>,
    deaths: usize,
    wrong_accounts: usize,
    later: Arc<Mutex<Vec<Deed>>>,
}

/// The protocol by the name of an inbound's settings and of its accounts.
fn types(protocol: &str) -> (String, String) {
    let (settings, account) = match protocol {
        "vless" => (
            "xray.proxy.vless.inbound.Config",
            proxy::vless::Account::full_name(),
        ),
        "vmess" => (
            "xray.proxy.vmess.inbound.Config",
            proxy::vmess::Account::full_name(),
        ),
        "trojan" => (
            "xray.proxy.trojan.ServerConfig",
            proxy::trojan::Account::full_name(),
        ),
        "shadowsocks" => (
            "xray.proxy.shadowsocks.ServerConfig",
            proxy::shadowsocks::Account::full_name(),
        ),
        other => panic!("the scripted Xray has no {other}"),
    };
    (settings.to_owned(), account)
}

impl Scripted {
    /// Started, with an inbound of each tag and protocol.
    pub async fn start(inbounds: &[(&str, &str)]) -> Result<Self> {
        let core = Core {
            inbounds: BTreeMap::new(),
            absent: BTreeSet::new(),
            script: Box::new(|_| None),
            keeping: None,
            calls: Vec::new(),
            counted: BTreeMap::new(),
            under_way: Vec::new(),
            most_at_once: BTreeMap::new(),
            overlapping: BTreeSet::new(),
            connections: Vec::new(),
            started: Instant::now(),
            allocated: 1 << 20,
            counters: BTreeMap::new(),
            deaths: 0,
            wrong_accounts: 0,
            later: Arc::default(),
        };
        let mut scripted = Self {
            addr: (Ipv4Addr::LOCALHOST, free_port()?).into(),
            later: Arc::clone(&core.later),
            core: Arc::new(Mutex::new(core)),
            tasks: JoinSet::new(),
        };
        for (tag, protocol) in inbounds {
            scripted.configure(tag, protocol, Vec::new());
        }
        scripted.listen().await?;
        Ok(scripted)
    }

    /// As the agent's `XRAY_API_ADDR`.
    pub fn api(&self) -> String {
        self.addr.to_string()
    }

    /// Gives it an inbound, or another one in its place, with users of its configuration.
    pub fn configure(&self, tag: &str, protocol: &str, fixed: Vec<User>) {
        let (settings, account) = types(protocol);
        let inbound = Inbound {
            settings,
            account,
            users: fixed.clone(),
            fixed,
            uncounted: 0,
        };
        self.core().inbounds.insert(tag.to_owned(), inbound);
    }

    /// From now on these methods are not there.
    pub fn lacks(&self, methods: &[Method]) {
        self.core().absent.extend(methods);
    }

    /// From now on this is asked at each call.
    pub fn script(&self, script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.core().script = Box::new(script);
    }

    /// As usual again.
    pub fn behave(&self) {
        self.core().script = Box::new(|_| None);
    }

    /// From now on users who are added are kept like this.
    pub fn keeps(&self, keeping: impl FnMut(User) -> User + Send + 'static) {
        self.core().keeping = Some(Box::new(keeping));
    }

    /// From now on its count is off by so many.
    pub fn miscounts(&self, tag: &str, by: i64) {
        self.core().inbounds.get_mut(tag).unwrap().uncounted = by;
    }

    /// A user comes in by another hand.
    pub fn put(&self, tag: &str, user: User) {
        let mut core = self.core();
        core.inbounds.get_mut(tag).unwrap().users.push(user);
    }

    /// For a script: another hand, which acts between two of the agent's calls.
    pub fn other_hand(&self) -> OtherHand {
        OtherHand(Arc::clone(&self.later))
    }

    /// A user goes by another hand.
    pub fn take(&self, tag: &str, email: &str) {
        let _ = self.core().remove(tag, email);
    }

    /// Ends and is there again at once: users that were added are gone.
    pub fn restart(&self) {
        self.core().restart();
    }

    /// These users' counters show so many bytes up and down, all from the same moment on.
    pub fn set_counters(&self, counters: impl IntoIterator<Item = (String, (i64, i64))>) {
        self.core().counters.extend(counters);
    }

    /// The live users' e-mails, ascending.
    pub fn emails(&self, tag: &str) -> Vec<String> {
        let core = self.core();
        let mut emails: Vec<_> = core.inbounds[tag]
            .users
            .iter()
            .map(|user| user.email.clone())
            .collect();
        emails.sort();
        emails
    }

    /// The live entries of one e-mail.
    pub fn entries(&self, tag: &str, email: &str) -> Vec<User> {
        let core = self.core();
        let users = core.inbounds[tag].users.iter();
        users.filter(|user| user.email == email).cloned().collect()
    }

    /// Everything that was called so far.
    pub fn calls(&self) -> Vec<Call> {
        self.core().calls.clone()
    }

    /// How often these were called so far.
    pub fn called(&self, methods: &[Method]) -> usize {
        let core = self.core();
        let counted = methods.iter().filter_map(|method| core.counted.get(method));
        counted.sum()
    }

    /// How often the users of an inbound were to be changed for this e-mail.
    pub fn changes_of(&self, email: &str) -> usize {
        let core = self.core();
        let counted = core.calls.iter();
        counted
            .filter(|call| matches!(call.method, Add | Remove) && call.email == email)
            .count()
    }

    /// The most changes of an inbound that were under way at once.
    pub fn most_at_once(&self, tag: &str) -> usize {
        self.core()
            .most_at_once
            .get(tag)
            .copied()
            .unwrap_or_default()
    }

    /// Users for whom two changes were under way at once.
    pub fn overlapping(&self) -> BTreeSet<String> {
        self.core().overlapping.clone()
    }

    /// How often it ended, by whatever cause.
    pub fn deaths(&self) -> usize {
        self.core().deaths
    }

    /// How often an account of another protocol ended it.
    pub fn wrong_accounts(&self) -> usize {
        self.core().wrong_accounts
    }

    async fn listen(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.addr).await?;
        let core = Arc::clone(&self.core);
        let incoming = futures_util::stream::unfold(listener, move |listener| {
            let core = Arc::clone(&core);
            async move {
                let stream = accept(&listener, &core).await;
                Some((stream, listener))
            }
        });
        let service = Service(Arc::clone(&self.core));
        let server = tonic::transport::Server::builder()
            .add_service(HandlerServiceServer::new(service.clone()))
            .add_service(StatsServiceServer::new(service));
        self.tasks.spawn(async move {
            let _ = server.serve_with_incoming(incoming.boxed()).await;
        });
        Ok(())
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }
}

async fn accept(listener: &TcpListener, core: &Mutex<Core>) -> std::io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    lock(core).connections.push(stream.try_clone()?);
    TcpStream::from_std(stream)
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    fn restart(&mut self) {
        self.deaths += 1;
        self.started = Instant::now();
        self.allocated = 1 << 20;
        self.counters.clear();
        for inbound in self.inbounds.values_mut() {
            inbound.users.clone_from(&inbound.fixed);
        }
        for connection in self.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Notes the call; what is to happen instead of the usual.
    fn note(&mut self, method: Method, tag: &str, email: &str) -> Option<Fault> {
        let others = self.under_way.iter().filter(|(at, _)| at == tag).count();
        let counted = self.counted.entry(method).or_default();
        let call = Call {
            method,
            tag: tag.to_owned(),
            email: email.to_lowercase(),
            before: *counted,
            others,
        };
        *counted += 1;
        self.allocated += 1_000;
        let fault = (self.script)(&call);
        self.calls.push(call);
        let deeds = std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner));
        for deed in deeds {
            deed(self);
        }
        fault
    }

    fn inbound(&mut self, tag: &str) -> Result<&mut Inbound, Status> {
        self.inbounds.get_mut(tag).ok_or_else(|| {
            Status::unknown(format!(
                "app/proxyman/command: failed to get handler: {tag} > app/proxyman/inbound: \
                 handler not found: {tag}"
            ))
        })
    }

    fn add(&mut self, tag: &str, user: User) -> Result<(), Status> {
        let account = self.inbound(tag)?.account.clone();
        if user.account.as_ref().is_none_or(|a| a.r#type != account) {
            self.wrong_accounts += 1;
            self.restart();
            return Err(died());
        }
        let kept = match &mut self.keeping {
            Some(keeping) => keeping(user),
            None => user,
        };
        let users = &mut self.inbound(tag)?.users;
        let tells = account != proxy::shadowsocks::Account::full_name();
        if tells && users.iter().any(|other| same(&other.email, &kept.email)) {
            let text = format!("proxy/vless: User {} already exists.", kept.email);
            return Err(Status::unknown(text));
        }
        users.push(kept);
        Ok(())
    }

    fn remove(&mut self, tag: &str, email: &str) -> Result<(), Status> {
        let users = &mut self.inbound(tag)?.users;
        let Some(place) = users.iter().position(|user| same(&user.email, email)) else {
            let text = format!("proxy/vless: User {email} not found.");
            return Err(Status::unknown(text));
        };
        users.remove(place);
        Ok(())
    }

    /// In another order each time, as Xray's map gives them.
    fn list(&mut self, tag: &str) -> Result<Vec<Bytes>, Status> {
        let turn = self.calls.len();
        let users = &self.inbound(tag)?.users;
        let mut listed: Vec<Bytes> = users
            .iter()
            .map(|user| user.encode_to_vec().into())
            .collect();
        if !listed.is_empty() {
            let by = turn % listed.len();
            listed.rotate_left(by);
        }
        Ok(listed)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// Never arrives: the connection is gone.
fn died() -> Status {
    Status::unavailable("Socket closed")
}

#[derive(Clone)]
struct Service(Arc<Mutex<Core>>);

impl Service {
    /// Carries a call out as the script says.
    async fn call<T>(
        &self,
        (method, tag, email): (Method, &str, &str),
        work: impl FnOnce(&mut Core) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let fault = {
            let mut core = lock(&self.0);
            if core.absent.contains(&method) {
                return Err(unimplemented(method));
            }
            core.note(method, tag, email)
        };
        let _under_way = matches!(method, Add | Remove).then(|| UnderWay::begin(self, tag, email));
        match fault {
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Refuse(text)) => Err(Status::unknown(text)),
            Some(Fault::Crash) => {
                lock(&self.0).restart();
                Err(died())
            }
            Some(Fault::Late(pause)) => {
                tokio::time::sleep(pause).await;
                work(&mut lock(&self.0)).map(Response::new)
            }
            Some(Fault::SilenceAfterwards) => {
                let _ = work(&mut lock(&self.0));
                std::future::pending().await
            }
            None => {
                let done = work(&mut lock(&self.0)).map(Response::new);
                // Lets others in, so that calls overlap wherever they may.
                tokio::task::yield_now().await;
                done
            }
        }
    }
}

fn unimplemented(method: Method) -> Status {
    let name = match method {
        Add | Remove => "AlterInbound",
        Users | OneUser => "GetInboundUsers",
        Count => "GetInboundUsersCount",
        List => "ListInbounds",
        SysStats | Query => {
            return Status::unimplemented("unknown service xray.app.stats.command.StatsService");
        }
    };
    Status::unimplemented(format!(
        "unknown method {name} for service xray.app.proxyman.command.HandlerService"
    ))
}

/// A change that is under way, until its answer is sent or nobody waits for it any more.
struct UnderWay<'a> {
    service: &'a Service,
    what: (String, String),
}

impl<'a> UnderWay<'a> {
    fn begin(service: &'a Service, tag: &str, email: &str) -> Self {
        let what = (tag.to_owned(), email.to_lowercase());
        let mut core = lock(&service.0);
        if core.under_way.contains(&what) {
            core.overlapping.insert(what.1.clone());
        }
        core.under_way.push(what.clone());
        let now = core.under_way.iter().filter(|(at, _)| at == tag).count();
        let most = core.most_at_once.entry(tag.to_owned()).or_default();
        *most = now.max(*most);
        Self { service, what }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut core = lock(&self.service.0);
        if let Some(place) = core.under_way.iter().position(|what| *what == self.what) {
            core.under_way.swap_remove(place);
        }
    }
}

#[tonic::async_trait]
impl HandlerService for Service {
    async fn alter_inbound(
        &self,
        request: Request<handler::AlterInboundRequest>,
    ) -> Result<Response<handler::AlterInboundResponse>, Status> {
        let handler::AlterInboundRequest { tag, operation } = request.into_inner();
        // The real one dies of an empty operation.
        let operation = operation.expect("an operation is never empty");
        let done = handler::AlterInboundResponse {};
        if operation.r#type == handler::AddUserOperation::full_name() {
            let operation = handler::AddUserOperation::decode(operation.value);
            let user = operation.unwrap().user.expect("a user is never empty");
            let email = user.email.clone();
            let work = |core: &mut Core| core.add(&tag, user).map(|()| done);
            return self.call((Add, &tag, &email), work).await;
        }
        assert_eq!(operation.r#type, handler::RemoveUserOperation::full_name());
        let operation = handler::RemoveUserOperation::decode(operation.value).unwrap();
        let email = operation.email;
        let work = |core: &mut Core| core.remove(&tag, &email).map(|()| done);
        self.call((Remove, &tag, &email), work).await
    }

    async fn list_inbounds(
        &self,
        _request: Request<handler::ListInboundsRequest>,
    ) -> Result<Response<handler::ListInboundsResponse>, Status> {
        self.call((List, "", ""), |core| {
            let inbounds = core.inbounds.iter();
            let inbounds = inbounds.map(|(tag, inbound)| InboundHandlerConfig {
                tag: tag.clone(),
                receiver_settings: None,
                proxy_settings: Some(TypeOnly {
                    r#type: inbound.settings.clone(),
                }),
            });
            let inbounds = inbounds.collect();
            Ok(handler::ListInboundsResponse { inbounds })
        })
        .await
    }

    async fn get_inbound_users(
        &self,
        request: Request<handler::GetInboundUserRequest>,
    ) -> Result<Response<handler::GetInboundUserResponse>, Status> {
        let handler::GetInboundUserRequest { tag, email } = request.into_inner();
        if email.is_empty() {
            let work = |core: &mut Core| core.list(&tag);
            let listed = self.call((Users, &tag, ""), work).await?.into_inner();
            return Ok(Response::new(handler::GetInboundUserResponse {
                users: listed,
            }));
        }
        self.call((OneUser, &tag, &email), |core| {
            let mut users = core.inbound(&tag)?.users.iter();
            let found = users.find(|user| same(&user.email, &email)).cloned();
            // An unknown user is one empty entry.
            let entry = found.unwrap_or_default().encode_to_vec();
            let users = vec![entry.into()];
            Ok(handler::GetInboundUserResponse { users })
        })
        .await
    }

    async fn get_inbound_users_count(
        &self,
        request: Request<handler::GetInboundUserRequest>,
    ) -> Result<Response<handler::GetInboundUsersCountResponse>, Status> {
        let tag = request.into_inner().tag;
        self.call((Count, &tag, ""), |core| {
            let inbound = core.inbound(&tag)?;
            let listed = i64::try_from(inbound.users.len()).expect("few users");
            Ok(handler::GetInboundUsersCountResponse {
                count: listed + inbound.uncounted,
            })
        })
        .await
    }

    async fn remove_inbound(
        &self,
        _request: Request<handler::RemoveInboundRequest>,
    ) -> Result<Response<handler::RemoveInboundResponse>, Status> {
        panic!("the agent never removes an inbound")
    }
}

#[tonic::async_trait]
impl StatsService for Service {
    async fn get_sys_stats(
        &self,
        _request: Request<stats::SysStatsRequest>,
    ) -> Result<Response<stats::SysStatsResponse>, Status> {
        self.call((SysStats, "", ""), |core| {
            let uptime = core.started.elapsed().as_secs();
            Ok(stats::SysStatsResponse {
                uptime: u32::try_from(uptime).expect("a short test"),
                total_alloc: core.allocated,
                mallocs: core.allocated / 100,
                ..stats::SysStatsResponse::default()
            })
        })
        .await
    }

    async fn query_stats(
        &self,
        _request: Request<stats::QueryStatsRequest>,
    ) -> Result<Response<stats::QueryStatsResponse>, Status> {
        self.call((Query, "", ""), |core| {
            let counters = core.counters.iter().flat_map(|(email, (up, down))| {
                let counter = |way: &str, value: i64| stats::Stat {
                    name: format!("user>>>{email}>>>traffic>>>{way}link").into(),
                    value,
                };
                [counter("up", *up), counter("down", *down)]
            });
            let stat = counters.collect();
            Ok(stats::QueryStatsResponse { stat })
        })
        .await
    }

    /// As of a core whose users have not come in yet.
    async fn get_stats(
        &self,
        _request: Request<stats::GetStatsRequest>,
    ) -> Result<Response<stats::GetStatsResponse>, Status> {
        Err(Status::not_found("not found."))
    }

    async fn get_stats_online_ip_list(
        &self,
        _request: Request<stats::GetStatsRequest>,
    ) -> Result<Response<stats::GetStatsOnlineIpListResponse>, Status> {
        Err(Status::not_found("not found."))
    }

    async fn get_all_online_users(
        &self,
        _request: Request<stats::GetAllOnlineUsersRequest>,
    ) -> Result<Response<stats::GetAllOnlineUsersResponse>, Status> {
        Ok(Response::new(stats::GetAllOnlineUsersResponse::default()))
    }

    async fn get_users_stats(
        &self,
        _request: Request<stats::GetUsersStatsRequest>,
    ) -> Result<Response<stats::GetUsersStatsResponse>, Status> {
        Ok(Response::new(stats::GetUsersStatsResponse::default()))
    }
}
