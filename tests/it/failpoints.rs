//! The agent is killed before or after a commit or a send, and the next one at another such place, in
//! every pair of them. In the end what the panel was told and what the ledger holds come to what Xray
//! counted, to the byte, and nothing was counted twice.
//!
//! Each pair begins with the same first crash, so that one is made once and its outcome is copied for
//! every second one. Three kinds of panel: see [`Kind`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::lab::ledger::Ledger;
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{AgentCommand, Client, Origin, Panel, ServerConfig, Xray, eventually};
use crate::ledger_file::{ByUser, Holdings, copy_folder, ledger_of, state_of};
use crate::support::{LONG, TOKEN, agent};

const TAG: &str = "in-vless";
/// Of whom the first has bytes before any crash, and the others after.
const USERS: u32 = 4;
/// Agents at work at once.
const AT_ONCE: usize = 4;
/// Runs without a crash until everything is where it belongs: one that sends, and one to spare.
const RUNS_MAX: usize = 4;

/// Where every agent can be ended. `turn` is reached first with nothing to send, then with all that is
/// to be sent, then with what became of it.
const EVERYWHERE: &[&str] = &[
    "ledger.orphans.before_commit",
    "ledger.orphans.after_commit",
    "ledger.collect.before_commit",
    "ledger.collect.after_commit",
    "ledger.close.before_commit",
    "ledger.close.after_commit",
    "ledger.turn.before_commit:2",
    "ledger.turn.after_commit:2",
    "ledger.turn.before_commit:3",
    "ledger.turn.after_commit:3",
    "report.before_send",
    "report.after_send",
    "report.after_send:3",
];
/// Where one that sends unknown reports again can be.
const RESENDING: &[&str] = &[
    "ledger.release.before_commit",
    "ledger.release.after_commit",
];
/// Where one that has just learnt that the panel drops repeats can be.
const LEARNING: &[&str] = &["ledger.sink.before_commit", "ledger.sink.after_commit"];

/// What the panel is, and what the agent knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It drops repeats and has shown it: all is billed, exactly, by itself.
    Shown,
    /// It drops repeats and has not shown it yet. What is in doubt before it does may be held.
    Unshown,
    /// It counts whatever comes: what is in doubt is held and never sent again.
    Naive,
}

impl Kind {
    /// All pairs, by the first of each.
    fn pairs(self) -> Vec<(&'static str, Vec<&'static str>)> {
        let of = |lists: &[&[&'static str]]| lists.concat();
        match self {
            Self::Shown => each(&of(&[EVERYWHERE, RESENDING]), &of(&[EVERYWHERE, RESENDING])),
            Self::Naive => each(EVERYWHERE, EVERYWHERE),
            // The others are those of a panel that has shown it.
            Self::Unshown => [
                each(LEARNING, &of(&[EVERYWHERE, RESENDING, LEARNING])),
                each(&of(&[EVERYWHERE, RESENDING]), LEARNING),
            ]
            .concat(),
        }
    }
}

fn each(first: &[&'static str], second: &[&'static str]) -> Vec<(&'static str, Vec<&'static str>)> {
    first.iter().map(|a| (*a, second.to_vec())).collect()
}

/// A panel and an agent's folder, both to be set back to what they were.
struct Bench {
    kind: Kind,
    panel: Panel,
    folder: TempDir,
    command: AgentCommand,
}

/// How a bench was.
struct Copy {
    state: TempDir,
    books: Ledger,
}

impl Bench {
    /// With one agent's run behind it, which carried the first user's bytes.
    async fn new(kind: Kind, api: &str) -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, (0..=USERS).map(nth_uuid).collect());
        panel.set_dedupes(kind == Kind::Shown);
        let folder = memory_folder()?;
        let on_unknown = if kind == Kind::Naive { "hold" } else { "auto" };
        let file = folder.path().join("agent.toml");
        let toml = format!(
            "[apply]\nmode = \"xray-grpc\"\n[[xray]]\naddress = \"{api}\"\n\
             [[node]]\nid = 1\ninbounds = [{{ tag = \"{TAG}\" }}]\n\
             [traffic]\nfirst_read = \"count\"\non_unknown = \"{on_unknown}\"\n"
        );
        std::fs::write(&file, toml)?;
        let command = agent(&panel.base_url(), folder.path())
            .env("RUST_LOG", "info")
            .arg("--config")
            .arg(file)
            .arg("--once");
        let bench = Self {
            kind,
            panel,
            folder,
            command,
        };
        let first = bench.command.run_to_end(LONG).await?;
        ensure!(first.code == Some(0), "{}", first.stderr);
        ensure!(bench.panel.reports().len() == 1, "{}", first.stderr);
        bench.panel.set_dedupes(kind != Kind::Naive);
        Ok(bench)
    }

    fn ledger(&self) -> PathBuf {
        ledger_of(self.folder.path())
    }

    fn copy(&self) -> Result<Copy> {
        let state = memory_folder()?;
        copy_folder(&state_of(self.folder.path()), state.path())?;
        let books = self.panel.books();
        Ok(Copy { state, books })
    }

    fn set_back(&self, copy: &Copy) -> Result<()> {
        self.panel.set_books(copy.books.clone());
        copy_folder(copy.state.path(), &state_of(self.folder.path()))
    }

    /// A run that ends at that place, if it comes there; whether it did. What the killed one had under
    /// way has reached the panel by then, or never does.
    async fn crash(&mut self, at: &str) -> Result<bool> {
        let command = self.command.clone().env("XRAY_AGENT_FAILPOINT", at);
        let ended = command.run_to_end(LONG).await?;
        self.panel.pause().await;
        // A process that is just being started has a copy of every socket for a moment.
        eventually("the panel is back", LONG, async || {
            self.panel.resume().await.is_ok()
        })
        .await?;
        Ok(ended.code.is_none())
    }

    /// Runs without a crash, until nothing moves any more.
    async fn settle(&self) -> Result<Holdings> {
        for _ in 0..RUNS_MAX {
            let run = self.command.run_to_end(LONG).await?;
            ensure!(run.code.is_some(), "{run:#?}");
            let holdings = Holdings::read(&self.ledger())?;
            if !holdings.moves() {
                return Ok(holdings);
            }
        }
        let holdings = Holdings::read(&self.ledger())?;
        anyhow::bail!("after {RUNS_MAX} runs there is still {holdings:?}")
    }

    fn judge(&self, holdings: &Holdings, counted: &ByUser) -> Result<()> {
        ensure!(holdings.all() == *counted, "{counted:?}: {holdings:#?}");
        let billed = |user: &String| self.panel.billed(1, user);
        for (user, bytes) in counted {
            let billed = billed(user);
            ensure!(
                billed.0 <= bytes.0 && billed.1 <= bytes.1,
                "{user}: {billed:?}"
            );
        }
        if self.kind == Kind::Shown {
            let exact = counted.iter().all(|(user, bytes)| billed(user) == *bytes);
            ensure!(exact && holdings.users("unknown") == 0, "{holdings:#?}");
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for report in self.panel.reports().iter().filter(|report| report.counted) {
            let key = report.key.clone().context("a report without a key")?;
            *counts.entry(key).or_default() += 1;
        }
        ensure!(counts.values().all(|count| *count == 1), "{counts:#?}");
        Ok(())
    }
}

/// Where syncs cost nothing: a killed process loses nothing that it wrote there.
fn memory_folder() -> Result<TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    Ok(made?)
}

/// All pairs of one kind, on several benches at once; the places that were reached.
async fn all_pairs(kind: Kind, benches: Vec<Bench>, counted: &ByUser) -> Result<BTreeSet<String>> {
    let left = Mutex::new(kind.pairs());
    let reached = Mutex::new(BTreeSet::new());
    let next = || left.lock().unwrap().pop();
    let work = benches.into_iter().map(async |mut bench| {
        let begin = bench.copy()?;
        while let Some((first, seconds)) = next() {
            bench.set_back(&begin)?;
            if bench.crash(first).await? {
                reached.lock().unwrap().insert(first.to_owned());
            }
            let crashed = bench.copy()?;
            for second in seconds {
                bench.set_back(&crashed)?;
                if bench.crash(second).await? {
                    reached.lock().unwrap().insert(second.to_owned());
                }
                let judged = match bench.settle().await {
                    Ok(holdings) => bench.judge(&holdings, counted),
                    Err(error) => Err(error),
                };
                judged.with_context(|| format!("{kind:?}: {first}, then {second}"))?;
            }
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    Ok(reached.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pair_of_crashes_loses_a_byte_or_bills_one_twice() -> Result<()> {
    let mut server = ServerConfig::new().vless(TAG);
    let users: Vec<_> = (0..=USERS).map(nth_uuid).collect();
    for user in &users {
        server = server.with_client(TAG, json!({"id": user, "email": user}));
    }
    let routes: Vec<_> = users.iter().map(|user| server.route(TAG, user)).collect();
    let (client, origin) = (Client::start_many(&routes).await?, Origin::start().await?);
    let xray = Xray::start(server).await?;
    client.transfer(0, &origin, 1_000, 2_000).await?;

    let api = xray.api_addr();
    let mut benches = Vec::new();
    for kind in [Kind::Shown, Kind::Naive, Kind::Unshown] {
        let some = (0..AT_ONCE).map(|_| Bench::new(kind, &api));
        benches.push((kind, try_join_all(some).await?));
    }
    for user in 1..=USERS {
        let bytes = 1_000 * u64::from(user);
        let which = usize::try_from(user)?;
        client.transfer(which, &origin, bytes, 3 * bytes).await?;
    }
    let counted = user_counters(&api).await?;

    let mut reached = BTreeSet::new();
    for (kind, benches) in benches {
        reached.extend(all_pairs(kind, benches, &counted).await?);
    }
    let all = [EVERYWHERE, RESENDING, LEARNING].concat();
    let all: BTreeSet<String> = all.into_iter().map(str::to_owned).collect();
    ensure!(reached == all, "never reached: {:?}", &all - &reached);
    Ok(())
}
