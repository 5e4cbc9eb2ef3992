//! What can be said after `xray-agent traffic`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::base::duration;
use crate::model::report::ReportId;

/// `2026-11-01`.
const DATE_CHARS: usize = 10;

/// What to show or do; sums by node, where nothing is said.
#[derive(Args, Debug)]
pub struct TrafficArgs {
    /// As JSON; amounts in bytes, users whole.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to show or do.
    #[command(subcommand)]
    pub command: Option<TrafficCommand>,
}

/// What to show or do.
#[derive(Debug, Subcommand)]
pub enum TrafficCommand {
    /// List reports that wait to be sent.
    Pending,
    /// List reports that the panel has refused for good, with its words.
    Rejected,
    /// List reports of which nobody knows whether they were taken.
    Unknown,
    /// Say what became of an unknown report.
    Resolve {
        /// Its number.
        #[arg(value_parser = report_id)]
        id: ReportId,
        /// What became of it.
        outcome: Outcome,
    },
    /// Send a rejected report again, under a new number.
    Retry {
        /// Its number.
        #[arg(value_parser = report_id)]
        id: ReportId,
    },
    /// Read the counters of every Xray now: fit to be `ExecStop=-` of Xray's unit.
    Collect,
    /// Write out everything since a time: what was taken by day, what was not by report.
    Export {
        /// A time (2026-11-01T12:00:00Z), a date in UTC (2026-11-01), or how long ago (24h).
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Since,
        /// How it is written [default: csv, or json with --json].
        #[arg(long)]
        format: Option<Format>,
        /// Where to, instead of standard output; a new file can be read by its owner only.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// What became of a report.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Outcome {
    /// The panel has it: it is settled.
    Delivered,
    /// The panel does not have it: it is sent again, under its number.
    NotDelivered,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A header, then a line for each (RFC 4180).
    Csv,
    /// One array.
    Json,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From this moment.
    At(Timestamp),
    /// From so long before now.
    Ago(Duration),
}

impl Since {
    /// The moment; the beginning of time, where it lies before that.
    pub(super) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(moment) = Timestamp::from_str(text) {
        return Ok(Since::At(moment));
    }
    let date = (text.len() == DATE_CHARS).then(|| Date::from_str(text).ok());
    let midnight = date
        .flatten()
        .and_then(|date| date.to_zoned(TimeZone::UTC).ok());
    if let Some(midnight) = midnight {
        return Ok(Since::At(midnight.timestamp()));
    }
    duration::parse(text).map(Since::Ago).map_err(|_| {
        "give a time (2026-11-01T12:00:00Z), a date (2026-11-01) or how long ago (24h)".to_owned()
    })
}

fn report_id(text: &str) -> Result<ReportId, String> {
    let id = Uuid::try_parse(text).map(ReportId);
    id.map_err(|_| "the number of a report is a UUID, as the lists show it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_how_long_ago() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let table = [
            ("2026-11-01T12:00:00Z", "2026-11-01T12:00:00Z"),
            ("2026-11-01T12:00:00.5+03:00", "2026-11-01T09:00:00.5Z"),
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2024-02-29", "2024-02-29T00:00:00Z"),
            ("24h", "2026-11-19T10:00:00Z"),
            ("1h30m", "2026-11-20T08:30:00Z"),
            ("0", "2026-11-20T10:00:00Z"),
            ("168h", "2026-11-13T10:00:00Z"),
        ];
        for (text, moment) in table {
            let read = since(text).unwrap().moment(now);
            assert_eq!(read, moment.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused_with_what_would_be_one() {
        for text in [
            "",
            "yesterday",
            "7d",
            "-24h",
            "20261101",
            "2026-13-01",
            "2023-02-29",
            "2026-11-01T12:00:00",
        ] {
            let why = since(text).unwrap_err();
            assert!(why.contains("2026-11-01") && why.contains("24h"), "{text}");
        }
    }

    #[test]
    fn a_moment_before_the_beginning_of_time_is_the_beginning() {
        let ago = Since::Ago(Duration::from_secs(u64::MAX));
        assert_eq!(ago.moment(Timestamp::UNIX_EPOCH), Timestamp::MIN);
    }
}
