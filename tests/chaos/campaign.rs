//! The course of the campaign: kill after kill by chance, then health, a drain and the sums.
//!
//! Invariant: whatever is killed is revived before the next kill, and every boot of Xray is judged
//! when the ledger can learn nothing of it any more, that is when it knows the next one.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};
use xray_agent::traffic::ledger::State;

use super::books::{Users, add, sum};
use super::dice::Dice;
use super::report::{Boot, End, Report};
use super::stage::{COLLECT, LONG, Stage};
use super::verdict::{self, Last};
use crate::lab::{AgentCommand, eventually};

/// Every so manieth kill is Xray's, at which the agent dies too now and then.
const XRAY_EVERY: u32 = 5;
/// How long the agent lives between two kills: from before its first poll to some reports later.
const LIFE_MIN: Duration = Duration::from_millis(50);
const LIFE_MAX: Duration = Duration::from_secs(2);
/// How long it is gone, now and then.
const DEATH_MAX: Duration = Duration::from_millis(700);
/// Besides the collect interval, what a read may take on a machine that is busy with all this.
const GRACE: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of the agent and of Xray together.
    pub kills: u32,
    pub seed: u64,
    /// Whether the panel drops repeats.
    pub dedupes: bool,
    pub users: u32,
}

/// Plays it, and tells `show` each kill. The report says what was wrong with the sums; an error is one
/// of the play itself.
pub async fn run(options: Options, agent: AgentCommand, show: impl FnMut(&str)) -> Result<Report> {
    let began = Instant::now();
    let mut dice = Dice::new(options.seed);
    let played = play(options, agent, show, &mut dice).await;
    let mut report = played.with_context(|| format!("{options:?}"))?;
    report.took = began.elapsed();
    Ok(report)
}

async fn play(
    options: Options,
    agent: AgentCommand,
    show: impl FnMut(&str),
    dice: &mut Dice,
) -> Result<Report> {
    let mut campaign = Campaign {
        stage: Stage::set(agent, options.users, options.dedupes, dice).await?,
        report: Report::new(options),
        boot: 1,
        collected: Users::new(),
        show,
    };
    campaign.kills(dice).await?;
    let last = campaign.drain().await?;
    campaign.close(&last)?;
    Ok(campaign.report)
}

struct Campaign<S> {
    stage: Stage,
    report: Report,
    /// The present boot of Xray, the first being 1.
    boot: i64,
    /// Of all boots that were judged.
    collected: Users,
    show: S,
}

/// Xray's counters at some moment.
struct Look {
    counted: Users,
    at: Instant,
}

impl Look {
    /// Bytes a second since, by a look at this moment.
    fn speed_to(&self, counted: &Users) -> u64 {
        let bytes = sum(counted.values()).beyond(sum(self.counted.values()));
        let passed_ms = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        bytes.total() * 1_000 / passed_ms.max(1)
    }
}

impl<S: FnMut(&str)> Campaign<S> {
    async fn kills(&mut self, dice: &mut Dice) -> Result<()> {
        while self.report.kills() < self.report.options.kills {
            self.stage.faults.shake_polls(&self.stage.panel, dice);
            if (self.report.kills() + 1).is_multiple_of(XRAY_EVERY) {
                self.end_boot(dice).await?;
            } else {
                self.kill_agent(dice).await?;
            }
        }
        Ok(())
    }

    async fn kill_agent(&mut self, dice: &mut Dice) -> Result<()> {
        sleep(dice.time(LIFE_MIN, LIFE_MAX)).await;
        self.stage.kill_agent().await?;
        self.tell("the agent is killed");
        self.report.agent_kills += 1;
        if dice.one_in(4) {
            sleep(dice.time(Duration::ZERO, DEATH_MAX)).await;
        }
        self.stage.revive_agent()
    }

    /// Kills Xray in one of the ways, and judges its boot.
    async fn end_boot(&mut self, dice: &mut Dice) -> Result<()> {
        self.stage.xray_has_lived().await;
        let end = *dice.pick(&[
            End::UnderTraffic,
            End::Still,
            End::Collected,
            End::WithAgent,
        ]);
        let last = match end {
            End::UnderTraffic => self.kill_under_traffic(dice).await?,
            End::WithAgent => self.kill_both(dice).await?,
            End::Still | End::Collected => self.kill_still(end).await?,
            End::Alive => anyhow::bail!("no way to kill"),
        };
        self.report.xray_kills += 1;
        self.tell(&format!("Xray is killed {end}"));
        self.stage.revive_xray().await?;
        self.stage.revive_agent()?;
        self.stage.knows(self.boot + 1).await?;
        self.judge(&last)?;
        self.boot += 1;
        Ok(())
    }

    async fn kill_under_traffic(&mut self, dice: &mut Dice) -> Result<Last> {
        let earlier = self.seen_by_the_agent().await?;
        sleep(COLLECT + GRACE + dice.time(Duration::ZERO, COLLECT)).await;
        let in_boot = self.stage.load.in_boot();
        let counted = self.stage.counted().await?;
        let speed = earlier.speed_to(&counted);
        self.stage.kill_xray().await?;
        Ok(Last {
            end: End::UnderTraffic,
            counted,
            in_boot,
            collected_for_certain: earlier.counted,
            at_most: self.stage.load.touched_boot(),
            speed: Some(speed),
        })
    }

    async fn kill_still(&mut self, end: End) -> Result<Last> {
        let earlier = self.seen_by_the_agent().await?;
        sleep(COLLECT + GRACE).await;
        let _still = self.stage.load.quiesce().await;
        let in_boot = self.stage.load.in_boot();
        let counted = self.stage.counted_for_good().await?;
        let speed = earlier.speed_to(&counted);
        let mut collected_for_certain = earlier.counted;
        if end == End::Collected {
            self.stage.has_collected(self.boot, &counted).await?;
            collected_for_certain.clone_from(&counted);
        }
        self.stage.kill_xray().await?;
        Ok(Last {
            end,
            at_most: counted.clone(),
            counted,
            in_boot,
            collected_for_certain,
            speed: Some(speed),
        })
    }

    async fn kill_both(&mut self, dice: &mut Dice) -> Result<Last> {
        self.stage.kill_agent().await?;
        self.report.agent_kills += 1;
        let collected_for_certain = self.stage.collected(self.boot)?;
        sleep(dice.time(Duration::ZERO, DEATH_MAX)).await;
        let _still = self.stage.load.quiesce().await;
        let in_boot = self.stage.load.in_boot();
        let counted = self.stage.counted_for_good().await?;
        self.stage.kill_xray().await?;
        Ok(Last {
            end: End::WithAgent,
            at_most: counted.clone(),
            counted,
            in_boot,
            collected_for_certain,
            speed: None,
        })
    }

    /// A look at Xray's counters that the agent, at work by now, collects within the next interval.
    async fn seen_by_the_agent(&self) -> Result<Look> {
        let counted = self.stage.counted().await?;
        self.stage.has_collected(self.boot, &counted).await?;
        Ok(Look {
            counted: self.stage.counted().await?,
            at: Instant::now(),
        })
    }

    /// Takes a boot of which the ledger learns nothing more into the report.
    fn judge(&mut self, last: &Last) -> Result<()> {
        let collected = self.stage.collected(self.boot)?;
        let known = self.stage.boots()?;
        let expected = self.boot + i64::from(last.end != End::Alive);
        if known != expected {
            self.report
                .violation(format!("{known} boots are known, not {expected}"));
        }
        let boot = Boot::new(self.boot, last, &collected);
        for wrong in verdict::of_boot(last, &collected) {
            self.report
                .violation(format!("boot {}: {wrong}", self.boot));
        }
        add(&mut self.collected, &collected);
        self.report.boots.push(boot);
        Ok(())
    }

    /// Everything is healthy, nobody moves anything, and the agent brings it all to the panel.
    async fn drain(&mut self) -> Result<Last> {
        self.tell("everything is healthy again");
        self.stage.faults.end(&self.stage.panel);
        let _still = self.stage.load.quiesce().await;
        let in_boot = self.stage.load.in_boot();
        let counted = self.stage.counted_for_good().await?;
        self.stage.has_collected(self.boot, &counted).await?;
        let all_settles = self.report.options.dedupes;
        let drained = eventually("the ledger is drained", LONG, async || {
            let books = self.stage.books().ok().flatten();
            books
                .and_then(|books| books.totals().ok())
                .is_some_and(|totals| {
                    let left = [totals.open, totals.pending, totals.sending];
                    let drained = left.iter().all(|amount| amount.reports == 0);
                    drained && !(all_settles && totals.unknown.reports > 0)
                })
        });
        drained.await.with_context(|| self.stage.agent_log())?;
        self.stage.end_agent().await?;
        Ok(Last {
            end: End::Alive,
            collected_for_certain: counted.clone(),
            at_most: counted.clone(),
            counted,
            in_boot,
            speed: None,
        })
    }

    /// The sums of both books.
    fn close(&mut self, last: &Last) -> Result<()> {
        self.judge(last)?;
        let books = self.stage.books()?.context("there is no ledger")?;
        let report = &mut self.report;
        report.totals = books.totals()?;
        report.adopted = books.adopted()?;
        report.moved = self.stage.load.moved();
        report.faults = self.stage.faults.injected();
        report.hears(&self.stage.panel);
        let accounts = verdict::Accounts {
            collected: &self.collected,
            attempted: self.stage.load.attempted(),
            unknown: books.reports(State::Unknown)?,
            rejected: books.reports(State::Rejected)?,
            reports: self.stage.panel.reports(),
        };
        let wrong = verdict::of_sums(&accounts, report);
        report.violations.extend(wrong);
        Ok(())
    }

    fn tell(&mut self, what: &str) {
        let (done, all) = (self.report.kills(), self.report.options.kills);
        let collected = sum(self.collected.values()).total();
        (self.show)(&format!(
            "{done:>5} of {all}: {what}; {collected} bytes of dead Xrays"
        ));
    }
}
