//! Whether everything is as an installation needs it: each thing in order, how it stands, and what
//! mends it. Reuses what the agent itself decides by.
//!
//! Invariant: nothing is changed anywhere, no lock is taken, no secret is told, and it ends within
//! half a minute whoever does not answer. What cannot be told because of something bad before it is
//! not bad itself, so that one cause is named once.

mod counting;
mod cutting;
mod finding;
mod host;
mod inbounds;
mod members;
mod of_xray;
mod panel;
mod unit;
mod xray;
mod xray_file;
mod xray_text;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

pub use finding::{Finding, Report, Verdict};
pub use xray_file::XrayFile;
pub use xray_text::NotJson;

use crate::config::{self, Config, Need, Problems, Sources};
use crate::control::{self, Call};
use crate::traffic::status::TrafficStatus;

/// A running agent answers at once; one that hangs is not waited for.
const AGENT_ANSWERS_WITHIN: Duration = Duration::from_secs(3);
const CONFIGURATION: &str = "configuration";

/// Checks everything. `xray_file`: the text of Xray's configuration, where it was shown.
pub async fn doctor(sources: &Sources, xray_file: Option<&str>) -> Report {
    let config = match config::read(sources, Need::Check) {
        Ok(config) => config,
        Err(problems) => {
            let unit = unit::check(None).await;
            return vec![of_problems(&problems), unit].into();
        }
    };
    let agent = Running::on(&config).await;
    let token_file = config::token_file(sources);
    let (of_panel, of_xrays, of_port, of_unit) = tokio::join!(
        panel::check(&config, token_file.as_deref()),
        of_xray::check_all(&config, xray_file, agent.traffic.as_ref()),
        host::check_port(&config, agent.who.is_some()),
        unit::check(agent.who.as_deref()),
    );
    let mut findings = vec![Finding::good(CONFIGURATION, "it is right")];
    let (clock, of_panel): (Vec<_>, Vec<_>) = of_panel
        .into_iter()
        .partition(|it| it.check == panel::CLOCK);
    findings.extend(of_panel);
    findings.extend(of_xrays);
    findings.extend(clock);
    let secrets = secret_files(sources, &config, token_file);
    let (of_files, of_disk): (Vec<_>, Vec<_>) = host::check_files(&config, &secrets)
        .into_iter()
        .partition(|it| it.check == host::FILES);
    findings.extend(of_files);
    findings.push(of_port);
    findings.extend(of_disk);
    findings.push(of_unit);
    findings.into()
}

/// Xray's configuration, mended.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// All of it.
    pub whole: Value,
    /// What had to be left as it is, in words.
    pub left: Vec<String>,
}

/// Xray's configuration with what the agent lacks in it merged in. Of several Xrays it is that of the
/// one whose API listens as it says, else of the first.
pub fn fixed_xray_config(config: &Config, file: &XrayFile) -> Fixed {
    let xray = of_xray::the_files_own(config, file).or(config.xrays.first());
    let xray = xray.expect("invariant: a configuration has an Xray");
    let needs = of_xray::needs(config, xray);
    let whole = file.mended(&needs);
    let left = XrayFile::read(&whole.to_string()).map(|file| file.lacks(&needs));
    Fixed {
        whole,
        left: left
            .unwrap_or_default()
            .iter()
            .map(xray_file::Lack::what)
            .collect(),
    }
}

fn of_problems(problems: &Problems) -> Finding {
    let lines = problems.iter().map(ToString::to_string);
    let count = problems.iter().count();
    let things = if count == 1 { "thing is" } else { "things are" };
    let mut finding = Finding::bad(CONFIGURATION, format!("{count} {things} wrong")).mends(lines);
    if Path::new(UNITS_VARIABLES).exists() {
        finding = finding
            .mend(format!(
                "if they stand in {UNITS_VARIABLES}, which only the unit reads:"
            ))
            .mend(format!(
                "set -a; . {UNITS_VARIABLES}; set +a; xray-agent doctor"
            ));
    }
    finding
}

/// The unit's variables; a shell does not have them.
const UNITS_VARIABLES: &str = "/etc/default/xray-agent";

/// Files that nobody else may read.
fn secret_files(sources: &Sources, config: &Config, token_file: Option<PathBuf>) -> Vec<PathBuf> {
    let holds_password = |panel: &config::Panel| {
        let proxy = panel.proxy.as_ref().map(|proxy| &proxy.0);
        [Some(&panel.url), proxy]
            .into_iter()
            .flatten()
            .any(|url| url.password().is_some())
    };
    let own =
        Some(sources.file_in_use()).filter(|_| config.panel.as_ref().is_some_and(holds_password));
    let tls = config.http.tls.as_ref().map(|tls| tls.key.clone());
    let mut files: Vec<_> = [own, token_file, tls].into_iter().flatten().collect();
    files.dedup();
    files
}

/// The agent that runs on the state folder, if one does.
#[derive(Default)]
struct Running {
    who: Option<String>,
    traffic: Option<TrafficStatus>,
}

impl Running {
    async fn on(config: &Config) -> Self {
        let asked = timeout(
            AGENT_ANSWERS_WITHIN,
            control::call(&config.state_dir, Call::Status {}),
        )
        .await;
        let Ok(Ok(status)) = asked else {
            return Self::default();
        };
        Self {
            who: Some(format!("agent, process {}", status["process"])),
            traffic: serde_json::from_value(status["traffic"].clone())
                .ok()
                .flatten(),
        }
    }
}
