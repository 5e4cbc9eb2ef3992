//! Months without the panel: what waits stays small, whole, and in order. The ledger itself, with
//! counters made up; the figures for a month of 50 000 users are in the bench.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use xray_agent::base::clock::Clock;
use xray_agent::model::desired::InboundKey;
use xray_agent::model::email::{EmailForm, Emails};
use xray_agent::model::ids::{NodeId, UserId};
use xray_agent::traffic::forms::Forms;
use xray_agent::traffic::ledger::{Fate, Ledger, Reading, Turn, Whose};
use xray_agent::traffic::receivers::REPORT_TRAFFIC;
use xray_agent::xray::boot::Boot;
use xray_agent::xray::counters::UserCounters;

use crate::lab::secrets::nth_uuid;
use crate::support::folder;

const USERS: u32 = 500;
const PERIODS: u32 = 200;
/// The agent sends at most so many at once.
const AT_ONCE: usize = 16;

/// The counters of everybody after so many periods: each user has a rate, and rests every third one.
fn reading(period: u32) -> Reading {
    let emails = Emails {
        form: EmailForm::Bare,
        kernel_id: "in-vless".to_owned(),
        former_ids: Vec::new(),
    };
    let counters = (0..USERS).flat_map(|user| {
        let active = i64::from(period - (period + user % 3) / 3);
        let (id, up) = (nth_uuid(user), active * i64::from(user + 1));
        [
            (format!("user>>>{id}>>>traffic>>>uplink"), up),
            (format!("user>>>{id}>>>traffic>>>downlink"), 3 * up),
        ]
    });
    Reading {
        xray: "local".into(),
        forms: Arc::new(Forms::of([(
            InboundKey::of(NodeId(1), "main", "in-1"),
            &emails,
        )])),
        boot: Boot {
            kernel_boot_id: "kernel".into(),
            started_ms: 1,
            started_awake_ms: None,
            uptime_s: period,
            total_alloc: period.into(),
            mallocs: period.into(),
        },
        remote: false,
        same_connection: true,
        counters: Arc::new(UserCounters::of(counters)),
        adopts: false,
    }
}

/// Bytes of everybody after the last period.
fn counted() -> HashMap<UserId, (u64, u64)> {
    let mut all: HashMap<UserId, (u64, u64)> = HashMap::new();
    for counter in reading(PERIODS).counters.iter() {
        let user = UserId::parse(counter.email).expect("a UUID");
        let of_user = all.entry(user).or_default();
        match counter.direction {
            xray_agent::xray::counters::Direction::Up => of_user.0 = counter.bytes,
            xray_agent::xray::counters::Direction::Down => of_user.1 = counter.bytes,
        }
    }
    all
}

/// One try with so many reports, none of which is taken.
async fn refused(ledger: &Ledger, places: usize) -> Result<usize> {
    let turn = Turn {
        places,
        ..Turn::default()
    };
    let claimed = ledger.turn(REPORT_TRAFFIC, turn).await?;
    let away = || Fate::Pending("the panel is away".into());
    let turn = Turn {
        done: claimed.iter().map(|claimed| claimed.done(away())).collect(),
        ..Turn::default()
    };
    ledger.turn(REPORT_TRAFFIC, turn).await?;
    Ok(claimed.len())
}

#[tokio::test]
async fn what_waits_for_the_panel_is_two_reports_a_user_whole_and_in_order() -> Result<()> {
    let folder = folder()?;
    let sinks = [REPORT_TRAFFIC];
    let ledger = Ledger::start(folder.path(), sinks, Clock::system())?;
    for period in 1..=PERIODS {
        ledger.collect(reading(period)).await?;
        ledger.close(REPORT_TRAFFIC, Whose::All).await?;
        // The worst: after the first periods everybody's first report was sent once, so that it may
        // not grow any more. Later only the oldest is tried, as the agent does.
        let places = if period <= 2 { usize::MAX } else { 1 };
        ensure!(refused(&ledger, places).await? > 0);
        let pending = ledger.summary().await?.nodes[0].pending;
        ensure!(pending.reports <= 2 * u64::from(USERS), "{pending:?}");
    }
    let expected = counted();
    let pending = ledger.summary().await?.nodes[0].pending;
    ensure!(pending.bytes.up == expected.values().map(|bytes| bytes.0).sum::<u64>());
    ensure!(pending.bytes.down == expected.values().map(|bytes| bytes.1).sum::<u64>());
    ensure!(pending.reports > u64::from(USERS), "{pending:?}");
    drains(&ledger, &expected).await
}

/// The panel is back: everything goes, a user's oldest first, and adds up.
async fn drains(ledger: &Ledger, expected: &HashMap<UserId, (u64, u64)>) -> Result<()> {
    let mut taken: HashMap<UserId, (u64, u64)> = HashMap::new();
    let mut last_of_user: HashMap<UserId, i64> = HashMap::new();
    let mut done = Vec::new();
    loop {
        let turn = Turn {
            done: std::mem::take(&mut done),
            places: AT_ONCE,
            ..Turn::default()
        };
        let claimed = ledger.turn(REPORT_TRAFFIC, turn).await?;
        if claimed.is_empty() {
            break;
        }
        ensure!(claimed.len() <= AT_ONCE);
        for claimed in claimed {
            let report = &claimed.report;
            let before = last_of_user.insert(report.user, claimed.seq());
            ensure!(before < Some(claimed.seq()), "{before:?} {}", claimed.seq());
            let of_user = taken.entry(report.user).or_default();
            *of_user = (of_user.0 + report.up, of_user.1 + report.down);
            done.push(claimed.done(Fate::Settled));
        }
    }
    ensure!(taken == *expected);
    let totals = ledger.summary().await?.nodes.remove(0);
    ensure!(totals.settled.bytes == totals.counted && totals.pending.reports == 0);
    Ok(())
}
