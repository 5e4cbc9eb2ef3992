//! A removal of many users waits until further polls agree; small ones, additions and what a person
//! confirms do not. Each on a real Xray, through the real program.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::secrets::nth_uuid;
use crate::lab::{
    AgentCommand, Client, ClientProtocol, Origin, Output, Panel, Route, ServerConfig, Xray,
    eventually,
};
use crate::support::{Api, LONG, TOKEN, agent, folder, grpc_agent};

const TAG: &str = "in";
/// Without polls of its own, so that the test says when there is one.
const NEVER: &str = "3600";

fn users(range: Range<u32>) -> Vec<String> {
    range.map(nth_uuid).collect()
}

struct Scene {
    panel: Panel,
    xray: Xray,
    api: Api,
    folder: TempDir,
    command: AgentCommand,
}

impl Scene {
    /// A panel that allows that many users, and an Xray that has none yet.
    async fn new(count: u32, interval: &str) -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, users(0..count));
        let xray = Xray::start(ServerConfig::new().vless(TAG)).await?;
        let api = Api::connect(&xray.api_addr()).await?;
        let folder = folder()?;
        let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), TAG)
            .env("INTERVAL_SECONDS", interval);
        Ok(Self {
            panel,
            xray,
            api,
            folder,
            command,
        })
    }

    async fn run(&self, args: &[&str]) -> Result<Output> {
        self.command.clone().args(args).run_to_end(LONG).await
    }

    async fn live(&mut self) -> Result<Vec<String>> {
        self.api.emails(TAG).await
    }

    async fn await_live(&mut self, wanted: &[String]) -> Result<()> {
        let api = &mut self.api;
        eventually("the wanted users are live", LONG, async || {
            api.emails(TAG).await.is_ok_and(|live| live == wanted)
        })
        .await
    }

    async fn status(&self) -> Result<Value> {
        let status = self.run(&["status", "--json"]).await?;
        serde_json::from_str(&status.stdout).with_context(|| format!("{status:?}"))
    }

    /// As if what is counted had been counted years before, so that a poll is far enough from it.
    fn long_ago(&self) -> Result<()> {
        let state = self.folder.path().join(".xray-agent");
        for file in ["nodes/node-1.json", "inbounds/xray@in/state.json"] {
            let file = state.join(file);
            let mut kept: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            let absences = kept["absences"]["users"]
                .as_object_mut()
                .context("no absences")?;
            ensure!(absences.len() == 30, "{} are counted", absences.len());
            for absence in absences.values_mut() {
                ensure!(absence["answers"] == 1, "{absence}");
                absence["at"] = "2020-01-01T00:00:00Z".into();
            }
            std::fs::write(&file, kept.to_string())?;
        }
        Ok(())
    }

    fn listed(&self) -> Result<Vec<String>> {
        listed(self.folder.path())
    }
}

/// Who is in `allowed-uuids.txt`, which is to agree with `allowed-uuids.json`.
fn listed(folder: &Path) -> Result<Vec<String>> {
    let node = folder.join("node-1");
    let text = std::fs::read_to_string(node.join("allowed-uuids.txt"))?;
    let json: Value = serde_json::from_slice(&std::fs::read(node.join("allowed-uuids.json"))?)?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(
        json["uuids"] == serde_json::json!(lines),
        "the files differ"
    );
    ensure!(json["uuids_count"] == lines.len());
    Ok(lines)
}

#[tokio::test]
async fn over_half_of_the_users_go_with_the_second_poll_that_agrees() -> Result<()> {
    let mut scene = Scene::new(50, "1").await?;
    let agent = scene.command.spawn()?;
    scene.await_live(&users(0..50)).await?;

    let asked = scene.panel.requests(1);
    scene.panel.set_users(1, users(0..20));
    let line = agent
        .await_log(&["WARN", "30 removals are held"], LONG)
        .await?;
    ensure!(
        line.contains("1 of the 2 answers") && line.contains("sync --force"),
        "{line}"
    );
    scene.await_live(&users(0..20)).await?;
    let polls = scene.panel.requests(1) - asked;
    ensure!(polls >= 2, "gone after {polls} polls");
    agent.await_log(&["INFO", "recovered", TAG], LONG).await?;
    eventually("the files follow", LONG, async || {
        scene.listed().is_ok_and(|listed| listed == users(0..20))
    })
    .await
}

#[tokio::test]
async fn nearly_all_users_go_with_the_sixth_poll_that_agrees() -> Result<()> {
    let mut scene = Scene::new(30, "0.2").await?;
    let agent = scene.command.spawn()?;
    scene.await_live(&users(0..30)).await?;

    let asked = scene.panel.requests(1);
    scene.panel.set_users(1, Vec::new());
    agent
        .await_log(&["30 removals are held", "1 of the 6 answers"], LONG)
        .await?;
    scene.await_live(&[]).await?;
    let polls = scene.panel.requests(1) - asked;
    ensure!(polls >= 6, "gone after {polls} polls");
    eventually("the files follow", LONG, async || {
        scene.listed().is_ok_and(|listed| listed.is_empty())
    })
    .await
}

#[tokio::test]
async fn a_removal_that_the_panel_takes_back_is_never_made() -> Result<()> {
    let mut scene = Scene::new(30, NEVER).await?;
    scene.run(&["--once"]).await?;
    // Held, taken back, and held again: the count begins anew (half of 1 ms is always over).
    scene.command = scene.command.clone().env("INTERVAL_SECONDS", "0.001");
    for _ in 0..3 {
        for (allowed, held) in [(users(0..1), true), (users(0..30), false)] {
            for _ in 0..if held { 5 } else { 1 } {
                scene.panel.set_users(1, allowed.clone());
                let once = scene.run(&["--once"]).await?;
                ensure!(once.code == Some(i32::from(held)), "{once:?}");
                ensure!(scene.live().await? == users(0..30));
                ensure!(scene.listed()? == users(0..30));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_held_removal_is_shown_and_goes_by_force() -> Result<()> {
    let mut scene = Scene::new(30, NEVER).await?;
    let _agent = scene.command.spawn()?;
    scene.await_live(&users(0..30)).await?;

    scene.panel.set_users(1, users(0..1));
    // "Now" is no poll of its own: asked seven times, it still holds.
    for _ in 0..7 {
        let now = scene.run(&["sync"]).await?;
        ensure!(now.code == Some(1), "{now:?}");
        ensure!(
            now.stderr
                .contains("29 removals are held: absent from 1 of the 6"),
            "{now:?}"
        );
        ensure!(scene.live().await? == users(0..30));
    }
    let status = scene.status().await?;
    let node = &status["nodes"][0];
    ensure!(node["held"] == 29 && node["allowed"] == 1, "{node}");
    let inbound = &node["inbounds"][0];
    ensure!(inbound["held"] == 29 && inbound["live"] == 30, "{inbound}");
    ensure!(
        inbound["held_polls"] == serde_json::json!([6, 1]),
        "{inbound}"
    );
    let shown = scene.run(&["status"]).await?;
    ensure!(
        shown.code == Some(1) && shown.stdout.contains("29 removals are held"),
        "{shown:?}"
    );

    let forced = scene.run(&["sync", "--force"]).await?;
    ensure!(forced.code == Some(0), "{forced:?}");
    ensure!(scene.live().await? == users(0..1));
    ensure!(scene.listed()? == users(0..1));
    let status = scene.status().await?;
    let node = &status["nodes"][0];
    ensure!(
        node["held"] == 0 && node["inbounds"][0]["held"] == 0,
        "{node}"
    );
    Ok(())
}

#[tokio::test]
async fn force_works_without_a_running_agent() -> Result<()> {
    let mut scene = Scene::new(30, NEVER).await?;
    scene.run(&["--once"]).await?;
    scene.panel.set_users(1, Vec::new());
    let held = scene.run(&["sync"]).await?;
    ensure!(held.code == Some(1), "{held:?}");
    let forced = scene.run(&["sync", "--force"]).await?;
    ensure!(forced.code == Some(0), "{forced:?}");
    ensure!(scene.live().await?.is_empty() && scene.listed()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn each_once_run_is_a_poll_half_an_interval_after_the_last() -> Result<()> {
    let mut scene = Scene::new(50, "1").await?;
    scene.run(&["--once"]).await?;
    for (left, polls) in [(20, 2), (1, 6)] {
        scene.panel.set_users(1, users(0..left));
        let before = scene.live().await?;
        let mut first_over = None;
        let mut runs = 0;
        loop {
            let once = scene.run(&["--once"]).await?;
            runs += 1;
            let over = *first_over.get_or_insert_with(Instant::now);
            if once.code == Some(0) {
                let took = over.elapsed();
                let least = Duration::from_millis(500) * (polls - 1);
                ensure!(took >= least, "{polls} polls were confirmed in {took:?}");
                break;
            }
            ensure!(once.code == Some(1), "{once:?}");
            let held = format!("of the {polls} answers that must agree");
            ensure!(once.stderr.contains(&held), "{once:?}");
            ensure!(scene.live().await? == before, "after {runs} runs");
            ensure!(scene.listed()? == before, "after {runs} runs");
            ensure!(over.elapsed() < LONG, "never confirmed");
        }
        ensure!(runs >= polls, "confirmed by {runs} runs");
        ensure!(scene.live().await? == users(0..left));
        ensure!(scene.listed()? == users(0..left));
    }
    Ok(())
}

#[tokio::test]
async fn restarts_of_the_agent_confirm_nothing() -> Result<()> {
    let mut scene = Scene::new(50, NEVER).await?;
    scene.run(&["--once"]).await?;
    scene.panel.set_users(1, users(0..20));
    for restart in 0..4 {
        let mut agent = scene.command.spawn()?;
        agent
            .await_log(&["30 removals are held", "1 of the 2 answers"], LONG)
            .await
            .with_context(|| format!("restart {restart}"))?;
        ensure!(agent.terminate(LONG).await?.success());
        ensure!(scene.live().await? == users(0..50), "restart {restart}");
        ensure!(scene.listed()? == users(0..50), "restart {restart}");
        scene.long_ago()?;
    }
    // The count was kept all the while: one real poll confirms.
    let once = scene.run(&["--once"]).await?;
    ensure!(once.code == Some(0), "{once:?}");
    ensure!(scene.live().await? == users(0..20));
    Ok(())
}

#[tokio::test]
async fn apply_has_the_brake_and_each_call_is_a_poll() -> Result<()> {
    let mut scene = Scene::new(0, "0.001").await?;
    let file = scene.folder.path().join("list.txt");
    let args = [
        "apply",
        "--node",
        "1",
        "--uuids-file",
        &*file.to_string_lossy(),
    ];
    let write = |range| std::fs::write(&file, users(range).join("\n"));
    write(0..30)?;
    let first = scene.run(&args).await?;
    ensure!(first.code == Some(0), "{first:?}");

    write(0..0)?;
    for poll in 1..6 {
        let held = scene.run(&args).await?;
        ensure!(held.code == Some(1), "call {poll}: {held:?}");
        let words = format!("absent from {poll} of the 6 answers");
        ensure!(held.stderr.contains(&words), "{held:?}");
        ensure!(scene.live().await? == users(0..30), "call {poll}");
    }
    let confirmed = scene.run(&args).await?;
    ensure!(confirmed.code == Some(0), "{confirmed:?}");
    ensure!(scene.live().await?.is_empty());

    write(0..30)?;
    scene.run(&args).await?;
    write(0..1)?;
    let forced = scene.run(&[&args[..], &["--force"]].concat()).await?;
    ensure!(forced.code == Some(0), "{forced:?}");
    ensure!(scene.live().await? == users(0..1));
    Ok(())
}

#[tokio::test]
async fn calls_of_apply_within_half_an_interval_are_one_poll() -> Result<()> {
    let mut scene = Scene::new(0, NEVER).await?;
    let file = scene.folder.path().join("list.txt");
    let args = [
        "apply",
        "--node",
        "1",
        "--uuids-file",
        &*file.to_string_lossy(),
    ];
    std::fs::write(&file, users(0..30).join("\n"))?;
    scene.run(&args).await?;
    std::fs::write(&file, "")?;
    for _ in 0..8 {
        let held = scene.run(&args).await?;
        ensure!(held.code == Some(1) && held.stderr.contains("absent from 1 of the 6"));
    }
    ensure!(scene.live().await? == users(0..30));
    Ok(())
}

#[tokio::test]
async fn additions_are_never_held() -> Result<()> {
    let mut scene = Scene::new(30, NEVER).await?;
    let _agent = scene.command.spawn()?;
    scene.await_live(&users(0..30)).await?;
    // Everybody is exchanged: those who come, come at once.
    scene.panel.set_users(1, users(30..60));
    let sync = scene.run(&["sync"]).await?;
    ensure!(sync.code == Some(1), "{sync:?}");
    ensure!(
        sync.stdout.contains("30 added, 0 removed, 30 held"),
        "{sync:?}"
    );
    let live = scene.live().await?;
    ensure!(live == users(0..60), "live: {live:?}, {sync:?}");
    ensure!(scene.listed()? == users(0..60));
    // Those who came do not make the removal a smaller one, however often it is looked at.
    for _ in 0..3 {
        let sync = scene.run(&["sync"]).await?;
        ensure!(
            sync.stderr
                .contains("30 removals are held: absent from 1 of the 6"),
            "{sync:?}"
        );
        ensure!(scene.live().await? == users(0..60));
        ensure!(scene.listed()? == users(0..60));
    }
    Ok(())
}

#[tokio::test]
async fn small_removals_go_at_once() -> Result<()> {
    for (before, after) in [(1, 0), (2, 1), (39, 19), (100, 50)] {
        let mut scene = Scene::new(before, NEVER).await?;
        let _agent = scene.command.spawn()?;
        scene.await_live(&users(0..before)).await?;
        scene.panel.set_users(1, users(0..after));
        let sync = scene.run(&["sync"]).await?;
        ensure!(sync.code == Some(0), "{before} to {after}: {sync:?}");
        ensure!(
            scene.live().await? == users(0..after),
            "{before} to {after}"
        );
        ensure!(scene.listed()? == users(0..after), "{before} to {after}");
    }
    Ok(())
}

#[tokio::test]
async fn the_files_of_a_hook_keep_held_users_until_they_are_confirmed() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(0..30));
    let folder = folder()?;
    let seen = folder.path().join("seen");
    let command = agent(&panel.base_url(), folder.path())
        .env("APPLY_CMD", "wc -l < {uuids_file} >> seen")
        .env("INTERVAL_SECONDS", "0.001")
        .current_dir(folder.path())
        .arg("--once");
    let once = async || command.run_to_end(LONG).await;
    once().await?;
    panel.set_users(1, users(0..1));
    for poll in 1..6 {
        once().await?;
        ensure!(listed(folder.path())? == users(0..30), "poll {poll}");
    }
    once().await?;
    ensure!(listed(folder.path())? == users(0..1));
    // The hook ran for the whole list and for what was confirmed, and not in between.
    ensure!(std::fs::read_to_string(seen)? == "30\n1\n");
    Ok(())
}

#[tokio::test]
async fn a_removed_user_is_refused_within_one_poll() -> Result<()> {
    let mut scene = Scene::new(2, NEVER).await?;
    let config = scene.xray.config().clone();
    let port = config["inbounds"][0]["port"].as_u64().context("no port")?;
    let _agent = scene.command.spawn()?;
    scene.await_live(&users(0..2)).await?;
    let origin = Origin::start().await?;
    let port = u16::try_from(port)?;
    let routes: Vec<Route> = users(0..2)
        .iter()
        .map(|user| Route::new(ClientProtocol::Vless, port, user))
        .collect();
    let client = Client::start_many(&routes).await?;
    for which in 0..2 {
        ensure!(client.is_served(which, &origin, LONG).await, "user {which}");
    }

    scene.panel.set_users(1, users(0..1));
    let asked = scene.panel.requests(1);
    let sync = scene.run(&["sync"]).await?;
    ensure!(sync.code == Some(0), "{sync:?}");
    ensure!(scene.panel.requests(1) == asked + 1);
    ensure!(!client.is_served(1, &origin, LONG).await, "still served");
    ensure!(client.is_served(0, &origin, LONG).await, "cut off as well");
    Ok(())
}

#[tokio::test]
async fn who_is_held_comes_back_when_xray_restarts() -> Result<()> {
    let mut scene = Scene::new(30, NEVER).await?;
    let _agent = scene.command.spawn()?;
    scene.await_live(&users(0..30)).await?;
    scene.panel.set_users(1, users(0..1));
    scene.run(&["sync"]).await?;
    ensure!(scene.live().await? == users(0..30));
    scene.xray.restart().await?;
    scene.api = Api::connect(&scene.xray.api_addr()).await?;
    scene.await_live(&users(0..30)).await
}
