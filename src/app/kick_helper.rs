//! The privileged half: cuts connections for an agent that may not, only at the managed inbounds'
//! ports, and does nothing else.
//!
//! Invariant: it is asked through one unix socket only, by the socket's owner or root. With a
//! configuration that is wrong it cuts nothing and says why.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rustix::net::{AddressFamily, sockopt};
use tracing::{info, warn};

use super::signals::{Asked, Signals};
use crate::base::files::FileError;
use crate::config::Config;
use crate::model::cut::Obstacle;
use crate::model::ids::InboundTag;
use crate::model::ports::PortRange;
use crate::sockets::Direct;
use crate::sockets::helper::{Allowed, Server};
use crate::xray::client::XrayClient;
use crate::xray::inbound::over_tcp;

/// After so much silence a helper that the service manager started ends: it is started again at the
/// next word.
const IDLE: Duration = Duration::from_mins(1);
/// What Xrays have told of their ports is used for so long.
const PORTS_KEPT: Duration = Duration::from_secs(10);
/// The longest that one Xray is waited for: who asks us waits for 5 s.
const XRAY_TAKES: Duration = Duration::from_secs(3);

/// Why it could not serve.
#[derive(Debug, thiserror::Error)]
pub enum KickHelperError {
    /// There is nothing to serve.
    #[error(
        "standard input is no listening unix socket: xray-agent-kick.socket starts this command \
         with one; by hand, name a socket with --socket"
    )]
    NoListener,
    /// Another one serves it.
    #[error("{} is served already", .0.display())]
    Occupied(PathBuf),
    /// The socket cannot be used.
    #[error(transparent)]
    Socket(#[from] FileError),
    /// The listener cannot be used.
    #[error("cannot serve: {0}")]
    Io(#[from] io::Error),
}

/// Serves the listener on standard input until nobody has asked for a while; or makes `socket`, and
/// serves it for good; in both cases until a signal at the latest. Without a configuration, because it
/// is wrong, everybody is told so.
pub async fn kick_helper(
    config: Option<&Config>,
    socket: Option<&Path>,
) -> Result<(), KickHelperError> {
    let mut signals = Signals::listen()?;
    let listener = match socket {
        Some(path) => bind(path)?,
        None => inherited()?,
    };
    let users = who_may_ask(&listener)?;
    listener.set_nonblocking(true)?;
    info!(?users, "cuts connections for these users");
    let server = Server {
        listener: tokio::net::UnixListener::from_std(listener)?,
        users,
        allowed: Arc::new(AtManagedInbounds::of(config)),
        cutter: Arc::new(Direct),
    };
    let idle = socket.is_none().then_some(IDLE);
    tokio::select! {
        () = server.serve(idle) => {}
        () = stopped(&mut signals) => {}
    }
    if let Some(path) = socket {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

async fn stopped(signals: &mut Signals) {
    while !matches!(signals.next().await, Asked::Stop) {}
}

/// What the service manager has put where other programs have their input.
fn inherited() -> Result<UnixListener, KickHelperError> {
    let stdin = io::stdin();
    let is_listener = || -> rustix::io::Result<bool> {
        let is_unix = sockopt::socket_domain(&stdin)? == AddressFamily::UNIX;
        Ok(is_unix && sockopt::socket_acceptconn(&stdin)?)
    };
    if !is_listener().unwrap_or(false) {
        return Err(KickHelperError::NoListener);
    }
    Ok(stdin.as_fd().try_clone_to_owned()?.into())
}

/// A listener at `path`, for our user alone. A socket that is there and that nobody serves was left
/// by one who is gone.
fn bind(path: &Path) -> Result<UnixListener, KickHelperError> {
    let failed = |error| FileError::new("cannot listen on", path, error);
    match UnixStream::connect(path) {
        Ok(_) => return Err(KickHelperError::Occupied(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever came before this is judged by who it is, as everybody.
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(failed)?;
    Ok(listener)
}

/// Root, and whom the socket belongs to.
fn who_may_ask(listener: &UnixListener) -> Result<BTreeSet<u32>, KickHelperError> {
    let address = listener.local_addr()?;
    let path = address.as_pathname().ok_or(KickHelperError::NoListener)?;
    let owner = std::fs::metadata(path)
        .map_err(|error| FileError::new("cannot see the owner of", path, error))?
        .uid();
    Ok([0, owner].into())
}

/// Allows the ports that are configured, else those of the managed inbounds over TCP.
struct AtManagedInbounds {
    ports: Result<Ports, Obstacle>,
}

enum Ports {
    Given(Vec<PortRange>),
    Told {
        by: Vec<(XrayClient, Vec<InboundTag>)>,
        /// What every Xray told, and when.
        last: Mutex<Option<(Instant, Vec<PortRange>)>>,
    },
}

impl AtManagedInbounds {
    fn of(config: Option<&Config>) -> Self {
        let ports = match config {
            None => Err(Obstacle(
                "its configuration is wrong: \"xray-agent check-config\" or \"journalctl -u \
                 xray-agent-kick\" says how"
                    .into(),
            )),
            Some(config) if !config.kick.enabled => Err(Obstacle(
                "open sessions are to run on (XRAY_KICK=off, apply.kick)".into(),
            )),
            Some(config) => Ok(match &config.kick.ports {
                Some(ports) => Ports::Given(ports.clone()),
                None => Ports::Told {
                    by: managed(config),
                    last: Mutex::default(),
                },
            }),
        };
        Self { ports }
    }
}

/// The Xrays of this host with their managed inbounds. The ports of one on another host are somebody
/// else's here.
fn managed(config: &Config) -> Vec<(XrayClient, Vec<InboundTag>)> {
    let inbounds = || config.nodes.iter().flat_map(|node| &node.inbounds);
    let tags_of = |name: &str| {
        let of_xray = inbounds().filter(|inbound| inbound.xray == name);
        of_xray.map(|inbound| inbound.tag.clone()).collect()
    };
    let xrays = config.xrays.iter();
    xrays
        .map(|xray| (XrayClient::new(xray.clone()), tags_of(&xray.name)))
        .filter(|(client, tags): &(XrayClient, Vec<_>)| !client.may_be_remote() && !tags.is_empty())
        .collect()
}

impl Allowed for AtManagedInbounds {
    fn ports(&self) -> BoxFuture<'_, Result<Vec<PortRange>, Obstacle>> {
        Box::pin(async {
            let (by, last) = match &self.ports {
                Err(why) => return Err(why.clone()),
                Ok(Ports::Given(ports)) => return Ok(ports.clone()),
                Ok(Ports::Told { by, last }) => (by, last),
            };
            let kept = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((at, ports)) = kept
                && at.elapsed() < PORTS_KEPT
            {
                return Ok(ports);
            }
            let (ports, silent) = told(by).await;
            match silent {
                None if ports.is_empty() => Err(Obstacle(
                    "no inbound over TCP is managed on this host; name its port in \
                     apply.kick_ports if there is one"
                        .into(),
                )),
                None => {
                    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                    *last = Some((Instant::now(), ports.clone()));
                    Ok(ports)
                }
                // What the others told holds all the same.
                Some(_) if !ports.is_empty() => Ok(ports),
                Some(why) => Err(why),
            }
        })
    }
}

/// The ports that those tell who answer, and why the last of the others did not.
async fn told(by: &[(XrayClient, Vec<InboundTag>)]) -> (Vec<PortRange>, Option<Obstacle>) {
    let each = by.iter().map(async |(client, tags)| {
        let listed = tokio::time::timeout(XRAY_TAKES, client.list_inbounds()).await;
        let why = match listed {
            Ok(Ok(inbounds)) => return Ok(over_tcp(&inbounds, tags)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {XRAY_TAKES:?}"),
        };
        let xray = client.name();
        warn!(xray, why, "cannot ask where the inbounds listen");
        Err(Obstacle(format!(
            "cannot ask {xray} where its inbounds listen: {why}; or set apply.kick_ports"
        )))
    });
    let (mut ports, mut silent) = (Vec::new(), None);
    for answer in futures_util::future::join_all(each).await {
        match answer {
            Ok(of_one) => ports.extend(of_one),
            Err(why) => silent = Some(why),
        }
    }
    (ports, silent)
}
