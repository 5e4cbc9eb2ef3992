//! What each answer of a panel means for its report: how it stands in the ledger, whether it goes
//! again by itself, and what is billed in the end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use crate::lab::reports::Fault;
use crate::lab::secrets::nth_uuid;
use crate::lab::{Answer, Panel};
use crate::reporting::{Desk, different};
use crate::support::TOKEN;

/// So many agents run at once.
const AT_ONCE: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    Settled,
    Rejected,
    Pending,
    Unknown,
}

use Meant::{Pending, Rejected, Settled, Unknown};

#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    fault: Option<Fault>,
    meant: Meant,
    /// Whether the panel counted it.
    taken: bool,
}

fn cases(other: &Panel) -> Vec<Case> {
    let instead = |name, answer, meant| Case {
        name,
        fault: Some(Fault::Instead(answer)),
        meant,
        taken: false,
    };
    let case = |name, fault, meant, taken| Case {
        name,
        fault,
        meant,
        taken,
    };
    let error = Answer::error;
    let elsewhere = format!("{}/api/internal/report-traffic", other.base_url());
    let redirect = Answer::html(301).header("location", elsewhere);
    let slower = error(429, "slow").header("retry-after", "2");
    let accept_then = |name, answer| case(name, Some(Fault::AcceptThen(answer)), Unknown, true);
    vec![
        case("taken", None, Settled, true),
        instead("400", error(400, "bad"), Rejected),
        instead("404", error(404, "uuid not found"), Rejected),
        instead("403", error(403, "no_entitlement_for_node"), Rejected),
        instead("403 forbidden", error(403, "forbidden"), Pending),
        instead("404 html", Answer::html(404), Pending),
        instead("401", error(401, "who?"), Pending),
        instead("405", Answer::html(405), Pending),
        instead("413", Answer::html(413), Pending),
        instead("500", error(500, "db"), Pending),
        instead("503", error(503, "busy"), Pending),
        instead("408", error(408, "late"), Pending),
        instead("429", slower, Pending),
        instead("301", redirect, Pending),
        instead("502", Answer::html(502), Unknown),
        instead("504", Answer::html(504), Unknown),
        accept_then("200 html", Answer::html(200)),
        accept_then("502 after it was taken", Answer::html(502)),
        accept_then("half a body", Answer::success().truncated(10)),
        case("closed", Some(Fault::AcceptThenClose), Unknown, true),
        case(
            "closed unread",
            Some(Fault::CloseBeforeBody),
            Unknown,
            false,
        ),
        case("silent", Some(Fault::Hang), Unknown, false),
        case("silent, taken", Some(Fault::AcceptThenHang), Unknown, true),
    ]
}

/// One report meets the fault; then the panel is healthy, and another user's report goes too.
async fn try_out(case: &Case, dedupes: bool) -> Result<()> {
    let mut desk = Desk::new().await?;
    let began = Instant::now();
    desk.stage.panel.set_dedupes(dedupes);
    desk.stage.panel.set_report_fault(case.fault.clone());
    desk.count(0..1);
    let mut agent = desk.command()?.env("RUST_LOG", "trace").spawn()?;
    let stands = desk.await_books("the answer is in the ledger", |books| {
        let totals = &books.totals;
        let tried = books.reports.iter().any(|report| report.attempts > 0);
        match case.meant {
            Settled => totals.settled.reports == 1,
            Rejected => totals.rejected.reports == 1,
            Pending => totals.pending.reports == 1 && tried,
            Unknown => totals.unknown.reports == 1,
        }
    });
    let stands = stands.await?;
    if let Some(report) = stands.reports.first() {
        ensure!(!report.words.is_empty() && !report.words.contains(TOKEN));
        ensure!(!report.words.contains(&nth_uuid(0)), "{}", report.words);
    }
    desk.stage.panel.set_report_fault(None);
    desk.count(1..2);
    let goes_again = case.meant == Pending || case.meant == Unknown && dedupes;
    let settled = 1 + u64::from(goes_again || case.meant == Settled);
    desk.await_settled(settled).await?;
    if case.name == "429" {
        ensure!(began.elapsed() >= Duration::from_secs(2));
    }
    let ended = agent.terminate(crate::support::LONG).await?;
    ensure!(ended.success());
    let books = desk.books()?.totals;
    ensure!(books.settled.reports == settled && books.pending.reports == 0);
    let left = (books.rejected.reports, books.unknown.reports);
    let held = u64::from(case.meant == Unknown && !dedupes);
    ensure!(
        left == (u64::from(case.meant == Rejected), held),
        "{left:?}"
    );
    let panel = &desk.stage.panel;
    let once = if case.taken || goes_again {
        (1_000, 2_000)
    } else {
        (0, 0)
    };
    ensure!(panel.billed(1, &nth_uuid(0)) == once);
    ensure!(panel.billed(1, &nth_uuid(1)) == (1_000, 2_000));
    // The same number however often it is sent, and only what may be sent again is.
    let keys = panel.report_keys();
    ensure!(different(keys.clone()) == 2, "{keys:?}");
    ensure!(goes_again || keys.len() == 2, "{keys:?}");
    desk.says_no_secret(&agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_means_for_its_report_what_the_contract_says() -> Result<()> {
    let other = Panel::start(TOKEN).await?;
    for dedupes in [false, true] {
        for some in cases(&other).chunks(AT_ONCE) {
            try_join_all(some.iter().map(async |case| {
                let tried = try_out(case, dedupes).await;
                tried.map_err(|e| e.context(format!("{}, dedupes: {dedupes}", case.name)))
            }))
            .await?;
        }
    }
    ensure!(other.connections() == 0, "a redirect was followed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_leaves_a_report_to_be_sent_again() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.panel.pause().await;
    desk.count(0..1);
    let _agent = desk.command()?.spawn()?;
    desk.await_books("an attempt", |books| {
        books.totals.pending.reports == 1 && books.reports[0].attempts > 0
    })
    .await?;
    desk.stage.panel.resume().await?;
    desk.await_settled(1).await?;
    ensure!(desk.billed() == desk.counted() && desk.stage.panel.repeats() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_report_goes_again_only_as_it_was_told() -> Result<()> {
    for (on_unknown, dedupes, billed) in [
        ("hold", true, 1_000),
        ("hold", false, 1_000),
        ("auto", false, 1_000),
        ("auto", true, 1_000),
        ("resend", true, 1_000),
        // Who tells it so to such a panel bills twice.
        ("resend", false, 2_000),
    ] {
        let mut desk = Desk::new().await?;
        let case = format!("{on_unknown} {dedupes}");
        desk.stage.panel.set_dedupes(dedupes);
        let fault = |n| (n == 1).then_some(Fault::AcceptThenClose);
        desk.stage.panel.script_report_faults(fault);
        desk.count(0..1);
        let command = desk.command()?.env("TRAFFIC_ON_UNKNOWN", on_unknown);
        let _agent = command.spawn()?;
        desk.stage.panel.await_reports(1).await?;
        desk.count(1..2);
        let is_held = on_unknown == "hold" || on_unknown == "auto" && !dedupes;
        let books = desk.await_settled(if is_held { 1 } else { 2 }).await?;
        let held = u64::from(is_held);
        ensure!(books.totals.unknown.reports == held, "{case}: {books:#?}");
        let of_user = desk.stage.panel.billed(1, &nth_uuid(0)).0;
        ensure!(of_user == billed, "{case}: {of_user}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panel_that_drops_repeats_no_more_is_sent_no_unknown_again() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.panel.set_dedupes(true);
    // Two go at once: one is lost, and then the other's answer shows what the panel is now.
    desk.stage.panel.script_report_faults(|n| match n {
        2 => Some(Fault::AcceptThenClose),
        3 => {
            let answer = Answer::success().without_echo();
            Some(Fault::AcceptThen(answer.after(Duration::from_millis(300))))
        }
        _ => None,
    });
    desk.count(0..1);
    let command = desk.command()?.env("HTTP_TIMEOUT_SECONDS", "20");
    let _agent = command.spawn()?;
    desk.await_settled(1).await?;
    desk.count(1..3);
    desk.stage.panel.await_report_requests(3).await?;
    desk.stage.panel.set_dedupes(false);
    desk.await_settled(2).await?;
    desk.count(3..4);
    let books = desk.await_settled(3).await?;
    ensure!(books.totals.unknown.reports == 1, "{books:#?}");
    ensure!(desk.stage.panel.report_requests() == 4);
    ensure!(desk.billed() == desk.counted() && desk.stage.panel.repeats() == 0);
    Ok(())
}

/// A disk that takes long makes nothing unknown that the panel has answered in time.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_came_in_time_counts_while_the_ledger_is_busy() -> Result<()> {
    let mut desk = Desk::new().await?;
    desk.stage.panel.script_report_faults(|n| {
        let wait = if n == 1 { 300 } else { 600 };
        Some(Fault::AcceptThenWait(Duration::from_millis(wait)))
    });
    desk.count(0..2);
    let timeout = Duration::from_millis(1_500);
    let command = desk.command()?.env("HTTP_TIMEOUT_SECONDS", "1.5");
    let _agent = command.env("TRAFFIC_ON_UNKNOWN", "hold").spawn()?;
    desk.stage.panel.await_reports(2).await?;
    let file = xray_agent::traffic::ledger::file(&desk.stage.state_dir());
    let other = rusqlite::Connection::open(file)?;
    other.busy_timeout(Duration::from_secs(5))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    // Not to wait for a state: until both requests would be over time.
    tokio::time::sleep(timeout).await;
    other.execute_batch("ROLLBACK")?;
    let books = desk.await_settled(2).await?;
    ensure!(books.totals.unknown.reports == 0, "{books:#?}");
    Ok(())
}
