//! What the campaign plays on: a real Xray, the users' real Xray client, a panel with faults, and the
//! agent. It kills and revives, and says what Xray counted.
//!
//! Invariant: two starts of Xray are far enough apart to be told from each other by their clocks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use super::books::{Books, Users};
use super::dice::Dice;
use super::faults::Faults;
use super::load::Load;
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{Agent, AgentCommand, Client, Origin, Panel, ServerConfig, Xray, eventually};

pub const NODE: u64 = 1;
const TAG: &str = "in-vless";
const TOKEN: &str = "chaos-token";
/// How often the agent reads Xray's counters.
pub const COLLECT: Duration = Duration::from_millis(300);
/// A bound against hanging, also after a minute's pause of the agent's.
pub const LONG: Duration = Duration::from_mins(3);
/// Xrays that start within four seconds may be one and the same to the ledger, which then counts less;
/// a start is known to a second and some.
const BETWEEN_STARTS: Duration = Duration::from_secs(7);
/// Between two looks at Xray's counters that are to show that they stand still: many times what a
/// last byte needs from one socket to the next.
const STILL: Duration = Duration::from_millis(100);

pub struct Stage {
    pub panel: Panel,
    pub faults: Arc<Faults>,
    pub load: Load,
    xray: Xray,
    xray_started: Instant,
    agent: Agent,
    command: AgentCommand,
    folder: TempDir,
    /// Every boot that the ledger ever knew.
    boots: Mutex<BTreeSet<i64>>,
}

impl Stage {
    /// Everything runs when it returns, and the ledger knows the first boot of Xray.
    pub async fn set(
        agent: AgentCommand,
        users: u32,
        dedupes: bool,
        dice: &mut Dice,
    ) -> Result<Self> {
        let server = ServerConfig::new().vless(TAG);
        let routes: Vec<_> = (0..users)
            .map(|n| server.route(TAG, &nth_uuid(n)))
            .collect();
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(NODE, (0..users).map(nth_uuid).collect());
        panel.set_dedupes(dedupes);
        let faults = Faults::plant(&panel, dedupes, dice.fork());
        let xray = Xray::start(server).await?;
        let client = Client::start_many(&routes).await?;
        let folder = tempfile::tempdir()?;
        let command = agent
            .env("PANEL_BASE_URL", panel.base_url())
            .env("INTERNAL_API_KEY", TOKEN)
            .env("NODE_IDS", NODE.to_string())
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", xray.api_addr())
            .env("XRAY_TAG_MAP", format!("{NODE}:{TAG}"))
            .env("OUTPUT_DIR", folder.path())
            .env("INTERVAL_SECONDS", "1")
            .env("HTTP_TIMEOUT_SECONDS", "1")
            .env(
                "TRAFFIC_COLLECT_INTERVAL_SECONDS",
                format!("{}ms", COLLECT.as_millis()),
            )
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.5");
        let mut stage = Self {
            agent: command.spawn()?,
            load: Load::new(client, Origin::start().await?, routes.len()),
            panel,
            faults,
            xray,
            xray_started: Instant::now(),
            command,
            folder,
            boots: Mutex::default(),
        };
        stage.knows(1).await?;
        stage.load.begin(dice);
        Ok(stage)
    }

    /// `None` as long as the agent has not made one.
    pub fn books(&self) -> Result<Option<Books>> {
        let state: PathBuf = self.folder.path().join(".xray-agent");
        Books::open(&state)
    }

    /// How many boots of Xray the ledger ever took for different ones: they come apart so far that
    /// each is seen here before the ledger forgets it.
    pub fn boots(&self) -> Result<i64> {
        let books = self.books()?.context("there is no ledger")?;
        let mut known = self.boots.lock().expect("nobody panics with it");
        known.extend(books.boots()?);
        Ok(i64::try_from(known.len())?)
    }

    /// What the agent has collected of that boot, the first being 1.
    pub fn collected(&self, boot: i64) -> Result<Users> {
        self.boots()?;
        let known = self.boots.lock().expect("nobody panics with it");
        let id = known.iter().nth(usize::try_from(boot - 1)?).copied();
        let books = self.books()?.context("there is no ledger")?;
        books.collected(id.context("the ledger does not know that boot yet")?)
    }

    /// What Xray counted in its present boot, by user.
    pub async fn counted(&self) -> Result<Users> {
        let counters = user_counters(&self.xray.api_addr()).await?;
        let pairs = counters
            .into_iter()
            .map(|(user, bytes)| (user, bytes.into()));
        Ok(pairs.collect())
    }

    /// The same, once it stands still.
    pub async fn counted_for_good(&self) -> Result<Users> {
        let mut before = self.counted().await?;
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            sleep(STILL).await;
            let now = self.counted().await?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        anyhow::bail!("Xray's counters do not stand still although nobody moves anything")
    }

    pub async fn kill_agent(&mut self) -> Result<()> {
        self.agent.kill9().await
    }

    /// Starts it unless it runs.
    pub fn revive_agent(&mut self) -> Result<()> {
        if !self.agent.is_alive() {
            self.agent = self.command.spawn()?;
        }
        Ok(())
    }

    /// A clean end.
    pub async fn end_agent(&mut self) -> Result<()> {
        let ended = self.agent.terminate(LONG).await?;
        anyhow::ensure!(ended.success(), "the agent ended with {ended}");
        Ok(())
    }

    pub fn agent_log(&self) -> String {
        self.agent.log()
    }

    /// Until Xray may be killed and started again.
    pub async fn xray_has_lived(&self) {
        sleep_until(self.xray_started + BETWEEN_STARTS).await;
    }

    pub async fn kill_xray(&mut self) -> Result<()> {
        self.load.boot_ends();
        self.xray.kill().await
    }

    pub async fn revive_xray(&mut self) -> Result<()> {
        self.xray.restart().await?;
        self.xray_started = Instant::now();
        self.load.boot_begins();
        Ok(())
    }

    /// Waits until the ledger knows so many boots of Xray.
    pub async fn knows(&self, boots: i64) -> Result<()> {
        let what = format!("the agent sees boot {boots} of Xray");
        eventually(&what, LONG, async || {
            self.boots().is_ok_and(|seen| seen >= boots)
        })
        .await
        .with_context(|| self.agent_log())
    }

    /// Waits until the agent has collected `counted` of that boot, and more for all we care.
    pub async fn has_collected(&self, boot: i64, counted: &Users) -> Result<()> {
        eventually("the agent collects what Xray counted", LONG, async || {
            let collected = self.collected(boot).unwrap_or_default();
            super::verdict::all_within(counted, &collected)
        })
        .await
        .with_context(|| self.agent_log())
    }
}
