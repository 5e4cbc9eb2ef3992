//! A ledger that is damaged, old or of a newer agent: it is found, kept and told of; nobody is cut off,
//! and nothing is billed twice.
//!
//! One ledger with bytes in every place is made once, beside an Xray that goes on counting; each case
//! is a copy of it that something was done to, with the panel as it was then.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::agent::Signal;
use crate::lab::ledger::Ledger;
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{
    AgentCommand, Answer, Client, Fault, Origin, Panel, ServerConfig, Xray, eventually,
};
use crate::ledger_file::{ByUser, Holdings, copy_folder, ledger_of, state_of};
use crate::stage::status;
use crate::support::{Api, LONG, TOKEN, agent, folder};

const TAG: &str = "in-vless";
/// One for each place of the ledger, one whose bytes it has not seen, and one without any.
const USERS: u32 = 7;
/// Where bytes are.
const PLACES: [&str; 5] = ["settled", "rejected", "unknown", "pending", "open"];
/// Bits that are flipped in the database, each in a copy of its own.
const FLIPS: u64 = 60;
/// Cases at once.
const AT_ONCE: usize = 4;
/// The same in the log that a killed agent left.
const FLIPS_OF_LOG: u64 = 20;

/// What all cases share.
struct Made {
    xray: Xray,
    counted: ByUser,
    books: Ledger,
    /// A state folder whose agent was killed: its log was not taken in.
    killed: TempDir,
    /// The same, with everything in the database.
    whole: TempDir,
    /// The same before the last run.
    older: TempDir,
}

fn command(panel: &Panel, folder: &Path, api: &str) -> Result<AgentCommand> {
    let file = folder.join("agent.toml");
    let toml = format!(
        "[apply]\nmode = \"xray-grpc\"\n[[xray]]\naddress = \"{api}\"\n\
         [[node]]\nid = 1\ninbounds = [{{ tag = \"{TAG}\" }}]\n"
    );
    fs::write(&file, toml)?;
    Ok(agent(&panel.base_url(), folder)
        .env("RUST_LOG", "trace")
        .arg("--config")
        .arg(file))
}

async fn make() -> Result<Made> {
    let mut server = ServerConfig::new().vless(TAG);
    let users: Vec<_> = (0..USERS).map(nth_uuid).collect();
    for user in &users {
        server = server.with_client(TAG, json!({"id": user, "email": user}));
    }
    let routes: Vec<_> = users.iter().map(|user| server.route(TAG, user)).collect();
    let (client, origin) = (Client::start_many(&routes).await?, Origin::start().await?);
    let xray = Xray::start(server).await?;
    let (folder, panel) = (folder()?, Panel::start(TOKEN).await?);
    panel.set_users(1, users.clone());
    panel.refuse(&users[1], 403, "no_entitlement_for_node");
    let once = command(&panel, folder.path(), &xray.api_addr())?.arg("--once");
    once.run_to_end(LONG).await?;
    let faults = [
        None,
        None,
        Some(Fault::AcceptThenClose),
        Some(Fault::Instead(Answer::error(500, "db"))),
    ];
    let (older, killed, whole) = (
        crate::support::folder()?,
        crate::support::folder()?,
        crate::support::folder()?,
    );
    let state = state_of(folder.path());
    for (user, fault) in faults.into_iter().enumerate() {
        panel.set_report_fault(fault);
        client.transfer(user, &origin, 1_000, 2_000).await?;
        once.run_to_end(LONG).await?;
    }
    copy_folder(&state, older.path())?;
    // What it sends again and again is under way for moments only: it is ended between two.
    let mut running = command(&panel, folder.path(), &xray.api_addr())?
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.2")
        .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "3600")
        .spawn()?;
    client.transfer(4, &origin, 1_000, 2_000).await?;
    eventually("the ledger holds bytes in every place", LONG, async || {
        running.signal(Signal::STOP).ok()?;
        let holdings = Holdings::read(&state.join("ledger.db")).ok();
        let stands =
            holdings.is_some_and(|holdings| PLACES.iter().all(|place| holdings.users(place) == 1));
        if !stands {
            running.signal(Signal::CONT).ok()?;
        }
        stands.then_some(())
    })
    .await
    .with_context(|| running.log())?;
    running.kill9().await?;
    copy_folder(&state, killed.path())?;
    // Who opens and closes it takes the log in.
    Holdings::read(&state.join("ledger.db"))?;
    copy_folder(&state, whole.path())?;
    client.transfer(5, &origin, 1_000, 2_000).await?;
    panel.set_report_fault(None);
    Ok(Made {
        counted: user_counters(&xray.api_addr()).await?,
        books: panel.books(),
        xray,
        killed,
        whole,
        older,
    })
}

/// A copy, its panel and its agent.
struct Case {
    panel: Panel,
    folder: TempDir,
    command: AgentCommand,
}

impl Case {
    async fn new(made: &Made, from: &TempDir) -> Result<Self> {
        let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
        panel.set_users(1, (0..USERS).map(nth_uuid).collect());
        panel.set_books(made.books.clone());
        copy_folder(from.path(), &state_of(folder.path()))?;
        let command = command(&panel, folder.path(), &made.xray.api_addr())?;
        Ok(Self {
            panel,
            folder,
            command,
        })
    }

    fn ledger(&self) -> PathBuf {
        ledger_of(self.folder.path())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.ledger().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Files that were set aside.
    fn kept(&self) -> Result<Vec<PathBuf>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(state_of(self.folder.path()))? {
            let path = entry?.path();
            if path.to_string_lossy().contains(".corrupt-") {
                kept.push(path);
            }
        }
        Ok(kept)
    }

    fn never_too_much(&self, counted: &ByUser) -> Result<()> {
        for (user, bytes) in counted {
            let billed = self.panel.billed(1, user);
            ensure!(
                billed.0 <= bytes.0 && billed.1 <= bytes.1,
                "{user}: {billed:?} of {bytes:?}"
            );
        }
        Ok(())
    }

    /// A run, and where it finds something another, which goes on. Whether it was set aside.
    async fn passes(&self, made: &Made) -> Result<bool> {
        let mut said = String::new();
        for _ in 0..2 {
            let run = self.command.clone().arg("--once").run_to_end(LONG).await?;
            ensure!(run.code.is_some(), "{run:#?}");
            ensure!(!run.stderr.contains("fault of the agent"), "{}", run.stderr);
            said.push_str(&run.stderr);
            if run.code == Some(0) {
                break;
            }
        }
        self.never_too_much(&made.counted).context(said.clone())?;
        let mut live = Api::connect(&made.xray.api_addr()).await?;
        ensure!(live.emails(TAG).await?.len() == USERS as usize, "{said}");
        let kept = self.kept()?;
        for path in &kept {
            let name = path.to_string_lossy();
            let is_database = name.contains("ledger.db.corrupt-");
            ensure!(!is_database || said.contains(&*name), "{name}: {said}");
        }
        Ok(!kept.is_empty())
    }
}

/// Flips one bit of a file, chosen by `seed`; more often one that is not among zeros.
fn flip(file: &Path, seed: u64) -> Result<()> {
    let mut bytes = fs::read(file)?;
    ensure!(!bytes.is_empty(), "{} is empty", file.display());
    let mut state = seed;
    let mut draw = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("invariant: 31 bits")
    };
    let mut at = draw() % bytes.len();
    while !seed.is_multiple_of(4) && bytes[at] == 0 {
        at = draw() % bytes.len();
    }
    bytes[at] ^= 1 << (draw() % 8);
    fs::write(file, bytes)?;
    Ok(())
}

/// Copies of `from`, each with another bit flipped in the file that `place` gives; in how many of them
/// that was found.
async fn flips(
    made: &Made,
    from: &TempDir,
    count: u64,
    place: impl Fn(&Case) -> PathBuf,
) -> Result<usize> {
    let place = &place;
    let cases = (0..count).map(async |seed| {
        let case = Case::new(made, from).await?;
        flip(&place(&case), seed)?;
        let set_aside = case.passes(made).await;
        set_aside.with_context(|| format!("seed {seed}"))
    });
    let found: Vec<bool> = stream::iter(cases).buffered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().filter(|found| *found).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_bills_nobody_too_much() -> Result<()> {
    let made = make().await?;
    let found = flips(&made, &made.whole, FLIPS, Case::ledger).await?;
    ensure!(found >= 10, "only {found} were found in the database");
    let log = |case: &Case| case.beside("-wal");
    let found = flips(&made, &made.killed, FLIPS_OF_LOG, log).await?;
    ensure!(found >= 3, "only {found} were found in the log");
    Ok(())
}

/// What one bit makes of a row without the file being any less sound to SQLite.
const UNSEEN: &[&str] = &[
    "UPDATE boot SET id = id + 1",
    "UPDATE boot SET xray = 'yray'",
    "UPDATE baseline SET boot = 0 WHERE email = (SELECT min(email) FROM baseline)",
    "UPDATE xray SET name = 'yray'",
    "UPDATE open SET sink = 'qanel'",
    "UPDATE report SET sink = 'qanel' WHERE state = 'pending'",
    "UPDATE report SET state = 'pending' WHERE state = 'unknown'",
    "UPDATE total SET counted_up = counted_up + 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_what_was_written_spoils_the_ledger() -> Result<()> {
    let made = make().await?;
    for sql in UNSEEN {
        let case = Case::new(&made, &made.whole).await?;
        let ledger = Connection::open(case.ledger())?;
        ledger.pragma_update(None, "foreign_keys", false)?;
        ensure!(ledger.execute(sql, [])? > 0, "{sql}");
        drop(ledger);
        let set_aside = case.passes(&made).await;
        ensure!(
            set_aside.with_context(|| (*sql).to_owned())?,
            "not found: {sql}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_none_any_more_is_set_aside_and_begun_anew() -> Result<()> {
    let made = make().await?;
    let length = fs::metadata(made.whole.path().join("ledger.db"))?.len();
    for (what, content) in [
        ("nothing", Vec::new()),
        ("garbage", vec![0x5a; 20_000]),
        (
            "half",
            fs::read(made.whole.path().join("ledger.db"))?[..usize::try_from(length / 2)?].to_vec(),
        ),
        (
            "an old copy",
            fs::read(made.older.path().join("ledger.db"))?,
        ),
    ] {
        let case = Case::new(&made, &made.whole).await?;
        fs::write(case.ledger(), content)?;
        let before = case.panel.billed_total();
        ensure!(
            case.passes(&made).await.context(what)?,
            "{what} was not found"
        );
        ensure!(
            case.panel.billed_total() == before,
            "{what}: what was there is adopted"
        );
        let holdings = Holdings::read(&case.ledger())?;
        ensure!(holdings.all().is_empty(), "{what}: {holdings:#?}");
    }
    Ok(())
}

/// Whoever removes the witness with it says that the copy is the ledger from now on.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_put_back_on_purpose_sends_its_reports_under_their_numbers() -> Result<()> {
    let made = make().await?;
    let case = Case::new(&made, &made.older).await?;
    case.panel.set_dedupes(true);
    let holdings = Holdings::read(&case.ledger())?;
    ensure!(holdings.users("pending") == 1, "{holdings:#?}");
    ensure!(!case.passes(&made).await?, "it was set aside");
    let billed = case.panel.billed(1, &nth_uuid(3));
    ensure!(billed == made.counted[&nth_uuid(3)], "{billed:?}");
    Ok(())
}

/// What the running agent's status says of the ledger.
async fn trouble(command: &AgentCommand) -> Option<String> {
    let status: Value = status(command).await.ok()?;
    status["traffic"]["ledger_error"]
        .as_str()
        .map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_a_newer_agent_is_refused_untouched_and_users_are_served() -> Result<()> {
    let made = make().await?;
    let case = Case::new(&made, &made.whole).await?;
    let ledger = Connection::open(case.ledger())?;
    ledger.pragma_update(None, "user_version", 99)?;
    drop(ledger);
    let before = fs::read(case.ledger())?;
    let billed = case.panel.billed_total();
    let mut running = case.command.spawn()?;
    let said = eventually("the status says so", LONG, async || {
        trouble(&case.command)
            .await
            .filter(|why| why.contains("newer"))
    })
    .await
    .with_context(|| running.log())?;
    ensure!(said.contains("ledger.db"), "{said}");
    let mut users: Vec<_> = (0..USERS).map(nth_uuid).collect();
    users.push(nth_uuid(99));
    case.panel.set_users(1, users);
    let mut live = Api::connect(&made.xray.api_addr()).await?;
    eventually("the new one is served", LONG, async || {
        live.emails(TAG)
            .await
            .is_ok_and(|all| all.contains(&nth_uuid(99)))
    })
    .await?;
    ensure!(
        running.terminate(LONG).await?.success(),
        "{}",
        running.log()
    );
    ensure!(
        fs::read(case.ledger())? == before,
        "the file was written to"
    );
    ensure!(case.kept()?.is_empty() && case.panel.billed_total() == billed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_goes_on_with_a_new_ledger() -> Result<()> {
    let made = make().await?;
    let case = Case::new(&made, &made.whole).await?;
    fs::write(case.ledger(), vec![0x5a; 20_000])?;
    let command = case
        .command
        .clone()
        .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.2");
    let mut running = command.spawn()?;
    let what = "it is set aside, and the next is in use";
    eventually(what, LONG, async || {
        let kept = case.kept().is_ok_and(|kept| !kept.is_empty());
        let status: Value = status(&command).await.unwrap_or_default();
        let traffic = &status["traffic"];
        kept && traffic["ledger_error"].is_null() && !traffic["xrays"][0]["collected_at"].is_null()
    })
    .await
    .with_context(|| running.log())?;
    ensure!(
        running.terminate(LONG).await?.success(),
        "{}",
        running.log()
    );
    case.never_too_much(&made.counted)
}
