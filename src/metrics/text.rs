//! A page as text: OpenMetrics 1.0 where it is asked for, else Prometheus' text format 0.0.4. The first
//! is written by `prometheus-client`, which knows how values and labels are written; the second is
//! made of it, for the two differ in a few lines.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{ALL, Family, Kind, PREFIX};
use super::page::{Page, Value};
use crate::model::tally::{BOUNDS_MS, Distribution};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything reads.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// A page as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposition {
    /// For `Content-Type`.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

impl Format {
    /// By a request's `Accept`; [`Format::Text`] unless OpenMetrics is named.
    pub fn of_accept(accept: Option<&str>) -> Self {
        let named = accept.into_iter().flat_map(|accept| accept.split(','));
        let kinds = named.filter_map(|range| range.split(';').next());
        let is_open = |kind: &str| {
            kind.trim()
                .eq_ignore_ascii_case("application/openmetrics-text")
        };
        if kinds.into_iter().any(is_open) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Page {
    /// The page as text. Every family has its HELP and TYPE, also while it has no value.
    pub fn exposition(self, format: Format) -> Exposition {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut open = String::new();
        encode(&mut open, &registry).expect("invariant: a String takes whatever is written to it");
        Exposition {
            content_type: format.content_type(),
            body: match format {
                Format::OpenMetrics => open,
                Format::Text => classic(&open),
            },
        }
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in ALL {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (values, value) in self.of(family) {
                let labels: Vec<_> = family.labels.iter().copied().zip(values).collect();
                if labels.is_empty() {
                    write(&mut encoder, family, value)?;
                } else {
                    write(&mut encoder.encode_family(&labels)?, family, value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, family: &Family, value: &Value) -> fmt::Result {
    match (family.kind, value) {
        (Kind::Counter, Value::Whole(value)) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (Kind::Counter, Value::Real(value)) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(value, None)
        }
        (_, Value::Whole(value)) => encoder.encode_gauge(value),
        (_, Value::Signed(value)) => encoder.encode_gauge(value),
        (_, Value::Real(value)) => encoder.encode_gauge(value),
        (_, Value::Spread(spread)) => spread_to(encoder, spread),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sums of durations stay far below 2^53 microseconds, which are 285 years"
)]
fn spread_to(encoder: &mut MetricEncoder<'_>, spread: &Distribution) -> fmt::Result {
    let bounds = BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3);
    let buckets: Vec<_> = bounds
        .chain([f64::INFINITY])
        .zip(spread.counts.iter().copied())
        .collect();
    let count = spread.counts.iter().sum();
    encoder.encode_histogram::<NoLabelSet>(spread.sum_us as f64 / 1e6, count, &buckets, None)
}

/// OpenMetrics as text format 0.0.4: there a counter's family has the `_total` of its values, and
/// nothing marks the end.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1024);
    let mut help = None;
    for line in open.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        if line == "# EOF" {
            continue;
        }
        if let Some(name) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.strip_suffix(" counter"))
        {
            let meaning = help.take().and_then(|help| help.splitn(4, ' ').nth(3));
            let meaning = meaning.unwrap_or_default();
            let total = format!("{name}_total");
            for part in [
                "# HELP ",
                &total,
                " ",
                meaning,
                "\n# TYPE ",
                &total,
                " counter\n",
            ] {
                text.push_str(part);
            }
            continue;
        }
        for line in help.take().into_iter().chain([line]) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::families::{BUILD_INFO, DRIFT, SYNC_DURATION, SYNCS};
    use super::*;
    use crate::model::tally::Durations;

    fn page() -> Page {
        let mut page = Page::default();
        page.add(&BUILD_INFO, &["1.0", "none"], true);
        page.add(&DRIFT, &["1", "x", "a\"b\\c\nd"], -3_i64);
        page.add(&SYNCS, &["1", "x", "in", "ok"], 7_u64);
        let durations = Durations::default();
        durations.count(Duration::from_millis(3));
        durations.count(Duration::from_secs(100));
        page.add(&SYNC_DURATION, &["1", "x", "in"], durations.distribution());
        page
    }

    #[test]
    fn the_text_format_has_every_value_under_its_family() {
        let text = page().exposition(Format::Text).body;
        for block in [
            "# TYPE xray_agent_syncs_total counter\n\
             xray_agent_syncs_total{node=\"1\",xray=\"x\",inbound=\"in\",result=\"ok\"} 7\n",
            "# TYPE xray_agent_drift_users gauge\n\
             xray_agent_drift_users{node=\"1\",xray=\"x\",inbound=\"a\\\"b\\\\c\\nd\"} -3\n",
            "xray_agent_sync_duration_seconds_sum{node=\"1\",xray=\"x\",inbound=\"in\"} 100.003\n",
            "xray_agent_sync_duration_seconds_bucket{le=\"0.001\",node=\"1\",xray=\"x\",inbound=\"in\"} 0\n",
            "xray_agent_sync_duration_seconds_bucket{le=\"0.005\",node=\"1\",xray=\"x\",inbound=\"in\"} 1\n",
            "xray_agent_sync_duration_seconds_bucket{le=\"60.0\",node=\"1\",xray=\"x\",inbound=\"in\"} 1\n",
            "xray_agent_sync_duration_seconds_bucket{le=\"+Inf\",node=\"1\",xray=\"x\",inbound=\"in\"} 2\n",
        ] {
            assert!(text.contains(block), "{block}\nis not in\n{text}");
        }
        assert!(!text.contains("# EOF"));
        for family in ALL {
            for what in ["HELP", "TYPE"] {
                let line = format!("# {what} {} ", family.full_name());
                assert_eq!(text.matches(&line).count(), 1, "{line}");
            }
        }
    }

    #[test]
    fn openmetrics_names_a_counters_family_without_total_and_ends() {
        let exposition = page().exposition(Format::OpenMetrics);
        assert!(exposition.content_type.contains("openmetrics"));
        let text = exposition.body;
        assert!(text.contains("# TYPE xray_agent_syncs counter\nxray_agent_syncs_total{"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn openmetrics_is_given_to_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
        for (accept, format) in [
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/plain; version=0.0.4"), Format::Text),
            (Some(prometheus), Format::OpenMetrics),
        ] {
            assert_eq!(Format::of_accept(accept), format, "{accept:?}");
        }
    }
}
