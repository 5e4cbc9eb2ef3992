//! How fast reports go: many at once but never too many, one at a time after a failure, the oldest
//! first, over few connections.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lab::Answer;
use crate::lab::reports::Fault;
use crate::lab::secrets::nth_uuid;
use crate::reporting::{Desk, different};

/// Most reports under way at once.
const AT_ONCE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_reports_at_most_are_under_way_over_as_many_connections() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.panel.set_report_delay(Duration::from_millis(20));
    desk.count(0..400);
    let command = desk.command()?.env("HTTP_TIMEOUT_SECONDS", "20");
    let _agent = command.env("INTERVAL_SECONDS", "3600").spawn()?;
    desk.await_settled(400).await?;
    let panel = &desk.stage.panel;
    ensure!(panel.max_concurrent_reports() == AT_ONCE);
    // One is the poll's.
    let connections = panel.connections();
    ensure!(connections <= AT_ONCE + 1, "{connections}");
    ensure!(desk.billed() == desk.counted() && panel.repeats() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_reports_go_first() -> Result<()> {
    let mut desk = Desk::new().await?;
    let down = Fault::Instead(Answer::error(500, "db"));
    desk.stage.panel.set_report_fault(Some(down));
    let _agent = desk.command()?.spawn()?;
    for round in 1..=2 {
        desk.count((round - 1) * 50..round * 50);
        desk.await_books("all wait", |books| {
            books.totals.pending.reports == u64::from(round) * 50
        })
        .await?;
    }
    desk.stage.panel.set_report_fault(None);
    desk.await_settled(100).await?;
    let old: Vec<_> = (0..50).map(nth_uuid).collect();
    let reports = desk.stage.panel.reports();
    let first = &reports[..50 - AT_ONCE];
    ensure!(first.iter().all(|report| old.contains(&report.uuid)));
    ensure!(different(desk.stage.panel.report_keys()) == 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_unknown_reports_go_one_at_a_time_until_one_is_settled() -> Result<()> {
    const UNKNOWN: u64 = 18;
    let mut desk = Desk::new().await?;
    // The panel sees late that somebody gave up waiting, but knows when it ended a request itself.
    desk.stage
        .panel
        .script_report_faults(|number| match number {
            1..=16 => Some(Fault::Hang),
            17..=UNKNOWN => Some(Fault::AcceptThenClose),
            _ => None,
        });
    desk.stage
        .panel
        .set_report_delay(Duration::from_millis(100));
    desk.count(0..60);
    // Longer than a busy machine keeps an answer back: whoever gives up is not known to the panel.
    let command = desk.command()?.env("HTTP_TIMEOUT_SECONDS", "5");
    let _agent = command.spawn()?;
    let panel = &desk.stage.panel;
    let books = desk.await_settled(42).await?;
    ensure!(books.totals.unknown.reports == UNKNOWN, "{books:#?}");
    ensure!(different(panel.report_keys()) == 60 && panel.report_requests() == 60);
    let beside = panel.newest_reports_beside();
    // The one that is settled at last included.
    let alone = beside[16..=18]
        .iter()
        .all(|other| other.is_none_or(|n| n <= 16));
    ensure!(alone, "{beside:?}");
    ensure!(beside[19..].iter().any(Option::is_some), "{beside:?}");
    Ok(())
}

/// The panel's server closes what is idle for 5 s; a report that meets that is in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn no_report_goes_over_a_connection_that_was_idle_for_four_seconds() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.count(0..1);
    let command = desk.command()?.env("INTERVAL_SECONDS", "3600");
    let _agent = command.spawn()?;
    desk.await_settled(1).await?;
    let before = desk.stage.panel.connections();
    // The time itself is what it is about.
    tokio::time::sleep(Duration::from_millis(4_100)).await;
    desk.count(1..2);
    let books = desk.await_settled(2).await?;
    ensure!(desk.stage.panel.connections() == before + 1);
    ensure!(books.totals.unknown.reports == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panel_that_returns_meets_no_stampede() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.panel.pause().await;
    desk.count(0..2_000);
    let command = desk.command()?.env("HTTP_TIMEOUT_SECONDS", "20");
    let _agent = command.spawn()?;
    desk.await_books("a failure with 2 000 waiting", |books| {
        let tried = books.reports.iter().any(|report| report.attempts > 0);
        books.totals.pending.reports == 2_000 && tried
    })
    .await?;
    let first = Duration::from_millis(500);
    let slow = move |n| (n == 1).then_some(Fault::AcceptThenWait(first));
    desk.stage.panel.script_report_faults(slow);
    desk.stage.panel.resume().await?;
    desk.stage.panel.await_report_requests(1).await?;
    let seen = Instant::now();
    desk.stage.panel.await_report_requests(2).await?;
    // Seen late by no more than a poll of ours.
    ensure!(seen.elapsed() > first / 4, "others went beside the first");
    desk.await_settled(2_000).await?;
    let panel = &desk.stage.panel;
    ensure!(panel.max_concurrent_reports() <= AT_ONCE);
    ensure!(panel.report_requests() == 2_000 && panel.connections() < 100);
    ensure!(desk.billed() == desk.counted());
    Ok(())
}
