//! The agent's own program, as a user runs it: a clean environment, its exit code, what it wrote.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
pub use rustix::process::Signal;
use tempfile::TempDir;

use super::leaks::{Canaries, Uuids};
use super::process::{Process, leashed, read_log};
use super::wait::eventually;

/// Variables of ours that the agent gets too; nothing else is inherited.
const INHERITED: [&str; 2] = ["PATH", "HOME"];

#[derive(Clone, Debug)]
pub struct AgentCommand {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl AgentCommand {
    /// In tests and benches the path is `env!("CARGO_BIN_EXE_xray-agent")`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        let env = inherited.map(|(name, value)| (name.into(), value));
        // Agents at the same time cannot all have the default port; who wants one says which.
        let no_server = ("HTTP_LISTEN".into(), "off".into());
        let env = env.chain([no_server]).collect();
        Self {
            program: program.into(),
            args: Vec::new(),
            env,
            folder: None,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A later value for the same name wins.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it by another program, which is given these arguments before ours.
    pub fn through(mut self, program: &str, args: &[&str]) -> Self {
        let ours = std::mem::replace(&mut self.program, program.into());
        let before = args.iter().map(OsString::from).chain([ours.into()]);
        self.args.splice(0..0, before);
        self
    }

    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// For a run that ends by itself; killed when it does not in time, with its log in the error.
    pub async fn run_to_end(&self, within: Duration) -> Result<Output> {
        let mut agent = self.spawn()?;
        let ended = agent.wait_exit(within).await?;
        Ok(Output {
            code: ended.code(),
            stdout: agent.stdout(),
            stderr: agent.log(),
        })
    }

    /// Starts it; it is killed when the value is dropped.
    pub fn spawn(&self) -> Result<Agent> {
        let folder = tempfile::Builder::new().prefix("lab-agent-").tempdir()?;
        let mut command = leashed(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().cloned());
        command.stdout(File::create(stdout_path(folder.path()))?);
        command.stderr(File::create(stderr_path(folder.path()))?);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(Agent {
            process: Process::spawn("the agent", &mut command)?,
            folder,
            canaries: self.canaries(),
            uuids: self.uuids(),
        })
    }

    /// The secrets that it is given, which it may not print.
    pub fn canaries(&self) -> Canaries {
        Canaries::of(&self.env, &self.args, self.folder.as_deref())
    }

    /// Of commands only these tell of the agent; the others answer for users, or, as doctor's mended
    /// file of Xray, are somebody's own.
    fn uuids(&self) -> Uuids {
        let says = |word: &str| self.args.iter().any(|arg| arg == word);
        let tells = ["status", "metrics", "check-config", "doctor"];
        if tells.into_iter().any(says) && !says("--fix-xray-config") {
            Uuids::Never
        } else {
            Uuids::AreTheAnswer
        }
    }
}

/// A running agent.
pub struct Agent {
    process: Process,
    folder: TempDir,
    canaries: Canaries,
    /// On its stdout.
    uuids: Uuids,
}

impl Drop for Agent {
    /// Whoever ran it fails if it printed a secret.
    fn drop(&mut self) {
        self.process.kill_and_wait();
        self.canaries.assert_none_in(&self.log(), Uuids::Never);
        self.canaries.assert_none_in(&self.stdout(), self.uuids);
    }
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.is_alive()
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill9(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(within).await
    }

    /// Waits until it ends by itself.
    pub async fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.wait(within).await.with_context(|| self.log())
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        read_log(&self.log_path())
    }

    /// The file that its stderr goes to; gone when the value is dropped.
    pub fn log_path(&self) -> PathBuf {
        stderr_path(self.folder.path())
    }

    pub fn stdout(&self) -> String {
        read_log(&stdout_path(self.folder.path()))
    }

    /// Waits until its log has a line with all of these words; that line.
    pub async fn await_log(&self, words: &[&str], within: Duration) -> Result<String> {
        eventually("a line in the agent's log", within, async || {
            let log = self.log();
            let found = log
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned)
        })
        .await
        .with_context(|| format!("waiting for {words:?} in:\n{}", self.log()))
    }
}

fn stdout_path(folder: &Path) -> PathBuf {
    folder.join("stdout")
}

fn stderr_path(folder: &Path) -> PathBuf {
    folder.join("stderr")
}
