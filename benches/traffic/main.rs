//! Traffic: reading counters into the ledger, carrying reports to a panel, and a month without one,
//! each beside the least that anybody could do, in turn, in one run. Prints the tables of
//! `docs/performance.md`.
//!
//! `cargo bench --bench traffic` runs all but the month (about ten minutes), `-- --running` its last two tables, `-- --scrape` the
//! last one; `-- --month` the month;
//! `-- --quick` small sizes of everything.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(unreachable_pub, missing_docs, reason = "a program has no outside")]

#[path = "../../tests/lab/mod.rs"]
mod lab;
#[allow(dead_code, reason = "two benches share it and each uses a part of it")]
#[path = "../sync/process.rs"]
mod process;
#[allow(dead_code, reason = "two benches share it and each uses a part of it")]
#[path = "../sync/setup.rs"]
mod setup;

mod collect;
mod figures;
mod month;
mod reports;
mod running;
mod scrape;
mod stage;
mod vless;
mod worker;

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};

/// Sizes of one run.
struct Sizes {
    users: &'static [u32],
    rounds: usize,
    reports: u32,
    month: month::Size,
}

const FULL: Sizes = Sizes {
    users: &[10_000, 100_000],
    rounds: 7,
    reports: 10_000,
    month: month::Size {
        users: 50_000,
        days: 30,
        closes_a_day: 2,
    },
};
const QUICK: Sizes = Sizes {
    users: &[100],
    rounds: 2,
    reports: 100,
    month: month::Size {
        users: 100,
        days: 3,
        closes_a_day: 24,
    },
};

fn main() -> Result<()> {
    if let Some(role) = worker::Role::of_process() {
        return runtime()?.block_on(worker::serve(role));
    }
    let asked = |what: &str| std::env::args().any(|argument| argument == what);
    // `cargo test` runs a bench to see that it runs.
    let quick = asked("--quick") || !asked("--bench");
    let sizes = if quick { QUICK } else { FULL };
    if quick || !asked("--month") {
        runtime()?.block_on(async {
            let scrapes = if quick { 5 } else { 60 };
            if asked("--scrape") {
                return scrape::measure(sizes.users, scrapes).await;
            }
            if !asked("--running") {
                collect::measure(sizes.users, sizes.rounds).await?;
                reports::measure(sizes.reports, sizes.rounds).await?;
            }
            running::measure(sizes.users, quick).await?;
            scrape::measure(sizes.users, scrapes).await
        })?;
    }
    if quick || asked("--month") {
        let grown = month::grow(&sizes.month)?;
        runtime()?.block_on(month::drain(&sizes.month, grown))?;
    }
    Ok(())
}

fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}
