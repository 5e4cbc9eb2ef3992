//! The command line's end of the control socket.

use std::io;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Call, reachable, socket_in};

/// Why the running agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No agent listens.
    #[error("no agent listens on this state folder")]
    NobodyThere,
    /// The socket failed.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The agent's answer is not one.
    #[error("the running agent did not answer: {0}")]
    Answer(String),
    /// The agent did not do it, for this reason.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent that runs on `state_dir`, and waits for its answer.
pub async fn call(state_dir: &Path, call: Call) -> Result<Value, ControlError> {
    let path = socket_in(state_dir);
    let (short, _folder) = reachable(&path).map_err(absent)?;
    let mut stream = UnixStream::connect(short).await.map_err(absent)?;
    let mut question =
        serde_json::to_vec(&call).map_err(|e| ControlError::Answer(e.to_string()))?;
    question.push(b'\n');
    stream.write_all(&question).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer: Value =
        serde_json::from_slice(&answer).map_err(|e| ControlError::Answer(e.to_string()))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(ControlError::Refused(error.to_owned())),
        None => Ok(answer),
    }
}

fn absent(error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NobodyThere,
        _ => ControlError::Io(error),
    }
}
