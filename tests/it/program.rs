//! The program as its user meets it: exit codes, configuration, what it prints and what it logs.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Answer, Output, Panel, ServerConfig, Xray, eventually, free_port};
use crate::support::{Api, LONG, TOKEN, agent, folder, grpc_agent};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_xray-agent");
const HELP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots/help.txt");
/// Without polls of its own, so that the test says when there is one.
pub const NEVER: &str = "3600";

pub fn users(count: u32) -> Vec<String> {
    (0..count).map(nth_uuid).collect()
}

pub async fn bare(args: &[&str]) -> Result<Output> {
    AgentCommand::new(PROGRAM).args(args).run_to_end(LONG).await
}

/// A panel with that many users of node 1, and an agent that only keeps their files.
pub async fn files_only(count: u32) -> Result<(Panel, TempDir, AgentCommand)> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(count));
    let folder = folder()?;
    let command = agent(&panel.base_url(), folder.path());
    Ok((panel, folder, command))
}

#[tokio::test]
async fn the_exit_code_tells_success_failure_and_wrong_use_apart() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    for args in [
        &["--once"][..],
        &["-once"],
        &["run", "--once"],
        &["sync"],
        &["check-config"],
    ] {
        let good = command.clone().args(args).run_to_end(LONG).await?;
        ensure!(good.code == Some(0), "{args:?}: {good:?}");
    }
    panel.set_answer(1, Answer::html(502));
    for args in [
        &["--once"][..],
        &["sync"],
        &["--fail-fast"],
        &["status"],
        &["status", "--json"],
    ] {
        let failed = command.clone().args(args).run_to_end(LONG).await?;
        ensure!(failed.code == Some(1), "{args:?}: {failed:?}");
    }
    for args in [
        &["--twice"][..],
        &["bogus"],
        &["sync", "--dry-run", "--force"],
        &["apply", "--node", "1"],
        &["apply", "--node", "x", "--uuids-file", "f"],
        &["--config", "/nowhere/config.toml"],
    ] {
        let wrong = command.clone().args(args).run_to_end(LONG).await?;
        ensure!(wrong.code == Some(2), "{args:?}: {wrong:?}");
        ensure!(
            !wrong.stderr.is_empty() && wrong.stdout.is_empty(),
            "{args:?}: {wrong:?}"
        );
    }
    let wrong = command
        .env("RUST_LOG", "=====")
        .arg("--once")
        .run_to_end(LONG)
        .await?;
    ensure!(
        wrong.code == Some(2) && wrong.stderr.contains("RUST_LOG"),
        "{wrong:?}"
    );
    drop(folder);
    Ok(())
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_is_told() -> Result<()> {
    let (_panel, folder, command) = files_only(3).await?;
    let file = folder.path().join("a-file");
    fs::write(&file, "")?;
    let once = command.env("STATE_DIR", file.join("state")).arg("--once");
    let once = once.run_to_end(LONG).await?;
    ensure!(
        once.code == Some(2) && once.stderr.contains("STATE_DIR"),
        "{once:?}"
    );
    ensure!(once.stderr.contains(&*file.to_string_lossy()), "{once:?}");
    Ok(())
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_changes_nothing() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(30));
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in");
    command.clone().arg("--once").run_to_end(LONG).await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    let files = || contents(folder.path());
    let before = files()?;

    panel.set_users(1, users(35).split_off(2));
    let dry = command
        .clone()
        .args(["sync", "--dry-run"])
        .run_to_end(LONG)
        .await?;
    ensure!(dry.code == Some(0), "{dry:?}");
    let counts = "node 1, in: 33 desired, 30 live, 0 foreign; would add 5, remove 2, rewrite 0, \
                  hold 0\n";
    ensure!(dry.stdout == counts, "{}", dry.stdout);
    let verbose = command
        .clone()
        .args(["sync", "--dry-run", "-v"])
        .run_to_end(LONG)
        .await?;
    let shown: Vec<String> = (0..2)
        .map(|n| format!("  - {}\n", &nth_uuid(n)[..8]))
        .chain((30..35).map(|n| format!("  + {}\n", &nth_uuid(n)[..8])))
        .collect();
    ensure!(
        verbose.stdout == format!("{counts}{}", shown.concat()),
        "{}",
        verbose.stdout
    );

    // What the brake would hold is said, and an unreachable panel is a failure.
    panel.set_users(1, users(1));
    let held = command
        .clone()
        .args(["sync", "--dry-run"])
        .run_to_end(LONG)
        .await?;
    ensure!(
        held.stdout
            .contains("would add 0, remove 0, rewrite 0, hold 29"),
        "{held:?}"
    );
    panel.set_answer(1, Answer::html(502));
    let failed = command.args(["sync", "--dry-run"]).run_to_end(LONG).await?;
    ensure!(
        failed.code == Some(1) && failed.stderr.contains("answered 502"),
        "{failed:?}"
    );

    ensure!(api.emails("in").await? == users(30));
    ensure!(files()? == before, "files were changed");
    Ok(())
}

/// Every file under `folder` with its content, locks left out.
pub fn contents(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("lock") {
                found.push((path.clone(), fs::read(path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[tokio::test]
async fn fail_fast_ends_at_the_first_pass_that_fails() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(3));
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    for flag in ["--fail-fast", "-fail-fast"] {
        let folder = folder()?;
        panel.clear_answer(1);
        let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
            .env("INTERVAL_SECONDS", "0.2")
            .arg(flag);
        let mut agent = command.spawn()?;
        let asked = panel.requests(1);
        let asked = panel.await_request_after(1, asked + 2).await?;
        ensure!(agent.is_alive(), "{flag}: ended without a reason");
        panel.set_answer(1, Answer::html(502));
        panel.await_request_after(1, asked).await?;
        let ended = agent.wait_exit(LONG).await?;
        ensure!(ended.code() == Some(1), "{flag}: {ended:?}");
        ensure!(
            agent.log().contains("answered 502"),
            "{flag}: {}",
            agent.log()
        );
    }
    let mut api = Api::connect(&xray.api_addr()).await?;
    ensure!(
        api.emails("in").await? == users(3),
        "users went with the agent"
    );
    Ok(())
}

#[tokio::test]
async fn the_help_is_as_it_was_read_last() -> Result<()> {
    let mut text = String::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["sync", "--help"],
        &["apply", "--help"],
        &["check-config", "--help"],
        &["doctor", "--help"],
        &["status", "--help"],
        &["metrics", "--help"],
        &["reload", "--help"],
        &["email", "--help"],
        &["traffic", "--help"],
        &["traffic", "pending", "--help"],
        &["traffic", "rejected", "--help"],
        &["traffic", "unknown", "--help"],
        &["traffic", "resolve", "--help"],
        &["traffic", "retry", "--help"],
        &["users", "--help"],
        &["users", "check", "--help"],
        &["users", "kick", "--help"],
        &["register", "--help"],
        &["init", "--help"],
        &["completions", "--help"],
        &["traffic", "collect", "--help"],
        &["traffic", "export", "--help"],
        &["outbox", "--help"],
        &["outbox", "given-up", "--help"],
        &["outbox", "replay", "--help"],
        &["outbox", "enable", "--help"],
    ] {
        let help = bare(args).await?;
        ensure!(help.code == Some(0) && help.stderr.is_empty(), "{help:?}");
        writeln!(text, "$ xray-agent {}\n{}", args.join(" "), help.stdout)?;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(HELP, &text)?;
    }
    let expected = fs::read_to_string(HELP).unwrap_or_default();
    ensure!(
        text == expected,
        "the help differs from {HELP}; if it is right: UPDATE_DOCS=1 cargo test --test it help"
    );
    let version = bare(&["--version"]).await?;
    ensure!(version.stdout == format!("xray-agent {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}

/// The lines of a log with their levels, each of which is one JSON object.
fn json_lines(log: &str) -> Result<Vec<(String, Value)>> {
    let parse = |line: &str| -> Result<(String, Value)> {
        let object: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(object["timestamp"].is_string(), "{line}");
        ensure!(object["message"].is_string(), "{line}");
        let level = object["level"].as_str().context("no level")?.to_owned();
        Ok((level, object))
    };
    log.lines().map(parse).collect()
}

#[tokio::test]
async fn the_log_has_one_json_object_a_line() -> Result<()> {
    let (panel, _folder, command) = files_only(3).await?;
    let hook = "printf 'one\\ntwo \"quoted\" \\033[31m\\n'; echo trouble >&2; exit 3";
    let mut agent = command
        .env("LOG_FORMAT", "json")
        .env("APPLY_CMD", hook)
        .env("INTERVAL_SECONDS", "0.2")
        .spawn()?;
    agent.await_log(&["exit code 3"], LONG).await?;
    panel.set_answer(
        1,
        Answer::bytes(502, "text/html", "two\nlines \"quoted\" \u{1b}[31m\0"),
    );
    agent.await_log(&["answered 502"], LONG).await?;
    ensure!(agent.terminate(LONG).await?.success());
    let lines = json_lines(&agent.log())?;
    ensure!(
        lines
            .iter()
            .any(|(level, line)| level == "WARN" && line["message"] == "one")
    );
    ensure!(lines.iter().any(|(_, line)| line["message"] == "stopped"));
    ensure!(
        !agent.log().contains('\u{1b}'),
        "a terminal could be rewritten"
    );
    Ok(())
}

#[tokio::test]
async fn the_log_can_be_text_for_people() -> Result<()> {
    let (_panel, _folder, command) = files_only(3).await?;
    let mut agent = command
        .env("LOG_FORMAT", "text")
        .env("RUST_LOG", "info")
        .spawn()?;
    agent.await_log(&[" INFO ", "files changed"], LONG).await?;
    ensure!(agent.terminate(LONG).await?.success());
    ensure!(
        !agent.log().contains('{') && !agent.log().contains('\u{1b}'),
        "{}",
        agent.log()
    );
    Ok(())
}

#[tokio::test]
async fn a_sync_that_changes_something_is_one_line_and_any_other_none() -> Result<()> {
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    for (mode, words) in [
        ("xray-grpc", "users changed"),
        ("cmd", "hook done"),
        ("none", "files changed"),
    ] {
        let (panel, _folder, command) = files_only(30).await?;
        panel.set_etags(mode != "cmd");
        let agent = command
            .env("RUST_LOG", "info")
            .env("INTERVAL_SECONDS", "0.1")
            .env("APPLY_MODE", mode)
            .env("APPLY_CMD", "true")
            .env("XRAY_API_ADDR", xray.api_addr())
            .env("XRAY_TAG_MAP", "1:in")
            .spawn()?;
        for (changes, count) in [(1, 30), (2, 29), (3, 31)] {
            panel.set_users(1, users(count));
            let said = || agent.log().matches(words).count();
            eventually(words, LONG, async || said() == changes).await?;
            let mut asked = panel.requests(1);
            for _ in 0..4 {
                asked = panel.await_request_after(1, asked).await?;
            }
            let lines = json_lines(&agent.log())?;
            let (started, rest) = lines.split_first().context("no log")?;
            ensure!(started.1["message"] == "started", "{mode}: {}", agent.log());
            ensure!(rest.len() == changes, "{mode}: {}", agent.log());
            ensure!(
                rest.iter()
                    .all(|(level, line)| level == "INFO" && line["message"] == words)
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn single_passes_at_the_same_time_give_way_to_one() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    let once = command.arg("--once");
    let passes = (0..20).map(|_| once.run_to_end(LONG));
    for pass in futures_util::future::try_join_all(passes).await? {
        ensure!(pass.code == Some(0), "{pass:?}");
        let gave_way = pass.stdout.contains("another pass is being made");
        ensure!(gave_way || pass.stdout.contains("3 allowed"), "{pass:?}");
    }
    ensure!(panel.requests(1) >= 1);
    ensure!(folder.path().join("node-1/allowed-uuids.txt").is_file());
    Ok(())
}

#[tokio::test]
async fn a_single_pass_beside_a_running_agent_is_made_by_that_one() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    let command = command.env("INTERVAL_SECONDS", NEVER);
    let mut agent = command.spawn()?;
    agent.await_log(&["files changed"], LONG).await?;
    panel.set_users(1, users(5));
    let asked = panel.requests(1);
    let once = command.clone().arg("--once").run_to_end(LONG).await?;
    ensure!(
        once.code == Some(0) && once.stdout.contains("node 1: 5 allowed"),
        "{once:?}"
    );
    ensure!(panel.requests(1) == asked + 1, "asked twice");
    panel.set_answer(1, Answer::html(502));
    let once = command.clone().arg("--once").run_to_end(LONG).await?;
    ensure!(
        once.code == Some(1) && once.stderr.contains("answered 502"),
        "{once:?}"
    );

    // A second agent is refused, and says who is there.
    let second = command.run_to_end(LONG).await?;
    let who = format!("agent, process {}", agent.pid());
    ensure!(
        second.code == Some(1) && second.stderr.contains(&who),
        "{second:?}"
    );
    ensure!(second.stderr.contains("STATE_DIR"), "{second:?}");
    ensure!(agent.is_alive());
    ensure!(agent.terminate(LONG).await?.success());
    ensure!(!folder.path().join(".xray-agent/control.sock").exists());
    Ok(())
}

#[tokio::test]
async fn an_xray_that_is_not_there_is_told_and_waited_for() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(3));
    let folder = folder()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let command = grpc_agent(&panel.base_url(), folder.path(), &address, "in");
    let once = command.clone().arg("--once").run_to_end(LONG).await?;
    ensure!(once.code == Some(1), "{once:?}");
    ensure!(
        once.stderr.contains("in:") && once.stderr.contains("refused"),
        "{once:?}"
    );

    let agent = command.env("INTERVAL_SECONDS", NEVER).spawn()?;
    agent.await_log(&["WARN", "refused"], LONG).await?;
    let config = ServerConfig::new().vless("in").api_on(&address);
    let xray = Xray::start(config).await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    eventually("the users are there", LONG, async || {
        api.emails("in").await.is_ok_and(|live| live == users(3))
    })
    .await
}

#[test]
fn whoever_reads_may_leave_early() -> Result<()> {
    let folder = folder()?;
    for command in ["check-config", "users", "status"] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let said = std::process::Command::new(env!("CARGO_BIN_EXE_xray-agent"))
            .arg(command)
            .env("INTERNAL_API_KEY", TOKEN)
            .env("NODE_IDS", "1")
            .env("APPLY_MODE", "none")
            .env("OUTPUT_DIR", folder.path())
            .stdout(writer)
            .output()?;
        let words = String::from_utf8_lossy(&said.stderr);
        ensure!(!words.contains("panicked"), "{command}: {words}");
        // 1: nobody was ever served here.
        ensure!(
            matches!(said.status.code(), Some(0 | 1)),
            "{command}: {said:?}"
        );
    }
    Ok(())
}
