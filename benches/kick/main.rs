//! Cutting live sessions: from the panel's answer to the last byte at the client, one user at a time and
//! a thousand at once, beside the least that anybody could do (`RemoveUser`, then the sockets), in turn,
//! in one run. Prints the tables of `docs/performance.md`. Needs `CAP_NET_ADMIN`.
//!
//! `cargo bench --bench kick` runs all (some minutes); `-- --quick` small sizes of it.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(unreachable_pub, missing_docs, reason = "a program has no outside")]

#[path = "../../tests/lab/mod.rs"]
mod lab;
#[allow(dead_code, reason = "benches share it and each uses a part of it")]
#[path = "../sync/setup.rs"]
mod setup;

mod at_once;
mod figures;
mod one_by_one;
mod stage;
mod vless;

use anyhow::{Context, Result};
use xray_agent::sockets::may_cut;

/// Sizes of one run.
struct Sizes {
    /// In the inbound, connected or not.
    users: u32,
    /// Removals one by one.
    removals: u32,
    /// Removals at once.
    crowd: u32,
    /// Of crowds.
    rounds: u32,
}

const FULL: Sizes = Sizes {
    users: 10_000,
    removals: 200,
    crowd: 1_000,
    rounds: 5,
};
const QUICK: Sizes = Sizes {
    users: 100,
    removals: 3,
    crowd: 20,
    rounds: 1,
};

fn main() -> Result<()> {
    may_cut().context("run this as root")?;
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
        one_by_one::measure(sizes.users, sizes.removals).await?;
        at_once::measure(sizes.users, sizes.crowd, sizes.rounds).await
    })
}
