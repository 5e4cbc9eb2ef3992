//! What doctor leaves alone, and Xray's configuration as it prints it: a real Xray starts with that, and
//! nothing is wrong any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::doctor_stage::{Stage, TAG, bad, findings, server};
use crate::lab::{AgentCommand, ServerConfig, Xray, free_port};
use crate::support::{Api, LONG};

/// Every file below a folder, with its content.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(contents(&path)?);
        } else if path.is_file() {
            files.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(files)
}

#[tokio::test]
async fn doctor_changes_nothing_neither_in_xray_nor_on_the_disk() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let empty = findings(&stage.agent()).await?;
    ensure!(empty.0 == Some(0), "{empty:#?}");
    ensure!(
        fs::read_dir(stage.folder.path())?.count() == 0,
        "something was made"
    );
    let once = stage.agent().arg("--once").run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:#?}");
    let mut api = Api::connect(&stage.xray.api_addr()).await?;
    let (files, users) = (contents(stage.folder.path())?, api.users(TAG).await?);
    let full = findings(&stage.agent()).await?;
    ensure!(full.0 == Some(0), "{full:#?}");
    ensure!(contents(stage.folder.path())? == files);
    ensure!(api.users(TAG).await? == users && users.len() == 2);
    Ok(())
}

#[tokio::test]
async fn beside_a_running_agent_its_port_is_its_own() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let command = stage.agent().env("HTTP_LISTEN", &listen);
    let agent = command.spawn()?;
    crate::stage::await_inbound(&command, 0, "a first pass", |it| {
        it["last_success"].is_string()
    })
    .await?;
    crate::lab::eventually("doctor sees its port", LONG, async || {
        let (code, found) = findings(&command).await.ok()?;
        let all = found["findings"].as_array()?.iter();
        let mut ports = all.filter(|it| it["check"] == "ports");
        let what = ports.next()?["what"].as_str()?.to_owned();
        (code == Some(0) && what == format!("{listen} is an agent's")).then_some(())
    })
    .await?;
    drop(agent);
    Ok(())
}

#[tokio::test]
async fn findings_as_json_have_the_names_that_are_promised() -> Result<()> {
    let stage = Stage::new(server()).await?;
    stage.panel.set_token("another");
    let (code, found) = findings(&stage.agent()).await?;
    ensure!(
        code == Some(1) && found["ok"] == false && found["version"].is_string(),
        "{found}"
    );
    let all = found["findings"].as_array().context("findings")?;
    for finding in all {
        let names: Vec<_> = finding.as_object().context("a finding")?.keys().collect();
        ensure!(
            names == ["about", "check", "mend", "verdict", "what"],
            "{finding}"
        );
        let verdict = finding["verdict"].as_str().unwrap_or_default();
        ensure!(["good", "bad", "note"].contains(&verdict), "{finding}");
    }
    let checks: Vec<_> = all.iter().filter_map(|it| it["check"].as_str()).collect();
    let order = [
        "configuration",
        "panel",
        "xray",
        "xray",
        "inbound",
        "counting",
        "cutting",
        "clock",
        "files",
        "ports",
        "disk",
        "unit",
    ];
    ensure!(checks == order, "{checks:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_wrong_use() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let toml = stage.put("xray.toml", "[log]\nloglevel = \"none\"\n")?;
    for args in [
        ["--xray-config", "/nowhere/x.json"],
        ["--fix-xray-config", "/nowhere/x.json"],
        ["--fix-xray-config", toml.to_str().context("a path")?],
    ] {
        let said = stage
            .agent()
            .arg("doctor")
            .args(args)
            .run_to_end(LONG)
            .await?;
        ensure!(said.code == Some(2) && said.stdout.is_empty(), "{said:#?}");
        ensure!(said.stderr.contains(args[1]), "{said:#?}");
    }
    Ok(())
}

/// What `doctor --fix-xray-config` prints for a configuration.
async fn fixed(stage: &Stage, agent: &AgentCommand, config: &str) -> Result<Value> {
    let file = stage.put("broken.json", config)?;
    let fix = agent
        .clone()
        .args(["doctor", "--fix-xray-config"])
        .arg(&file);
    let said = fix.run_to_end(LONG).await?;
    ensure!(said.code == Some(0) && said.stderr.is_empty(), "{said:#?}");
    ensure!(
        fs::read_to_string(&file)? == config,
        "the file was written to"
    );
    Ok(serde_json::from_str(&said.stdout)?)
}

#[tokio::test]
async fn an_xray_starts_with_what_is_printed_and_then_nothing_is_wrong() -> Result<()> {
    // Its own API is that of none of these.
    let stage = Stage::new(ServerConfig::new().vless("other")).await?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let agent = stage
        .agent()
        .env("XRAY_API_ADDR", &listen)
        .env("XRAY_KICK", "auto");
    let text = "[apply]\nblock_outbound = \"hole\"\n\
                [[node]]\nid = 1\ninbounds = [{ tag = \"in-vless\", level = 3 }]\n";
    let agent = agent.arg("--config").arg(stage.put("agent.toml", text)?);
    let agent = agent.env("XRAY_TAG_MAP", "").env("NODE_IDS", "");
    let bare = server().edit(|config| {
        let config = config.as_object_mut().unwrap();
        for section in ["api", "stats", "policy"] {
            config.remove(section);
        }
        config.insert(
            "policy".to_owned(),
            json!({"levels": {"0": {"connIdle": 300}}}),
        );
    });
    let commented = format!("/* mine */ {:#} // the end", bare.json());
    let whole = fixed(&stage, &agent, &commented).await?;
    ensure!(
        whole["policy"]["levels"]["0"]["connIdle"] == 300,
        "{whole:#}"
    );
    ensure!(whole["inbounds"] == bare.json()["inbounds"]);
    let _xray = Xray::start(whole.clone()).await?;
    let file = stage.put("whole.json", &whole.to_string())?;
    let agent = agent
        .arg("doctor")
        .arg("--xray-config")
        .arg(file)
        .arg("--json");
    let said = agent.run_to_end(LONG).await?;
    let found: Value = serde_json::from_str(&said.stdout)?;
    ensure!(said.code == Some(0), "{}", bad(&found));
    Ok(())
}

#[tokio::test]
async fn a_door_to_the_api_is_kept_and_a_listener_elsewhere_too() -> Result<()> {
    let door = free_port()?;
    let behind = server()
        .without_stats()
        .without_policy()
        .api_behind_doors(&[door]);
    let behind = behind.edit(|config| {
        config["api"].as_object_mut().unwrap().remove("listen");
    });
    let stage = Stage::new(ServerConfig::new().vless("other")).await?;
    let agent = stage
        .agent()
        .env("XRAY_API_ADDR", format!("127.0.0.1:{door}"));
    let whole = fixed(&stage, &agent, &behind.json().to_string()).await?;
    ensure!(whole["api"] == behind.json()["api"] && whole["routing"] == behind.json()["routing"]);
    let _xray = Xray::start(whole).await?;
    let (code, found) = findings(&agent).await?;
    ensure!(code == Some(0), "{}", bad(&found));

    let elsewhere = agent.env("XRAY_API_ADDR", "127.0.0.1:1");
    let file = stage.put("behind.json", &behind.json().to_string())?;
    let said = elsewhere
        .args(["doctor", "--fix-xray-config"])
        .arg(file)
        .run_to_end(LONG)
        .await?;
    let left = format!("not mended: its API listens at 127.0.0.1:{door}");
    ensure!(
        said.code == Some(0) && said.stderr.starts_with(&left),
        "{said:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn of_two_xrays_each_is_named_and_the_file_is_that_of_its_own() -> Result<()> {
    let stage = Stage::new(server()).await?;
    let text = format!(
        "[[xray]]\nname = \"gone\"\naddress = \"127.0.0.1:1\"\n\
         [[xray]]\nname = \"here\"\naddress = \"{}\"\n\
         [[node]]\nid = 1\ninbounds = [{{ tag = \"{TAG}\", xray = \"here\" }}]\n",
        stage.xray.api_addr()
    );
    let agent = stage
        .agent()
        .arg("--config")
        .arg(stage.put("agent.toml", &text)?);
    let unset = ["XRAY_API_ADDR", "XRAY_TAG_MAP", "NODE_IDS"];
    let agent = unset.iter().fold(agent, |agent, name| agent.env(name, ""));
    let doctor = agent
        .args(["doctor", "--xray-config"])
        .arg(stage.xray_config()?);
    let said = doctor.run_to_end(LONG).await?;
    ensure!(
        said.code == Some(1) && said.stdout.matches('✗').count() == 1,
        "{said:#?}"
    );
    for line in [
        "✗ xray gone: its API cannot be reached at 127.0.0.1:1",
        "✓ inbound in-vless in here: vless",
        "✓ counting here: Xray's configuration has stats",
    ] {
        ensure!(said.stdout.contains(line), "{line}: {}", said.stdout);
    }
    Ok(())
}
