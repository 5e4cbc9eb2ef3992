//! `xray-agent status`: one screen, or one after the other. A watch shows that the agent is gone, and
//! that it is back, and leaves the terminal as it is after each screen.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::screen::{self, Screen};
use super::{FAILED, traffic::told};
use crate::app::status::{self as app, Standing};
use crate::config::Config;

/// Between two screens, in seconds.
const EACH_SECONDS: &str = "2";
/// Shortest and longest pause between two screens.
const EACH: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_hours(1);
/// To the upper left corner; long lines end at the right edge, so that each takes one.
const BEGIN: &str = "\x1b[H\x1b[?7l";
/// Clears what was in the rest of a line.
const LINE_END: &str = "\x1b[K\n";
/// Clears what was below, and long lines go on in the next one again.
const END: &str = "\x1b[J\x1b[?7h";

/// What can be said after `xray-agent status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// As JSON; with --watch an object a line.
    #[arg(long)]
    pub json: bool,

    /// Show it again and again, until Ctrl-C; after so many seconds [default: 2].
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = EACH_SECONDS, value_parser = seconds, hide_default_value = true)]
    pub watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let each = text.parse().ok().map(Duration::try_from_secs_f64);
    match each {
        Some(Ok(each)) if EACH.contains(&each) => Ok(each),
        _ => Err("this is no number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// Shows it; the exit code: 1 where no agent runs or something is wrong.
pub(super) async fn run(config: &Config, args: StatusArgs) -> u8 {
    if let Some(each) = args.watch {
        return match watch(config, each, args.json).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => told(Err(error.into())),
            _ => 0,
        };
    }
    let standing = match app::status(config).await {
        Ok(standing) => standing,
        Err(error) => return told(Err(error.into())),
    };
    if args.json {
        say!("{standing:#}");
        return if standing["running"] == true {
            0
        } else {
            FAILED
        };
    }
    let screen = drawn(standing);
    for line in &screen.lines {
        say!("{line}");
    }
    if screen.is_wrong { FAILED } else { 0 }
}

fn drawn(standing: Value) -> Screen {
    match serde_json::from_value::<Standing>(standing) {
        Ok(standing) => screen::draw(&standing, Timestamp::now()),
        Err(error) => Screen {
            lines: vec![format!("the running agent is of another version: {error}")],
            is_wrong: true,
        },
    }
}

async fn watch(config: &Config, each: Duration, json: bool) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let in_place = !json && io::stdout().is_terminal();
    loop {
        // Both arms are cancel-safe: a question that is given up changes nothing.
        let frame = tokio::select! {
            standing = app::status(config) => frame(standing, json, in_place),
            () = asked_to_end(&mut interrupt, &mut terminate) => break,
        };
        write(&frame)?;
        // Both arms are cancel-safe.
        tokio::select! {
            () = tokio::time::sleep(each) => {}
            () = asked_to_end(&mut interrupt, &mut terminate) => break,
        }
    }
    // After the terminal's own `^C`.
    if in_place { write("\n") } else { Ok(()) }
}

async fn asked_to_end(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// One screen as it is written, whole: whatever ends us, the terminal is not left in between.
fn frame(standing: Result<Value, app::StatusError>, json: bool, in_place: bool) -> String {
    let lines = match standing {
        Ok(standing) if json => return format!("{standing}\n"),
        Ok(standing) => drawn(standing).lines,
        Err(error) if json => {
            return format!("{}\n", serde_json::json!({ "error": error.to_string() }));
        }
        Err(error) => vec![super::table::words(&error.to_string())],
    };
    if in_place {
        return format!("{BEGIN}{}{LINE_END}{END}", lines.join(LINE_END));
    }
    format!("{}\n\n", lines.join("\n"))
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_screen_in_place_leaves_the_terminal_as_it_was() {
        let standing = json!({
            "running": false, "state_dir": "/x\u{1b}[31m", "version": "1", "mode": "none",
            "nodes": [], "tasks": [],
        });
        let drawn = frame(Ok(standing.clone()), false, true);
        assert!(
            drawn.starts_with(BEGIN) && drawn.ends_with(END),
            "{drawn:?}"
        );
        let within = &drawn[BEGIN.len()..drawn.len() - END.len()];
        // Of its own there is only the end of each line.
        assert!(!within.replace(LINE_END, "").contains('\x1b'), "{drawn:?}");
        assert!(within.contains("no agent is running"), "{drawn:?}");
        let plain = frame(Ok(standing), false, false);
        assert!(
            !plain.contains('\x1b') && plain.ends_with("\n\n"),
            "{plain:?}"
        );
    }

    #[test]
    fn an_agent_of_another_version_and_one_that_hangs_are_shown_as_that() {
        let other = frame(Ok(json!({"running": true})), false, false);
        assert!(other.contains("another version"), "{other}");
        let hangs = frame(Err(app::StatusError::Silent), true, false);
        let hangs: Value = serde_json::from_str(&hangs).unwrap();
        assert!(hangs["error"].as_str().unwrap().contains("10s"), "{hangs}");
    }

    #[test]
    fn a_pause_is_some_seconds() {
        for (text, millis) in [("0.1", 100), ("2", 2_000), ("3600", 3_600_000)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "0", "0.09", "-1", "3601", "NaN", "inf", "1e99", "2s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
