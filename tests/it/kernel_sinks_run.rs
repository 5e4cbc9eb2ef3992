//! Bytes of pushed users through the real program, to the configured panel and to a registration: each
//! has every byte at most once, and what it has not settled is in the ledger to the byte, whatever is
//! answered, whenever the agent is killed, and however its configuration changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::chaos_campaign::dice::Dice;
use crate::kernel_sinks_office::{HOOK, Office, Sums, USERS};
use crate::lab::kernel_panel::TRAFFIC;
use crate::lab::{Agent, Answer};
use crate::support::LONG;

const KILLS: u32 = 25;
/// How long the agent lives between two kills: from before its first read to some batches later.
const LIFE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1_500));

fn tally(accepted: u64, failed: u64) -> Answer {
    Answer::json(200, &json!({"accepted": accepted, "failed": failed}))
}

/// What becomes of requests until the next kill.
fn spoil(office: &Office, dice: &mut Dice) {
    office.pushing.set_mute(dice.one_in(4));
    for path in [TRAFFIC, HOOK] {
        let answer = match dice.below(8) {
            0 => Some(Answer::error(503, "db")),
            1 => Some(Answer::html(502)),
            2 => Some(tally(1, 1)),
            _ => None,
        };
        office.pushing.set_answer(path, answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_25_kills_each_sink_has_each_byte_at_most_once_and_the_rest_is_accounted_for()
-> Result<()> {
    let (office, mut agent) = Office::new().await?;
    let mut dice = Dice::new(u64::from(agent.pid()));
    for _ in 0..KILLS {
        spoil(&office, &mut dice);
        let life = sleep(dice.time(LIFE.0, LIFE.1));
        let load = async {
            loop {
                office.transfer(300, 700).await?;
            }
        };
        tokio::select! {
            () = life => {}
            failed = load => return failed,
        }
        agent.kill9().await?;
        agent = office.command.spawn()?;
    }
    agent.kill9().await?;
    office.pushing.set_mute(false);
    for path in [TRAFFIC, HOOK] {
        office.pushing.set_answer(path, None);
    }
    let mut agent = office.start().await?;
    office.transfer(300, 700).await?;
    office.nothing_waits().await.with_context(|| agent.log())?;
    for user in USERS {
        for path in [TRAFFIC, HOOK] {
            office.is_exact(path, user)?;
        }
    }
    ensure!(office.pushing.refused().is_empty());
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_mixed_answer_records_go_alone_until_one_is_taken_and_a_person_decides()
-> Result<()> {
    let (office, mut agent) = Office::new().await?;
    agent.kill9().await?;
    // Counted in one read, so that they go in one batch.
    office.transfer(10, 1_000).await?;
    office.pushing.set_answer(TRAFFIC, Some(tally(1, 2)));
    let mut agent = office.start().await?;
    office.await_reports("unknown", 3).await?;
    office.pushing.set_answer(TRAFFIC, None);
    office.transfer_at_once(&mut agent, 2_000).await?;
    office.nothing_waits().await?;
    let calls = office.pushing.calls(TRAFFIC).into_iter();
    let sizes: Vec<_> = calls
        .map(|call| call.body["records"].as_array().map_or(0, Vec::len))
        .collect();
    ensure!(sizes == [1, 2], "{sizes:?}");

    let listed = office.run(&["traffic", "unknown", "--json"]).await?;
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout)?;
    ensure!(listed.len() == 3, "{listed:?}");
    for (report, outcome) in listed
        .iter()
        .zip(["delivered", "not-delivered", "not-delivered"])
    {
        let id = report["id"].as_str().context("no number")?;
        office.run(&["traffic", "resolve", id, outcome]).await?;
    }
    office.await_reports("unknown", 0).await?;
    office.nothing_waits().await?;
    let short = USERS.into_iter().filter(|user| {
        let told = office.pushing.bytes(TRAFFIC, u64::from(*user));
        office
            .at(TRAFFIC, *user)
            .is_ok_and(|it| told.1 < it.settled.bytes.down)
    });
    ensure!(
        short.count() == 1,
        "only the one that was said to have come"
    );

    office.pushing.set_answer(TRAFFIC, Some(tally(0, 1)));
    office.transfer_at_once(&mut agent, 500).await?;
    office.await_reports("rejected", 3).await?;
    office.pushing.set_answer(TRAFFIC, None);
    office.nothing_waits().await?;
    // Nothing of it was any of the other's.
    office.is_told(HOOK, &Sums::new()).await?;
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_come_and_go_have_what_was_counted_while_they_were_there() -> Result<()> {
    let (office, mut agent) = Office::new().await?;
    let none = Sums::new();
    office.transfer(10, 1_000).await?;
    office.is_told(TRAFFIC, &none).await?;
    // Other numbers from the next record on.
    office.reconfigure(&mut agent, Some(77)).await?;
    office.transfer(10, 1_000).await?;
    office.is_told(TRAFFIC, &none).await?;
    office.is_told(HOOK, &none).await?;
    let records = office.pushing.records(TRAFFIC);
    ensure!(records.first().context("none")?["node_id"] == 10);
    ensure!(records.last().context("none")?["node_id"] == 77);

    let meanwhile = panel_is_taken_out(&office, &mut agent)
        .await
        .with_context(|| agent.log())?;
    let lost = registration_is_made_anew(&office, &agent, &meanwhile)
        .await
        .with_context(|| agent.log())?;

    // Xray's unit stops: counted for both, and told by whoever runs next.
    agent.kill9().await?;
    office.transfer(10, 3_000).await?;
    office.run(&["traffic", "collect"]).await?;
    for path in [TRAFFIC, HOOK] {
        let waits = office.at(path, USERS[0])?;
        ensure!(waits.open.bytes.down >= 3_000, "{path}: {waits:#?}");
    }
    let mut agent = office.start().await?;
    office.is_told(TRAFFIC, &meanwhile).await?;
    office.is_told(HOOK, &lost).await?;
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

/// What waits for the panel is kept while it is not configured; what was counted meanwhile is not for
/// it, and is given back.
async fn panel_is_taken_out(office: &Office, agent: &mut Agent) -> Result<Sums> {
    let none = Sums::new();
    office.waits_for(TRAFFIC, "kernel").await?;
    // What is read for the one is read for the other.
    office.is_told(HOOK, &none).await?;
    let before = office.sums().await?;
    office.reconfigure(agent, None).await?;
    agent
        .await_log(&["WARN", "kernel.panel is not in the configuration"], LONG)
        .await?;
    let is_said = |sink: &Value| {
        let error = sink["error"].as_str().unwrap_or_default();
        error.contains("are kept until it is there again")
    };
    office.await_sink("kernel", is_said).await?;
    office.transfer(10, 5_000).await?;
    office.is_told(HOOK, &none).await?;
    let mut meanwhile = office.sums().await?;
    for (user, sum) in &mut meanwhile {
        *sum -= before[user];
        ensure!(*sum >= 5_010, "{user}: {sum}");
    }
    office.pushing.set_answer(TRAFFIC, None);
    office.reconfigure(agent, Some(77)).await?;
    office.is_told(TRAFFIC, &meanwhile).await?;
    Ok(meanwhile)
}

/// What waits for a registration goes with it, and the same one made again is another; what it was not
/// told is given back.
async fn registration_is_made_anew(
    office: &Office,
    agent: &Agent,
    meanwhile: &Sums,
) -> Result<Sums> {
    let all = "/v1/service-events/registrations";
    let listed = office.call(Method::GET, all, None).await?;
    let first = listed[0]["id"].as_str().context("no id")?;
    let name = format!("kernel:{first}");
    office.waits_for(HOOK, &name).await?;
    office.is_told(TRAFFIC, meanwhile).await?;
    office
        .call(Method::DELETE, &format!("{all}/{first}"), None)
        .await?;
    agent
        .await_log(&["WARN", "are dropped", &name], LONG)
        .await?;
    ensure!(office.ledger(USERS[0])?.iter().all(|it| it.sink != name));
    let mut lost = office.sums().await?;
    for (user, told) in office.told(HOOK) {
        *lost.entry(user).or_default() -= told;
    }
    office.pushing.set_answer(HOOK, None);
    let second = office.register().await?;
    ensure!(second != first);
    office
        .await_sink(&format!("kernel:{second}"), |_| true)
        .await?;
    office.transfer(10, 1_000).await?;
    office.is_told(HOOK, &lost).await?;
    Ok(lost)
}
