//! The unprivileged end: has connections cut by the program at the other end of a socket.
//!
//! Invariant: a question is answered or given up within [`BOUND`]; why it was is told with its mend.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ADDRESSES_MAX, Answer, LINE_BYTES_MAX, Question, line};
use crate::model::cut::{Cut, Obstacle, Sockets};
use crate::model::ports::PortRange;

/// The longest that one answer may take; starting the unit takes a fraction of a second.
const BOUND: Duration = Duration::from_secs(5);

/// Has `cut` done by whoever listens at `socket`; in several questions where it is long. What was
/// destroyed before one of them failed is not told.
pub(in crate::sockets) async fn cut(socket: &Path, cut: &Cut) -> Result<Sockets, Obstacle> {
    let addresses: Vec<_> = cut.addresses.iter().copied().collect();
    let mut all = Sockets::new();
    for part in addresses.chunks(ADDRESSES_MAX) {
        let part = Cut {
            ports: cut.ports.clone(),
            addresses: part.iter().copied().collect(),
        };
        match asked(socket, &Question::Cut(part)).await? {
            Answer::Destroyed(counts) => {
                for (address, count) in counts {
                    *all.entry(address).or_default() += count;
                }
            }
            other => return Err(senseless(socket, &other)),
        }
    }
    Ok(all)
}

/// What whoever listens at `socket` knows that is in the way; or why it cannot be asked.
pub(in crate::sockets) async fn obstacle(
    socket: &Path,
    ports: &[PortRange],
) -> Result<Option<Obstacle>, Obstacle> {
    let question = Question::Obstacle {
        ports: ports.to_vec(),
    };
    match asked(socket, &question).await? {
        Answer::Obstacle(known) => Ok(known),
        other => Err(senseless(socket, &other)),
    }
}

async fn asked(socket: &Path, question: &Question) -> Result<Answer, Obstacle> {
    let question = line(question);
    if question.len() > LINE_BYTES_MAX {
        let what = "too many ports to be asked at once: write them as ranges";
        return Err(Obstacle(what.into()));
    }
    let answer = timeout(BOUND, converse(socket, &question)).await;
    match answer {
        Ok(Ok(Answer::Refused(Obstacle(why)))) => Err(Obstacle(format!(
            "xray-agent-kick at {} refused: {why}",
            socket.display()
        ))),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unreachable(socket, &error)),
        Err(_) => Err(Obstacle(format!(
            "xray-agent-kick at {} did not answer within {BOUND:?}: see \
             \"journalctl -u xray-agent-kick\"",
            socket.display()
        ))),
    }
}

async fn converse(socket: &Path, question: &[u8]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket).await?;
    // Who refuses us may do so before it has read; its answer is there all the same.
    let _ = stream.write_all(question).await;
    let mut text = Vec::new();
    let mut limited = BufReader::new(stream.take(LINE_BYTES_MAX as u64));
    limited.read_until(b'\n', &mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

fn unreachable(socket: &Path, error: &io::Error) -> Obstacle {
    let socket = socket.display();
    Obstacle(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "nobody listens at {socket}: \"systemctl enable --now xray-agent-kick.socket\", or \
             give the agent CAP_NET_ADMIN"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "{socket} belongs to another user: set SocketUser= of xray-agent-kick.socket to the \
             agent's"
        ),
        _ => format!(
            "xray-agent-kick at {socket} gave no answer ({error}): see \
             \"journalctl -u xray-agent-kick\""
        ),
    })
}

fn senseless(socket: &Path, answer: &Answer) -> Obstacle {
    let socket = socket.display();
    Obstacle(format!(
        "{socket} answered another question ({answer:?}): have xray-agent-kick be of the agent's \
         version"
    ))
}
