//! Watches over the supervisor itself, from a thread of its own: a task that blocks its thread can
//! leave the whole runtime without anybody who looks at sockets and timers, and then nobody in it
//! notices, the supervisor least of all.
//!
//! Kept here: a process whose essential tasks are late for longer than the supervisor needs to act, or
//! that does not end in its time, ends at once. Whatever that interrupts is as after a crash.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tracing::error;

use super::handles::TaskBoard;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// The supervisor gives a late task up at once; this much later it is not there to do it.
const LATE: Duration = Duration::from_secs(5);
/// For the last words: whoever hangs may hold the log.
const WORDS_TAKE: Duration = Duration::from_secs(1);
/// An internal failure, as everywhere in this program: the service manager starts it anew.
const EXIT_CODE: i32 = 70;

/// The thread's other end; it ends with the value.
pub(super) struct Guard(Sender<Duration>);

/// Starts the thread. Without one the service manager's watchdog is left.
pub(super) fn watch(board: TaskBoard) -> Guard {
    let (sender, words) = mpsc::channel();
    let watching = move || {
        let mut late_since: Option<Instant> = None;
        loop {
            match words.recv_timeout(EVERY) {
                Ok(grace) => {
                    if words.recv_timeout(grace) == Err(RecvTimeoutError::Timeout) {
                        end("it does not stop".to_owned());
                    }
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let late = board.overdue();
            if late.is_empty() {
                late_since = None;
            } else if late_since.get_or_insert_with(Instant::now).elapsed() >= LATE {
                end(format!("no sign of life: {}", late.join(", ")));
            }
        }
    };
    let started = thread::Builder::new()
        .name("guard".to_owned())
        .spawn(watching);
    if let Err(error) = started {
        error!(%error, "nothing watches over the supervisor");
    }
    Guard(sender)
}

impl Guard {
    /// The end was asked for: it must be over within `grace`.
    pub(super) fn stops_within(&self, grace: Duration) {
        // Without a thread there is nobody to tell.
        let _ = self.0.send(grace + LATE);
    }
}

fn end(why: String) {
    let (said, hears) = mpsc::channel();
    thread::spawn(move || {
        error!("the agent hangs as a whole and ends itself: {why}");
        said.send(())
    });
    let _ = hears.recv_timeout(WORDS_TAKE);
    std::process::exit(EXIT_CODE);
}
