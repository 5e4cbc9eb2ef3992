//! A child process on a leash: however this program ends, killed included, the child dies too.
//!
//! A small shell holds our end of a pipe in the background and kills the child when the pipe
//! closes; then it becomes the child (`exec`), so the pid is the child's own.
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

/// Needs no program but `sh`; the child's own stdin is empty.
const LEASH: &str = r#"
exec 3<&0 </dev/null
( while read -r _; do :; done <&3; kill -9 $$ ) >/dev/null 2>&1 &
exec 3<&-
exec "$0" "$@"
"#;
/// A killed process is gone at once; this is against hanging.
const KILL_BOUND: Duration = Duration::from_secs(20);
/// Between two looks whether it is gone.
const LOOK: Duration = Duration::from_millis(2);

/// A `Command` for `program` on a leash. Start it with [`Process::spawn`], which holds the leash.
pub fn leashed(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    // A group of its own: Ctrl-C on a terminal is for us, who then end the children in order.
    command
        .args(["-c", LEASH])
        .arg(program)
        .process_group(0)
        .kill_on_drop(true);
    command
}

pub struct Process {
    name: String,
    pid: Pid,
    child: Child,
    /// Closed as soon as the child is reaped, before its pid can be another's.
    leash: Option<ChildStdin>,
}

impl Process {
    /// Starts a command that [`leashed`] made.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let starting = || format!("starting {name}");
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .with_context(starting)?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.with_context(starting)?;
        let leash = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            pid,
            child,
            leash,
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    pub fn is_alive(&mut self) -> bool {
        let alive = matches!(self.child.try_wait(), Ok(None));
        if !alive {
            self.leash = None;
        }
        alive
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            bail!("{} has ended: no signal can be sent", self.name);
        }
        kill_process(self.pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// SIGKILL, and waits until it is gone and its ports are free.
    pub async fn kill(&mut self) -> Result<()> {
        if self.is_alive() {
            self.signal(Signal::KILL)?;
        }
        self.wait(KILL_BOUND).await.map(drop)
    }

    /// SIGKILL, and blocks until it is gone: for the end of a value.
    pub fn kill_and_wait(&mut self) {
        let deadline = Instant::now() + KILL_BOUND;
        while self.is_alive() && Instant::now() < deadline {
            // It may end by itself meanwhile.
            let _ = self.signal(Signal::KILL);
            std::thread::park_timeout(LOOK);
        }
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(within, self.child.wait()).await;
        let ended = ended.with_context(|| format!("{} did not end in {within:?}", self.name))?;
        self.leash = None;
        ended.with_context(|| format!("waiting for {}", self.name))
    }

    /// The child itself, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// The last `lines` lines of a log file; empty when it cannot be read.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = read_log(log);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A log file as text, whatever bytes a crash left in it.
pub fn read_log(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}
