//! Names to addresses. The system's own way (`getaddrinfo`): what `/etc/hosts`, search domains and
//! `nsswitch.conf` say holds here as for every other program of the host, and there is no second
//! resolver whose answers could differ from those that are judged.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

/// Longest that a name is looked up. The system's own limit with two dead servers is 20 s, which
/// would use up the time of most calls.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Looks names up.
pub trait Names: Send + Sync + 'static {
    /// All addresses of a host, in the order of preference; none is an error.
    fn look_up(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's names.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Names for SystemNames {
    fn look_up(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|it| it.ip()).collect())
        })
    }
}

/// Looks names up within a limit; clones share what does it.
#[derive(Clone)]
pub(super) struct Lookup(Arc<dyn Names>);

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

impl Lookup {
    pub(super) fn new(names: impl Names) -> Self {
        Self(Arc::new(names))
    }

    /// At least one address, each once.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = timeout(LOOKUP_MAX, self.0.look_up(host)).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let mut each = Vec::with_capacity(found.len());
        for address in found {
            if !each.contains(&address) {
                each.push(address);
            }
        }
        if each.is_empty() {
            let why = "the name has no address";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(each)
    }
}
