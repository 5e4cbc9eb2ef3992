//! `xray-agent traffic export`: everything since a time, for a program to read. Users are whole and
//! amounts are bytes; lines are written as they are read.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;

use super::stream::{Array, Out};
use super::traffic::{NO_LEDGER, told, with_ledger};
use super::traffic_args::{Format, Since};
use crate::base::clock::Clock;
use crate::base::files::PRIVATE_FILE;
use crate::config::Config;
use crate::traffic::ledger::views::{self, ExportLine};

/// The columns of a CSV; those of JSON have the same names.
const HEADER: &str = "state,since,until,sink,node,uuid,up,down,reports,id,words";

pub(super) fn run(config: &Config, since: Since, format: Format, output: Option<&Path>) -> u8 {
    let since = since.moment(Clock::system().now());
    let written = with_ledger(config, |connection| {
        let mut out = match open(output) {
            Ok(out) => out,
            Err(error) => return Ok(Err(error)),
        };
        let read = |take: &mut dyn FnMut(ExportLine) -> bool| match connection {
            Some(connection) => views::export(connection, since, take),
            None => Ok(()),
        };
        match format {
            Format::Csv => {
                out.line(format_args!("{HEADER}\r"));
                read(&mut |line| out.line(format_args!("{}\r", csv(&line))))?;
            }
            Format::Json => {
                let mut array = Array::of(&mut out);
                read(&mut |line| array.item(&line))?;
                array.end();
            }
        }
        if connection.is_none() {
            eprintln!("{NO_LEDGER}");
        }
        Ok(out.finish().map_err(anyhow::Error::from))
    });
    told(written.and_then(|written| written.context("cannot write the export")))
}

/// The file, which holds users whole, or standard output.
fn open(output: Option<&Path>) -> anyhow::Result<Out<Box<dyn Write>>> {
    let to: Box<dyn Write> = match output {
        None => Box::new(io::stdout().lock()),
        Some(file) => {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            let opened = options.mode(PRIVATE_FILE).open(file);
            Box::new(opened.with_context(|| file.display().to_string())?)
        }
    };
    Ok(Out::to(to))
}

fn csv(line: &ExportLine) -> String {
    let until = line.until.as_ref().map(Timestamp::to_string);
    let id = line.id.as_ref().map(ToString::to_string);
    let fields = [
        line.state.as_str().into(),
        line.since.to_string().into(),
        until.unwrap_or_default().into(),
        line.sink.as_str().into(),
        line.node.to_string().into(),
        line.uuid.text().into(),
        line.bytes.up.to_string().into(),
        line.bytes.down.to_string().into(),
        line.reports.to_string().into(),
        id.unwrap_or_default().into(),
        line.words.as_str().into(),
    ];
    fields.map(quoted).join(",")
}

/// A field of a CSV (RFC 4180): in quotes where it holds what has a meaning there.
fn quoted(field: Cow<'_, str>) -> Cow<'_, str> {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\"")).into()
    } else {
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::UserId;
    use crate::traffic::baselines::Bytes;

    #[test]
    fn fields_are_quoted_where_rfc_4180_asks_for_it() {
        let table = [
            ("", ""),
            ("plain words", "plain words"),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("cr\r", "\"cr\r\""),
        ];
        for (field, written) in table {
            assert_eq!(quoted(field.into()), written);
        }
    }

    #[test]
    fn a_line_has_a_field_for_each_column_of_the_header() {
        let line = ExportLine {
            state: "open".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            until: None,
            sink: "report-traffic".to_owned(),
            node: 7,
            uuid: UserId::from_bytes([0xab; 16]),
            bytes: Bytes { up: 1, down: 2 },
            reports: 0,
            id: None,
            words: String::new(),
        };
        let written = csv(&line);
        assert_eq!(
            written,
            "open,1970-01-01T00:00:00Z,,report-traffic,7,abababab-abab-abab-abab-abababababab,1,\
             2,0,,"
        );
        assert_eq!(written.split(',').count(), HEADER.split(',').count());
    }
}
