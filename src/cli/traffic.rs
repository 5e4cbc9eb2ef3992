//! `xray-agent traffic`: what the ledger holds, and what a person does about it. What only reads opens
//! the ledger for reading only, also beside a running agent; what writes is the agent's to do.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use rusqlite::Connection;
use serde::Serialize;
use serde_json::json;

use super::stream::{self, Array, Out};
use super::traffic_args::{Format, Outcome, TrafficArgs, TrafficCommand};
use super::{FAILED, USAGE, export, step_down, traffic_print};
use crate::app::traffic::{self as app, uncounted};
use crate::base::clock::Clock;
use crate::config::Config;
use crate::model::report::{Decision, ReportId};
use crate::store::{WorkError, open_read_only};
use crate::traffic::ledger::{self, State, views};
use crate::traffic::status::TrafficStatus;

/// Said where there is nothing to show.
pub(super) const NO_LEDGER: &str = "there is no ledger yet: no traffic was counted";

/// Carries out what was said; the exit code.
pub(super) async fn run(config: &Config, args: TrafficArgs) -> u8 {
    if let Some(code) = step_down::to_owner_of(&config.state_dir) {
        return code;
    }
    let json = args.json;
    match args.command {
        None => overview(config, json).await,
        Some(TrafficCommand::Pending) => list(config, &[State::Pending, State::Sending], json),
        Some(TrafficCommand::Rejected) => list(config, &[State::Rejected], json),
        Some(TrafficCommand::Unknown) => list(config, &[State::Unknown], json),
        Some(TrafficCommand::Resolve { id, outcome }) => {
            let decision = match outcome {
                Outcome::Delivered => Decision::Delivered,
                Outcome::NotDelivered => Decision::NotDelivered,
            };
            decide(config, id, decision, json).await
        }
        Some(TrafficCommand::Retry { id }) => decide(config, id, Decision::Retry, json).await,
        Some(TrafficCommand::Collect) => collect(config, json).await,
        Some(TrafficCommand::Export {
            since,
            format,
            output,
        }) => {
            let format = match (json, format) {
                (true, Some(Format::Csv)) => {
                    eprintln!("--json and --format csv exclude each other");
                    return USAGE;
                }
                (true, _) => Format::Json,
                (false, format) => format.unwrap_or(Format::Csv),
            };
            export::run(config, since, format, output.as_deref())
        }
    }
}

/// Gives `read` the ledger as it is at one moment, whatever the agent writes meanwhile; `None` where
/// there is none yet.
pub(super) fn with_ledger<T>(
    config: &Config,
    read: impl FnOnce(Option<&Connection>) -> Result<T, WorkError>,
) -> anyhow::Result<T> {
    let spec = ledger::spec(&config.state_dir, Clock::system());
    look_at(&spec.file)?;
    let doing = || format!("reading {}", spec.file.display());
    match open_read_only(&spec)? {
        None => read(None).with_context(doing),
        Some(connection) => {
            let snapshot = connection.unchecked_transaction().with_context(doing)?;
            read(Some(&snapshot)).with_context(doing)
        }
    }
}

/// A ledger that this user may not see is not one that is not there.
fn look_at(file: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| file.display().to_string())
        }
        _ => Ok(()),
    }
}

/// The exit code, after the error was told.
pub(super) fn told(done: anyhow::Result<()>) -> u8 {
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error:#}");
            FAILED
        }
    }
}

/// The exit code, after the rest was written.
pub(super) fn ended<W: Write>(out: Out<W>) -> u8 {
    told(out.finish().context("cannot write to standard output"))
}

/// Sums, and how the running agent stands with them.
#[derive(Serialize)]
struct Overview {
    #[serde(flatten)]
    summary: views::Summary,
    live: Option<TrafficStatus>,
}

async fn overview(config: &Config, json: bool) -> u8 {
    let summary = with_ledger(config, |ledger| ledger.map(views::summary).transpose());
    let summary = match summary {
        Ok(summary) => summary,
        Err(error) => return told(Err(error)),
    };
    if summary.is_none() {
        eprintln!("{NO_LEDGER}");
    }
    // The sums are shown all the same.
    let live = app::live(config).await.unwrap_or_else(|error| {
        eprintln!("{error}");
        None
    });
    let overview = Overview {
        summary: summary.unwrap_or_default(),
        live,
    };
    let mut out = stream::stdout();
    if json {
        out.json(&overview);
    } else {
        if let Some(why) = uncounted(config) {
            out.line(why);
        }
        traffic_print::summary(&mut out, &overview.summary);
        if let Some(live) = &overview.live {
            traffic_print::live(&mut out, live);
        }
    }
    ended(out)
}

/// Reports in these states, the oldest first within each.
fn list(config: &Config, states: &[State], json: bool) -> u8 {
    let mut out = stream::stdout();
    let read = with_ledger(config, |ledger| {
        let each = |take: &mut dyn FnMut(views::ShownReport) -> bool| match ledger {
            Some(ledger) => states
                .iter()
                .try_for_each(|state| views::each_report(ledger, *state, &mut *take)),
            None => Ok(()),
        };
        if json {
            let mut array = Array::of(&mut out);
            each(&mut |report| array.item(&report))?;
            array.end();
        } else {
            let mut count = 0_usize;
            each(&mut |report| {
                count += 1;
                (count > 1 || out.line(traffic_print::REPORTS.heading()))
                    && out.line(traffic_print::report(&report))
            })?;
            if count == 0 && ledger.is_some() {
                out.line(format_args!("no {} reports", states[0].name()));
            }
        }
        if ledger.is_none() {
            eprintln!("{NO_LEDGER}");
        }
        Ok(())
    });
    match read {
        Ok(()) => ended(out),
        Err(error) => told(Err(error)),
    }
}

async fn decide(config: &Config, id: ReportId, decision: Decision, json: bool) -> u8 {
    let now = match app::decide(config, id, decision).await {
        Ok(now) => now,
        Err(error) => return told(Err(error.into())),
    };
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "id": now }));
    } else {
        out.line(match decision {
            Decision::Delivered => format!("report {id} is settled"),
            Decision::NotDelivered => format!("report {id} is sent again"),
            Decision::Retry => format!("report {id} is sent again as {now}"),
        });
    }
    ended(out)
}

/// Fit to be an `ExecStop`: where nothing is counted that is no failure.
async fn collect(config: &Config, json: bool) -> u8 {
    let status = match uncounted(config) {
        Some(why) => {
            eprintln!("{why}");
            TrafficStatus::default()
        }
        None => match app::collect(config).await {
            Ok(status) => status,
            Err(error) => return told(Err(error.into())),
        },
    };
    let mut out = stream::stdout();
    if json {
        out.json(&status);
    } else {
        for xray in &status.xrays {
            out.line(traffic_print::xray(xray));
        }
    }
    if let Some(error) = &status.ledger_error {
        eprintln!("ledger: {error}");
    }
    let failed =
        status.ledger_error.is_some() || status.xrays.iter().any(|xray| xray.error.is_some());
    let code = ended(out);
    if failed { FAILED } else { code }
}
