//! `xray-agent traffic` as its user meets it, on a ledger that holds bytes in every state.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use xray_agent::control::{Call, Caller, Handler, Server};
use xray_agent::traffic::ledger::{Whose, file};
use xray_agent::traffic::receivers::REPORT_TRAFFIC;
use xray_agent::traffic::status::{SinkStatus, TrafficStatus, XrayTraffic};

use crate::lab::AgentCommand;
use crate::lab::secrets::nth_uuid;
use crate::ledger_stage::{MIB, Stage, command, sum_of, words};
use crate::program::PROGRAM;
use crate::support::{LONG, TOKEN, folder};

/// In no report.
const NO_REPORT: &str = "01890000-0000-7000-8000-000000000000";

#[tokio::test]
async fn sums_are_exact_and_every_byte_is_in_one_state() -> Result<()> {
    let (stage, ..) = Stage::filled().await?;
    stage.collect("older", -5_000).await?;
    let each = (512, 3 * MIB / 2);
    for state in ["settled", "pending", "rejected", "unknown"] {
        ensure!(stage.sums(state).await? == each, "{state}");
    }
    ensure!(stage.sums("open").await? == (1, 2) && stage.sums("sending").await? == (0, 0));
    ensure!(stage.sums("counted").await? == (4 * 512 + 1, 6 * MIB + 2));
    let all = stage.json(&["traffic"]).await?;
    let adopted = json!({"xray": "older", "up": 4 * 512 + 1, "down": 6 * MIB + 2});
    ensure!(all["adopted"][1] == adopted, "{all}");
    ensure!(all["live"].is_null(), "{all}");

    let shown = stage.lines(&["traffic"]).await?;
    let oldest = &all["nodes"][0]["oldest"].as_str().context("no oldest")?[..19];
    let expected = [
        "NODE  SINK            COUNTED  SETTLED  WAITING  REJECTED  UNKNOWN  OLDEST UNSENT",
        &format!("1     report-traffic  6.0 MiB  1.5 MiB  1.5 MiB   1.5 MiB  1.5 MiB  {oldest}Z"),
        "xray older: 2.0 KiB up, 6.0 MiB down were there before the ledger and are billed to nobody",
    ];
    ensure!(shown[..3] == expected, "{shown:#?}");
    ensure!(shown[3].starts_with("1 rejected:") && shown[4].starts_with("1 unknown:"));
    ensure!(shown.len() == 5, "{shown:#?}");
    Ok(())
}

#[tokio::test]
async fn the_lists_show_users_by_eight_characters_and_whole_in_json() -> Result<()> {
    let (stage, rejected, unknown) = Stage::filled().await?;
    for (list, user, id, why) in [
        (
            "rejected",
            1,
            Some(rejected),
            "no \"00000001…\",\\n\\u{1b}[31m here",
        ),
        ("unknown", 2, Some(unknown), "timed out"),
        ("pending", 3, None, "answered 502"),
    ] {
        let whole = nth_uuid(user);
        let items = stage.json(&["traffic", list]).await?;
        ensure!(items.as_array().is_some_and(|it| it.len() == 1), "{items}");
        let item = &items[0];
        ensure!(
            item["uuid"] == whole.as_str() && item["state"] == list,
            "{item}"
        );
        ensure!(
            (&item["up"], &item["down"]) == (&json!(512), &json!(3 * MIB / 2)),
            "{item}"
        );
        ensure!(item["attempts"] == 1 && item["node"] == 1, "{item}");
        if let Some(id) = id {
            ensure!(item["id"] == id.to_string(), "{item}");
        }
        let shown = stage.lines(&["traffic", list]).await?;
        ensure!(shown.len() == 2, "{shown:?}");
        let at = shown[0].find("USER").context("no users")?;
        ensure!(
            shown[1][at..].starts_with(&format!("{}  ", &whole[..8])),
            "{shown:#?}"
        );
        ensure!(!shown[1].contains(&whole), "{shown:?}");
        ensure!(shown[1].contains("  512 B  ") && shown[1].contains("  1.5 MiB  "));
        ensure!(
            shown[1].ends_with(&format!("report-traffic  {why}")),
            "{shown:#?}"
        );
    }
    let whole = stage.json(&["traffic", "rejected"]).await?;
    ensure!(whole[0]["words"] == words(), "{whole}");

    // What is under way is not taken either.
    ensure!(stage.claim().await?.len() == 1);
    let under_way = stage.lines(&["traffic", "pending"]).await?;
    ensure!(
        under_way[1].ends_with("under way; before: answered 502"),
        "{under_way:?}"
    );
    ensure!(stage.json(&["traffic", "pending"]).await?[0]["state"] == "sending");
    Ok(())
}

#[tokio::test]
async fn an_unknown_report_is_resolved_either_way_and_the_sums_follow() -> Result<()> {
    let each = (512, 3 * MIB / 2);
    for (outcome, state, others) in [
        ("delivered", "settled", "pending"),
        ("not-delivered", "pending", "settled"),
    ] {
        let (stage, _, unknown) = Stage::filled().await?;
        let id = unknown.to_string();
        let told = stage.lines(&["traffic", "resolve", &id, outcome]).await?;
        ensure!(told.len() == 1 && told[0].contains(&id), "{told:?}");
        ensure!(
            stage.sums(state).await? == (2 * each.0, 2 * each.1),
            "{outcome}"
        );
        ensure!(stage.sums(others).await? == each && stage.sums("unknown").await? == (0, 0));
        let again = stage.run(&["traffic", "resolve", &id, outcome]).await?;
        ensure!(
            again.code == Some(1) && again.stderr.contains(&id),
            "{again:?}"
        );
        ensure!(stage.lines(&["traffic", "unknown"]).await? == ["no unknown reports"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_rejected_report_is_retried_under_a_new_number() -> Result<()> {
    let (stage, rejected, unknown) = Stage::filled().await?;
    let old = rejected.to_string();
    let answer = stage.json(&["traffic", "retry", &old]).await?;
    let new = answer["id"].as_str().context("no id")?;
    ensure!(new != old);
    ensure!(stage.sums("pending").await? == (1_024, 3 * MIB));
    let waiting = stage.json(&["traffic", "pending"]).await?;
    let of_it = waiting.as_array().context("no array")?;
    ensure!(of_it.iter().any(|item| item["id"] == new), "{waiting}");
    for args in [
        &["traffic", "retry", &old][..],
        &["traffic", "retry", new],
        &["traffic", "retry", NO_REPORT],
        &["traffic", "retry", &unknown.to_string()],
        &["traffic", "resolve", NO_REPORT, "delivered"],
    ] {
        let failed = stage.run(args).await?;
        ensure!(
            failed.code == Some(1) && failed.stdout.is_empty(),
            "{failed:?}"
        );
        ensure!(failed.stderr.contains(args[2]), "{args:?}: {failed:?}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_use_is_told_before_anything_is_done() -> Result<()> {
    let (stage, _, unknown) = Stage::filled().await?;
    let id = unknown.to_string();
    for args in [
        &["traffic", "resolve", "x", "delivered"][..],
        &["traffic", "resolve", &id],
        &["traffic", "resolve", &id, "perhaps"],
        &["traffic", "retry"],
        &["traffic", "export"],
        &["traffic", "export", "--since", "yesterday"],
        &["traffic", "export", "--since", "1h", "--format", "xml"],
        &[
            "traffic", "export", "--since", "1h", "--format", "csv", "--json",
        ],
        &["traffic", "bogus"],
    ] {
        let wrong = stage.run(args).await?;
        ensure!(
            wrong.code == Some(2) && wrong.stdout.is_empty(),
            "{args:?}: {wrong:?}"
        );
        ensure!(!wrong.stderr.is_empty(), "{args:?}");
    }
    ensure!(stage.sums("unknown").await? == (512, 3 * MIB / 2));
    Ok(())
}

#[tokio::test]
async fn a_reader_who_leaves_early_ends_it_quietly() -> Result<()> {
    let mut stage = Stage::new()?;
    // Some hundred kilobytes: no pipe holds them.
    stage.counters = (0..3_000).map(|user| (user, (1_024, MIB))).collect();
    stage.collect("main", 50_000).await?;
    stage.ledger.close(REPORT_TRAFFIC, Whose::All).await?;
    for (what, first) in [
        ("pending", "REPORT"),
        ("pending --json", "["),
        ("export --since 24h", "state,"),
        ("export --since 24h --format json", "["),
    ] {
        let script = format!("{{ {PROGRAM} traffic {what}; echo \"code $?\" >&2; }} | head -n 1");
        let shell = AgentCommand::new("/bin/sh")
            .args(["-c", &script])
            .env("PANEL_BASE_URL", "http://127.0.0.1:9")
            .env("INTERNAL_API_KEY", TOKEN)
            .env("NODE_IDS", "1")
            .env("OUTPUT_DIR", stage.folder.path())
            .env("STATE_DIR", stage.state_dir())
            .env("APPLY_MODE", "none");
        let ended = shell.run_to_end(LONG).await?;
        ensure!(ended.stderr == "code 0\n", "{what}: {ended:?}");
        ensure!(ended.stdout.starts_with(first), "{what}: {ended:?}");
        ensure!(ended.stdout.lines().count() == 1, "{what}: {ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn where_there_is_no_ledger_it_is_said_and_none_is_begun() -> Result<()> {
    let folder = folder()?;
    let state_dir = folder.path().join("state");
    let command = command(folder.path(), &state_dir);
    for (args, stdout) in [
        (&["traffic"][..], ""),
        (&["traffic", "pending"], ""),
        (&["traffic", "unknown", "--json"], "[]\n"),
        (&["traffic", "export", "--since", "1h", "--json"], "[]\n"),
    ] {
        let run = command.clone().args(args).run_to_end(LONG).await?;
        ensure!(
            run.code == Some(0) && run.stdout == stdout,
            "{args:?}: {run:?}"
        );
        ensure!(run.stderr.contains("no ledger yet"), "{args:?}: {run:?}");
    }
    let sums = command
        .clone()
        .args(["traffic", "--json"])
        .run_to_end(LONG)
        .await?;
    let sums: Value = serde_json::from_str(&sums.stdout)?;
    ensure!(
        sums == json!({"nodes": [], "adopted": [], "live": null}),
        "{sums}"
    );
    let csv = command.clone().args(["traffic", "export", "--since", "1h"]);
    let csv = csv.run_to_end(LONG).await?;
    let header = csv.stdout.strip_suffix("\r\n").context("no header")?;
    ensure!(
        header.starts_with("state,") && !header.contains('\n'),
        "{csv:?}"
    );
    let retry = command.args(["traffic", "retry", NO_REPORT]);
    let retry = retry.run_to_end(LONG).await?;
    ensure!(
        retry.code == Some(1) && retry.stderr.contains(NO_REPORT),
        "{retry:?}"
    );
    ensure!(!file(&state_dir).exists(), "a ledger was begun");
    Ok(())
}

#[tokio::test]
async fn a_writer_amid_a_transaction_holds_no_reader_up() -> Result<()> {
    let (stage, ..) = Stage::filled().await?;
    let writer = rusqlite::Connection::open(file(&stage.state_dir()))?;
    writer.execute_batch("BEGIN IMMEDIATE; DELETE FROM report; DELETE FROM total;")?;
    ensure!(stage.sums("counted").await? == (4 * 512 + 1, 6 * MIB + 2));
    ensure!(stage.lines(&["traffic", "pending"]).await?.len() == 2);
    let array = stage.json(&["traffic", "export", "--since", "1h"]).await?;
    ensure!(sum_of(&array)? == (4 * 512 + 1, 6 * MIB + 2), "{array}");
    writer.execute_batch("ROLLBACK")?;
    Ok(())
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_is_a_failure() -> Result<()> {
    for (spoil, why) in [
        (None, "not a database"),
        (Some("PRAGMA user_version = 99"), "newer version"),
        (Some("UPDATE report SET up = up + 1"), "checksum"),
    ] {
        let (stage, ..) = Stage::filled().await?;
        let state_dir = stage.folder.path().join("other");
        fs::create_dir(&state_dir)?;
        if let Some(sql) = spoil {
            let whole = rusqlite::Connection::open(file(&stage.state_dir()))?;
            whole.execute("VACUUM INTO ?1", [file(&state_dir).display().to_string()])?;
            rusqlite::Connection::open(file(&state_dir))?.execute_batch(sql)?;
        } else {
            fs::write(file(&state_dir), "this is no database, and never was one")?;
        }
        let command = command(stage.folder.path(), &state_dir);
        for args in [
            &["traffic", "pending", "--json"][..],
            &["traffic", "pending"],
            &["traffic", "export", "--since", "1h"],
        ] {
            let failed = command.clone().args(args).run_to_end(LONG).await?;
            ensure!(failed.code == Some(1), "{args:?}: {failed:?}");
            ensure!(failed.stderr.contains(why), "{args:?}: {failed:?}");
            ensure!(failed.stderr.contains("ledger.db"), "{args:?}: {failed:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn collecting_where_nothing_is_counted_does_not_fail() -> Result<()> {
    let (stage, ..) = Stage::filled().await?;
    for (name, value, why) in [
        ("ENABLE_TRAFFIC_REPORT", "false", "traffic.enabled"),
        ("APPLY_MODE", "none", "xray-grpc"),
    ] {
        let command = stage.command().env(name, value);
        let run = command.clone().args(["traffic", "collect"]);
        let run = run.run_to_end(LONG).await?;
        ensure!(
            run.code == Some(0) && run.stdout.is_empty(),
            "{name}: {run:?}"
        );
        ensure!(run.stderr.contains(why), "{name}: {run:?}");
        let sums = command.arg("traffic").run_to_end(LONG).await?;
        ensure!(sums.code == Some(0), "{name}: {sums:?}");
        ensure!(
            sums.stdout.contains(why) && sums.stdout.contains("6.0 MiB"),
            "{sums:?}"
        );
    }
    Ok(())
}

/// A running agent, as its socket shows it.
struct Agent;

fn stands(error: Option<&str>) -> TrafficStatus {
    TrafficStatus {
        xrays: vec![XrayTraffic {
            xray: "main".to_owned(),
            error: error.map(str::to_owned),
            up: 512,
            down: 3 * MIB / 2,
            ours: 6,
            foreign: 2,
            ..XrayTraffic::default()
        }],
        sinks: vec![SinkStatus {
            sink: REPORT_TRAFFIC.to_owned(),
            address: "http://panel.example/".to_owned(),
            at_once: 4,
            error: Some("answered 502".to_owned()),
            resumes_at: "2026-11-01T12:00:00.25Z".parse().ok(),
            ..SinkStatus::default()
        }],
        ledger_error: None,
    }
}

impl Handler for Agent {
    fn answer(&self, call: Call, _: Caller) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            match call {
                Call::Status {} => json!({ "traffic": stands(None) }),
                Call::Collect {} => json!({ "traffic": stands(Some("refused")) }),
                Call::Decide { id, .. } if id.to_string() == NO_REPORT => {
                    json!({ "error": "there is no such report" })
                }
                Call::Decide { id, .. } => json!({ "id": id }),
                _ => json!({ "error": "nobody asked for it" }),
            }
        })
    }
}

#[tokio::test]
async fn beside_a_running_agent_it_is_asked_and_its_ledger_only_read() -> Result<()> {
    let (stage, rejected, unknown) = Stage::filled().await?;
    let server = Server::bind(&stage.state_dir(), Arc::new(Agent))?;
    let asked = async {
        let shown = stage.lines(&["traffic"]).await?;
        ensure!(shown.contains(
            &"xray main: 512 B up, 1.5 MiB down since the start, 6 counters, 2 of others; never \
              collected"
                .to_owned()
        ));
        ensure!(shown.contains(
            &"report-traffic at http://panel.example/: 0 of 4 at once under way; has not shown \
              that it drops repeats; failed last: answered 502; next attempt 2026-11-01T12:00:00Z"
                .to_owned()
        ));
        let live: TrafficStatus =
            serde_json::from_value(stage.json(&["traffic"]).await?["live"].take())?;
        ensure!(live == stands(None), "{live:?}");

        let collect = stage.run(&["traffic", "collect"]).await?;
        ensure!(collect.code == Some(1), "{collect:?}");
        ensure!(collect.stdout.lines().count() == 1, "{collect:?}");
        ensure!(collect.stdout.ends_with("; refused\n"), "{collect:?}");

        let id = unknown.to_string();
        let resolve = ["traffic", "resolve", &id, "delivered"];
        ensure!(stage.json(&resolve).await? == json!({ "id": id }));
        ensure!(
            stage
                .json(&["traffic", "retry", &rejected.to_string()])
                .await?["id"]
                != ""
        );
        let failed = stage.run(&["traffic", "retry", NO_REPORT]).await?;
        ensure!(
            failed.stderr.trim_end() == "there is no such report",
            "{failed:?}"
        );
        // It was the agent's to do, and this one did nothing.
        ensure!(stage.sums("unknown").await? == (512, 3 * MIB / 2));
        ensure!(stage.sums("rejected").await? == (512, 3 * MIB / 2));
        Ok(())
    };
    tokio::select! {
        done = asked => done,
        () = server.serve(|| {}) => unreachable!("it serves for ever"),
    }
}
