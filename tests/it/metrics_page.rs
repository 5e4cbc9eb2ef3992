//! A page of metrics as Prometheus reads it, by a reader that is not the agent's: series with their
//! values, and what is said of each family.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{AgentCommand, eventually};
use crate::support::LONG;

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    pub text: String,
    /// By the family's name.
    pub kinds: BTreeMap<String, String>,
    /// By name and labels as they are written, but sorted.
    pub series: BTreeMap<(String, Vec<String>), f64>,
}

impl Page {
    /// The value of the only series of that name which has all these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<_> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let name = format!("xray_agent_{name}");
        let mut fit = self.series.iter().filter(|((of, labels), _)| {
            *of == name && wanted.iter().all(|label| labels.contains(label))
        });
        let found = fit.next().map(|(_, value)| *value);
        fit.next().is_none().then_some(found).flatten()
    }

    /// How many series there are of that name.
    pub fn count(&self, name: &str) -> usize {
        let name = format!("xray_agent_{name}");
        self.series.keys().filter(|(of, _)| *of == name).count()
    }
}

/// Reads Prometheus' text format; refuses what Prometheus would refuse or misunderstand.
pub fn page(text: &str) -> Result<Page> {
    let mut page = Page {
        text: text.to_owned(),
        ..Page::default()
    };
    let mut helped = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("a HELP without a text")?;
            ensure!(help.len() > 5, "{line}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a TYPE without a kind")?;
            ensure!(helped.take().as_deref() == Some(name), "no HELP: {line}");
            let before = page.kinds.insert(name.to_owned(), kind.to_owned());
            ensure!(before.is_none(), "twice: {line}");
        } else {
            let (name, labels, value) = sample(line).with_context(|| line.to_owned())?;
            ensure!(family(&page.kinds, &name), "no TYPE: {line}");
            let before = page.series.insert((name, labels), value);
            ensure!(before.is_none(), "twice: {line}");
        }
    }
    Ok(page)
}

fn family(kinds: &BTreeMap<String, String>, name: &str) -> bool {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|end| {
        let family = name.strip_suffix(end);
        family.is_some_and(|family| kinds.get(family).is_some_and(|kind| kind == "histogram"))
    });
    of_histogram || kinds.get(name).is_some_and(|kind| kind != "histogram")
}

fn sample(line: &str) -> Result<(String, Vec<String>, f64)> {
    let (head, value) = line.rsplit_once(' ').context("no value")?;
    let value = value.parse()?;
    let Some((name, rest)) = head.split_once('{') else {
        return Ok((head.to_owned(), Vec::new(), value));
    };
    let Some(labels) = rest.strip_suffix('}') else {
        bail!("no end of labels");
    };
    let mut labels: Vec<String> = labels
        .split_inclusive("\",")
        .map(|label| label.trim_end_matches(',').to_owned())
        .collect();
    labels.sort();
    Ok((name.to_owned(), labels, value))
}

/// What the running agent shows.
pub async fn scrape(command: &AgentCommand) -> Result<Page> {
    let said = command.clone().arg("metrics").run_to_end(LONG).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);
    page(&said.stdout)
}

/// Waits until a metric has that value; the page of then.
pub async fn await_value(
    command: &AgentCommand,
    name: &str,
    labels: &[(&str, &str)],
    is_so: impl Fn(f64) -> bool,
) -> Result<Page> {
    eventually(&format!("{name}{labels:?}"), LONG, async || {
        let page = scrape(command).await.ok()?;
        page.value(name, labels).is_some_and(&is_so).then_some(page)
    })
    .await
}

/// For [`await_value`].
pub fn is(value: u32) -> impl Fn(f64) -> bool {
    move |found| Some(found) == Some(f64::from(value))
}
