//! The kernel API with many pushed users: what it answers in a second on one core, beside a bare axum
//! handler that returns the same bytes, in turn, in one run; how soon a pushed user is live in Xray; and
//! an import of them all. Prints the tables of `docs/performance.md`. Needs two cores and `taskset`.
//!
//! `cargo bench --bench kernel` runs all (some minutes); `-- --quick` small sizes of it.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(unreachable_pub, missing_docs, reason = "a program has no outside")]

#[path = "../../tests/lab/mod.rs"]
mod lab;

mod answers;
mod bare;
#[path = "../kick/figures.rs"]
mod figures;
mod load;
mod pushes;
mod stage;

use std::time::Duration;

use anyhow::Result;

/// Sizes of one run.
struct Sizes {
    /// Pushed, and live in Xray.
    users: u32,
    /// Of each server with each route, in turn.
    rounds: usize,
    /// One round.
    round: Duration,
    /// Users pushed one by one.
    pushes: u32,
}

const FULL: Sizes = Sizes {
    users: 50_000,
    rounds: 5,
    round: Duration::from_secs(5),
    pushes: 300,
};
const QUICK: Sizes = Sizes {
    users: 200,
    rounds: 1,
    round: Duration::from_millis(300),
    pushes: 5,
};

fn main() -> Result<()> {
    if let Some(order) = bare::Order::of_process() {
        return bare::serve(&order);
    }
    let asked = |what: &str| std::env::args().any(|argument| argument == what);
    // `cargo test` runs a bench to see that it runs.
    let sizes = if asked("--quick") || !asked("--bench") {
        QUICK
    } else {
        FULL
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stage = stage::Stage::new(sizes.users).await?;
        stage.import(sizes.users).await?;
        pushes::measure(&stage, sizes.users, sizes.pushes).await?;
        answers::measure(&stage, &sizes).await
    })
}
