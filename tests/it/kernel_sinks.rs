//! Bytes of users whom a panel pushed go to that panel, beside those of the panel that is polled: each
//! byte once to each panel that wants its user, whatever the pushing panel answers, and whenever the
//! agent dies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::BoxFuture;
use xray_agent::base::clock::Clock;
use xray_agent::model::delivery::{
    PostAnswer, PostForAnswer, PostReply, PostRequest, TargetId, Unanswered,
};
use xray_agent::traffic::kernel_sink::{Registration, RegistrationSink};
use xray_agent::traffic::sink::Sink;

use crate::kernel_stage::{Deed, Desk, Running, TAGS, numbers};
use crate::lab::eventually;
use crate::support::LONG;

/// The pushing panel's, in the ledger.
const KERNEL: &str = "kernel";
/// Until an answer is taken for lost.
const SOON: Duration = Duration::from_millis(500);

/// What each panel took against what Xray counted, and against what the ledger says of it.
async fn check(desk: &Desk, running: &Running) -> Result<()> {
    let totals = running.totals(KERNEL).await?;
    let waiting = totals.open.bytes.down + totals.pending.bytes.down + totals.sending.bytes.down;
    let (rejected, unknown) = (totals.rejected.bytes.down, totals.unknown.bytes.down);
    let settled = totals.settled.bytes.down;
    let counted = desk.moved[1] + desk.moved[2] + desk.moved[3];
    ensure!(totals.counted.down == counted, "{totals:?}, not {counted}");
    ensure!(
        settled + waiting + rejected + unknown == counted,
        "{totals:?}"
    );
    let (taken, in_doubt) = desk.kernel.taken();
    ensure!(
        taken == settled + in_doubt,
        "{taken}, {in_doubt}: {totals:?}"
    );
    ensure!(in_doubt <= unknown, "{in_doubt}: {totals:?}");
    let polled = running.totals("report-traffic").await?;
    let counted = desk.moved[0] + desk.moved[2];
    ensure!(polled.counted.down == counted, "{polled:?}, not {counted}");
    let (billed, settled) = (desk.polled.billed_total().1, polled.settled.bytes.down);
    let unknown = polled.unknown.bytes.down;
    ensure!(
        (settled..=settled + unknown).contains(&billed),
        "{billed}: {polled:?}"
    );
    Ok(())
}

/// Passes until the kernel panel has done what it is to do, and nothing waits that can be told.
async fn settle(desk: &Desk, running: &Running) -> Result<()> {
    eventually("all is told", LONG, async || {
        running.handle.pass().await;
        let totals = running.totals(KERNEL).await.ok()?;
        let is_told = totals.pending.reports == 0 && totals.sending.reports == 0;
        (is_told && desk.kernel.has_done_all()).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_panel_is_told_of_its_users_and_of_each_byte_once_whatever_it_answers() -> Result<()> {
    let mut desk = Desk::new().await?;
    let running = desk.run(vec![desk.kernel_sink(SOON)?], true)?;
    desk.transfer(1_000).await?;
    settle(&desk, &running).await?;
    check(&desk, &running).await?;
    ensure!(desk.kernel.known() == [(1, 0), (1, 1), (2, 0), (2, 1)].into());
    // Two users go together, their second inbounds after that.
    ensure!(
        desk.kernel.batches() == [2, 2],
        "{:?}",
        desk.kernel.batches()
    );
    let status = running.handle.status();
    let kernel = status
        .sinks
        .iter()
        .find(|sink| sink.sink == KERNEL)
        .unwrap();
    ensure!(
        (kernel.untold, kernel.untold_bytes) == (2, 2 * (1_000 + 1 + 16)),
        "{kernel:?}"
    );

    for deed in [
        Deed::Refuse,
        Deed::Say(500, r#"{"code":500}"#),
        Deed::Say(503, "busy"),
        Deed::Say(401, r#"{"error":"token"}"#),
        Deed::Say(302, ""),
        Deed::HangUp,
        Deed::TakeAndHangUp,
        Deed::TakeAndSay(200, "<html>"),
        Deed::TakeAndSay(504, "<html>"),
        Deed::TakeAndSay(200, "{}"),
        Deed::TakeSome,
    ] {
        desk.kernel.script([deed]);
        let before = desk.kernel.batches().len();
        desk.transfer(100).await?;
        settle(&desk, &running).await?;
        check(&desk, &running)
            .await
            .map_err(|e| e.context(format!("{deed:?}")))?;
        let batches = desk.kernel.batches().split_off(before);
        if !matches!(deed, Deed::Refuse) {
            ensure!(
                batches[..2] == [2, 1],
                "one at a time after {deed:?}: {batches:?}"
            );
        }
    }
    let totals = running.totals(KERNEL).await?;
    ensure!(totals.rejected.reports == 2, "{totals:?}");
    ensure!(totals.unknown.reports == 2 * 6, "{totals:?}");
    let inbounds = running.handle.inbounds().await?;
    let each = desk.moved.iter().sum::<u64>() / 2;
    for (totals, tag) in inbounds.iter().zip(TAGS) {
        ensure!(
            (totals.tag.as_str(), totals.bytes.down) == (tag, each),
            "{inbounds:?}"
        );
    }
    running.stop();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_while_records_are_under_way_holds_them_and_sends_none_again()
-> Result<()> {
    let mut desk = Desk::new().await?;
    for deed in [Deed::TakeAndHang, Deed::TakeAndHang] {
        let running = desk.run(vec![desk.kernel_sink(LONG)?], false)?;
        desk.transfer(1_000).await?;
        desk.kernel.script([deed]);
        let handle = running.handle.clone();
        handle.collect().await;
        // The pass does not come to its end.
        let pass = handle.pass();
        let sent = eventually("a batch is under way", LONG, async || {
            desk.kernel.has_done_all()
        });
        tokio::select! {
            _ = pass => anyhow::bail!("the pass is over"),
            sent = sent => sent?,
        }
        drop(handle);
        running.kill();
    }
    let running = desk.run(vec![desk.kernel_sink(SOON)?], true)?;
    settle(&desk, &running).await?;
    check(&desk, &running).await?;
    let totals = running.totals(KERNEL).await?;
    ensure!(totals.unknown.reports > 0, "{totals:?}");
    running.stop();
    Ok(())
}

/// Somebody who registered.
#[derive(Default)]
struct Registered(Mutex<Vec<serde_json::Value>>);

impl PostForAnswer for Registered {
    fn post_for_answer(
        &self,
        request: PostRequest,
        _body_bytes_max: usize,
    ) -> BoxFuture<'_, Result<PostReply, Unanswered>> {
        let body = serde_json::from_slice(&request.body).unwrap();
        self.0.lock().unwrap().push(body);
        let answer = PostAnswer {
            status: 204,
            ..PostAnswer::default()
        };
        Box::pin(async move {
            Ok(PostReply {
                answer,
                body: bytes::Bytes::new(),
                is_whole: true,
            })
        })
    }
}

impl Registered {
    fn down(&self) -> u64 {
        let requests = self.0.lock().unwrap();
        let records = requests
            .iter()
            .flat_map(|body| body["records"].as_array().unwrap());
        records
            .map(|record| record["bytes_down"].as_u64().unwrap())
            .sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_hears_of_bytes_from_then_on_and_who_leaves_disturbs_nobody() -> Result<()> {
    let mut desk = Desk::new().await?;
    let kernel = desk.kernel_sink(LONG)?;
    let running = desk.run(vec![kernel.clone()], true)?;
    desk.transfer(1_000).await?;
    settle(&desk, &running).await?;

    let receiver = Arc::new(Registered::default());
    let registration = Registration {
        id: TargetId::generate(),
        url: "https://receiver.example/canary".to_owned(),
        secret: None,
    };
    let sink = RegistrationSink::new(registration, receiver.clone(), numbers(), Clock::system());
    let sink: Arc<dyn Sink> = Arc::new(sink);
    let name = sink.name();
    running
        .handle
        .set_kernel_sinks(vec![kernel.clone(), sink])
        .await?;
    let before = desk.moved[1] + desk.moved[2];
    desk.transfer(50).await?;
    eventually("it has heard of all since then", LONG, async || {
        running.handle.pass().await;
        receiver.down() == desk.moved[1] + desk.moved[2] - before
    })
    .await?;
    check(&desk, &running).await?;
    let shown = running.handle.status().sinks;
    let shown = shown.iter().find(|sink| *sink.sink == *name).unwrap();
    ensure!(shown.address == "receiver.example", "{shown:?}");

    // It leaves while the panel has not answered a batch yet.
    desk.kernel.script([Deed::TakeAndHang]);
    desk.transfer(7).await?;
    let before = desk.kernel.batches().len();
    let pass = running.handle.pass();
    let sent = eventually("a batch is under way", LONG, async || {
        desk.kernel.batches().len() > before
    });
    tokio::select! {
        _ = pass => anyhow::bail!("the pass is over"),
        sent = sent => sent?,
    }
    running.handle.set_kernel_sinks(vec![kernel]).await?;
    let totals = running.totals(KERNEL).await?;
    ensure!(totals.sending.reports > 0, "{totals:?}");
    let nodes = running.handle.summary().await?.nodes;
    ensure!(
        !nodes.iter().any(|totals| *totals.sink == *name),
        "{nodes:?}"
    );
    running.kill();
    Ok(())
}
