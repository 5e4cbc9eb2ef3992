//! One hook's processes, from their start until none is left.
//!
//! Kept here: when [`Running`] is over, or dropped, no process of the hook is alive, save one that
//! even KILL does not end (stuck in the kernel, or another user's), which is logged.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::error;

use super::strays::{Identity, Strays};

/// How long what was sent KILL may take to be gone: longer is a process stuck in the kernel.
const KILL_TAKES: Duration = Duration::from_secs(5);
/// The same where a thread waits for it (the future of a hook was dropped).
const KILL_TAKES_ON_DROP: Duration = Duration::from_millis(200);
/// Pauses between looks at what is left: quick ends are seen quickly, slow ones cost little.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// How a hook came to its end.
#[derive(Debug)]
pub(super) enum End {
    Itself(io::Result<ExitStatus>),
    TimedOut,
    Stopped,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The hook itself.
    pub(super) hook: Duration,
    /// From TERM to KILL, for a hook that is cut short.
    pub(super) term: Duration,
    /// From TERM to KILL, for what a hook leaves behind.
    pub(super) leftovers: Duration,
}

/// A hook's processes.
#[derive(Debug)]
pub(super) struct Running {
    shell: Child,
    /// The process group's number: the shell's own.
    group: Pid,
    strays: Strays,
    group_told: bool,
    /// Processes but the shell that were sent a signal.
    told: HashSet<Identity>,
    over: bool,
}

impl Running {
    /// Starts `/bin/sh -c command` in a process group of its own, with just this environment. One
    /// at a time in a process: the caller sees to it.
    pub(super) fn start(command: &str, environment: Vec<(OsString, OsString)>) -> io::Result<Self> {
        // Any number but 0 switches it on.
        rustix::process::set_child_subreaper(Some(Pid::INIT))?;
        let strays = Strays::before_hook();
        let shell = Command::new("/bin/sh")
            .arg("-c")
            .arg(command)
            .env_clear()
            .envs(environment)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let group = pid_of(&shell).expect("invariant: a child that was just started has a number");
        let told = HashSet::new();
        Ok(Self {
            shell,
            group,
            strays,
            group_told: false,
            told,
            over: false,
        })
    }

    /// The reading ends of the hook's output. Once.
    pub(super) fn take_pipes(&mut self) -> (ChildStdout, ChildStderr) {
        let invariant = "invariant: piped at the start and taken once";
        (
            self.shell.stdout.take().expect(invariant),
            self.shell.stderr.take().expect(invariant),
        )
    }

    /// Waits for the hook's end, or brings it about, and ends what is left.
    pub(super) async fn live(&mut self, limits: Limits, stop: impl Future<Output = ()>) -> End {
        // All arms are cancel-safe: a wait that is dropped has not reaped.
        let end = tokio::select! {
            status = self.shell.wait() => End::Itself(status),
            () = sleep(limits.hook) => End::TimedOut,
            () = stop => End::Stopped,
        };
        let by_itself = matches!(end, End::Itself(_));
        let grace = if by_itself {
            limits.leftovers
        } else {
            limits.term
        };
        self.end_all(grace).await;
        end
    }

    /// How many processes had to be ended beside the shell.
    pub(super) fn ended(&self) -> usize {
        self.told.len()
    }

    /// TERM, KILL after `grace`, until nothing is left.
    async fn end_all(&mut self, grace: Duration) {
        let kill_at = Instant::now() + grace;
        let mut pause = FIRST_PAUSE;
        loop {
            let now = Instant::now();
            let signal = if now < kill_at {
                Signal::TERM
            } else {
                Signal::KILL
            };
            let left = self.signal_all(signal);
            self.over = left == 0;
            if self.over {
                return;
            }
            if now >= kill_at + KILL_TAKES {
                error!(target: "hook", "{left} processes of the hook do not end, even by KILL");
                self.over = true;
                return;
            }
            let next = now + pause;
            sleep_until(if now < kill_at {
                next.min(kill_at)
            } else {
                next
            })
            .await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// One round; tells how many were alive. TERM goes to each once. Signals meet the right
    /// process: a number is not used again while its process, or one of its group, is our child
    /// and we have not reaped it.
    fn signal_all(&mut self, signal: Signal) -> usize {
        let again = signal == Signal::KILL;
        let _ = self.shell.try_wait();
        let shell = pid_of(&self.shell);
        let strays = self.strays.find(shell);
        let own_group = self.group.as_raw_pid();
        let in_group = shell.is_some() || strays.iter().any(|stray| stray.group == own_group);
        if in_group && (again || !self.group_told) {
            let _ = rustix::process::kill_process_group(self.group, signal);
            self.group_told = true;
        }
        for stray in &strays {
            let first = self.told.insert(stray.identity());
            if again || (first && stray.group != own_group) {
                let _ = rustix::process::kill_process(stray.pid, signal);
            }
        }
        strays.len() + usize::from(shell.is_some())
    }
}

/// The future of a hook was dropped: nobody waits any more, so KILL, and look until all are gone,
/// which takes milliseconds. Tokio reaps the shell.
impl Drop for Running {
    fn drop(&mut self) {
        let give_up = std::time::Instant::now() + KILL_TAKES_ON_DROP;
        while !self.over {
            self.over = self.signal_all(Signal::KILL) == 0 || std::time::Instant::now() > give_up;
            std::thread::yield_now();
        }
    }
}

/// `None` once tokio has reaped it.
fn pid_of(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|number| i32::try_from(number).ok())
        .and_then(Pid::from_raw)
}
