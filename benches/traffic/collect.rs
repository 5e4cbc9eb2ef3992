//! One collect: the agent's read and the ledger's commit, beside a bare client that only reads. Both
//! are processes that go on living, asked in turn.

use anyhow::Result;

use crate::figures::{least, median, most};
use crate::process::memory_mib;
use crate::stage::Stage;
use crate::worker::{Role, Worker};

/// What of the counters has changed since the collect before.
#[derive(Clone, Copy)]
enum Changed {
    None,
    Twentieth,
    /// The first read of a ledger that bills what was there before.
    All,
}

impl Changed {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Twentieth => "5 %",
            Self::All => "all",
        }
    }
}

#[derive(Default)]
struct Took {
    read: Vec<f64>,
    commit: Vec<f64>,
    cpu: Vec<f64>,
    bare: Vec<f64>,
    bare_cpu: Vec<f64>,
}

struct Pair {
    ours: Worker,
    bare: Worker,
}

pub async fn measure(sizes: &[u32], rounds: usize) -> Result<()> {
    println!("### One collect (medians of {rounds} rounds)\n");
    println!(
        "| users | changed | agent's read | ledger | both | bare client | ratio of the reads \
         (least–most) | ratio with the ledger | CPU | CPU of the bare client | RSS, both processes' \
         highest |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for users in sizes {
        let stage = Stage::new(*users).await?;
        let address = stage.setup.xray.api_addr();
        let mut pair = Pair {
            ours: Worker::start(Role::Ledger, &address)?,
            bare: Worker::start(Role::Reader, &address)?,
        };
        for changed in [Changed::All, Changed::None, Changed::Twentieth] {
            let mut took = Took::default();
            for round in 0..rounds {
                pair.round(&stage, changed, round, &mut took).await?;
            }
            row(*users, changed, &took, &pair)?;
        }
    }
    println!();
    Ok(())
}

impl Pair {
    async fn round(
        &mut self,
        stage: &Stage,
        changed: Changed,
        round: usize,
        took: &mut Took,
    ) -> Result<()> {
        match changed {
            Changed::None => {}
            Changed::Twentieth => stage.touch_some(round).await?,
            Changed::All => drop(self.ours.ask("fresh").await?),
        }
        // Whoever is second finds Xray's memory warmer: take turns.
        if round.is_multiple_of(2) {
            self.bare(took).await?;
            self.ours(took).await
        } else {
            self.ours(took).await?;
            self.bare(took).await
        }
    }

    async fn ours(&mut self, took: &mut Took) -> Result<()> {
        let figures = self.ours.ask("collect").await?;
        took.cpu.push(figures[0]);
        took.read.push(figures[1]);
        took.commit.push(figures[2]);
        Ok(())
    }

    async fn bare(&mut self, took: &mut Took) -> Result<()> {
        let figures = self.bare.ask("read").await?;
        took.bare_cpu.push(figures[0]);
        took.bare.push(figures[1]);
        Ok(())
    }
}

fn row(users: u32, changed: Changed, took: &Took, pair: &Pair) -> Result<()> {
    let both: Vec<f64> = took
        .read
        .iter()
        .zip(&took.commit)
        .map(|(a, b)| a + b)
        .collect();
    let ratio =
        |ours: &[f64]| -> Vec<f64> { ours.iter().zip(&took.bare).map(|(a, b)| a / b).collect() };
    let (reads, all) = (ratio(&took.read), ratio(&both));
    println!(
        "| {users} | {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms | {:.2} ({:.2}–{:.2}) | {:.2} | \
         {:.1} ms | {:.1} ms | {:.0} / {:.0} MiB |",
        changed.name(),
        median(&took.read),
        median(&took.commit),
        median(&both),
        median(&took.bare),
        median(&reads),
        least(&reads),
        most(&reads),
        median(&all),
        median(&took.cpu),
        median(&took.bare_cpu),
        memory_mib(pair.ours.pid()?, "VmHWM")?,
        memory_mib(pair.bare.pid()?, "VmHWM")?,
    );
    Ok(())
}
