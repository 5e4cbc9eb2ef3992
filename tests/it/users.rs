//! `xray-agent users`: who is live against who is allowed, and all that is known of one user, without
//! a change anywhere and without a user or the token in any output.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Answer, Output, Panel, ServerConfig, Xray};
use crate::ledger_stage::Stage as LedgerStage;
use crate::program::{contents, users};
use crate::stage::vless;
use crate::support::{Api, LONG, TOKEN, agent, folder, grpc_agent};

const TAG: &str = "in";
/// Users of the series who are ever shown here.
const SERIES: u32 = 12;
/// Another program's user, whose e-mail holds a whole one.
const FOREIGN: u32 = 11;
const GIB: u64 = 1 << 30;

struct Stage {
    panel: Panel,
    xray: Xray,
    api: Api,
    folder: TempDir,
    command: AgentCommand,
}

impl Stage {
    /// Users 0 to 9 are allowed and live.
    async fn new() -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, users(10));
        let xray = Xray::start(ServerConfig::new().vless(TAG)).await?;
        let api = Api::connect(&xray.api_addr()).await?;
        let folder = folder()?;
        let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), TAG);
        let once = command.clone().arg("--once").run_to_end(LONG).await?;
        ensure!(once.code == Some(0), "{once:?}");
        Ok(Self {
            panel,
            xray,
            api,
            folder,
            command,
        })
    }

    /// User 0 is lost, user 9 is not allowed any more, user 1 has another flow, and somebody else is
    /// there.
    async fn drifted() -> Result<Self> {
        let mut stage = Self::new().await?;
        stage.api.remove(TAG, &nth_uuid(0)).await?;
        let mut altered = vless(1, &nth_uuid(1));
        altered.level = 7;
        stage.api.remove(TAG, &altered.email).await?;
        stage.api.add(TAG, altered).await?;
        let mut foreign = vless(FOREIGN, &nth_uuid(FOREIGN));
        foreign.email = format!("alice.{}", nth_uuid(FOREIGN));
        stage.api.add(TAG, foreign).await?;
        stage.panel.set_users(1, users(9));
        Ok(stage)
    }

    async fn run(&self, args: &[&str]) -> Result<Output> {
        run(&self.command, args).await
    }
}

/// Runs `users` with these, and sees that no output names a user whole, or the token.
async fn run(command: &AgentCommand, args: &[&str]) -> Result<Output> {
    let command = command.clone().arg("users").args(args);
    let said = command.run_to_end(LONG).await?;
    let all = format!("{}{}", said.stdout, said.stderr).to_lowercase();
    let whole = (0..SERIES).map(nth_uuid).find(|uuid| all.contains(uuid));
    ensure!(whole.is_none(), "{args:?} named {whole:?} whole: {all}");
    ensure!(!all.contains(TOKEN), "{args:?} told the token: {all}");
    Ok(said)
}

fn short(user: u32) -> String {
    nth_uuid(user)[..8].to_owned()
}

fn cells(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn each_inbound_is_a_line_of_counts_and_each_user_who_differs_is_in_a_class() -> Result<()> {
    let mut stage = Stage::drifted().await?;
    let (live, files) = (stage.api.users(TAG).await?, contents(stage.folder.path())?);
    let said = stage.run(&[]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    let lines: Vec<_> = said.stdout.lines().collect();
    ensure!(lines.len() == 2, "{lines:#?}");
    let right = [
        "NODE", "INBOUND", "PROTOCOL", "ALLOWED", "LIVE", "MISSING", "EXTRA",
    ];
    ensure!(cells(lines[0])[..7] == right, "{lines:#?}");
    let right = ["1", "in in xray", "vless", "9", "9", "1", "1", "1", "1"];
    ensure!(cells(lines[1]) == right, "{lines:#?}");

    let named = stage.run(&["1", "-v"]).await?;
    let right = [
        format!("  missing {}", short(0)),
        format!("  extra {}", short(9)),
        format!("  altered {}", short(1)),
        format!("  foreign alice.{}…", short(FOREIGN)),
    ];
    ensure!(named.stdout.lines().skip(2).eq(right), "{named:?}");

    let said = stage.run(&["--json"]).await?;
    let said: Value = serde_json::from_str(&said.stdout)?;
    let inbound = &said["nodes"][0]["inbounds"][0];
    ensure!(inbound["missing"] == json!([short(0)]), "{inbound}");
    ensure!(inbound["extra"] == json!([short(9)]), "{inbound}");
    ensure!(inbound["allowed"] == 9 && inbound["live"] == 9, "{inbound}");

    ensure!(stage.api.users(TAG).await? == live, "users were changed");
    ensure!(
        contents(stage.folder.path())? == files,
        "files were changed"
    );
    Ok(())
}

#[tokio::test]
async fn while_the_panel_is_away_its_last_good_answer_is_taken_and_that_is_said() -> Result<()> {
    let stage = Stage::drifted().await?;
    stage.panel.set_answer(1, Answer::html(502));
    let said = stage.run(&[]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    // Of the list before: user 9 is in it.
    let right = ["1", "in in xray", "vless", "10", "9", "1", "0", "1", "1"];
    let row = said.stdout.lines().nth(1).context("no row")?;
    ensure!(cells(row) == right, "{said:?}");
    ensure!(said.stderr.contains("its last good answer"), "{said:?}");
    ensure!(said.stderr.contains("answered 502"), "{said:?}");

    // Where there never was one nobody is told to be missing or too many, and no folder is made.
    let fresh = folder()?;
    let (panel, api) = (stage.panel.base_url(), stage.xray.api_addr());
    let command = grpc_agent(&panel, fresh.path(), &api, TAG);
    let said = run(&command, &[]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    let row = said.stdout.lines().nth(1).context("no row")?;
    let right = ["1", "in in xray", "vless", "-", "9", "-", "-", "-", "1"];
    ensure!(cells(row) == right, "{said:?}");
    ensure!(said.stderr.contains("nobody knows who is allowed"));
    ensure!(contents(fresh.path())?.is_empty(), "something was made");
    Ok(())
}

#[tokio::test]
async fn an_xray_that_is_away_and_a_node_that_is_not_ours_are_told() -> Result<()> {
    let mut stage = Stage::new().await?;
    let other = stage.run(&["2"]).await?;
    ensure!(
        other.code == Some(2) && other.stderr.contains("node 2 is not configured"),
        "{other:?}"
    );
    stage.xray.kill().await?;
    let said = stage.run(&["1"]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    ensure!(said.stderr.contains("node 1: in in xray:"), "{said:?}");
    let row = said.stdout.lines().nth(1).context("no row")?;
    ensure!(cells(row)[4..] == ["-"; 5], "{said:?}");
    Ok(())
}

#[tokio::test]
async fn held_removals_are_marked() -> Result<()> {
    let stage = Stage::new().await?;
    stage.panel.set_users(1, users(0));
    let held = stage.command.clone().arg("--once");
    ensure!(held.run_to_end(LONG).await?.code == Some(1));
    let named = stage.run(&["-v"]).await?;
    let right = (0..10).map(|user| format!("  extra {} (held by the brake)", short(user)));
    ensure!(named.stdout.lines().skip(2).eq(right), "{named:?}");
    Ok(())
}

#[tokio::test]
async fn a_check_tells_whether_a_user_is_let_in_and_live_with_his_bytes() -> Result<()> {
    let stage = Stage::drifted().await?;
    let booked = json!({
        "user_id": 7, "status": "active", "traffic_total": 10 * GIB, "traffic_used": (3 * GIB).to_string(),
        "upload_24h": 1024, "download_24h": null,
    });
    stage.panel.set_booked(&nth_uuid(2), booked);
    let good = stage.run(&["check", &nth_uuid(2).to_uppercase()]).await?;
    ensure!(good.code == Some(0), "{good:?}");
    for line in [
        &format!("user {}", short(2)),
        "node 1: allowed, active plans: 1 2",
        "  in its last list",
        "  in in xray: live",
        "panel's books: 3.0 GiB of 10.0 GiB used; within a day 1.0 KiB up, - down; status active",
    ] {
        ensure!(good.stdout.lines().any(|it| it == line), "{line}: {good:?}");
    }
    ensure!(good.stdout.contains("our ledger: "), "{good:?}");

    let lost = stage.run(&["check", &nth_uuid(0)]).await?;
    ensure!(lost.code == Some(1), "{lost:?}");
    ensure!(lost.stdout.contains("node 1: allowed"), "{lost:?}");
    ensure!(lost.stdout.contains("  in in xray: not live"), "{lost:?}");
    ensure!(lost.stdout.contains("not known: ") && lost.stdout.contains("uuid not found"));

    let extra = stage.run(&["check", &nth_uuid(9), "--json"]).await?;
    ensure!(extra.code == Some(1), "{extra:?}");
    let extra: Value = serde_json::from_str(&extra.stdout)?;
    let node = &extra["nodes"][0];
    ensure!(extra["user"] == short(9), "{extra}");
    ensure!(
        node["auth"]["allow"] == false && node["auth"]["reason"] == "uuid_not_found",
        "{extra}"
    );
    // The list that the agent has applied is the one before.
    ensure!(node["listed"] == true && node["served"] == true, "{extra}");
    ensure!(node["inbounds"][0]["live"] == true, "{extra}");
    Ok(())
}

#[tokio::test]
async fn a_check_tells_each_reason_of_the_panel() -> Result<()> {
    let stage = Stage::new().await?;
    let user = nth_uuid(3);
    ensure!(stage.run(&["check", &user]).await?.code == Some(0));
    for reason in [
        "uuid_not_found",
        "uuid_disabled",
        "user_banned",
        "traffic_exceeded",
        "no_active_plan",
        "node_not_allowed",
    ] {
        stage.panel.set_refusal(&user, Some(reason));
        let refused = stage.run(&["check", &user, "--node", "1"]).await?;
        ensure!(refused.code == Some(1), "{refused:?}");
        let line = format!("node 1: refused, {reason}");
        ensure!(
            refused.stdout.lines().any(|it| it == line),
            "{line}: {refused:?}"
        );
    }
    stage.panel.set_refusal(&user, None);
    stage.panel.set_token("another");
    let forbidden = stage.run(&["check", &user]).await?;
    ensure!(forbidden.code == Some(1), "{forbidden:?}");
    ensure!(forbidden.stdout.contains("the panel does not say:"));
    ensure!(
        forbidden.stdout.contains("INTERNAL_API_KEY"),
        "{forbidden:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_check_shows_our_ledgers_bytes_by_state() -> Result<()> {
    let (stage, ..) = LedgerStage::filled().await?;
    let command = stage.command();
    for (user, states) in [
        (0, "1.5 MiB taken, 0 B pending, 0 B rejected, 0 B unknown"),
        (1, "0 B taken, 0 B pending, 1.5 MiB rejected, 0 B unknown"),
        (2, "0 B taken, 0 B pending, 0 B rejected, 1.5 MiB unknown"),
        (3, "0 B taken, 1.5 MiB pending, 0 B rejected, 0 B unknown"),
        (5, "0 B taken, 3 B pending, 0 B rejected, 0 B unknown"),
    ] {
        let said = run(&command, &["check", &nth_uuid(user)]).await?;
        ensure!(said.code == Some(1), "{said:?}");
        let line = said.stdout.lines().last().context("nothing said")?;
        ensure!(
            line.starts_with("our ledger, node 1, report-traffic: "),
            "{line}"
        );
        ensure!(line.ends_with(states), "user {user}: {line}");
    }
    let nobody = run(&command, &["check", &nth_uuid(8)]).await?;
    ensure!(nobody.stdout.ends_with("our ledger: nothing of him\n"));
    Ok(())
}

#[tokio::test]
async fn where_no_xray_is_changed_the_list_tells_who_is_served() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(2));
    let folder = folder()?;
    let command = agent(&panel.base_url(), folder.path());
    let before = run(&command, &["check", &nth_uuid(0)]).await?;
    ensure!(before.code == Some(1), "{before:?}");
    ensure!(before.stdout.contains("no list of it was kept"));
    let once = command.clone().arg("--once").run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:?}");
    ensure!(run(&command, &["check", &nth_uuid(0)]).await?.code == Some(0));
    ensure!(run(&command, &["check", &nth_uuid(5)]).await?.code == Some(1));
    let list = run(&command, &[]).await?;
    let row = list.stdout.lines().nth(1).context("no row")?;
    ensure!(list.code == Some(0), "{list:?}");
    ensure!(
        cells(row) == ["1", "-", "-", "2", "-", "-", "-", "-", "-"],
        "{list:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_no_uuid_is_refused_without_being_shown() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    let folder = folder()?;
    let command = agent(&panel.base_url(), folder.path());
    let nearly = format!("{}0", nth_uuid(1));
    for args in [
        &["check", &nearly][..],
        &["kick", &nearly],
        &["1", "check", &nearly],
        &["check"],
    ] {
        let wrong = run(&command, args).await?;
        ensure!(
            wrong.code == Some(2) && wrong.stdout.is_empty(),
            "{args:?}: {wrong:?}"
        );
        ensure!(!wrong.stderr.is_empty(), "{args:?}");
    }
    Ok(())
}
