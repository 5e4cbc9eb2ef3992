//! `xray-agent register`: the request is the contract's, its answer becomes a line for the
//! configuration, and neither the token nor what the panel needs for links is shown.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::lab::{AgentCommand, Output, Panel};
use crate::program::PROGRAM;
use crate::support::{LONG, TOKEN, folder};

/// In what the panel needs for links.
const KEY: &str = "canary-private-key";
const NODE: [&str; 8] = [
    "--name",
    "a node",
    "--address",
    "node.example.org",
    "--port",
    "443",
    "--protocol",
    "vless",
];

/// With a panel and nothing else: no node is configured.
fn command(panel: &Panel) -> AgentCommand {
    AgentCommand::new(PROGRAM)
        .env("PANEL_BASE_URL", panel.base_url())
        .env("INTERNAL_API_KEY", TOKEN)
        .env("RUST_LOG", "trace")
        .arg("register")
}

async fn run(command: &AgentCommand) -> Result<Output> {
    let said = command.run_to_end(LONG).await?;
    let all = format!("{}{}", said.stdout, said.stderr);
    ensure!(!all.contains(TOKEN) && !all.contains(KEY), "{all}");
    Ok(said)
}

#[tokio::test]
async fn a_node_is_registered_as_the_contract_has_it_and_keeps_its_id() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    let folder = folder()?;
    let file = folder.path().join("node.json");
    let config = json!({"sni": "example.org", "private": KEY});
    fs::write(&file, config.to_string())?;
    let least = command(&panel).args(NODE).current_dir(folder.path());
    let first = run(&least).await?;
    ensure!(first.code == Some(0), "{first:?}");
    ensure!(
        first.stdout.lines().any(|it| it == "  NODE_IDS=41"),
        "{first:?}"
    );
    ensure!(
        first.stdout.ends_with("  [[node]]\n  id = 41\n"),
        "{first:?}"
    );

    let whole = least.clone().args([
        "--node-config",
        &format!("@{}", file.display()),
        "--status",
        "1",
        "--sort-order",
        "-3",
        "--plan-id",
        "5",
        "--plan-id",
        "6",
        "--json",
    ]);
    let again = run(&whole).await?;
    ensure!(again.code == Some(0), "{again:?}");
    ensure!(serde_json::from_str::<Value>(&again.stdout)? == json!({"id": 41}));
    let of_node = json!({
        "name": "a node", "address": "node.example.org", "port": 443, "protocol": "vless",
        "config": {},
    });
    let mut of_whole = of_node.clone();
    of_whole["config"] = config;
    of_whole["status"] = json!(1);
    of_whole["sort_order"] = json!(-3);
    of_whole["plan_ids"] = json!([5, 6]);
    ensure!(
        panel.registrations() == [of_node, of_whole],
        "{:?}",
        panel.registrations()
    );

    let hidden = ["--status", "hidden", "--node-config", r#"{"a":1}"#];
    let hidden = run(&least.clone().args(hidden)).await?;
    ensure!(hidden.code == Some(0), "{hidden:?}");
    ensure!(panel.registrations()[2]["status"] == "hidden");
    ensure!(
        fs::read_dir(folder.path())?.count() == 1,
        "something was made"
    );
    Ok(())
}

#[tokio::test]
async fn what_the_panel_refuses_is_told() -> Result<()> {
    let mut panel = Panel::start(TOKEN).await?;
    let refused = command(&panel).args(&NODE[..7]).arg("unheard-of");
    let refused = run(&refused).await?;
    ensure!(
        refused.code == Some(1) && refused.stdout.is_empty(),
        "{refused:?}"
    );
    ensure!(refused.stderr.contains("invalid node"), "{refused:?}");
    panel.set_token("another");
    let forbidden = run(&command(&panel).args(NODE)).await?;
    ensure!(forbidden.code == Some(1), "{forbidden:?}");
    ensure!(
        forbidden.stderr.contains("INTERNAL_API_KEY"),
        "{forbidden:?}"
    );
    panel.pause().await;
    let away = run(&command(&panel).args(NODE)).await?;
    ensure!(
        away.code == Some(1) && away.stderr.contains("register-node"),
        "{away:?}"
    );
    Ok(())
}

#[tokio::test]
async fn wrong_use_asks_the_panel_nothing() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    let node = command(&panel).args(NODE);
    let key = format!("{{\"{KEY}\"");
    for wrong in [
        node.clone().args(["--node-config", &key]),
        node.clone().args(["--node-config", "[]"]),
        node.clone().args(["--node-config", "@/nowhere/node.json"]),
        node.clone().args(["--plan-id", "x"]),
        command(&panel).args(&NODE[..6]),
        command(&panel).args(NODE).args(["--name", " "]),
        node.clone().env("INTERNAL_API_KEY", ""),
    ] {
        let wrong = run(&wrong).await?;
        ensure!(
            wrong.code == Some(2) && wrong.stdout.is_empty(),
            "{wrong:?}"
        );
        ensure!(!wrong.stderr.is_empty());
    }
    ensure!(panel.registrations().is_empty());
    Ok(())
}
