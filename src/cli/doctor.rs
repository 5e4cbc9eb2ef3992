//! `xray-agent doctor`: what was found, for people and for programs; and Xray's configuration with what
//! it lacks. Exit code 1: something is bad; 2: a file that was named cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{FAILED, USAGE, stream};
use crate::app::doctor::{Finding, Report, Verdict, XrayFile, doctor, fixed_xray_config};
use crate::config::{self, Environment, Need, Sources};

/// How to check.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Xray's configuration file (JSON), to see what it lacks before anybody connects.
    #[arg(long, value_name = "FILE")]
    xray_config: Option<PathBuf>,
    /// Check nothing: print this configuration of Xray's with what it lacks merged in.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "xray_config"])]
    fix_xray_config: Option<PathBuf>,
}

/// Does what was asked; the exit code.
pub(super) async fn run(file: Option<PathBuf>, args: DoctorArgs) -> u8 {
    match args.fix_xray_config {
        Some(xray_config) => fix(file, &xray_config),
        None => check(file, args.xray_config.as_deref(), args.json).await,
    }
}

async fn check(file: Option<PathBuf>, xray_config: Option<&Path>, json: bool) -> u8 {
    let shown = match xray_config.map(read).transpose() {
        Ok(shown) => shown,
        Err(why) => return refuse(&why),
    };
    let report = doctor(&sources(file), shown.as_deref()).await;
    let mut out = stream::stdout();
    if json {
        out.json(&as_json(&report));
    } else {
        for line in report.findings.iter().flat_map(lines) {
            out.line(line);
        }
        out.line(summary(&report));
    }
    let code = if report.is_good() { 0 } else { FAILED };
    written(out.finish(), code)
}

/// Prints Xray's configuration with what it lacks.
fn fix(file: Option<PathBuf>, xray_config: &Path) -> u8 {
    let config = match config::read(&sources(file), Need::Check) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems.to_string()),
    };
    let read = read(xray_config)
        .and_then(|text| XrayFile::read(&text).map_err(|why| told(xray_config, &why)));
    let fixed = match read {
        Ok(file) => fixed_xray_config(&config, &file),
        Err(why) => return refuse(&why),
    };
    for left in fixed.left {
        eprintln!("not mended: {left}");
    }
    let mut out = stream::stdout();
    out.json(&fixed.whole);
    written(out.finish(), 0)
}

fn written(outcome: io::Result<()>, code: u8) -> u8 {
    match outcome {
        Ok(()) => code,
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}

fn sources(file: Option<PathBuf>) -> Sources {
    Sources {
        environment: Environment::of_process(),
        file,
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error: io::Error| told(path, &error))
}

fn told(path: &Path, why: &dyn std::error::Error) -> String {
    format!("{}: {why}", path.display())
}

fn refuse(why: &str) -> u8 {
    eprintln!("{why}");
    USAGE
}

/// A finding, and what mends it below.
fn lines(finding: &Finding) -> Vec<String> {
    let about = finding.about.as_deref().map(|about| format!(" {about}"));
    let first = format!(
        "{} {}{}: {}",
        finding.verdict.sign(),
        finding.check,
        about.unwrap_or_default(),
        finding.what
    );
    let mend = finding.mend.iter().map(|line| format!("    {line}"));
    std::iter::once(first).chain(mend).collect()
}

fn summary(report: &Report) -> String {
    let count = |verdict| report.count(verdict);
    let (good, notes) = (count(Verdict::Good), count(Verdict::Note));
    match count(Verdict::Bad) {
        0 => format!("nothing is wrong: {good} ✓, {notes} !"),
        1 => format!("1 thing is wrong: {good} ✓, {notes} !"),
        bad => format!("{bad} things are wrong: {good} ✓, {notes} !"),
    }
}

fn as_json(report: &Report) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ok": report.is_good(),
        "findings": report.findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let finding = |verdict: &Verdict| Finding {
            check: "panel",
            about: None,
            verdict: *verdict,
            what: "so".to_owned(),
            mend: vec!["do".to_owned()],
        };
        verdicts.iter().map(finding).collect::<Vec<_>>().into()
    }

    #[test]
    fn a_finding_is_a_line_and_its_mend_stands_below() {
        let mut finding = report(&[Verdict::Bad]).findings.remove(0);
        assert_eq!(lines(&finding), ["✗ panel: so", "    do"]);
        finding.about = Some("in".to_owned());
        assert_eq!(lines(&finding)[0], "✗ panel in: so");
    }

    #[test]
    fn the_last_line_counts_and_json_has_the_names_that_are_promised() {
        let mixed = report(&[Verdict::Good, Verdict::Bad, Verdict::Note]);
        assert_eq!(summary(&mixed), "1 thing is wrong: 1 ✓, 1 !");
        assert_eq!(summary(&report(&[])), "nothing is wrong: 0 ✓, 0 !");
        let bad = json!({"check": "panel", "about": null, "verdict": "bad", "what": "so",
            "mend": ["do"]});
        let written = as_json(&report(&[Verdict::Bad]));
        assert_eq!(written["findings"], json!([bad]));
        assert_eq!(written["ok"], json!(false));
    }
}
