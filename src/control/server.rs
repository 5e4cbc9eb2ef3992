//! The agent's end of the control socket. A slow or silent client keeps nobody else waiting.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy, sink};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Call, Caller, QUESTION_BYTES_MAX, reachable, socket_in};
use crate::base::files::FileError;

/// A client has this long to ask.
const QUESTION_TAKES: Duration = Duration::from_secs(5);
/// Of a question that is too long, this much more is read and thrown away.
const IGNORED_BYTES_MAX: u64 = 1 << 20;
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two signs of life when nobody asks.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Conversations at once; further ones wait in the kernel.
const CONVERSATIONS_MAX: usize = 32;

/// Answers calls.
pub trait Handler: Send + Sync {
    /// Answers one call; may take as long as a pass does.
    fn answer(&self, call: Call, caller: Caller) -> BoxFuture<'_, Value>;
}

/// A bound socket.
pub struct Server {
    listener: UnixListener,
    handler: Arc<dyn Handler>,
    path: PathBuf,
}

impl Server {
    /// Binds the socket of `state_dir`. The caller holds the folder's lock: a socket file that is
    /// there was left by a process that is gone.
    pub fn bind(state_dir: &Path, handler: Arc<dyn Handler>) -> Result<Self, FileError> {
        let path = socket_in(state_dir);
        let listener = listen(&path).map_err(|e| FileError::new("cannot listen on", &path, e))?;
        Ok(Self {
            listener,
            handler,
            path,
        })
    }

    /// Serves until it is dropped, and says `alive` at least every 10 s.
    pub async fn serve(&self, alive: impl Fn()) {
        let mut conversations = FuturesUnordered::new();
        loop {
            alive();
            tokio::select! {
                accepted = self.listener.accept(), if conversations.len() < CONVERSATIONS_MAX => {
                    match accepted {
                        Ok((stream, _)) => conversations.push(self.converse(stream)),
                        Err(error) => {
                            debug!(%error, "control socket: accept failed");
                            // Out of descriptors, for one: asking again at once would be a loop.
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                Some(()) = conversations.next(), if !conversations.is_empty() => {}
                () = sleep(ALIVE_EVERY) => {}
            }
        }
    }

    async fn converse(&self, stream: UnixStream) {
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        let (read, mut write) = stream.into_split();
        let mut line = Vec::new();
        let mut limited = BufReader::new(read.take(QUESTION_BYTES_MAX as u64));
        let asked = timeout(QUESTION_TAKES, limited.read_until(b'\n', &mut line)).await;
        let answer = match asked {
            Ok(Ok(_)) => match serde_json::from_slice::<Call>(&line) {
                Ok(call) => self.handler.answer(call, Caller { uid }).await,
                Err(error) => json!({ "error": format!("not a call: {error}") }),
            },
            Ok(Err(_)) | Err(_) => json!({ "error": "no call within 5 s" }),
        };
        let mut bytes = answer.to_string().into_bytes();
        bytes.push(b'\n');
        // A client that went away has no use for the answer.
        let _ = timeout(QUESTION_TAKES, write.write_all(&bytes)).await;
        let _ = write.shutdown().await;
        // A socket closed with unread bytes in it takes the answer back from the client.
        let mut rest = limited.into_inner().into_inner().take(IGNORED_BYTES_MAX);
        let _ = timeout(QUESTION_TAKES, copy(&mut rest, &mut sink())).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (short, _folder) = reachable(path)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
