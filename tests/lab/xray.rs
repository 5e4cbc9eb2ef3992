//! A running Xray, server or client: started, waited for, killed, restarted on the same ports.
//!
//! Invariant: it is ready when `start` returns, and gone (ports free) when `kill` does; it never
//! outlives this program. It refuses to start on a port where something listens already, because
//! Xray itself would share that port in silence.
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::process::{Process, read_log, tail};
use super::provision::{XrayProgram, xray_program};
use super::ready::{Gate, api_gate, gates};
use super::wait::eventually;

/// Up in about a second; a loaded machine with a cold disk takes longer.
const START_BOUND: Duration = Duration::from_mins(1);
/// Lines of its log in the error when it does not start.
const TAIL_LINES: usize = 20;

/// Finds the program, or installs it. Blocks.
type Provision = fn() -> Result<XrayProgram>;

pub struct Xray {
    program: Provision,
    config: Value,
    process: Process,
    folder: TempDir,
}

impl Xray {
    /// Starts it and waits until its API and all its TCP inbounds accept.
    pub async fn start(config: impl Into<Value>) -> Result<Self> {
        Self::start_program(xray_program, config.into()).await
    }

    /// The same of another core that takes Xray's configuration.
    pub(super) async fn start_program(program: Provision, config: Value) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("lab-xray-").tempdir()?;
        let process = launch(program, &folder, &config).await?;
        Ok(Self {
            program,
            config,
            process,
            folder,
        })
    }

    /// Starts one that shares ports with another that runs, as Xray lets it: which of the two answers
    /// there is up to the kernel, anew for each connection.
    pub async fn start_sharing(config: impl Into<Value>) -> Result<Self> {
        let config = config.into();
        let folder = tempfile::Builder::new().prefix("lab-xray-").tempdir()?;
        let mut own = Vec::new();
        for gate in gates(&config) {
            if !gate.accepts().await {
                own.push(gate);
            }
        }
        let process = launch_on(xray_program, &folder, &config, &own).await?;
        Ok(Self {
            program: xray_program,
            config,
            process,
            folder,
        })
    }

    /// SIGKILL. Users added by the API are gone with it.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGTERM.
    pub async fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(START_BOUND).await.map(drop)
    }

    /// Kills it if it still runs, and starts it with the same configuration.
    pub async fn restart(&mut self) -> Result<()> {
        self.restart_with(self.config.clone()).await
    }

    /// Kills it if it still runs, and starts it with another configuration.
    pub async fn restart_with(&mut self, config: impl Into<Value>) -> Result<()> {
        self.kill().await?;
        self.config = config.into();
        // Left behind by a killed Xray, a socket file would keep the next from starting.
        if let Some(Gate::Path(socket)) = api_gate(&self.config) {
            let _ = std::fs::remove_file(socket);
        }
        self.process = launch(self.program, &self.folder, &self.config).await?;
        Ok(())
    }

    /// SIGSTOP: connections are accepted by the kernel, and nothing is ever answered.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.is_alive()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The API's address, as the agent's `XRAY_API_ADDR` takes it.
    pub fn api_addr(&self) -> String {
        api_gate(&self.config)
            .map(|gate| gate.as_api_addr())
            .unwrap_or_default()
    }

    /// The API's TCP port; 0 when it listens elsewhere.
    pub fn api_port(&self) -> u16 {
        match api_gate(&self.config) {
            Some(Gate::Tcp(addr)) => addr.port(),
            _ => 0,
        }
    }

    /// All that it wrote, since the first start.
    pub fn log(&self) -> String {
        read_log(&log_path(&self.folder))
    }
}

fn log_path(folder: &TempDir) -> PathBuf {
    folder.path().join("xray.log")
}

async fn launch(program: Provision, folder: &TempDir, config: &Value) -> Result<Process> {
    launch_on(program, folder, config, &gates(config)).await
}

/// Waits for these gates only.
async fn launch_on(
    program: Provision,
    folder: &TempDir,
    config: &Value,
    gates: &[Gate],
) -> Result<Process> {
    for gate in gates {
        if gate.accepts().await {
            bail!("something listens already where an Xray is to start: {gate:?}");
        }
    }
    let file = folder.path().join("config.json");
    std::fs::write(&file, serde_json::to_vec_pretty(config)?)?;
    let log_path = log_path(folder);
    let log = File::options().create(true).append(true).open(&log_path)?;

    let program = tokio::task::spawn_blocking(program).await??;
    let mut command = program.command(&file);
    let mut process = Process::spawn("Xray", command.stdout(log.try_clone()?).stderr(log))?;

    let accepting = eventually(
        "Xray accepts on all its addresses",
        START_BOUND,
        async || {
            if !process.is_alive() {
                return Some(false);
            }
            for gate in gates {
                if !gate.accepts().await {
                    return None;
                }
            }
            Some(true)
        },
    );
    match accepting.await {
        Ok(true) => Ok(process),
        Ok(false) => {
            // 23: it refuses the configuration (the wheel does not say why).
            let ended = process.wait(START_BOUND).await?;
            bail!(
                "Xray ended while starting, {ended}:\n{}",
                tail(&log_path, TAIL_LINES)
            )
        }
        Err(error) => Err(error).context(tail(&log_path, TAIL_LINES)),
    }
}
