//! Every byte once, whatever is killed and however the panel fails: 25 kills against each kind of
//! panel. The campaign and how it knows the truth: `tests/chaos`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::chaos_campaign::{Options, run};
use crate::lab::AgentCommand;

const KILLS: u32 = 25;
const USERS: u32 = 20;
/// Plays a certain campaign again, as far as chance is ours.
const SEED: &str = "CHAOS_SEED";

#[allow(
    clippy::print_stdout,
    reason = "the figures are there for who asks with --nocapture"
)]
async fn campaign(dedupes: bool) -> Result<()> {
    let options = Options {
        kills: KILLS,
        seed: seed()?,
        dedupes,
        users: USERS,
    };
    let agent = AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent")).env("RUST_LOG", "trace");
    let report = run(options, agent, |_| {}).await?;
    println!("{report}");
    ensure!(report.is_exact(), "{SEED}={}\n{report}", options.seed);
    Ok(())
}

/// Another one each time: what a run finds is played again by the seed in its failure's text.
fn seed() -> Result<u64> {
    if let Ok(seed) = std::env::var(SEED) {
        return Ok(seed.parse()?);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.subsec_micros().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panel_that_drops_repeats_gets_every_byte_once_through_25_kills() -> Result<()> {
    campaign(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panel_that_counts_repeats_is_never_told_too_much_in_25_kills() -> Result<()> {
    campaign(false).await
}
