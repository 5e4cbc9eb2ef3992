//! The state folder on a file system of 1 MiB that fills up: users are served all the same, the status
//! tells why nothing is counted, and when there is room again every byte is billed, without a restart.
//! (One that turns read-only under open files cannot be made by hand: Linux refuses it as busy.)
//!
//! It mounts, so it is not among the tests of `cargo test`: `.ci/run` runs it under `unshare -Urm`, in
//! a name space of its own.

#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../lab/mod.rs"]
mod lab;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::secrets::nth_uuid;
use lab::stats::user_counters;
use lab::{Agent, AgentCommand, Client, Origin, Panel, ServerConfig, Xray, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

const TAG: &str = "in-vless";
const TOKEN: &str = "small-disk";
/// Enough that their rows take more than what is left beside the filler.
const USERS: u32 = 240;
/// Twenty times what anything here takes: a bound against hanging, not a figure.
const LONG: Duration = Duration::from_mins(1);

/// A mounted file system, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Result<Self> {
        own_name_space()?;
        fs::create_dir_all(at)?;
        mount(&["-t", "tmpfs", "-o", "size=1m,mode=700", "small"], at)?;
        Ok(Self(at.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<()> {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())?;
        for size in [4_096, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// As root outside of one, it would mount for the whole machine.
fn own_name_space() -> Result<()> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let is_own = map.split_whitespace().nth(2) == Some("1");
    ensure!(
        is_own,
        "run this as .ci/run does: `unshare -Urm cargo test --test small_disk`; where that is \
         refused, user name spaces have to be allowed (sysctl kernel.unprivileged_userns_clone=1 \
         or kernel.apparmor_restrict_unprivileged_userns=0)"
    );
    Ok(())
}

fn mount(arguments: &[&str], at: &Path) -> Result<()> {
    let mut command = Command::new("mount");
    let done = command.args(arguments).arg(at).output();
    let done = done.context("`mount` (package util-linux) is missing")?;
    if !done.status.success() {
        bail!("mount: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

struct Stage {
    panel: Panel,
    xray: Xray,
    client: Client,
    origin: Origin,
    disk: Disk,
    _folder: TempDir,
    command: AgentCommand,
}

impl Stage {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Disk::mount(&folder.path().join("state"))?;
        let mut server = ServerConfig::new().vless(TAG);
        let users: Vec<_> = (0..USERS).map(nth_uuid).collect();
        for user in &users {
            server = server.with_client(TAG, json!({"id": user, "email": user}));
        }
        let routes: Vec<_> = users.iter().map(|user| server.route(TAG, user)).collect();
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, users);
        let client = Client::start_many(&routes).await?;
        let xray = Xray::start(server).await?;
        let command = AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent"))
            .env("PANEL_BASE_URL", panel.base_url())
            .env("INTERNAL_API_KEY", TOKEN)
            .env("NODE_IDS", "1")
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", xray.api_addr())
            .env("XRAY_TAG_MAP", format!("1:{TAG}"))
            .env("INTERVAL_SECONDS", "0.3")
            .env("OUTPUT_DIR", folder.path())
            .env("STATE_DIR", folder.path().join("state"))
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.3")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5");
        Ok(Self {
            panel,
            xray,
            client,
            origin: Origin::start().await?,
            disk,
            _folder: folder,
            command,
        })
    }

    async fn everybody_moves(&self, bytes: u64) -> Result<()> {
        for user in 20..USERS as usize {
            self.client
                .transfer(user, &self.origin, bytes, 2 * bytes)
                .await?;
        }
        Ok(())
    }

    async fn traffic(&self) -> Result<Value> {
        let said = self
            .command
            .clone()
            .args(["status", "--json"])
            .run_to_end(LONG)
            .await?;
        let status: Value = serde_json::from_str(&said.stdout)?;
        Ok(status["traffic"].clone())
    }

    /// Waits until the status says that there is no room; what the ledger gives back is taken, too.
    async fn is_full(&self, agent: &Agent) -> Result<()> {
        let said = eventually("the status says why", LONG, async || {
            self.disk.fill().ok()?;
            let traffic = self.traffic().await.ok()?;
            let why = traffic["ledger_error"].as_str()?;
            why.contains("no space").then_some(())
        });
        said.await.with_context(|| agent.log())
    }

    /// The panel allows others: Xray has them.
    async fn users_become(&self, agent: &Agent, users: std::ops::Range<u32>) -> Result<()> {
        let count = u64::from(users.end - users.start);
        self.panel.set_users(1, users.map(nth_uuid).collect());
        let done = eventually("Xray has other users", LONG, async || {
            self.status_users().await.is_ok_and(|live| live == count)
        });
        done.await.with_context(|| agent.log())
    }

    async fn status_users(&self) -> Result<u64> {
        let said = self
            .command
            .clone()
            .args(["status", "--json"])
            .run_to_end(LONG)
            .await?;
        let status: Value = serde_json::from_str(&said.stdout)?;
        let live = &status["nodes"][0]["inbounds"][0]["live"];
        live.as_u64().with_context(|| format!("{status:#}"))
    }

    async fn all_is_billed(&self, agent: &mut Agent) -> Result<()> {
        let counters = user_counters(&self.xray.api_addr()).await?;
        let billed = eventually("every byte is billed", LONG, async || {
            let exact =
                |(user, bytes): (&String, &(u64, u64))| self.panel.billed(1, user) == *bytes;
            counters.iter().all(exact)
        });
        billed.await.with_context(|| agent.log())?;
        ensure!(agent.is_alive(), "{}", agent.log());
        ensure!(self.panel.repeats() == 0);
        let traffic = self.traffic().await?;
        ensure!(traffic["ledger_error"].is_null(), "{traffic:#}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_loses_no_byte() -> Result<()> {
    let stage = Stage::new().await?;
    let mut agent = stage.command.spawn()?;
    eventually("the ledger is begun", LONG, async || {
        let traffic = stage.traffic().await.unwrap_or_default();
        !traffic["xrays"][0]["collected_at"].is_null()
    })
    .await
    .with_context(|| agent.log())?;
    // Before anybody has a row: the ledger has to grow, and cannot.
    stage.disk.fill()?;
    stage.everybody_moves(1_000).await?;
    stage.is_full(&agent).await?;
    stage.users_become(&agent, 10..USERS + 20).await?;
    stage.everybody_moves(3_000).await?;
    ensure!(
        stage.panel.billed_total() == (0, 0),
        "the disk was never full"
    );
    fs::remove_file(stage.disk.filler())?;
    stage.all_is_billed(&mut agent).await?;
    // It has what it needs now, and the disk stays as small as it is.
    stage.everybody_moves(5_000).await?;
    stage.all_is_billed(&mut agent).await?;
    ensure!(agent.terminate(LONG).await?.success(), "{}", agent.log());
    Ok(())
}
