//! An agent whose whole configuration is a file that a test writes anew.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Agent, AgentCommand, Panel, eventually};
use crate::scripted::Scripted;
use crate::stage::status;
use crate::support::{LONG, TOKEN, folder};

/// What a file says; a test changes what it is about.
#[derive(Clone, Debug)]
pub struct Settings {
    pub panel: String,
    pub token: String,
    pub api: String,
    pub interval: String,
    /// Nodes, and the tag of each.
    pub nodes: Vec<(u64, &'static str)>,
    /// Lines of `[apply]` and of whatever follows.
    pub apply: String,
    pub further: String,
}

pub struct Reload {
    pub panel: Panel,
    pub xray: Scripted,
    pub settings: Settings,
    pub folder: TempDir,
}

impl Reload {
    pub async fn new(inbounds: &[(&str, &str)]) -> Result<Self> {
        let (panel, xray) = (Panel::start(TOKEN).await?, Scripted::start(inbounds).await?);
        let settings = Settings {
            panel: panel.base_url(),
            token: TOKEN.to_owned(),
            api: xray.api(),
            interval: "100ms".to_owned(),
            nodes: vec![(1, "in")],
            apply: "mode = \"xray-grpc\"".to_owned(),
            further: "[traffic]\ncollect_interval = \"100ms\"\nreport_interval = \"200ms\"\n\
                first_read = \"count\""
                .to_owned(),
        };
        let reload = Self {
            panel,
            xray,
            settings,
            folder: folder()?,
        };
        reload.write(&reload.settings)?;
        Ok(reload)
    }

    pub fn file(&self) -> PathBuf {
        self.path("agent.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, settings: &Settings) -> String {
        let nodes: Vec<_> = settings.nodes.iter().map(node).collect();
        format!(
            "[panel]\nurl = \"{}\"\ntoken = \"{}\"\n[apply]\n{}\n[[xray]]\naddress = \"{}\"\n{}\
             [sync]\ninterval = \"{}\"\n[output]\ndir = \"{}\"\n{}\n",
            settings.panel,
            settings.token,
            settings.apply,
            settings.api,
            nodes.concat(),
            settings.interval,
            self.folder.path().display(),
            settings.further,
        )
    }

    /// Replaces the file as careful programs do.
    pub fn write(&self, settings: &Settings) -> Result<()> {
        replace(&self.file(), &self.text(settings))
    }

    pub fn command(&self) -> AgentCommand {
        AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent"))
            .args(["--config".into(), self.file().into_os_string()])
    }

    /// Runs it until it has served its nodes once.
    pub async fn spawn(&self) -> Result<Agent> {
        let agent = self.command().spawn()?;
        self.await_status("the first pass", |status| {
            let nodes = status["nodes"].as_array();
            nodes.is_some_and(|nodes| nodes.iter().all(|node| node["allowed"].is_number()))
        })
        .await?;
        Ok(agent)
    }

    pub async fn await_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, LONG, async || {
            status(&self.command()).await.ok().filter(|it| is_so(it))
        })
        .await
    }

    /// Has the agent take the file in; what it says.
    pub async fn reload(&self) -> Result<String> {
        let said = self.command().arg("reload").run_to_end(LONG).await?;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(said.stdout)
    }
}

fn node((id, tag): &(u64, &'static str)) -> String {
    format!("[[node]]\nid = {id}\ninbounds = [\"{tag}\"]\n")
}

/// A new file in the place of the old.
pub fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}
