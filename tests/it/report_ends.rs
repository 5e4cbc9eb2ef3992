//! Reports where something ends: the agent, one pass of it, a user. Nothing is lost, nothing takes
//! long, and nothing is told that nobody may know.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lab::reports::Fault;
use crate::lab::secrets::nth_uuid;
use crate::lab::{Answer, eventually};
use crate::reporting::{Desk, Dice, different};
use crate::scripted::{self, Method};
use crate::support::LONG;

/// The service manager kills what takes longer.
const STOP_TAKES: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_panel_hangs_leaves_each_report_as_it_is() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.panel.set_report_fault(Some(Fault::Hang));
    desk.count(0..40);
    let command = desk.command()?.env("HTTP_TIMEOUT_SECONDS", "60");
    let mut agent = command.spawn()?;
    desk.stage.panel.await_report_requests(16).await?;
    let asked = Instant::now();
    let ended = agent.terminate(LONG).await?;
    ensure!(ended.success(), "{ended}");
    ensure!(asked.elapsed() < STOP_TAKES, "{:?}", asked.elapsed());
    let totals = desk.books()?.totals;
    ensure!(
        (totals.unknown.reports, totals.pending.reports) == (16, 24),
        "{totals:#?}"
    );
    ensure!(totals.counted == desk.counted());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_stops_under_load_lose_no_byte_and_tell_no_secret() -> Result<()> {
    let mut desk = Desk::new().await?;
    let mut faults = Dice(7);
    desk.stage
        .panel
        .script_report_faults(move |_| match faults.below(100) {
            0 => Some(Fault::AcceptThenClose),
            1 => Some(Fault::AcceptThenHang),
            2 => Some(Fault::Instead(Answer::html(502))),
            3 => Some(Fault::Instead(Answer::error(500, "db"))),
            _ => None,
        });
    desk.stage.panel.set_report_delay(Duration::from_millis(5));
    let mut dice = Dice(8);
    for _ in 0..30 {
        let before = desk.stage.xray.called(&[Method::Query]);
        desk.count(0..30);
        let command = desk.command()?.env("RUST_LOG", "trace");
        let command = command.env("HTTP_TIMEOUT_SECONDS", "0.3");
        let mut agent = command.env("TRAFFIC_ON_UNKNOWN", "hold").spawn()?;
        eventually("a read", LONG, async || {
            desk.stage.xray.called(&[Method::Query]) > before
        })
        .await?;
        // At any moment.
        tokio::time::sleep(dice.pause(Duration::from_millis(300))).await;
        desk.count(15..45);
        let asked = Instant::now();
        let ended = agent.terminate(LONG).await?;
        ensure!(ended.success() && asked.elapsed() < STOP_TAKES, "{ended}");
        let totals = desk.books()?.totals;
        ensure!(totals.counted == desk.counted(), "{totals:#?}");
        ensure!(totals.sending.reports == 0, "{totals:#?}");
        desk.says_no_secret(&agent)?;
    }
    let totals = desk.books()?.totals;
    let billed = desk.billed();
    // What was taken and is not known of is among what is held.
    ensure!(billed.up >= totals.settled.bytes.up, "{totals:#?}");
    ensure!(billed.up <= totals.settled.bytes.up + totals.unknown.bytes.up);
    ensure!(totals.unknown.reports > 0 && desk.stage.panel.repeats() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_pass_says_why_reports_wait_and_the_next_one_sends_them() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage
        .panel
        .refuse(&nth_uuid(0), 403, "no_entitlement_for_node");
    let down = Fault::Instead(Answer::error(503, "under repair"));
    desk.stage.panel.set_report_fault(Some(down));
    desk.count(0..20);
    let once = desk.command()?.arg("--once");
    let refused = once.run_to_end(LONG).await?;
    ensure!(refused.code == Some(1), "{refused:#?}");
    ensure!(refused.stderr.contains("under repair"), "{refused:#?}");
    ensure!(desk.books()?.totals.pending.reports == 20);
    desk.stage.panel.set_report_fault(None);
    let taken = once.run_to_end(LONG).await?;
    ensure!(taken.code == Some(0), "{taken:#?}");
    let totals = desk.books()?.totals;
    ensure!(
        (totals.settled.reports, totals.rejected.reports) == (19, 1),
        "{totals:#?}"
    );
    ensure!(different(desk.stage.panel.report_keys()) == 20);
    Ok(())
}

/// An agent that reads and reports by itself only once an hour, with these users live.
async fn hourly(desk: &Desk, users: u32) -> Result<crate::lab::Agent> {
    desk.stage.allow(0..users);
    let command = desk.command()?;
    let command = command.env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "3600");
    let command = command.env("TRAFFIC_REPORT_INTERVAL_SECONDS", "3600");
    let agent = command.env("HTTP_TIMEOUT_SECONDS", "20").spawn()?;
    desk.stage.await_users("in", 0..users).await?;
    eventually("the first read", LONG, async || {
        desk.books().is_ok() && desk.stage.xray.called(&[Method::Query]) > 0
    })
    .await?;
    Ok(agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_users_last_bytes_go_at_once_and_the_others_wait_for_their_hour() -> Result<()> {
    let mut desk = Desk::new().await?;
    let _agent = hourly(&desk, 3).await?;
    desk.count(0..3);
    desk.stage.allow(1..3);
    let books = desk.await_settled(1).await?;
    ensure!(desk.stage.panel.billed(1, &nth_uuid(0)) == (1_000, 2_000));
    ensure!(books.totals.open.reports == 2, "{books:#?}");
    ensure!(desk.stage.panel.reports().len() == 1);
    Ok(())
}

/// Access goes before bytes. Without a limit a call to Xray takes half a minute, and the wait for a
/// locked ledger five seconds.
const REMOVAL_TAKES: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_does_not_wait_for_counters_that_do_not_come() -> Result<()> {
    let mut desk = Desk::new().await?;
    let _agent = hourly(&desk, 3).await?;
    desk.stage
        .xray
        .script(|call| (call.method == Method::Query).then_some(scripted::Fault::Silence));
    desk.count(0..3);
    let asked = Instant::now();
    desk.stage.allow(1..3);
    desk.stage.await_users("in", 1..3).await?;
    ensure!(asked.elapsed() < REMOVAL_TAKES, "{:?}", asked.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_does_not_wait_for_a_ledger_that_somebody_locks() -> Result<()> {
    let mut desk = Desk::new().await?;
    let _agent = hourly(&desk, 3).await?;
    let file = xray_agent::traffic::ledger::file(&desk.stage.state_dir());
    let other = rusqlite::Connection::open(file)?;
    other.busy_timeout(Duration::from_secs(5))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    desk.count(0..3);
    let asked = Instant::now();
    desk.stage.allow(1..3);
    desk.stage.await_users("in", 1..3).await?;
    ensure!(asked.elapsed() < REMOVAL_TAKES, "{:?}", asked.elapsed());
    other.execute_batch("ROLLBACK")?;
    // And the bytes are not lost by it.
    desk.await_books("the removed user's bytes", |books| {
        books.totals.counted == desk.counted()
    })
    .await?;
    Ok(())
}
