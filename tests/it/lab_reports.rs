//! The scripted panel's reports of traffic, asked by a plain HTTP client: what the tests of traffic
//! stand on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::lab::{Answer, Fault, Panel, eventually, uuid};
use crate::support::{LONG, TOKEN};

/// An answer on loopback takes a millisecond; after this time none is expected any more.
const SILENCE: Duration = Duration::from_millis(200);

/// A panel and who reports to it.
struct Desk {
    panel: Panel,
    client: reqwest::Client,
}

/// What came back.
#[derive(Debug)]
struct Answered {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answered {
    fn code(&self) -> Option<u64> {
        let envelope: Value = serde_json::from_str(&self.body).ok()?;
        envelope["code"].as_u64()
    }

    fn echo(&self) -> Option<&str> {
        self.headers.get("idempotency-key")?.to_str().ok()
    }
}

impl Desk {
    async fn start() -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        let client = reqwest::Client::builder()
            .no_proxy()
            // A connection for each request: their number is certain, and none is stale.
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { panel, client })
    }

    fn request(&self, body: String) -> reqwest::RequestBuilder {
        let url = format!("{}/api/internal/report-traffic", self.panel.base_url());
        let request = self.client.post(url).header("x-internal-token", TOKEN);
        request
            .header("content-type", "application/json")
            .body(body)
    }

    fn report(&self, uuid: &str, up: u64, down: u64, key: &str) -> reqwest::RequestBuilder {
        let body = json!({"uuid": uuid, "node_id": 1, "upload": up, "download": down});
        self.request(body.to_string())
            .header("idempotency-key", key)
    }
}

async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Answered> {
    let response = request.send().await?;
    Ok(Answered {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.text().await?,
    })
}

#[tokio::test]
async fn a_report_is_checked_as_the_real_panel_checks_it() -> Result<()> {
    let desk = Desk::start().await?;
    desk.panel.set_token("another");
    let answer = send(desk.report("a", 1, 1, "key")).await?;
    let forbidden = json!({"code": 403, "message": "forbidden"});
    assert_eq!((answer.status, answer.body), (403, forbidden.to_string()));
    desk.panel.set_token(TOKEN);

    let wrong = [
        (500, "not JSON".to_owned()),
        (500, String::new()),
        (400, "[]".to_owned()),
        (
            400,
            json!({"uuid": "a", "node_id": 1, "upload": 0, "download": 0}).to_string(),
        ),
        (
            400,
            json!({"uuid": "a", "node_id": 1, "upload": -1, "download": 5}).to_string(),
        ),
        (
            400,
            json!({"uuid": "a", "node_id": 1, "upload": 1.5, "download": 5}).to_string(),
        ),
        (
            400,
            json!({"uuid": "a", "node_id": 1, "upload": "1", "download": 5}).to_string(),
        ),
        (
            400,
            json!({"uuid": "a", "node_id": 1, "upload": 1}).to_string(),
        ),
        (
            400,
            json!({"uuid": "a", "upload": 1, "download": 5}).to_string(),
        ),
        (
            400,
            json!({"node_id": 1, "upload": 1, "download": 5}).to_string(),
        ),
    ];
    for (status, body) in wrong {
        let answer = send(desk.request(body.clone())).await?;
        assert_eq!(answer.status, status, "{body}");
        assert_eq!(answer.code(), Some(u64::from(status)), "{body}");
    }
    assert_eq!(desk.panel.billed_total(), (0, 0));
    assert!(desk.panel.reports().is_empty());
    Ok(())
}

#[tokio::test]
async fn an_accepted_report_is_in_the_ledger_and_its_headers_can_be_read() -> Result<()> {
    let desk = Desk::start().await?;
    let user = uuid();
    let answer = send(desk.report(&user, 5, 0, "key-1")).await?;
    assert_eq!(answer.status, 200);
    let envelope: Value = serde_json::from_str(&answer.body)?;
    assert_eq!(
        envelope,
        json!({"code": 200, "message": "success", "data": null})
    );
    send(desk.report(&user, 7, 11, "key-2")).await?;
    send(desk.report(&uuid(), 1, 1, "key-3")).await?;

    let panel = &desk.panel;
    panel.await_reports(3).await?;
    assert_eq!(panel.billed(1, &user), (12, 11));
    assert_eq!(panel.billed(2, &user), (0, 0));
    assert_eq!(panel.billed_total(), (13, 12));
    let log = panel.reports_of(&user);
    let log: Vec<_> = log
        .iter()
        .map(|it| (it.arrival, it.upload, it.download, it.key.as_deref()))
        .collect();
    assert_eq!(log, [(1, 5, 0, Some("key-1")), (2, 7, 11, Some("key-2"))]);
    assert_eq!((panel.report_requests(), panel.repeats()), (3, 0));
    let keys = ["key-1", "key-2", "key-3"].map(|key| Some(key.to_owned()));
    assert_eq!(panel.report_keys(), keys);
    assert_eq!(panel.connections(), 3);
    assert_eq!(panel.max_concurrent_reports(), 1);

    let headers = panel.report_headers();
    let last = headers.last().context("no headers")?;
    assert_eq!(last["content-type"], "application/json");
    assert_eq!(last["idempotency-key"], "key-3");
    assert!(last["content-length"].to_str()?.parse::<u64>()? > 50);
    Ok(())
}

#[tokio::test]
async fn a_repeat_counts_once_at_a_panel_that_dedupes_and_twice_at_another() -> Result<()> {
    let desk = Desk::start().await?;
    let (panel, user) = (&desk.panel, uuid());
    for _ in 0..2 {
        let answer = send(desk.report(&user, 1, 10, "same")).await?;
        assert_eq!((answer.status, answer.echo()), (200, None));
    }
    assert_eq!((panel.billed(1, &user), panel.repeats()), ((2, 20), 1));

    panel.set_dedupes(true);
    for _ in 0..3 {
        let answer = send(desk.report(&user, 4, 40, "other")).await?;
        assert_eq!((answer.status, answer.echo()), (200, Some("other")));
    }
    assert_eq!((panel.billed(1, &user), panel.repeats()), ((6, 60), 3));
    let counted: Vec<bool> = panel.reports().iter().map(|it| it.counted).collect();
    assert_eq!(counted, [true, true, true, false, false]);
    Ok(())
}

#[tokio::test]
async fn a_refused_users_report_does_not_count_and_its_refusal_echoes_the_key() -> Result<()> {
    let desk = Desk::start().await?;
    let (panel, user) = (&desk.panel, uuid());
    panel.set_dedupes(true);
    panel.refuse(&user, 404, "uuid not found");
    let answer = send(desk.report(&user, 1, 1, "key")).await?;
    assert_eq!((answer.status, answer.code()), (404, Some(404)));
    assert!(answer.body.contains("uuid not found"));
    assert_eq!(answer.echo(), Some("key"));
    assert_eq!(send(desk.report(&uuid(), 1, 2, "b")).await?.status, 200);
    assert_eq!(panel.billed_total(), (1, 2));

    // A refused report is none that was accepted: its repeat counts.
    panel.refuse_no_more(&user);
    assert_eq!(send(desk.report(&user, 1, 1, "key")).await?.status, 200);
    assert_eq!((panel.billed(1, &user), panel.repeats()), ((1, 1), 0));
    Ok(())
}

/// How a fault looks from outside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Status(u16),
    Broken,
    Silence,
}

/// Also checks that an answer echoes the key where it should.
async fn outcome(request: reqwest::RequestBuilder, echoes: bool) -> Seen {
    match send(request.timeout(LONG)).await {
        Ok(answer) => {
            assert_eq!(answer.echo().is_some(), echoes, "{answer:?}");
            Seen::Status(answer.status)
        }
        Err(error) if error.is_timeout() => Seen::Silence,
        Err(_) => Seen::Broken,
    }
}

/// Sends it, waits until the panel has it and has accepted that many, and then for an answer.
async fn stays_silent(
    panel: &Panel,
    request: reqwest::RequestBuilder,
    accepted: usize,
) -> Result<Seen> {
    let mut client = JoinSet::new();
    client.spawn(outcome(request, false));
    panel.await_report_requests(1).await?;
    panel.await_reports(accepted).await?;
    assert_eq!(panel.concurrent_reports(), 1);
    match tokio::time::timeout(SILENCE, client.join_next()).await {
        Ok(ended) => Ok(ended.context("invariant: one was started")??),
        Err(_) => Ok(Seen::Silence),
    }
}

#[tokio::test]
async fn every_fault_looks_and_counts_as_it_says() -> Result<()> {
    let half = Answer::success().truncated(10);
    let faults = [
        (
            Fault::Instead(Answer::error(500, "db")),
            Seen::Status(500),
            false,
        ),
        (Fault::Instead(Answer::html(502)), Seen::Status(502), false),
        (
            Fault::Instead(Answer::error(429, "slow").header("retry-after", "7")),
            Seen::Status(429),
            false,
        ),
        (
            Fault::Instead(Answer::html(301).header("location", "/other")),
            Seen::Status(301),
            false,
        ),
        (Fault::CloseBeforeBody, Seen::Broken, false),
        (Fault::Hang, Seen::Silence, false),
        (
            Fault::AcceptThen(Answer::html(200)),
            Seen::Status(200),
            true,
        ),
        (Fault::AcceptThen(half), Seen::Broken, true),
        (Fault::AcceptThenClose, Seen::Broken, true),
        (Fault::AcceptThenHang, Seen::Silence, true),
        (
            Fault::AcceptThenWait(Duration::from_millis(20)),
            Seen::Status(200),
            true,
        ),
        (Fault::AcceptThenWait(LONG), Seen::Silence, true),
    ];
    for dedupes in [false, true] {
        for (fault, expected, counts) in &faults {
            let desk = Desk::start().await?;
            let (panel, user) = (&desk.panel, uuid());
            panel.set_dedupes(dedupes);
            panel.set_report_fault(Some(fault.clone()));
            let request = desk.report(&user, 3, 5, "key");
            let seen = if *expected == Seen::Silence {
                stays_silent(panel, request, usize::from(*counts)).await?
            } else {
                outcome(request, dedupes).await
            };
            assert_eq!(seen, *expected, "{fault:?}");
            let once = if *counts { (3, 5) } else { (0, 0) };
            assert_eq!(panel.billed(1, &user), once, "{fault:?}");

            // The same report again, now that nothing is wrong.
            panel.set_report_fault(None);
            let answer = send(desk.report(&user, 3, 5, "key")).await?;
            assert_eq!(answer.code(), Some(200), "{fault:?}");
            let twice = if *counts && !dedupes { (6, 10) } else { (3, 5) };
            assert_eq!(panel.billed(1, &user), twice, "{fault:?}, {dedupes}");
            assert_eq!(panel.repeats(), usize::from(*counts), "{fault:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_script_chooses_the_fault_by_the_requests_number() -> Result<()> {
    let desk = Desk::start().await?;
    let panel = &desk.panel;
    panel.set_dedupes(true);
    panel.script_report_faults(|n| {
        let proxy = Answer::html(502).without_echo();
        (n % 2 == 0).then(|| Fault::AcceptThen(proxy))
    });
    let mut statuses = Vec::new();
    for n in 1..=4 {
        let answer = send(desk.report("a", n, 0, &n.to_string())).await?;
        assert_eq!(answer.echo().is_some(), n % 2 == 1);
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 502, 200, 502]);
    assert_eq!(panel.billed(1, "a"), (10, 0));
    Ok(())
}

#[tokio::test]
async fn requests_at_the_same_time_are_counted_until_their_clients_go_away() -> Result<()> {
    let desk = Desk::start().await?;
    let panel = &desk.panel;
    panel.set_report_fault(Some(Fault::Hang));
    let mut clients = JoinSet::new();
    for n in 0..3 {
        clients.spawn(send(desk.report("a", n + 1, 0, &n.to_string())));
    }
    panel.await_report_requests(3).await?;
    assert_eq!(panel.concurrent_reports(), 3);
    assert_eq!(panel.connections(), 3);
    clients.shutdown().await;
    eventually("no request is left", LONG, async || {
        panel.concurrent_reports() == 0
    })
    .await?;
    assert_eq!(panel.max_concurrent_reports(), 3);
    assert!(panel.reports().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_delay_holds_the_answer_back_after_the_bytes_were_counted() -> Result<()> {
    let desk = Desk::start().await?;
    let panel = &desk.panel;
    let delay = Duration::from_millis(50);
    panel.set_report_delay(delay);
    let began = Instant::now();
    send(desk.report("a", 1, 0, "1")).await?;
    assert!(began.elapsed() >= delay);

    panel.set_report_delay(LONG);
    let mut client = JoinSet::new();
    client.spawn(send(desk.report("a", 1, 0, "2")));
    panel.await_reports(2).await?;
    assert_eq!(panel.concurrent_reports(), 1);
    assert_eq!(panel.billed(1, "a"), (2, 0));
    Ok(())
}
