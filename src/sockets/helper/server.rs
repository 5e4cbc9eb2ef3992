//! The privileged end: cuts for those who may ask, on the ports where that is allowed.
//!
//! Invariant: nothing is cut for a peer of another user, and nothing where only part of a question is
//! allowed. A slow or silent peer keeps nobody else waiting.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{Answer, LINE_BYTES_MAX, Question, line, outside};
use crate::model::cut::{Cutter, Obstacle};
use crate::model::ports::PortRange;

/// A peer has this long to ask, and as long to take the answer.
const PEER_TAKES: Duration = Duration::from_secs(5);
/// Conversations at once; further ones wait in the kernel.
const CONVERSATIONS_MAX: usize = 16;
/// After an accept that failed: out of descriptors, for one, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Knows where cutting is allowed.
pub trait Allowed: Send + Sync {
    /// The ports, or why that cannot be told. Comes back within seconds.
    fn ports(&self) -> BoxFuture<'_, Result<Vec<PortRange>, Obstacle>>;
}

/// Serves one listener.
pub struct Server {
    /// Where it is asked.
    pub listener: UnixListener,
    /// Numbers of the users who may ask.
    pub users: BTreeSet<u32>,
    /// Where it cuts.
    pub allowed: Arc<dyn Allowed>,
    /// How it cuts.
    pub cutter: Arc<dyn Cutter>,
}

impl Server {
    /// Serves until nobody has asked for `idle`; for good where there is no such bound.
    pub async fn serve(&self, idle: Option<Duration>) {
        let mut conversations = FuturesUnordered::new();
        loop {
            // Every arm is cancel-safe: what was not accepted waits in the kernel.
            tokio::select! {
                accepted = self.listener.accept(), if conversations.len() < CONVERSATIONS_MAX => {
                    match accepted {
                        Ok((stream, _)) => conversations.push(self.converse(stream)),
                        Err(error) => {
                            debug!(%error, "accept failed");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                Some(()) = conversations.next(), if !conversations.is_empty() => {}
                () = over(idle), if conversations.is_empty() => return,
            }
        }
    }

    async fn converse(&self, mut stream: UnixStream) {
        let answer = match self.question_of(&mut stream).await {
            Ok(question) => self.answer(question).await,
            Err(why) => Answer::Refused(Obstacle(why)),
        };
        // One that went away has no use for the answer.
        let _ = timeout(PEER_TAKES, stream.write_all(&line(&answer))).await;
    }

    /// What the peer asks, or why it is not heard.
    async fn question_of(&self, stream: &mut UnixStream) -> Result<Question, String> {
        let peer = stream.peer_cred().map_err(|e| format!("who asks? {e}"))?;
        if !self.users.contains(&peer.uid()) {
            warn!(user = peer.uid(), "refused to cut for another user");
            return Err(format!(
                "user {} may not ask: only the owner of the socket may, and root",
                peer.uid()
            ));
        }
        let read = timeout(PEER_TAKES, read_line(stream)).await;
        let text = match read {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return Err(format!("no question: {error}")),
            Err(_) => return Err(format!("no question within {PEER_TAKES:?}")),
        };
        serde_json::from_slice(&text).map_err(|error| format!("not a question: {error}"))
    }

    async fn answer(&self, question: Question) -> Answer {
        let outcome = async {
            let allowed = self.allowed.ports().await?;
            if let Some(port) = outside(question.ports(), &allowed) {
                return Err(Obstacle(format!(
                    "port {port} is not one of a managed inbound over TCP (nor in \
                     apply.kick_ports, where that is set)"
                )));
            }
            match &question {
                Question::Cut(cut) => {
                    let destroyed = self.cutter.cut(cut).await?;
                    let sockets: usize = destroyed.values().sum();
                    info!(sockets, addresses = cut.addresses.len(), "cut");
                    Ok(Answer::Destroyed(destroyed))
                }
                Question::Obstacle { ports } => {
                    Ok(Answer::Obstacle(self.cutter.obstacle(ports).await))
                }
            }
        };
        outcome.await.unwrap_or_else(|why: Obstacle| {
            warn!(%why, "refused");
            Answer::Refused(why)
        })
    }
}

/// After `idle` of nothing; never where there is no bound.
async fn over(idle: Option<Duration>) {
    match idle {
        Some(idle) => sleep(idle).await,
        None => std::future::pending().await,
    }
}

/// A whole line without its end.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut limited = BufReader::new(stream.take(LINE_BYTES_MAX as u64));
    limited.read_until(b'\n', &mut text).await?;
    if text.pop() == Some(b'\n') {
        return Ok(text);
    }
    let why = format!("no end of line within {LINE_BYTES_MAX} bytes");
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}
