//! An installation for `xray-agent doctor`: a panel, a real Xray and a configuration, right until a test
//! breaks something; and what doctor says of it, held to a file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Client, Origin, Output, Panel, ServerConfig, Xray};
use crate::support::{LONG, TOKEN, folder, grpc_agent};

pub const TAG: &str = "in-vless";
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots/doctor");

pub struct Stage {
    pub panel: Panel,
    pub xray: Xray,
    pub server: ServerConfig,
    pub folder: TempDir,
}

/// An Xray with all that the agent needs, and its first user in the inbound.
pub fn server() -> ServerConfig {
    with_user(ServerConfig::new().vless(TAG))
}

/// The agent's first user is in the inbound, as the agent would have put him there.
pub fn with_user(server: ServerConfig) -> ServerConfig {
    server.with_client(TAG, json!({"id": nth_uuid(0), "email": nth_uuid(0)}))
}

impl Stage {
    /// The panel allows two users; everything is as it has to be, if `server` is.
    pub async fn new(server: ServerConfig) -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, vec![nth_uuid(0), nth_uuid(1)]);
        Ok(Self {
            panel,
            xray: Xray::start(&server).await?,
            server,
            folder: folder()?,
        })
    }

    /// The program. What of cutting it says depends on who runs the tests, so that is off.
    pub fn agent(&self) -> AgentCommand {
        let api = self.xray.api_addr();
        grpc_agent(&self.panel.base_url(), self.folder.path(), &api, TAG).env("XRAY_KICK", "off")
    }

    /// A file that holds the configuration with which Xray runs.
    pub fn xray_config(&self) -> Result<PathBuf> {
        self.put(
            "xray.json",
            &format!("// its own\n{:#}", self.server.json()),
        )
    }

    pub fn put(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The first user, from an address of which Xray keeps a list.
    pub async fn user(&self) -> Result<Client> {
        let route = self.server.route(TAG, &nth_uuid(0)).sent_from("127.0.0.2");
        Client::start_many(&[route]).await
    }

    /// The first user has moved bytes both ways.
    pub async fn move_bytes(&self) -> Result<()> {
        let origin = Origin::start().await?;
        self.user().await?.get(0, &origin).await.map(drop)
    }

    /// Holds what doctor says to the file of that name; so many things are bad, and the exit code says
    /// so.
    pub async fn holds(&self, name: &str, bad: usize, doctor: AgentCommand) -> Result<()> {
        let said = doctor.arg("doctor").run_to_end(LONG).await?;
        self.compare(name, bad, &said)
    }

    /// [`Stage::holds`] of something that is bad, and nothing else is.
    pub async fn is_told(&self, name: &str, doctor: AgentCommand) -> Result<()> {
        self.holds(name, 1, doctor).await
    }

    /// The same, with the configuration with which Xray runs.
    pub async fn is_told_by_file(&self, name: &str, doctor: AgentCommand) -> Result<()> {
        let doctor = doctor.args(["doctor", "--xray-config"]);
        let said = doctor.arg(self.xray_config()?).run_to_end(LONG).await?;
        self.compare(name, 1, &said)
    }

    fn compare(&self, name: &str, bad: usize, said: &Output) -> Result<()> {
        let code = i32::from(bad > 0);
        ensure!(
            said.code == Some(code) && said.stderr.is_empty(),
            "{said:#?}"
        );
        ensure!(!said.stdout.contains(TOKEN) && !said.stdout.contains(&nth_uuid(0)));
        let signs = said.stdout.lines().filter(|line| line.starts_with('✗'));
        ensure!(signs.count() == bad, "{}", said.stdout);
        held(name, &self.masked(&said.stdout)?)
    }

    /// Without what differs from one host and run to the next.
    fn masked(&self, said: &str) -> Result<String> {
        let ports = [
            (self.panel.addr().port(), "PANEL"),
            (self.xray.api_port(), "API"),
        ];
        let inbounds = self.server.json()["inbounds"].as_array();
        let inbounds = inbounds.into_iter().flatten();
        let inbounds =
            inbounds.filter_map(|it| Some((it["port"].as_u64()?.try_into().ok()?, "INBOUND")));
        let mut text = said.to_owned();
        for (port, name) in ports.into_iter().chain(inbounds) {
            text = text.replace(&port.to_string(), name);
        }
        text = text.replace(&*self.folder.path().to_string_lossy(), "FOLDER");
        let lines: Vec<&str> = text.lines().collect();
        let (summary, lines) = lines.split_last().context("nothing was said")?;
        let (summary, _) = summary.split_once(':').context("no summary")?;
        // The last finding, with its mend.
        let is_unit = |line: &&str| line.split(' ').nth(1) == Some("unit:");
        let unit = lines.iter().position(is_unit);
        let lines = &lines[..unit.context("no word of the unit")?];
        let masked = lines.iter().map(|line| numbers_masked(line) + "\n");
        Ok(masked
            .chain([summary.to_owned(), "\n".to_owned()])
            .collect())
    }
}

/// Figures of the host, of time and of versions.
fn numbers_masked(line: &str) -> String {
    let mut line = line.to_owned();
    for (before, after) in [
        ("disk: ", " MiB"),
        ("clock: ", " s "),
        (": Xray ", " answers"),
    ] {
        let Some((head, rest)) = line.split_once(before) else {
            continue;
        };
        if let Some((_, tail)) = rest.split_once(after) {
            line = format!("{head}{before}N{after}{tail}");
        }
    }
    line
}

fn held(name: &str, text: &str) -> Result<()> {
    let path = Path::new(SNAPSHOTS).join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(SNAPSHOTS)?;
        fs::write(&path, text)?;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        expected == text,
        "not as in {}:\n{text}\nif it is right: UPDATE_DOCS=1 cargo test --test it doctor",
        path.display()
    );
    Ok(())
}

/// What doctor finds, as JSON, with its exit code.
pub async fn findings(doctor: &AgentCommand) -> Result<(Option<i32>, Value)> {
    let doctor = doctor.clone().args(["doctor", "--json"]);
    let said = doctor.run_to_end(LONG).await?;
    let found = serde_json::from_str(&said.stdout).with_context(|| format!("{said:#?}"))?;
    Ok((said.code, found))
}

/// The findings that are bad, in one text.
pub fn bad(found: &Value) -> String {
    let all = found["findings"].as_array().into_iter().flatten();
    let bad = all.filter(|finding| finding["verdict"] == "bad");
    bad.map(Value::to_string).collect::<Vec<_>>().join("\n")
}
