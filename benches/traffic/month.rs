//! A month without the panel, and its return. Time is virtual, and Xray's counters are made up: at
//! each close of the month everybody's have grown. The agent closes every minute; so many closes are
//! not made here, for a close of everybody whose report waits changes rows and adds none: the table
//! shows that the file stops growing. It is the worst that can be for the size: every user's first
//! report was sent once and refused, so that it may not grow, and a second one waits behind it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use tempfile::TempDir;
use xray_agent::base::clock::Clock;
use xray_agent::traffic::forms::Forms;
use xray_agent::traffic::ledger::{Fate, Ledger, Reading, Turn, Whose, file};
use xray_agent::traffic::receivers::REPORT_TRAFFIC;
use xray_agent::xray::boot::Boot;
use xray_agent::xray::counters::UserCounters;

use crate::figures::{median, most, ms};
use crate::lab::secrets::nth_uuid;
use crate::lab::wait::eventually;
use crate::setup::{LONG, Setup};
use crate::worker::bare_forms;

/// The promise: the ledger of such a month is smaller than this.
const PROMISED_BYTES: u64 = 2 << 30;
/// The agent sends at most so many at once.
const AT_ONCE: usize = 16;
/// Bytes of each user between two closes, up; twice as many down.
const UP: u64 = 1_000_000;
const START: i64 = 1_800_000_000;

/// How large a month is simulated.
pub struct Size {
    pub users: u32,
    pub days: u32,
    pub closes_a_day: u32,
}

impl Size {
    fn closes(&self) -> u32 {
        self.days * self.closes_a_day
    }

    fn counted(&self) -> (u64, u64) {
        let up = UP * u64::from(self.closes()) * u64::from(self.users);
        (up, 2 * up)
    }
}

/// Where the ledger of the month is.
pub struct Grown {
    setup_folder: TempDir,
}

/// Lives the month.
pub fn grow(size: &Size) -> Result<Grown> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(live(size))
}

async fn live(size: &Size) -> Result<Grown> {
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("state");
    fs::create_dir(&state)?;
    let clock = Clock::following(Timestamp::from_second(START)?);
    let ledger = Ledger::start(&state, [REPORT_TRAFFIC], clock)?;
    let forms = Arc::new(bare_forms());
    let (mut collects, mut closes, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for period in 1..=size.closes() {
        tokio::time::advance(Duration::from_hours(24) / size.closes_a_day).await;
        let reading = reading(size.users, period, &forms);
        let begun = Instant::now();
        ledger.collect(reading).await?;
        collects.push(ms(begun));
        let begun = Instant::now();
        ledger.close(REPORT_TRAFFIC, Whose::All).await?;
        closes.push(ms(begun));
        if period == 1 {
            refuse_all(&ledger).await?;
        }
        sizes.push(bytes_on_disk(&state)?);
    }
    let summary = ledger.summary().await?;
    let pending = summary.nodes[0].pending;
    ensure!((pending.bytes.up, pending.bytes.down) == size.counted());
    ensure!(pending.reports == 2 * u64::from(size.users), "{pending:?}");
    drop(ledger);
    table(size, &collects, &closes, &sizes);
    Ok(Grown {
        setup_folder: folder,
    })
}

/// The panel refuses everything once: those reports may not grow any more.
async fn refuse_all(ledger: &Ledger) -> Result<()> {
    let all = Turn {
        places: usize::MAX,
        ..Turn::default()
    };
    let claimed = ledger.turn(REPORT_TRAFFIC, all).await?;
    let refused = claimed
        .iter()
        .map(|claimed| claimed.done(Fate::Pending("the panel is away".into())));
    let done = Turn {
        done: refused.collect(),
        ..Turn::default()
    };
    ledger.turn(REPORT_TRAFFIC, done).await?;
    Ok(())
}

fn reading(users: u32, period: u32, forms: &Arc<Forms>) -> Reading {
    let bytes = i64::try_from(UP).unwrap_or_default() * i64::from(period);
    let counters = (0..users).flat_map(|user| {
        let id = nth_uuid(user);
        [
            (format!("user>>>{id}>>>traffic>>>uplink"), bytes),
            (format!("user>>>{id}>>>traffic>>>downlink"), 2 * bytes),
        ]
    });
    Reading {
        xray: "bench".into(),
        forms: forms.clone(),
        boot: Boot {
            kernel_boot_id: "month".into(),
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

/// The ledger and what SQLite keeps beside it.
fn bytes_on_disk(state: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(state)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn table(size: &Size, collects: &[f64], closes: &[f64], sizes: &[u64]) {
    println!("### {} days without the panel\n", size.days);
    println!(
        "| users | closes | collect of all, p50 / max | close of all, p50 / max | on disk after 1, 2, \
         half, all closes | rows a user |"
    );
    println!("|---|---|---|---|---|---|");
    let after = |close: usize| mib(sizes[close.clamp(1, sizes.len()) - 1]);
    println!(
        "| {} | {} | {:.0} / {:.0} ms | {:.0} / {:.0} ms | {:.1}, {:.1}, {:.1}, {:.1} MiB | 2 |",
        size.users,
        size.closes(),
        median(collects),
        most(collects),
        median(closes),
        most(closes),
        after(1),
        after(2),
        after(sizes.len() / 2),
        after(sizes.len()),
    );
    println!();
}

/// The panel is back: the agent starts on that ledger and sends everything.
pub async fn drain(size: &Size, grown: Grown) -> Result<()> {
    let mut setup = Setup::new(0).await?;
    setup.folder = grown.setup_folder;
    let state = setup.folder.path().join("state");
    let closed = file(&state).with_extension("db-wal");
    eventually("the ledger is closed", LONG, async || !closed.exists()).await?;
    let agent = setup.agent().spawn()?;
    let (panel, all) = (&setup.panel, 2 * u64::from(size.users));
    eventually("the first report", LONG, async || {
        panel.report_requests() > 0
    })
    .await?;
    let begun = Instant::now();
    eventually("everything at the panel", 4 * LONG, async || {
        panel.report_requests() >= all && panel.concurrent_reports() == 0
    })
    .await?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(
        panel.billed_total() == size.counted(),
        "{:?}",
        panel.billed_total()
    );
    ensure!(panel.repeats() == 0 && panel.report_requests() == all);
    ensure!(panel.max_concurrent_reports() <= AT_ONCE);
    let on_disk = bytes_on_disk(&state)?;
    ensure!(on_disk < PROMISED_BYTES, "{on_disk} bytes");
    println!("### The panel's return\n");
    println!(
        "| reports | until all are taken | a second | most at once | on disk then | RSS peak |"
    );
    println!("|---|---|---|---|---|---|");
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = all as f64 / took;
    println!(
        "| {all} | {took:.1} s | {rate:.0} | {} | {:.1} MiB | {:.1} MiB |\n",
        panel.max_concurrent_reports(),
        mib(on_disk),
        crate::process::memory_mib(agent.pid(), "VmHWM")?,
    );
    Ok(())
}
