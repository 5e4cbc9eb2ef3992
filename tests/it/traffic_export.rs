//! `xray-agent traffic export`: what it writes reads back, and is all there is.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xray_agent::base::clock::Clock;

use crate::ledger_stage::{Stage, sum_of};
use crate::support::LONG;

/// Records of a CSV as RFC 4180 has them.
fn records(text: &str) -> Result<Vec<Vec<String>>> {
    let (mut all, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut chars, mut quoted) = (text.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted => {
                ensure!(chars.next() == Some('\n'), "a line ends with CR alone");
                record.push(std::mem::take(&mut field));
                all.push(std::mem::take(&mut record));
            }
            '\n' if !quoted => bail!("a line ends with LF alone"),
            c => field.push(c),
        }
    }
    ensure!(
        record.is_empty() && field.is_empty(),
        "the last line is not ended"
    );
    Ok(all)
}

#[tokio::test]
async fn an_export_reads_back_and_sums_to_what_was_counted() -> Result<()> {
    let today = Clock::system().now().to_string();
    let (stage, ..) = Stage::filled().await?;
    let counted = stage.sums("counted").await?;
    for since in [&today[..10], "1h", "2020-01-01T00:00:00Z"] {
        let args = ["traffic", "export", "--since", since];
        let array = stage.json(&args).await?;
        ensure!(sum_of(&array)? == counted, "{since}: {array}");
        let csv = stage.run(&args).await?;
        ensure!(csv.code == Some(0), "{csv:?}");
        let records = records(&csv.stdout)?;
        let (header, rows) = records.split_first().context("no header")?;
        ensure!(rows.len() == 5 && array.as_array().is_some_and(|it| it.len() == 5));
        for (row, item) in rows.iter().zip(array.as_array().into_iter().flatten()) {
            ensure!(row.len() == header.len(), "{row:?}");
            for (name, field) in header.iter().zip(row) {
                let in_json = match &item[name] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                ensure!(*field == in_json, "{name}: {field:?}, in JSON {in_json:?}");
            }
        }
    }
    let future = ["traffic", "export", "--since", "2999-01-01T00:00:00Z"];
    let only_open = stage.json(&future).await?;
    ensure!(sum_of(&only_open)? == (1, 2), "{only_open}");
    Ok(())
}

#[tokio::test]
async fn an_export_into_a_file_is_for_its_owner_only() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (stage, ..) = Stage::filled().await?;
    let file = stage.folder.path().join("export.json");
    let named = file.display().to_string();
    let args = ["traffic", "export", "--since", "24h", "--format", "json"];
    let run = stage.command().args(args).args(["--output", &named]);
    for _ in 0..2 {
        let run = run.run_to_end(LONG).await?;
        ensure!(run.code == Some(0) && run.stdout.is_empty(), "{run:?}");
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        let array: Value = serde_json::from_slice(&fs::read(&file)?)?;
        ensure!(sum_of(&array)? == stage.sums("counted").await?);
    }
    for (nowhere, why) in [("/nowhere/x", "/nowhere/x"), ("/dev/full", "No space")] {
        let failed = stage.command().args(args).args(["--output", nowhere]);
        let failed = failed.run_to_end(LONG).await?;
        ensure!(
            failed.code == Some(1) && failed.stderr.contains(why),
            "{failed:?}"
        );
    }
    Ok(())
}
