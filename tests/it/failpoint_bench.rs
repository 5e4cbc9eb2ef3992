//! A panel, an agent's folder and an inbound, to be set back to what they were: what
//! [`failpoints`](crate::failpoints) crashes agents on. Benches share one Xray, and so its counters;
//! each has an inbound of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use uuid::Uuid;

use crate::lab::ledger::Ledger;
use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Answer, Fault, Panel, eventually};
use crate::ledger_file::{ByUser, Holdings, copy_folder, ledger_of, state_of};
use crate::life::vless_entry;
use crate::support::{Api, LONG, TOKEN, agent};

/// Of whom the first [`EARLY`] have bytes before any crash, and all but the first after.
pub const USERS: u32 = 4;
/// As many as there are things to decide: one taken and one not taken, both in doubt, and one refused.
pub const EARLY: u32 = 3;
/// Live now and then without being allowed. He has no bytes.
const LEAVER: u32 = USERS + 1;
/// Runs without a crash until everything is where it belongs: one that sends, and one to spare.
const RUNS_MAX: usize = 4;

/// What the panel is, and what the agent knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It drops repeats and has shown it: all is billed, exactly, by itself.
    Shown,
    /// It drops repeats and has not shown it yet. What is in doubt before it does may be held.
    Unshown,
    /// It counts whatever comes: what is in doubt is held and never sent again.
    Naive,
    /// As naive, and there is something for a person to decide from the beginning.
    Held,
}

impl Kind {
    fn dedupes(self) -> bool {
        matches!(self, Self::Shown | Self::Unshown)
    }
}

/// A panel, an agent's folder and an inbound.
pub struct Bench {
    kind: Kind,
    panel: Panel,
    folder: TempDir,
    /// Without anything that says what to do.
    command: AgentCommand,
    api: Api,
    tag: String,
}

/// How a bench was.
pub struct Copy {
    state: TempDir,
    books: Ledger,
    has_leaver: bool,
}

impl Bench {
    /// With one agent's run behind it, which carried the early bytes.
    pub async fn new(kind: Kind, address: &str, tag: String) -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, (0..=USERS).map(nth_uuid).collect());
        panel.set_dedupes(kind == Kind::Shown);
        let folder = memory_folder()?;
        let on_unknown = if kind.dedupes() { "auto" } else { "hold" };
        let file = folder.path().join("agent.toml");
        let toml = format!(
            "[apply]\nmode = \"xray-grpc\"\n[[xray]]\naddress = \"{address}\"\n\
             [[node]]\nid = 1\ninbounds = [{{ tag = \"{tag}\" }}]\n\
             [traffic]\nfirst_read = \"count\"\non_unknown = \"{on_unknown}\"\n"
        );
        std::fs::write(&file, toml)?;
        let command = agent(&panel.base_url(), folder.path())
            .env("RUST_LOG", "info")
            .arg("--config")
            .arg(file);
        let bench = Self {
            kind,
            panel,
            folder,
            command,
            api: Api::connect(address).await?,
            tag,
        };
        bench.begin().await?;
        Ok(bench)
    }

    async fn begin(&self) -> Result<()> {
        if self.kind == Kind::Held {
            self.panel.script_report_faults(|number| match number {
                1 => Some(Fault::AcceptThenClose),
                2 => Some(Fault::Instead(Answer::html(502))),
                _ => Some(Fault::Instead(Answer::error(400, "not today"))),
            });
        }
        let first = self.run().run_to_end(LONG).await?;
        let held = held_in(&self.ledger())?;
        let (to_decide, taken) = match self.kind {
            Kind::Held => (EARLY, 1),
            _ => (0, EARLY),
        };
        ensure!(held.len() == to_decide as usize, "{}", first.stderr);
        ensure!(self.panel.reports().len() == taken as usize, "{held:#?}");
        self.panel.set_report_fault(None);
        self.panel.set_dedupes(self.kind.dedupes());
        Ok(())
    }

    fn run(&self) -> AgentCommand {
        self.command.clone().arg("--once")
    }

    fn ledger(&self) -> PathBuf {
        ledger_of(self.folder.path())
    }

    pub async fn copy(&mut self) -> Result<Copy> {
        let state = memory_folder()?;
        copy_folder(&state_of(self.folder.path()), state.path())?;
        Ok(Copy {
            state,
            books: self.panel.books(),
            has_leaver: self.has_leaver().await?,
        })
    }

    pub async fn set_back(&mut self, copy: &Copy) -> Result<()> {
        self.panel.set_books(copy.books.clone());
        self.set_leaver(copy.has_leaver).await?;
        copy_folder(copy.state.path(), &state_of(self.folder.path()))
    }

    async fn has_leaver(&mut self) -> Result<bool> {
        let live = self.api.emails(&self.tag).await?;
        Ok(live.contains(&nth_uuid(LEAVER)))
    }

    async fn set_leaver(&mut self, live: bool) -> Result<()> {
        let leaver = nth_uuid(LEAVER);
        match (self.has_leaver().await?, live) {
            (false, true) => {
                let entry = vless_entry(&leaver, &leaver);
                self.api.add(&self.tag, entry).await
            }
            (true, false) => self.api.remove(&self.tag, &leaver).await,
            _ => Ok(()),
        }
    }

    /// Does what ends at that place, if it comes there; whether it did.
    pub async fn crash(&mut self, at: &str) -> Result<bool> {
        if at.starts_with("ledger.decide.") {
            return self.crash_decision(at).await;
        }
        if at.starts_with("ledger.collect.") && at.ends_with(":2") {
            // Counters are read before and after a removal.
            self.set_leaver(true).await?;
        }
        self.crash_run(at).await
    }

    /// A run that ends at that place. What the killed one had under way has reached the panel by then,
    /// or never does.
    async fn crash_run(&mut self, at: &str) -> Result<bool> {
        let run = self.run().env("XRAY_AGENT_FAILPOINT", at);
        let ended = run.run_to_end(LONG).await?;
        self.panel.pause().await;
        // A process that is just being started has a copy of every socket for a moment.
        eventually("the panel is back", LONG, async || {
            self.panel.resume().await.is_ok()
        })
        .await?;
        Ok(ended.code.is_none())
    }

    /// A person decides of all that is held; the last decision ends at that place.
    async fn crash_decision(&self, at: &str) -> Result<bool> {
        let held = held_in(&self.ledger())?;
        let Some((last, others)) = held.split_last() else {
            return Ok(false);
        };
        for report in others {
            let done = self.decision(report).run_to_end(LONG).await?;
            ensure!(done.code == Some(0), "{report:?}: {done:#?}");
        }
        let decision = self.decision(last).env("XRAY_AGENT_FAILPOINT", at);
        let ended = decision.run_to_end(LONG).await?;
        Ok(ended.code.is_none())
    }

    /// What an operator does who has looked into the panel.
    fn decision(&self, report: &HeldReport) -> AgentCommand {
        let command = self.command.clone().arg("traffic");
        if report.refused {
            return command.args(["retry", &report.key]);
        }
        let taken = self.keys_taken().contains(&report.key);
        let outcome = if taken { "delivered" } else { "not-delivered" };
        command.args(["resolve", &report.key, outcome])
    }

    fn keys_taken(&self) -> BTreeSet<String> {
        let counted = self.panel.reports().into_iter().filter(|it| it.counted);
        counted.filter_map(|report| report.key).collect()
    }

    /// Runs without a crash, until nothing moves any more.
    pub async fn settle(&self) -> Result<Holdings> {
        for _ in 0..RUNS_MAX {
            let run = self.run().run_to_end(LONG).await?;
            ensure!(run.code.is_some(), "{run:#?}");
            let holdings = Holdings::read(&self.ledger())?;
            if !holdings.moves() {
                return Ok(holdings);
            }
        }
        let holdings = Holdings::read(&self.ledger())?;
        anyhow::bail!("after {RUNS_MAX} runs there is still {holdings:?}")
    }

    /// Every byte is in the ledger, and the panel lacks what is held and never reached it, and nothing
    /// else; it has nothing twice.
    pub fn judge(&self, holdings: &Holdings, counted: &ByUser) -> Result<()> {
        ensure!(holdings.all() == *counted, "{counted:?}: {holdings:#?}");
        let held = held_in(&self.ledger())?;
        ensure!(self.kind != Kind::Shown || held.is_empty(), "{held:#?}");
        let taken = self.keys_taken();
        let times = self.panel.reports();
        let times = times.iter().filter(|report| report.counted).count();
        ensure!(times == taken.len(), "{times} reports, keys: {taken:#?}");
        let lacks = held.iter().filter(|report| !taken.contains(&report.key));
        let lacks: Vec<_> = lacks.collect();
        for (user, bytes) in counted {
            let of_user = lacks.iter().filter(|report| report.user == *user);
            let billed = self.panel.billed(1, user);
            let all = of_user.fold(billed, |(up, down), it| {
                (up + it.bytes.0, down + it.bytes.1)
            });
            ensure!(all == *bytes, "{user}: {billed:?} and {lacks:#?}");
        }
        Ok(())
    }
}

/// A report that only a person moves.
#[derive(Debug)]
struct HeldReport {
    /// Its number, by which the panel knows it.
    key: String,
    user: String,
    /// Up and down.
    bytes: (u64, u64),
    /// By the panel, for good. Otherwise in doubt.
    refused: bool,
}

/// Refused ones first, the oldest first of each.
fn held_in(ledger: &Path) -> Result<Vec<HeldReport>> {
    // Nothing is written: the next agent finds the log as the killed one left it.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = Connection::open_with_flags(ledger, flags).context("opening the ledger")?;
    let mut query = ledger.prepare(
        "SELECT id, user, up, down, state = 'rejected' AS refused FROM report
         WHERE state IN ('rejected', 'unknown') ORDER BY state, seq",
    )?;
    let mut rows = query.query([])?;
    let mut held = Vec::new();
    while let Some(row) = rows.next()? {
        let (up, down): (i64, i64) = (row.get("up")?, row.get("down")?);
        held.push(HeldReport {
            key: Uuid::from_bytes(row.get("id")?).to_string(),
            user: Uuid::from_bytes(row.get("user")?).to_string(),
            bytes: (up.try_into()?, down.try_into()?),
            refused: row.get("refused")?,
        });
    }
    Ok(held)
}

/// Where syncs cost nothing: a killed process loses nothing that it wrote there.
fn memory_folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    Ok(made?)
}
