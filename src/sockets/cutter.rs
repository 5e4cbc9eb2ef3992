//! Who cuts: this process where it may, else the program that may.
//!
//! Invariant: every call comes back within seconds, and each refusal says what mends it.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::SocketsError;
use super::helper;
use crate::model::cut::{Cut, Cutter, Obstacle, Sockets};
use crate::model::ports::PortRange;

/// The longest that our own cutting is waited for. If it is given up, its thread ends by itself: the
/// kernel's answers are bounded, too.
const BOUND: Duration = Duration::from_secs(5);

/// Cuts by itself, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Direct;

/// Cuts by itself where it may at that moment, else has it done.
#[derive(Clone, Debug)]
pub struct KernelCutter {
    helper: PathBuf,
}

impl KernelCutter {
    /// One that asks whoever listens at `helper` where it may not cut itself.
    pub fn new(helper: PathBuf) -> Self {
        Self { helper }
    }
}

impl Cutter for Direct {
    fn cut<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Result<Sockets, Obstacle>> {
        Box::pin(async move { cut_here(cut).await.map_err(Stopped::into_obstacle) })
    }

    fn obstacle<'a>(&'a self, ports: &'a [PortRange]) -> BoxFuture<'a, Option<Obstacle>> {
        Box::pin(async move {
            match listens_here(ports).await {
                Ok(true) => None,
                Ok(false) => Some(nobody_listens(ports)),
                Err(stopped) => Some(stopped.into_obstacle()),
            }
        })
    }
}

impl Cutter for KernelCutter {
    fn cut<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Result<Sockets, Obstacle>> {
        Box::pin(async move {
            match cut_here(cut).await {
                Ok(counts) => Ok(counts),
                Err(stopped) if stopped.another_may() => helper::cut(&self.helper, cut)
                    .await
                    .map_err(|why| both(&stopped, &why)),
                Err(stopped) => Err(stopped.into_obstacle()),
            }
        })
    }

    fn obstacle<'a>(&'a self, ports: &'a [PortRange]) -> BoxFuture<'a, Option<Obstacle>> {
        Box::pin(async move {
            match listens_here(ports).await {
                Ok(true) => None,
                Ok(false) => Some(nobody_listens(ports)),
                Err(stopped) if stopped.another_may() => {
                    match helper::obstacle(&self.helper, ports).await {
                        Ok(known) => known,
                        Err(why) => Some(both(&stopped, &why)),
                    }
                }
                Err(stopped) => Some(stopped.into_obstacle()),
            }
        })
    }
}

/// Why nothing came of our own cutting.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error("the kernel did not cut within {BOUND:?}: try again")]
    Late,
    #[error("cutting broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl Stopped {
    /// Whether it is ourselves that is refused.
    fn another_may(&self) -> bool {
        matches!(
            self,
            Self::Sockets(SocketsError::NotAllowed | SocketsError::Forbidden(_))
        )
    }

    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    fn into_obstacle(self) -> Obstacle {
        Obstacle(self.to_string())
    }
}

async fn cut_here(cut: &Cut) -> Result<Sockets, Stopped> {
    let cut = cut.clone();
    in_time(move || super::cut(&cut)).await
}

/// Whether anybody listens on one of the ports, after it is clear that we may cut.
async fn listens_here(ports: &[PortRange]) -> Result<bool, Stopped> {
    let ports = ports.to_vec();
    in_time(move || {
        super::may_cut()?;
        super::listens_on(&ports)
    })
    .await
}

async fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SocketsError> + Send + 'static,
) -> Result<T, Stopped> {
    let done = timeout(BOUND, spawn_blocking(work)).await;
    Ok(done.map_err(|_| Stopped::Late)???)
}

fn both(stopped: &Stopped, why: &Obstacle) -> Obstacle {
    let own = match stopped {
        Stopped::Sockets(SocketsError::NotAllowed) => "the agent has no CAP_NET_ADMIN".to_owned(),
        other => other.to_string(),
    };
    Obstacle(format!("{own}; {why}"))
}

fn nobody_listens(ports: &[PortRange]) -> Obstacle {
    let one = |range: &PortRange| match range {
        PortRange { from, to } if from == to => from.to_string(),
        PortRange { from, to } => format!("{from}-{to}"),
    };
    let listed: Vec<String> = ports.iter().map(one).collect();
    Obstacle(match listed.as_slice() {
        [] => "there is no TCP port to cut connections at".to_owned(),
        listed => format!(
            "nothing listens on TCP port {} here: Xray runs in another network namespace (a \
             container) or on another host; run the agent in the same one",
            listed.join(", ")
        ),
    })
}
