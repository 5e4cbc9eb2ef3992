//! `xray-agent status`: one screen of a running agent, or of what one has left, which stays as it is;
//! watched, it sees the agent come and go.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::agent::Signal;
use crate::lab::{Agent, AgentCommand, Answer, Output, Panel, ServerConfig, Xray, eventually};
use crate::ledger_stage::{self, Stage as LedgerStage};
use crate::program::users;
use crate::stage::status;
use crate::support::{LONG, TOKEN, agent, folder};

/// A terminal of the usual size.
const COLUMNS: usize = 80;
const LINES: usize = 24;
const GONE: &str = "no agent is running";

struct Stage {
    panel: Panel,
    _xray: Xray,
    folder: TempDir,
    command: AgentCommand,
}

impl Stage {
    /// Three users are allowed on one node with two inbounds.
    async fn new() -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, users(3));
        let config = ServerConfig::new().vless("in-vless").trojan("in-trojan");
        let xray = Xray::start(config).await?;
        let folder = folder()?;
        let command = agent(&panel.base_url(), folder.path())
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", xray.api_addr())
            .env("XRAY_TAG_MAP", "1:in-vless+in-trojan")
            // What is in the way of cutting is told, and differs by who runs the tests.
            .env("XRAY_KICK", "off");
        Ok(Self {
            panel,
            _xray: xray,
            folder,
            command,
        })
    }

    /// An agent that has made everything equal and has read the counters.
    async fn agent(&self) -> Result<Agent> {
        let agent = self.command.spawn()?;
        eventually("all is equal", LONG, async || {
            let status = status(&self.command).await.ok()?;
            let inbounds = status["nodes"][0]["inbounds"].as_array()?;
            let equal = inbounds.iter().all(|it| it["last_success"].is_string());
            let counted = status["traffic"]["xrays"][0]["collected_at"].is_string();
            (equal && counted).then_some(())
        })
        .await?;
        Ok(agent)
    }

    async fn status(&self, args: &[&str]) -> Result<Output> {
        let command = self.command.clone().arg("status").args(args);
        let shown = command.run_to_end(LONG).await?;
        ensure!(!format!("{shown:?}").contains(TOKEN), "{shown:?}");
        Ok(shown)
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path().join(".xray-agent")
    }
}

/// Every file in the folder and its folders: when it was changed, and what it holds.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, (SystemTime, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.insert(path.clone(), (kind.modified()?, fs::read(path)?));
            }
        }
    }
    Ok(found)
}

/// The cells of the row that begins with these two.
fn row<'a>(shown: &'a str, first: &str, second: &str) -> Result<Vec<&'a str>> {
    let rows = shown.lines().map(|line| {
        let cells = line.split("  ").map(str::trim);
        cells.filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    });
    let mut rows = rows.filter(|cells| cells.len() > 2);
    rows.find(|cells| cells[..2] == [first, second])
        .with_context(|| format!("no row {first} {second} in:\n{shown}"))
}

#[tokio::test]
async fn one_screen_shows_how_a_running_agent_stands() -> Result<()> {
    let stage = Stage::new().await?;
    let agent = stage.agent().await?;
    let shown = stage.status(&[]).await?;
    ensure!(shown.code == Some(0), "{shown:?}");
    let text = &shown.stdout;
    ensure!(text.lines().count() <= LINES, "{text}");
    let widest = text.lines().map(|line| line.chars().count()).max();
    ensure!(widest <= Some(COLUMNS), "{widest:?} columns:\n{text}");
    for words in [
        &format!("process {}", agent.pid()),
        "mode xray-grpc",
        "errors: none",
        "report-traffic: 0 of ",
    ] {
        ensure!(text.contains(words), "{words}:\n{text}");
    }
    let node = row(text, "1", "answers")?;
    ensure!(node[3..] == ["3", "0", "0"], "{node:?}");
    for tag in ["in-vless", "in-trojan"] {
        let inbound = row(text, "1", tag)?;
        ensure!(inbound[2..7] == ["3", "3", "0", "0", "0"], "{inbound:?}");
        ensure!(inbound[7].ends_with(" ago"), "{inbound:?}");
    }
    ensure!(row(text, "xray", "yes")?[2].ends_with(" ago"), "{text}");
    let tasks = text.lines().find(|line| line.starts_with("tasks: "));
    let (well, all) = tasks
        .and_then(|line| line.strip_prefix("tasks: ")?.split_once(" of "))
        .context("no tasks")?;
    ensure!(all == format!("{well} well"), "{text}");
    Ok(())
}

#[tokio::test]
async fn json_has_what_the_running_agent_says_and_that_it_runs() -> Result<()> {
    let stage = Stage::new().await?;
    let agent = stage.agent().await?;
    let shown = stage.status(&["--json"]).await?;
    ensure!(shown.code == Some(0), "{shown:?}");
    let said: Value = serde_json::from_str(&shown.stdout)?;
    ensure!(
        said["running"] == true && said["process"] == agent.pid(),
        "{said}"
    );
    ensure!(said["nodes"][0]["inbounds"][1]["live"] == 3, "{said}");
    ensure!(
        said["ledger"]["nodes"].is_array() && said["ledger_error"].is_null(),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_is_on_the_screen_and_in_the_exit_code() -> Result<()> {
    let stage = Stage::new().await?;
    let _agent = stage.agent().await?;
    let spoiled = format!(
        "{{\"code\":500,\"message\":\"\u{1b}[31m {}\"}}",
        users(1)[0]
    );
    stage
        .panel
        .set_answer(1, Answer::bytes(500, "application/json", spoiled));
    let shown = eventually("the panel fails", LONG, async || {
        let shown = stage.status(&[]).await.ok()?;
        // The inbound tells of it a moment after the node.
        let both = ["  fails  ", "note: in-vless: nobody is removed"];
        both.iter()
            .all(|words| shown.stdout.contains(words))
            .then_some(shown)
    })
    .await?;
    ensure!(shown.code == Some(1), "{shown:?}");
    let error = shown.stdout.lines().find(|it| it.starts_with("error: "));
    let error = error.context("no error")?;
    ensure!(
        error.contains("node 1: panel:") && error.contains("500"),
        "{error}"
    );
    ensure!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains(&users(1)[0]));
    Ok(())
}

#[tokio::test]
async fn without_an_agent_what_it_left_is_shown_and_left_as_it_is() -> Result<()> {
    for killed in [false, true] {
        let stage = Stage::new().await?;
        let mut agent = stage.agent().await?;
        if killed {
            agent.kill9().await?;
        } else {
            ensure!(agent.terminate(LONG).await?.success());
        }
        let nonsense = stage.state_dir().join("inbounds/xray@in-trojan/state.json");
        fs::write(&nonsense, "{\"emails\":")?;
        // Of a process that was killed, the index of the ledger's log is made anew by whoever reads it.
        let left = || -> Result<_> {
            let mut files = files(stage.folder.path())?;
            files.retain(|path, _| !killed || !path.ends_with("ledger.db-shm"));
            Ok(files)
        };
        let before = left()?;
        let shown = stage.status(&[]).await?;
        ensure!(shown.code == Some(1), "{shown:?}");
        let state_dir = stage.state_dir();
        ensure!(shown.stdout.starts_with(GONE), "{}", shown.stdout);
        ensure!(shown.stdout.contains(&*state_dir.to_string_lossy()));
        ensure!(
            shown.stdout.contains("this is what it left there "),
            "{shown:?}"
        );
        let inbound = row(&shown.stdout, "1", "in-vless")?;
        ensure!(inbound[2..5] == ["3", "3", "-"], "{inbound:?}");

        let said = stage.status(&["--json"]).await?;
        ensure!(said.code == Some(1), "{said:?}");
        let said: Value = serde_json::from_str(&said.stdout)?;
        ensure!(said["running"] == false, "{said}");
        ensure!(
            said["written_at"].is_string() && said["process"].is_null(),
            "{said}"
        );
        ensure!(said["nodes"][0]["allowed"] == 3, "{said}");
        ensure!(said["nodes"][0]["inbounds"][0]["live"] == 3, "{said}");
        ensure!(
            said["ledger"].is_object() && said["ledger_error"].is_null(),
            "{said}"
        );
        ensure!(left()? == before, "killed {killed}: the folder was changed");
    }
    Ok(())
}

#[tokio::test]
async fn where_no_agent_ever_was_none_of_its_folders_is_made() -> Result<()> {
    let stage = Stage::new().await?;
    let shown = stage.status(&[]).await?;
    ensure!(shown.code == Some(1), "{shown:?}");
    ensure!(shown.stdout.contains("nothing is kept there"), "{shown:?}");
    ensure!(fs::read_dir(stage.folder.path())?.count() == 0);
    Ok(())
}

#[tokio::test]
async fn the_ledgers_sums_are_on_the_screen() -> Result<()> {
    let (stage, ..) = LedgerStage::filled().await?;
    let command = ledger_stage::command(stage.folder.path(), &stage.state_dir());
    let shown = command.arg("status").run_to_end(LONG).await?;
    let traffic = row(&shown.stdout, "1", "6.0 MiB")?;
    ensure!(traffic[2..6] == ["1.5 MiB"; 4], "{traffic:?}");
    ensure!(traffic[6].ends_with(" ago"), "{traffic:?}");
    Ok(())
}

/// The last whole block that a watch has written.
fn last_block(watch: &Agent) -> String {
    let written = watch.stdout();
    let mut blocks = written
        .rsplit("\n\n")
        .filter(|block| block.contains("xray-agent 0.") || block.contains(GONE));
    blocks.next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_watch_sees_the_agent_come_and_go_and_ends_by_a_signal() -> Result<()> {
    let stage = Stage::new().await?;
    let watch = stage.command.clone().args(["status", "--watch=0.1"]);
    let mut watch = watch.spawn()?;
    let shows = async |words: &str| {
        let seen = eventually(words, LONG, async || last_block(&watch).contains(words)).await;
        seen.with_context(|| watch.stdout())
    };
    shows(GONE).await?;
    for _ in 0..2 {
        let mut agent = stage.agent().await?;
        shows(&format!("process {}", agent.pid())).await?;
        ensure!(agent.terminate(LONG).await?.success());
        shows(GONE).await?;
    }
    for signal in [Signal::INT, Signal::TERM] {
        watch.signal(signal)?;
        let ended = watch.wait_exit(LONG).await?;
        ensure!(ended.code() == Some(0), "{signal:?}: {ended:?}");
        ensure!(
            !watch.stdout().contains('\u{1b}'),
            "a file is no terminal to be steered"
        );
        let json = ["status", "--watch=0.1", "--json"];
        let next = stage.command.clone().args(json).spawn()?;
        let wait = eventually("two lines of JSON", LONG, async || {
            next.stdout().lines().count() > 1
        });
        wait.await?;
        let first = next.stdout().lines().next().unwrap_or_default().to_owned();
        ensure!(serde_json::from_str::<Value>(&first)?["running"] == false);
        watch = next;
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_whose_reader_leaves_ends_quietly_and_a_wrong_pause_is_told() -> Result<()> {
    let stage = Stage::new().await?;
    let program = env!("CARGO_BIN_EXE_xray-agent");
    let script = format!("{{ {program} status --watch=0.1; echo \"code $?\" >&2; }} | head -n 1");
    let shell = AgentCommand::new("/bin/sh")
        .args(["-c", &script])
        .env("PANEL_BASE_URL", stage.panel.base_url())
        .env("INTERNAL_API_KEY", TOKEN)
        .env("NODE_IDS", "1")
        .env("OUTPUT_DIR", stage.folder.path());
    let ended = shell.run_to_end(LONG).await?;
    ensure!(ended.stderr == "code 0\n", "{ended:?}");
    for wrong in ["--watch=0", "--watch=x", "--watch=-1", "--watch=1e9"] {
        let wrong = stage.status(&[wrong]).await?;
        ensure!(
            wrong.code == Some(2) && wrong.stderr.contains("--watch"),
            "{wrong:?}"
        );
    }
    Ok(())
}
