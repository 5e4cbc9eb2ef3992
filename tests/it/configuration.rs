//! The configuration as its user meets it: where it may come from, and what is said of a wrong one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::program::{PROGRAM, files_only};
use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Panel, ServerConfig, Xray, eventually};
use crate::support::{Api, LONG, TOKEN, folder};

#[tokio::test]
async fn without_a_token_nothing_runs() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    for empty in ["", "  "] {
        let once = command.clone().env("INTERNAL_API_KEY", empty).arg("-once");
        let once = once.run_to_end(LONG).await?;
        ensure!(once.code == Some(2), "{once:?}");
        for words in ["INTERNAL_API_KEY", "is not set", "INTERNAL_API_KEY_FILE"] {
            ensure!(once.stderr.contains(words), "{words}: {once:?}");
        }
    }
    ensure!(panel.requests(1) == 0);
    ensure!(!folder.path().join("node-1").exists());
    Ok(())
}

#[tokio::test]
async fn the_token_may_come_from_a_file_or_from_systemd() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials)?;
    let credential = credentials.join("internal_api_key");
    let file = folder.path().join("token");
    let toml = folder.path().join("config.toml");
    fs::write(
        &toml,
        format!("[panel]\ntoken_file = \"{}\"\n", file.display()),
    )?;
    let of = |from: &str| {
        let command = command.clone().env("INTERNAL_API_KEY", "").arg("--once");
        match from {
            "the variable" => command.env("INTERNAL_API_KEY", TOKEN),
            "a file" => command.env("INTERNAL_API_KEY_FILE", &file),
            "systemd" => command.env("CREDENTIALS_DIRECTORY", &credentials),
            _ => command.arg("--config").arg(&toml),
        }
    };
    let from = ["the variable", "a file", "systemd", "the configuration"];
    fs::write(&credential, format!("{TOKEN}\n"))?;
    fs::write(&file, format!("{TOKEN}\n"))?;
    for from in from {
        let once = of(from).run_to_end(LONG).await?;
        ensure!(once.code == Some(0), "{from}: {once:?}");
        let asked = panel.headers(1);
        let token = asked
            .last()
            .and_then(|headers| headers.get("x-internal-token"));
        ensure!(token.is_some_and(|token| token == TOKEN), "{from}");
    }
    // A file that cannot be taken is told, and is not read aloud.
    fs::write(&file, format!("{TOKEN}\nsecond line"))?;
    let wrong = of("a file").run_to_end(LONG).await?;
    ensure!(
        wrong.code == Some(2) && wrong.stderr.contains("INTERNAL_API_KEY_FILE"),
        "{wrong:?}"
    );
    ensure!(!wrong.stderr.contains(TOKEN), "{wrong:?}");
    fs::remove_file(&file)?;
    let gone = of("a file").run_to_end(LONG).await?;
    ensure!(
        gone.code == Some(2) && gone.stderr.contains("cannot be read"),
        "{gone:?}"
    );
    Ok(())
}

#[tokio::test]
async fn check_config_says_what_it_understood() -> Result<()> {
    let (panel, folder, command) = files_only(3).await?;
    let checked = command.arg("check-config").run_to_end(LONG).await?;
    ensure!(checked.code == Some(0), "{checked:?}");
    for words in [
        "the configuration is right",
        "none",
        &panel.base_url(),
        "node   1",
    ] {
        ensure!(checked.stdout.contains(words), "{words}: {checked:?}");
    }
    ensure!(checked.stdout.contains(&*folder.path().to_string_lossy()));
    ensure!(!(checked.stdout + &checked.stderr).contains(TOKEN));
    ensure!(panel.requests(1) == 0 && !folder.path().join(".xray-agent").exists());
    Ok(())
}

#[tokio::test]
async fn check_config_says_whether_traffic_is_counted() -> Result<()> {
    let cases = [
        (
            "xray-grpc",
            "yes",
            "traffic  counted every 10s, reported every 90s\n",
        ),
        ("xray-grpc", "off", "traffic  not counted\n"),
        ("none", "yes", ""),
    ];
    for (mode, enabled, told) in cases {
        let (_panel, _folder, command) = files_only(1).await?;
        let checked = command
            .env("APPLY_MODE", mode)
            .env("ENABLE_TRAFFIC_REPORT", enabled)
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "1m30s")
            .arg("check-config")
            .run_to_end(LONG)
            .await?;
        ensure!(checked.code == Some(0), "{checked:?}");
        ensure!(checked.stdout.contains(told), "{mode}: {checked:?}");
        ensure!(checked.stdout.contains("traffic") == !told.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn check_config_says_everything_that_is_wrong_at_once() -> Result<()> {
    let folder = folder()?;
    let file = folder.path().join("config.toml");
    fs::write(
        &file,
        format!(
            "[panel]\nurl = \"panel:3000\"\ntoken = \"{TOKEN}\\nx\"\n\n[sync]\nintervall = 5\n\n\
             [[xray]]\nname = \"a\"\naddress = \"nonsense\"\n\n[[node]]\nid = 1\ninbounds = \
             [{{ tag = \"in\", xray = \"b\" }}]\n"
        ),
    )?;
    let checked = AgentCommand::new(PROGRAM)
        .env("HTTP_TIMEOUT_SECONDS", "soon")
        .env("APPLY_MODE", "xray")
        .args(["check-config", "--config"])
        .arg(&file)
        .run_to_end(LONG)
        .await?;
    ensure!(
        checked.code == Some(2) && checked.stdout.is_empty(),
        "{checked:?}"
    );
    let at = |line: u32, key: &str| format!("{}:{line}: {key}", file.display());
    for problem in [
        at(2, "panel.url"),
        at(3, "panel.token"),
        at(6, "sync.intervall"),
        at(10, "xray.address"),
        at(14, "node.inbounds"),
        "environment HTTP_TIMEOUT_SECONDS".to_owned(),
        "environment APPLY_MODE".to_owned(),
    ] {
        let lines = || checked.stderr.lines();
        ensure!(
            lines().any(|line| line.starts_with(&problem)),
            "{problem}:\n{}",
            checked.stderr
        );
    }
    ensure!(checked.stderr.lines().count() == 7, "{}", checked.stderr);
    ensure!(
        checked.stderr.contains("did you mean interval?"),
        "{}",
        checked.stderr
    );
    ensure!(!checked.stderr.contains(TOKEN), "the token was told");

    // Whoever only runs it is told the same.
    let run = AgentCommand::new(PROGRAM)
        .env("HTTP_TIMEOUT_SECONDS", "soon")
        .env("APPLY_MODE", "xray")
        .arg("--config")
        .arg(&file)
        .run_to_end(LONG)
        .await?;
    ensure!(
        run.code == Some(2) && run.stderr == checked.stderr,
        "{run:?}"
    );
    Ok(())
}

/// Two Xrays, three nodes, one of which has two inbounds.
fn fleet(folder: &Path, first: &Xray, second: &Xray) -> Result<PathBuf> {
    let file = folder.join("config.toml");
    let text = format!(
        r#"
        [panel]
        url = "http://127.0.0.1:9"
        token = "a wrong one"
        [sync]
        interval = "1h"
        [apply]
        mode = "none"
        [output]
        dir = "{out}"
        [state]
        dir = "{state}"
        [[xray]]
        name = "first"
        address = "{}"
        [[xray]]
        name = "second"
        address = "{}"
        [[node]]
        id = 1
        inbounds = [
            {{ tag = "in-a", xray = "first" }},
            {{ tag = "in-b", xray = "first" }},
            {{ tag = "in-c", xray = "second", kernel_id = "other-c" }},
        ]
        [[node]]
        id = 2
        inbounds = [{{ tag = "in-d", xray = "second" }}]
        [[node]]
        id = 3
        inbounds = [{{ tag = "in-c", xray = "first" }}]
        "#,
        first.api_addr(),
        second.api_addr(),
        out = folder.join("files").display(),
        state = folder.join("state").display(),
    );
    fs::write(&file, text)?;
    Ok(file)
}

#[tokio::test]
async fn one_agent_serves_several_xrays_nodes_and_inbounds() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    let series = |from: u32, count: u32| (from..from + count).map(nth_uuid).collect::<Vec<_>>();
    for node in 1..=3 {
        panel.set_users(u64::from(node), series(node * 100, node));
    }
    let first = Xray::start(
        ServerConfig::new()
            .vless("in-a")
            .vmess("in-b")
            .trojan("in-c"),
    );
    let second = Xray::start(ServerConfig::new().vless("in-c").shadowsocks("in-d"));
    let (first, second) = tokio::try_join!(first, second)?;
    let folder = folder()?;
    let file = fleet(folder.path(), &first, &second)?;
    // The environment goes before the file: its panel and its mode are wrong.
    let command = AgentCommand::new(PROGRAM)
        .env("PANEL_BASE_URL", panel.base_url())
        .env("INTERNAL_API_KEY", TOKEN)
        .env("APPLY_MODE", "xray-grpc")
        .arg("--config")
        .arg(&file);
    let _agent = command.spawn()?;

    let places = [
        (&first, "in-a", "in-a", 1),
        (&first, "in-b", "in-b", 1),
        (&second, "in-c", "other-c", 1),
        (&second, "in-d", "in-d", 2),
        (&first, "in-c", "in-c", 3),
    ];
    let arrived = async |wanted: &dyn Fn(u32) -> Vec<String>| -> Result<()> {
        for (xray, tag, prefix, node) in places {
            let mut api = Api::connect(&xray.api_addr()).await?;
            let wanted: Vec<_> = wanted(node)
                .iter()
                .map(|id| format!("{prefix}.{id}"))
                .collect();
            eventually(&format!("{tag} of node {node}"), LONG, async || {
                let live = api.emails(tag).await.unwrap_or_default();
                live.into_iter()
                    .filter(|it| !it.contains('@'))
                    .eq(wanted.clone())
            })
            .await?;
        }
        Ok(())
    };
    arrived(&|node| series(node * 100, node)).await?;
    let wanted = |node: u32| series(node * 100, if node == 2 { 1 } else { node });
    panel.set_users(2, wanted(2));
    let sync = command.clone().arg("sync").run_to_end(LONG).await?;
    ensure!(sync.code == Some(0), "{sync:?}");
    arrived(&wanted).await?;
    for node in 1..=3 {
        let text = folder
            .path()
            .join(format!("files/node-{node}/allowed-uuids.txt"));
        ensure!(fs::read_to_string(text)?.lines().eq(wanted(node)));
    }
    ensure!(folder.path().join("state/control.sock").exists());

    let status = command.args(["status", "--json"]).run_to_end(LONG).await?;
    let status: Value = serde_json::from_str(&status.stdout)?;
    let inbounds = status["nodes"][0]["inbounds"]
        .as_array()
        .context("no inbounds")?;
    ensure!(
        inbounds.len() == 3 && inbounds[1]["protocol"] == "vmess",
        "{status}"
    );
    Ok(())
}
