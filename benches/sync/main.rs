//! The agent beside a bare client that only pushes the same prebuilt calls: same Xray, same kind of
//! process, in turn, in one run. Prints the tables of `docs/performance.md`.
//!
//! `cargo bench --bench sync` runs all (about ten minutes); `-- --quick` small sizes only.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(unreachable_pub, missing_docs, reason = "a program has no outside")]

#[path = "../../tests/lab/mod.rs"]
mod lab;

mod bare;
mod first_sync;
mod process;
mod setup;
mod steady;

use anyhow::Result;

/// Pairs of runs for each size; the median is shown.
const PAIRS: usize = 5;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if let Some(order) = bare::Order::of_process()? {
        return runtime.block_on(bare::push(&order));
    }
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test` runs a bench to see that it runs.
    let quick =
        arguments.iter().any(|a| a == "--quick") || !arguments.iter().any(|a| a == "--bench");
    let sizes: &[u32] = if quick {
        &[100]
    } else {
        &[1_000, 10_000, 100_000]
    };
    let pairs = if quick { 1 } else { PAIRS };
    runtime.block_on(async {
        first_sync::measure(sizes, pairs).await?;
        steady::measure(sizes, quick).await
    })
}
