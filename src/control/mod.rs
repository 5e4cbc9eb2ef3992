//! The control socket: how the command line speaks to the running agent. A unix socket in the state
//! folder, mode 0600; one line of JSON asks, one line of JSON answers.

mod client;
mod server;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::delivery::TargetId;
use crate::model::event::EventId;
use crate::model::ids::UserId;
use crate::model::report::{Decision, ReportId};

pub use client::{ControlError, call};
pub use server::{Handler, Server};

/// Largest question, in bytes. Answers are ours and have no bound.
const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Poll and reconcile now; answers with every node's status when it is over.
    Sync {
        /// Held removals go through.
        #[serde(default)]
        force: bool,
    },
    /// How everything stands.
    Status {},
    /// The metrics, as `content_type` and `body`.
    Metrics {
        /// As OpenMetrics; else in Prometheus' text format.
        #[serde(default)]
        openmetrics: bool,
    },
    /// Read the configuration anew; answers with what changed.
    Reload {},
    /// Read every Xray's counters now; answers with how traffic stands after that.
    Collect {},
    /// Carry out what a person decided of a report; answers with the number that it has then.
    Decide {
        /// Which report.
        id: ReportId,
        /// What was decided.
        decision: Decision,
    },
    /// Cut a user off in every inbound; answers with what became of his sessions in each.
    Kick {
        /// Who.
        user: UserId,
    },
    /// Who is sent events, and how that goes.
    Outbox {},
    /// What was given up for a target, newest first.
    OutboxGivenUp {
        /// Which; `None`: for any.
        target: Option<TargetId>,
    },
    /// Have what was given up sent again; answers with how many.
    OutboxReplay {
        /// For which target.
        target: TargetId,
        /// Which event; `None`: all that are kept.
        event: Option<EventId>,
    },
    /// Send to a disabled target again; answers with whether it was disabled.
    OutboxEnable {
        /// Which.
        target: TargetId,
    },
}

/// Who is at the other end, as the kernel tells (`SO_PEERCRED`). Prints as `uid:0`, or `local` where it
/// does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's number.
    pub uid: Option<u32>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "uid:{uid}"),
            None => f.write_str("local"),
        }
    }
}

/// Where the socket of a state folder is.
pub fn socket_in(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// A path by which a socket can be reached however long its own path is (the kernel takes 108
/// bytes): through a descriptor of its folder, which must stay open meanwhile.
fn reachable(path: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((short, folder))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    struct Echo;

    impl Handler for Echo {
        fn answer(&self, call: Call, caller: Caller) -> futures_util::future::BoxFuture<'_, Value> {
            Box::pin(async move { json!({ "was": call, "of": caller.to_string() }) })
        }
    }

    #[tokio::test]
    async fn a_call_is_answered_however_deep_the_folder_is() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let server = Server::bind(&deep, Arc::new(Echo)).unwrap();
        let mode = std::fs::metadata(socket_in(&deep))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let asked = async {
            let answer = call(&deep, Call::Sync { force: true }).await.unwrap();
            assert_eq!(answer["was"], json!({"call": "sync", "force": true}));
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(answer["of"], format!("uid:{own}"));
        };
        tokio::select! {
            () = asked => {}
            () = server.serve(|| {}) => unreachable!(),
        }
    }

    #[tokio::test]
    async fn nonsense_is_answered_with_an_error_and_nobody_listening_is_told() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            call(dir.path(), Call::Status {}).await,
            Err(ControlError::NobodyThere)
        ));
        let server = Server::bind(dir.path(), Arc::new(Echo)).unwrap();
        let asked = async {
            for nonsense in ["{}\n".to_owned(), "x\n".to_owned(), "[".repeat(70_000)] {
                let mut stream = tokio::net::UnixStream::connect(socket_in(dir.path()))
                    .await
                    .unwrap();
                let _ = stream.write_all(nonsense.as_bytes()).await;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert!(answer.contains("\"error\""), "{answer}");
            }
        };
        tokio::select! {
            () = asked => {}
            () = server.serve(|| {}) => unreachable!(),
        }
    }
}
