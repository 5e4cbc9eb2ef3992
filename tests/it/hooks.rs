//! The hook and the files that it is about: when it runs, what it is told, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::connector::{Hooked, PROGRAM, users};
use crate::lab::secrets::nth_uuid;
use crate::lab::{ServerConfig, Xray, eventually};
use crate::support::{Api, LONG, TOKEN};

#[tokio::test]
async fn a_hook_that_fails_is_run_until_it_succeeds() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let hook = "echo run >> runs\n\
        ls out/node-1 2>/dev/null >> seen\n\
        test \"$(wc -l < runs)\" -ge 3 || { echo not yet >&2; exit 7; }\n";
    let command = scene.command(hook)?.env("OUTPUT_DIR", scene.path("out"));
    let agent = command.spawn()?;
    let failed = agent.await_log(&["WARN", "exit code 7"], LONG).await?;
    ensure!(
        failed.contains("not yet") && failed.contains("by hand"),
        "{failed}"
    );
    agent.await_log(&["hook done"], LONG).await?;
    agent
        .await_log(&["recovered", "hook of node 1"], LONG)
        .await?;
    scene.polls(4).await?;
    ensure!(scene.read("runs")? == "run\nrun\nrun\n");
    // What was not applied was not said to be.
    ensure!(!scene.read("seen")?.contains("applied.json"));
    eventually("applied.json is there", LONG, async || {
        scene.path("out/node-1/applied.json").is_file()
    })
    .await
}

#[tokio::test]
async fn a_hook_that_failed_is_run_again_by_the_next_once_run() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let hook = "echo run >> runs\ntest \"$(wc -l < runs)\" -ge 2\n";
    let command = scene.command(hook)?.arg("--once");
    for (code, runs) in [(1, 1), (0, 2), (0, 2)] {
        let once = command.run_to_end(LONG).await?;
        ensure!(once.code == Some(code), "{once:?}");
        ensure!(
            code == 0
                || once
                    .stderr
                    .contains("hook: the hook ended with exit code 1")
        );
        ensure!(scene.read("runs")?.lines().count() == runs);
    }
    Ok(())
}

#[tokio::test]
async fn the_files_are_as_the_contract_says() -> Result<()> {
    let scene = Hooked::new(0).await?;
    let (first, second) = (nth_uuid(1), nth_uuid(0xabcd_ef01));
    let messy = [
        &second.to_uppercase(),
        "",
        " \t",
        &first,
        "not a uuid",
        &format!(" {second} "),
    ];
    scene.panel.set_users(1, messy.map(str::to_owned).to_vec());
    let once = scene
        .command("true\n")?
        .arg("--once")
        .run_to_end(LONG)
        .await?;
    ensure!(once.code == Some(0), "{once:?}");

    ensure!(scene.read("node-1/allowed-uuids.txt")? == format!("{first}\n{second}\n"));
    let json: Value = serde_json::from_str(&scene.read("node-1/allowed-uuids.json")?)?;
    let generated = json["generated"].as_str().context("no generated")?;
    generated.parse::<jiff::Timestamp>()?;
    let whole = json!({"node_id": 1, "generated": generated, "uuids": [first, second],
        "uuids_count": 2});
    ensure!(json == whole, "{json}");
    let json: Value = serde_json::from_str(&scene.read("node-1/applied.json")?)?;
    let updated = json["updated_at"].as_str().context("no updated_at")?;
    updated.parse::<jiff::Timestamp>()?;
    let whole = json!({"node_id": 1, "updated_at": updated, "uuids": [first, second]});
    ensure!(json == whole, "{json}");
    for name in ["allowed-uuids.txt", "allowed-uuids.json", "applied.json"] {
        let mode = fs::metadata(scene.path(&format!("node-1/{name}")))?
            .permissions()
            .mode();
        ensure!(mode & 0o777 == 0o640, "{name}: {mode:o}");
    }
    Ok(())
}

#[tokio::test]
async fn mode_none_only_writes_the_files() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let command = scene
        .command("echo run >> runs\n")?
        .env("APPLY_MODE", "none");
    let agent = command.spawn()?;
    agent.await_log(&["started", "none"], LONG).await?;
    let text = scene.path("node-1/allowed-uuids.txt");
    eventually("the file is there", LONG, async || text.is_file()).await?;
    scene.panel.set_users(1, users(2));
    eventually("the file follows", LONG, async || {
        fs::read_to_string(&text).is_ok_and(|text| text.lines().eq(users(2)))
    })
    .await?;
    scene.polls(2).await?;
    ensure!(!scene.path("runs").exists(), "the hook ran");
    ensure!(
        !scene.path("node-1/applied.json").exists(),
        "nothing was applied"
    );
    Ok(())
}

#[tokio::test]
async fn a_hook_gets_its_values_as_they_are_whatever_they_hold() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let odd = r#"it's "out" $(touch pwned) `touch pwned`; touch pwned & *"#;
    let out = scene.path(odd);
    let hook = "printf '%s\\n%s\\n' \"$@\" > got\ncat \"$2\" >> got\n";
    let command = scene.command(hook)?.env("OUTPUT_DIR", &out).arg("--once");
    let once = command.run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:?}");
    let file = out.join("node-1/allowed-uuids.txt");
    let whole = format!("1\n{}\n{}\n", file.display(), users(3).join("\n"));
    ensure!(scene.read("got")? == whole);
    ensure!(!scene.path("pwned").exists(), "a value was run");
    Ok(())
}

#[tokio::test]
async fn a_hook_finds_what_it_is_about_in_its_environment_and_no_secret() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let command = scene
        .command("env > environment\n")?
        .env("FAVOURITE", "kept")
        .env("NOTIFY_SOCKET", scene.path("notify"))
        .env("CREDENTIALS_DIRECTORY", scene.path("credentials"))
        .env("WATCHDOG_USEC", "30000000")
        .env("BOT_TOKEN", "another secret")
        .arg("--once");
    let once = command.run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:?}");
    let environment = scene.read("environment")?;
    let node = scene.path("node-1");
    for line in [
        "FAVOURITE=kept".to_owned(),
        "XRAY_AGENT_NODE_ID=1".to_owned(),
        format!("XRAY_AGENT_UUIDS_FILE={}/allowed-uuids.txt", node.display()),
        format!(
            "XRAY_AGENT_UUIDS_JSON={}/allowed-uuids.json",
            node.display()
        ),
    ] {
        ensure!(
            environment.lines().any(|it| it == line),
            "{line}: {environment}"
        );
    }
    for absent in [
        TOKEN,
        "INTERNAL_API_KEY",
        "NOTIFY_SOCKET",
        "CREDENTIALS_DIRECTORY",
        "WATCHDOG",
        "another secret",
    ] {
        ensure!(!environment.contains(absent), "{absent} was handed on");
    }
    Ok(())
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_ended_with_all_it_started() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let hook = "sleep 1000 & echo $! >> pids\n\
        setsid sleep 1000 & echo $! >> pids\n\
        ( setsid bash -c 'echo $$ >> pids; exec sleep 1000' & )\n\
        echo $$ >> pids\n\
        while test \"$(wc -l < pids)\" -lt 4; do :; done\n\
        wait\n";
    let command = scene
        .command(hook)?
        .env("APPLY_TIMEOUT_SECONDS", "1")
        .arg("--once");
    let once = command.run_to_end(LONG).await?;
    ensure!(once.code == Some(1), "{once:?}");
    ensure!(once.stderr.contains("APPLY_TIMEOUT_SECONDS"), "{once:?}");
    let pids = scene.read("pids")?;
    ensure!(pids.lines().count() == 4, "{pids}");
    for pid in pids.lines() {
        ensure!(!is_running(pid), "process {pid} runs on");
    }
    ensure!(!scene.path("node-1/applied.json").exists());
    Ok(())
}

/// A zombie is not: it waits for whoever adopted it.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z" && state != "X")
}

#[tokio::test]
async fn apply_is_itself_a_fit_hook() -> Result<()> {
    let scene = Hooked::new(30).await?;
    let mut xray = Xray::start(ServerConfig::new().vless("in-a").vmess("in-b")).await?;
    let command = scene
        .command("")?
        .env(
            "APPLY_CMD",
            format!("{PROGRAM} apply --node {{node_id}} --uuids-file {{uuids_file}}"),
        )
        .env("XRAY_API_ADDR", xray.api_addr())
        .env("XRAY_TAG_MAP", "1:in-a+in-b");
    let agent = command.spawn()?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    for count in [30, 20, 25] {
        scene.panel.set_users(1, users(count));
        for tag in ["in-a", "in-b"] {
            let wanted: Vec<_> = users(count)
                .iter()
                .map(|id| format!("{tag}.{id}"))
                .collect();
            eventually("the hook has applied the list", LONG, async || {
                api.emails(tag).await.is_ok_and(|live| live == wanted)
            })
            .await?;
        }
    }
    agent.await_log(&["hook done"], LONG).await?;

    // Xray is away: the hook fails, is run again, and succeeds when it is back.
    xray.kill().await?;
    scene.panel.set_users(1, users(26));
    agent
        .await_log(&["WARN", "the hook ended with exit code 1"], LONG)
        .await?;
    xray.restart().await?;
    agent
        .await_log(&["recovered", "hook of node 1"], LONG)
        .await?;
    let live = Api::connect(&xray.api_addr()).await?.emails("in-b").await?;
    ensure!(live.len() == 26);
    let log = agent.log();
    ensure!(
        !log.contains(TOKEN) && !log.contains(&nth_uuid(3)),
        "a secret was logged"
    );
    Ok(())
}
