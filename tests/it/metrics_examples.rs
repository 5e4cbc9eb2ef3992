//! The dashboard and the alerts speak of metrics that exist, and of all that matter.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xray_agent::metrics::{ALL, Kind};

fn example(name: &str) -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus");
    std::fs::read_to_string(folder.join(name)).with_context(|| name.to_owned())
}

/// All series that the agent can show.
fn known() -> BTreeSet<String> {
    let names = ALL.iter().flat_map(|family| {
        let name = family.full_name();
        match family.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .iter()
                .map(|end| format!("{name}{end}"))
                .collect(),
            Kind::Counter | Kind::Gauge => vec![name],
        }
    });
    names.collect()
}

/// All series of ours that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let begins = text.match_indices("xray_agent_").map(|(at, _)| &text[at..]);
    begins
        .map(|rest| rest.chars().take_while(|c| is_of_name(*c)).collect())
        .collect()
}

fn panels() -> Result<Vec<Value>> {
    let dashboard: Value = serde_json::from_str(&example("xray-agent.dashboard.json")?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    Ok(panels.clone())
}

#[test]
fn dashboard_and_alerts_name_nothing_that_is_not_there() -> Result<()> {
    let known = known();
    for file in [
        "xray-agent.dashboard.json",
        "xray-agent.rules.yml",
        "xray-agent.rules.test.yml",
    ] {
        let named = named(&example(file)?);
        ensure!(named.len() > 10, "{file} names only {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        ensure!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    Ok(())
}

#[test]
fn every_metric_is_on_the_dashboard() -> Result<()> {
    let shown = named(&example("xray-agent.dashboard.json")?);
    let missing = ALL.iter().map(|family| family.full_name()).filter(|name| {
        let ends = ["", "_bucket"].map(|end| format!("{name}{end}"));
        !ends.iter().any(|name| shown.contains(name))
    });
    let missing: Vec<_> = missing.collect();
    ensure!(missing.is_empty(), "{missing:?}");
    Ok(())
}

#[test]
fn every_panel_of_the_dashboard_has_a_place_of_its_own_and_asks_something() -> Result<()> {
    let mut ids = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in panels()? {
        let title = panel["title"].as_str().context("no title")?;
        ensure!(
            ids.insert(panel["id"].as_u64()),
            "{title}: its id is used twice"
        );
        let place = |side: &str| panel["gridPos"][side].as_u64().context("no place");
        let (x, y, w, h) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(x + w <= 24, "{title} is too wide");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            ensure!(places.insert(cell), "{title} covers another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().context("no targets")?;
        ensure!(!targets.is_empty(), "{title}");
        for target in targets {
            let asked = target["expr"].as_str().context("no expr")?;
            let metrics = asked.matches("xray_agent_").count();
            let chosen = asked
                .matches(r#"{job=~"$job",instance=~"$instance""#)
                .count();
            ensure!(metrics > 0 && metrics == chosen, "{title}: {asked}");
            ensure!(target["datasource"]["uid"] == "${datasource}", "{title}");
        }
    }
    Ok(())
}

#[test]
fn every_alert_has_a_test_and_says_what_to_do() -> Result<()> {
    let (rules, tests) = (
        example("xray-agent.rules.yml")?,
        example("xray-agent.rules.test.yml")?,
    );
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: Vec<_> = alerts.collect();
    ensure!(alerts.len() > 15, "{alerts:?}");
    for alert in &alerts {
        let tested = tests.matches(&format!("alertname: {alert}\n")).count();
        ensure!(
            tested == 2,
            "{alert}: one that fires, one where all is well"
        );
    }
    ensure!(rules.matches(" description: ").count() == alerts.len());
    ensure!(rules.matches(" summary: ").count() == alerts.len());
    Ok(())
}
