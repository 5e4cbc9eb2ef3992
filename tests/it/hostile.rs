//! No bad answer of a panel empties or shrinks an inbound or the files (R3), none is told without
//! its address and its status, and no secret is told at all (A4).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::hostile_answers::*;
use crate::lab::secrets::nth_uuid;
use crate::lab::{Agent, AgentCommand, Answer, Panel, ServerConfig, Xray, eventually};
use crate::support::{Api, LONG, TOKEN, folder, grpc_agent};

/// Users who are live all the while.
pub const USERS: u32 = 30;
/// Small limits, so that what is too large is small; no polls of its own, so that each answer is
/// met by one question exactly and the brake never confirms.
const LIMITS: &str = "panel.body_bytes_max = 1048576\npanel.users_max = 100\n";
const INTERVAL_SECONDS: &str = "3600";
/// Longer than any answer of a panel on this host takes, shorter than a test.
const HTTP_TIMEOUT_SECONDS: &str = "2";

/// An agent that has given its users to an Xray, and the panel that is about to go bad.
struct Scene {
    panel: Panel,
    xray: Xray,
    api: Api,
    agent: Agent,
    command: AgentCommand,
    folder: TempDir,
}

impl Scene {
    async fn start() -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        // Without an ETag every answer is taken as if it were the first.
        panel.set_etags(false);
        panel.set_users(1, users());
        let xray = Xray::start(ServerConfig::new().vless("in")).await?;
        let folder = folder()?;
        let limits = folder.path().join("limits.toml");
        std::fs::write(&limits, LIMITS)?;
        let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
            .env("INTERVAL_SECONDS", INTERVAL_SECONDS)
            .env("HTTP_TIMEOUT_SECONDS", HTTP_TIMEOUT_SECONDS)
            .arg("--config")
            .arg(limits);
        let agent = command.spawn()?;
        let mut api = Api::connect(&xray.api_addr()).await?;
        eventually("all users are live", LONG, async || {
            api.emails("in").await.is_ok_and(|live| live == users())
        })
        .await?;
        let listed = folder.path().join("node-1/applied.json");
        eventually("all users are in the files", LONG, async || {
            listed.is_file()
        })
        .await?;
        Ok(Self {
            panel,
            xray,
            api,
            agent,
            command,
            folder,
        })
    }

    fn files(&self) -> Result<Vec<Vec<u8>>> {
        files(self.folder.path())
    }

    /// One question to the panel, by the running agent; what `sync` came to.
    async fn sync(&self) -> Result<(Option<i32>, String)> {
        let sync = self.command.clone().arg("sync").run_to_end(LONG).await?;
        Ok((sync.code, sync.stdout + &sync.stderr))
    }

    async fn check(&mut self, case: Case) -> Result<()> {
        let (before, logged) = (self.files()?, self.agent.log().len());
        self.panel.set_answer(1, case.answer);
        let asked = self.panel.requests(1);
        let (code, said) = self.sync().await?;
        ensure!(code == Some(1), "exit code {code:?}: {said}");
        ensure!(self.panel.requests(1) == asked + 1, "asked more than once");
        ensure!(self.agent.is_alive(), "the agent has ended");
        ensure!(self.xray.is_alive(), "Xray has ended");
        let live = self.api.emails("in").await?;
        ensure!(live == users(), "{} of {USERS} are live", live.len());
        ensure!(self.files()? == before, "the files were changed");
        let log = self.agent.log();
        let told = |text: &str| case.says.iter().all(|words| text.contains(words));
        ensure!(told(&said), "{:?} is not said by sync: {said}", case.says);
        ensure!(
            log[logged..].lines().any(told),
            "{:?} is not in one line of the log:\n{}",
            case.says,
            &log[logged..]
        );
        secret_is_kept(&log[logged..])?;
        secret_is_kept(&said)
    }

    async fn check_all(&mut self, cases: impl Iterator<Item = Case>) -> Result<()> {
        let mut failed = Vec::new();
        for case in cases {
            let name = case.name;
            if let Err(error) = self.check(case).await {
                failed.push(format!("{name}: {error:#}"));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

/// `allowed-uuids.txt`, `allowed-uuids.json` (with its `generated`), and the last good answer.
fn files(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let names = [
        "node-1/allowed-uuids.txt",
        "node-1/allowed-uuids.json",
        "node-1/applied.json",
    ];
    let read = |name: &str| std::fs::read(folder.join(name)).context(name.to_owned());
    names.into_iter().map(read).collect()
}

/// Neither the token nor a user in full, nor most of one: all but the last characters are enough.
fn secret_is_kept(text: &str) -> Result<()> {
    ensure!(!text.contains(TOKEN), "the token was told");
    let text = text.to_lowercase();
    for uuid in users() {
        ensure!(
            !text.contains(&uuid[..20]),
            "a user was told: {}",
            &uuid[..8]
        );
    }
    Ok(())
}

#[tokio::test]
async fn no_hostile_answer_takes_a_user_from_an_inbound_or_a_file() -> Result<()> {
    let mut scene = Scene::start().await?;
    let tables = [
        cut_short(),
        not_json(),
        wrong_envelopes(),
        wrong_lists(),
        too_large(),
        wrong_statuses(),
        leaking(),
        braked(),
    ];
    ensure!(tables.iter().map(Vec::len).sum::<usize>() >= 40);
    scene.check_all(tables.into_iter().flatten()).await?;

    let user = nth_uuid(USERS);
    let mut more = users();
    more.push(user.clone());
    scene.panel.set_users(1, more.clone());
    scene.panel.clear_answer(1);
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "a good answer: {said}");
    ensure!(scene.api.emails("in").await? == more);
    let text = std::fs::read_to_string(scene.folder.path().join("node-1/allowed-uuids.txt"))?;
    ensure!(text.ends_with(&format!("{user}\n")), "the files are stuck");
    secret_is_kept(&scene.agent.log())
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays_here() -> Result<()> {
    let mut scene = Scene::start().await?;
    let elsewhere = Panel::start(TOKEN).await?;
    elsewhere.set_users(1, vec![nth_uuid(0)]);
    let there = format!(
        "{}/api/internal/nodes/1/allowed-uuids",
        elsewhere.base_url()
    );
    let here = "/api/internal/nodes/1/allowed-uuids?again";
    for (status, to) in [
        (301, there.as_str()),
        (302, &there),
        (303, &there),
        (307, &there),
        (308, &there),
        (302, here),
    ] {
        let answer = Answer::html(status).header("location", to);
        let says = &["a redirect to", "not followed"];
        scene
            .check(case("a redirect", answer, says))
            .await
            .with_context(|| format!("{status} to {to}"))?;
        ensure!(elsewhere.requests(1) == 0, "{status} was followed");
    }
    Ok(())
}

#[tokio::test]
async fn an_endless_answer_ends_at_64_mib_and_is_not_kept_in_memory() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users());
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
        .env("INTERVAL_SECONDS", INTERVAL_SECONDS)
        .env("HTTP_TIMEOUT_SECONDS", "60");
    let agent = command.spawn()?;
    agent.await_log(&["users changed"], LONG).await?;
    for answer in [
        Answer::endless_zeros(),
        ok(bomb(100 << 20)).header("content-encoding", "gzip"),
    ] {
        panel.set_answer(1, answer);
        let sync = command.clone().arg("sync").run_to_end(LONG).await?;
        ensure!(sync.code == Some(1) && sync.stderr.contains("67108864"));
    }
    // The body once while it grows and once while it is moved to a larger place.
    let peak_kib = peak_memory_kib(agent.pid())?;
    ensure!(peak_kib < 300 * 1024, "{peak_kib} KiB at the peak");
    let live = Api::connect(&xray.api_addr()).await?.emails("in").await?;
    ensure!(live == users());
    Ok(())
}

fn peak_memory_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.context("no VmHWM")?.parse()?)
}

#[tokio::test]
async fn a_compressed_list_is_read() -> Result<()> {
    let scene = Scene::start().await?;
    let mut fewer = users();
    fewer.pop();
    let body = stored_gzip(list(&json!(fewer)).as_bytes());
    scene
        .panel
        .set_answer(1, ok(body).header("content-encoding", "gzip"));
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "{said}");
    let live = Api::connect(&scene.xray.api_addr())
        .await?
        .emails("in")
        .await?;
    ensure!(live == fewer);
    Ok(())
}

#[tokio::test]
async fn a_list_that_did_not_change_is_not_sent_again() -> Result<()> {
    let scene = Scene::start().await?;
    scene.panel.set_etags(true);
    scene.sync().await?;
    scene.sync().await?;
    let asked = scene.panel.headers(1);
    let last = asked.last().context("no question")?;
    ensure!(
        last.get("x-internal-token")
            .is_some_and(|token| token == TOKEN)
    );
    let etag = last.get("if-none-match").context("no If-None-Match")?;
    ensure!(etag.to_str()?.starts_with("W/\""), "{etag:?}");
    ensure!(scene.agent.log().matches("users changed").count() == 1);

    // Users lost in Xray are put back by a 304 as well.
    let mut api = Api::connect(&scene.xray.api_addr()).await?;
    api.remove("in", &nth_uuid(5)).await?;
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "{said}");
    ensure!(api.emails("in").await? == users());

    // And a list that did change is taken.
    let fewer: Vec<String> = users().split_off(1);
    scene.panel.set_users(1, fewer.clone());
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "{said}");
    ensure!(api.emails("in").await? == fewer);
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_told_with_what_to_mend() -> Result<()> {
    let panel = Panel::start("another-token").await?;
    panel.set_users(1, users());
    let folder = folder()?;
    let agent = crate::support::agent(&panel.base_url(), folder.path());
    let once = agent.arg("--once").run_to_end(LONG).await?;
    ensure!(once.code == Some(1), "{once:?}");
    for words in [
        "answered 403",
        "forbidden",
        "INTERNAL_API_KEY",
        &panel.base_url(),
    ] {
        ensure!(once.stderr.contains(words), "{words}: {}", once.stderr);
    }
    ensure!(!once.stderr.contains(TOKEN) && !once.stderr.contains("another-token"));
    ensure!(!folder.path().join("node-1").exists(), "files were made");
    Ok(())
}

#[tokio::test]
async fn a_panel_that_was_away_is_used_again() -> Result<()> {
    let mut panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users());
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let mut agent = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
        .env("INTERVAL_SECONDS", "0.2")
        .spawn()?;
    agent.await_log(&["users changed"], LONG).await?;
    panel.pause().await;
    agent.await_log(&["WARN", &panel.base_url()], LONG).await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    ensure!(api.emails("in").await? == users());

    let fewer: Vec<String> = users().split_off(1);
    panel.set_users(1, fewer.clone());
    panel.resume().await?;
    eventually("the new list is live", LONG, async || {
        api.emails("in").await.is_ok_and(|live| live == fewer)
    })
    .await?;
    agent
        .await_log(&["recovered", "panel, node 1"], LONG)
        .await?;
    ensure!(agent.is_alive());
    Ok(())
}

#[tokio::test]
async fn a_failing_panel_is_asked_no_more_often_than_every_interval() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_answer(1, Answer::html(502));
    let folder = folder()?;
    let begun = Instant::now();
    let agent =
        crate::support::agent(&panel.base_url(), folder.path()).env("INTERVAL_SECONDS", "0.5");
    let _agent = agent.spawn()?;
    eventually("a few questions", LONG, async || panel.requests(1) >= 3).await?;
    ensure!(begun.elapsed() >= Duration::from_secs(1), "asked too often");
    Ok(())
}
