//! The agent is killed before or after a commit or a send, and the next one at another such place, in
//! every pair of them; among them the commands by which a person decides of reports. In the end what
//! the panel was told and what the ledger holds come to what Xray counted, to the byte, and nothing was
//! counted twice.
//!
//! Each pair begins with the same first crash, so that one is made once and its outcome is copied for
//! every second one. Four kinds of panel: see [`Kind`].

use std::collections::BTreeSet;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::failpoint_bench::{Bench, EARLY, Kind, USERS};
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{Client, Origin, ServerConfig, Xray};
use crate::ledger_file::ByUser;

/// By which bytes come; no agent manages it.
const TAG: &str = "in-vless";
/// Agents at work at once.
const AT_ONCE: usize = 4;

/// Where every agent can be ended. `collect` is reached once, and again where a user is removed; `turn`
/// first with nothing to send, then with all that is to be sent, then with what became of it.
const EVERYWHERE: &[&str] = &[
    "ledger.orphans.before_commit",
    "ledger.orphans.after_commit",
    "ledger.collect.before_commit",
    "ledger.collect.after_commit",
    "ledger.collect.before_commit:2",
    "ledger.collect.after_commit:2",
    "ledger.close.before_commit",
    "ledger.close.after_commit",
    "ledger.turn.before_commit:2",
    "ledger.turn.after_commit:2",
    "ledger.turn.before_commit:3",
    "ledger.turn.after_commit:3",
    "report.before_send",
    "report.after_send",
    "report.after_send:3",
];
/// Where one that sends unknown reports again can be.
const RESENDING: &[&str] = &[
    "ledger.release.before_commit",
    "ledger.release.after_commit",
];
/// Where one that has just learnt that the panel drops repeats can be.
const LEARNING: &[&str] = &["ledger.sink.before_commit", "ledger.sink.after_commit"];
/// Where a person's decision can be.
const DECIDING: &[&str] = &["ledger.decide.before_commit", "ledger.decide.after_commit"];

/// By the first crash, the second ones.
type Pairs = Vec<(&'static str, Vec<&'static str>)>;

/// All pairs that one kind can show. Those with the most second ones come last, and are done first.
fn pairs(kind: Kind) -> Pairs {
    let of = |lists: &[&[&'static str]]| lists.concat();
    match kind {
        Kind::Shown => each(&of(&[EVERYWHERE, RESENDING]), &of(&[EVERYWHERE, RESENDING])),
        Kind::Naive => each(EVERYWHERE, EVERYWHERE),
        // The others are those of a panel that has shown it.
        Kind::Unshown => [
            each(&of(&[EVERYWHERE, RESENDING]), LEARNING),
            each(LEARNING, &of(&[EVERYWHERE, RESENDING, LEARNING])),
        ]
        .concat(),
        // The others are those where nothing is held yet.
        Kind::Held => [
            each(EVERYWHERE, DECIDING),
            each(DECIDING, &of(&[EVERYWHERE, DECIDING])),
        ]
        .concat(),
    }
}

fn each(first: &[&'static str], second: &[&'static str]) -> Pairs {
    first.iter().map(|a| (*a, second.to_vec())).collect()
}

/// All pairs of one kind, on several benches at once; the places that were reached.
async fn all_pairs(kind: Kind, benches: Vec<Bench>, counted: &ByUser) -> Result<BTreeSet<String>> {
    let left = Mutex::new(pairs(kind));
    let reached = Mutex::new(BTreeSet::new());
    let next = || left.lock().unwrap().pop();
    let work = benches.into_iter().map(async |mut bench| {
        let begin = bench.copy().await?;
        while let Some((first, seconds)) = next() {
            bench.set_back(&begin).await?;
            if bench.crash(first).await? {
                reached.lock().unwrap().insert(first.to_owned());
            }
            let crashed = bench.copy().await?;
            for second in seconds {
                bench.set_back(&crashed).await?;
                if bench.crash(second).await? {
                    reached.lock().unwrap().insert(second.to_owned());
                }
                let judged = match bench.settle().await {
                    Ok(holdings) => bench.judge(&holdings, counted),
                    Err(error) => Err(error),
                };
                judged.with_context(|| format!("{kind:?}: {first}, then {second}"))?;
            }
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    Ok(reached.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pair_of_crashes_loses_a_byte_or_bills_one_twice() -> Result<()> {
    let mut server = ServerConfig::new().vless(TAG);
    let users: Vec<_> = (0..=USERS).map(nth_uuid).collect();
    for user in &users {
        server = server.with_client(TAG, json!({"id": user, "email": user}));
    }
    let tags: Vec<_> = (0..AT_ONCE).map(|n| format!("{TAG}-{n}")).collect();
    server = tags.iter().fold(server, |server, tag| server.vless(tag));
    let routes: Vec<_> = users.iter().map(|user| server.route(TAG, user)).collect();
    let (client, origin) = (Client::start_many(&routes).await?, Origin::start().await?);
    let xray = Xray::start(server).await?;
    for user in 0..EARLY {
        let which = usize::try_from(user)?;
        client.transfer(which, &origin, 1_000, 2_000).await?;
    }

    let api = xray.api_addr();
    let mut benches = Vec::new();
    for kind in [Kind::Shown, Kind::Naive, Kind::Unshown, Kind::Held] {
        let some = tags.iter().map(|tag| Bench::new(kind, &api, tag.clone()));
        benches.push((kind, try_join_all(some).await?));
    }
    for user in 1..=USERS {
        let bytes = 1_000 * u64::from(user);
        let which = usize::try_from(user)?;
        client.transfer(which, &origin, bytes, 3 * bytes).await?;
    }
    let counted = user_counters(&api).await?;

    let mut reached = BTreeSet::new();
    for (kind, benches) in benches {
        reached.extend(all_pairs(kind, benches, &counted).await?);
    }
    let all = [EVERYWHERE, RESENDING, LEARNING, DECIDING].concat();
    let all: BTreeSet<String> = all.into_iter().map(str::to_owned).collect();
    ensure!(reached == all, "never reached: {:?}", &all - &reached);
    Ok(())
}
