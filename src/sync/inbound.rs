//! One inbound's pass: desired → live → plan → brake → apply → observe. Keeps: who is live without
//! being wanted goes only by a confirmed answer; nothing is sent that Xray cannot bear; one bad user
//! stops no other.

mod changes;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::brake::{Absences, Answer, Verdict, judge};
use super::desired::{Wanted, union, with_held, without_collisions};
use super::kick::{Kicker, Record};
use super::observe::{Connection, Known, ObserveError, Observer};
use super::patience::Patience;
use super::plan::{Plan, Rules, leaving, plan};
use super::pushed;
use super::state::InboundState;
use super::status::InboundStatus;
use crate::base::files::FileError;
use crate::base::said::Said;
use crate::config::Brake;
use crate::model::around_removal::AroundRemoval;
use crate::model::desired::{Desired, DesiredSource, InboundKey};
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::model::progress::Progress;
use crate::model::tally::Passes;
use crate::model::user_list::Users;
use crate::xray::boot::Boot;
use crate::xray::dialect::Dialect;

/// A pass that met news (an unknown outcome, an entry nobody expected) looks once more.
const ROUNDS_MAX: usize = 2;
/// What a pass is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// It follows a poll of its own (see [`Answer::is_poll`]).
    pub is_poll: bool,
    /// When the answer that it follows came, so that every brake counts it at the same moment;
    /// `None`: now.
    pub at: Option<Timestamp>,
    /// Held removals go through.
    pub force: bool,
    /// It only looks at what the pass before has left, whose figures stand.
    pub is_second_look: bool,
}

/// Everything one inbound needs.
#[derive(Clone)]
pub struct Parts {
    /// Which one.
    pub key: InboundKey,
    /// Who reads it.
    pub observer: Observer,
    /// Who says which users are wanted.
    pub sources: Vec<Arc<dyn DesiredSource>>,
    /// The brake's thresholds.
    pub brake: Brake,
    /// Between two polls.
    pub interval: Duration,
    /// No other inbound of the same Xray is managed.
    pub alone: bool,
    /// Who is told how far a long pass has come.
    pub progress: Arc<dyn Progress>,
    /// Who counts the bytes of those who are removed.
    pub around_removal: Arc<dyn AroundRemoval>,
    /// Who cuts their sessions.
    pub(super) kicker: Kicker,
    /// Who was served when the agent last ran, as far as the sources know.
    pub served: Users,
    /// Where its passes are counted.
    pub passes: Arc<Passes>,
}

/// One managed inbound with what is known of it.
pub struct InboundSync {
    parts: Parts,
    state: InboundState,
    emails: Emails,
    known: Option<Known>,
    /// Who was served before this process, until the first judgement.
    served_before: Option<Users>,
    away: bool,
    patience: Patience,
    kicks: Record,
    /// The run of Xray that was last observed.
    boot: Option<Boot>,
    /// Connections lost when Xray was last observed.
    lost: Option<u64>,
    status: InboundStatus,
    said: Said,
}

/// What is wanted and what is to be done for it.
struct Draft {
    wanted: Users,
    collisions: usize,
    verdict: Verdict,
    plan: Plan,
}

impl InboundSync {
    /// Reads the kept state; the e-mail form is chosen and kept when there is none yet.
    pub fn open(parts: Parts) -> Result<Self, FileError> {
        let folder = &parts.observer.folder;
        let mut state = folder.state()?;
        let emails = state.emails_of(&parts.observer.inbound.kernel_id, parts.alone);
        state.emails = Some(emails.clone());
        let status = InboundStatus::new(&parts.key);
        let served_before = Users::clone(&parts.served);
        let level = parts.observer.inbound.level;
        let (kicker, passes) = (parts.kicker.clone(), parts.passes.clone());
        let kicks = Record::new(kicker, parts.key.clone(), level, passes);
        Ok(Self {
            parts,
            state,
            emails,
            known: None,
            served_before: Some(served_before),
            away: false,
            patience: Patience::default(),
            kicks,
            boot: None,
            lost: None,
            status,
            said: Said::default(),
        })
    }

    /// Goes on where another loop of the same inbound has ended.
    pub(super) fn resume(&mut self, status: &InboundStatus) {
        self.kicks.resume(&status.kick);
        self.status = InboundStatus {
            kick: self.kicks.status(),
            ..status.clone()
        };
    }

    /// Which inbound it is.
    pub fn key(&self) -> &InboundKey {
        &self.parts.key
    }

    /// How it stood after the last pass.
    pub fn status(&self) -> &InboundStatus {
        &self.status
    }

    /// Whether the list should be read once more, off the path of whoever waits for the pass.
    pub fn wants_verification(&self) -> bool {
        self.known.as_ref().is_some_and(Known::is_stale) && self.status.error.is_none()
    }

    /// Whether Xray was away or silent at the last pass. What it answers with a refusal, or what we
    /// refuse, does not change by asking again at once.
    pub fn is_down(&self) -> bool {
        self.away
    }

    /// Makes live users equal to wanted ones, as far as it can be done now.
    pub async fn pass(&mut self, pass: Pass) -> &InboundStatus {
        let begun = Instant::now();
        if !pass.is_second_look {
            (self.status.added, self.status.removed) = (0, 0);
        }
        let (added, removed) = (self.status.added, self.status.removed);
        match self.rounds(pass).await {
            Ok(()) => {
                self.away = false;
                self.settle();
                self.look_ahead().await;
            }
            Err(error) => {
                self.away = error.is_away();
                if error.is_down() {
                    self.known = None;
                }
                self.status.error = Some(error.to_string());
            }
        }
        self.status.away = self.away;
        self.status.passed(self.parts.observer.clock.now());
        let (added, removed) = (self.status.added - added, self.status.removed - removed);
        let took = begun.elapsed();
        self.count(added, removed, took);
        self.tell(added + removed > 0, took);
        &self.status
    }

    /// What a pass would do now, doing nothing.
    pub async fn preview(&mut self, pass: Pass) -> Result<(Plan, &InboundStatus), ObserveError> {
        let draft = self.draft(pass).await?;
        self.note(&draft);
        Ok((draft.plan, &self.status))
    }

    async fn rounds(&mut self, pass: Pass) -> Result<(), ObserveError> {
        let mut pass = pass;
        self.status.failed = 0;
        for round in 0..ROUNDS_MAX {
            let mut draft = self.draft(pass).await?;
            self.note(&draft);
            self.note_stubborn(&draft.plan);
            self.status.failed = self.patience.hold_back(&mut draft.plan, Instant::now());
            self.keep_state();
            self.kicks.kicker().blocks.begin().await;
            if !self.state.cutting.is_empty() {
                self.finish_cutting(&draft.wanted, pass).await;
            }
            if draft.plan.is_empty() {
                return Ok(());
            }
            if !self.is_still_itself().await? {
                continue;
            }
            let last = round + 1 == ROUNDS_MAX;
            if !self.apply(draft.plan, pass).await? || last {
                return Ok(());
            }
            pass.is_poll = false;
        }
        Ok(())
    }

    /// Desired → live → brake → plan.
    async fn draft(&mut self, pass: Pass) -> Result<Draft, ObserveError> {
        let mut known = self.observe().await?;
        let Wanted {
            users,
            complete,
            credentials,
        } = self.wanted();
        known.spec.credentials = credentials;
        let (wanted, collisions) = without_collisions(&users, &known.spec.kind);
        let mut held = self.state.absences.held(&wanted);
        if complete && let Some(served) = self.served_before.take() {
            // All of the host may have started anew, with a bad answer as the first one. Whoever is
            // allowed and not added for a collision was not served before, either.
            held.extend(known.live.missing(&served, &users));
            held.sort_unstable();
            held.dedup();
        }
        known.assume(&with_held(&wanted, &held, &known.spec.kind));
        let verdict = if complete {
            // Xray may have lost the held ones meanwhile: their removal is not confirmed by that.
            let mut leaving = [leaving(&known.live, &wanted), held].concat();
            leaving.sort_unstable();
            leaving.dedup();
            self.judged(&known, leaving, pass)
        } else {
            // Nothing is judged, and who was held stays.
            Verdict {
                held,
                ..Verdict::default()
            }
        };
        let kept = with_held(&wanted, &verdict.held, &known.spec.kind);
        known.assume(&kept);
        let rules = Rules {
            kind: &known.spec.kind,
            emails: &self.emails,
            exclusive: complete && self.parts.observer.inbound.exclusive,
        };
        let plan = plan(&known.live, &kept, &verdict.confirmed, rules);
        self.known = Some(known);
        Ok(Draft {
            wanted,
            collisions: collisions.len(),
            verdict,
            plan,
        })
    }

    /// Who is live. The sources are asked after it, for what they say depends on the protocol; where it
    /// fails they are asked all the same, for the status.
    async fn observe(&mut self) -> Result<Known, ObserveError> {
        let before = self.known.take();
        let (connection, lost) = self.connection();
        let observer = &self.parts.observer;
        match observer.observe(before, &self.emails, connection).await {
            Ok(known) => {
                self.lost = Some(lost);
                self.state.form = Some(known.spec.kind.form());
                self.note_boot(&known);
                Ok(known)
            }
            Err(error) => {
                self.wanted();
                Err(error)
            }
        }
    }

    /// What became of the connection since Xray was last observed, and how many were lost so far.
    fn connection(&self) -> (Connection, u64) {
        let lost = *self.parts.observer.client.lost_connections().borrow();
        let connection = match self.lost {
            None => Connection::New,
            Some(before) if before == lost => Connection::Unbroken,
            Some(_) => Connection::Broken,
        };
        (connection, lost)
    }

    fn wanted(&mut self) -> Wanted {
        let (key, form) = (&self.parts.key, self.state.form);
        let sources = self.parts.sources.iter();
        let said: Vec<_> = sources
            .map(|source| (source.name(), source.desired(key, form)))
            .collect();
        self.status.unknown_sources = said
            .iter()
            .filter_map(|(name, claim)| match &claim.desired {
                Desired::Unknown { why, .. } => Some(format!("{name}: {why}")),
                Desired::Known(_) => None,
            })
            .collect();
        let pushed = said.iter().filter(|(name, _)| *name == pushed::SOURCE);
        let pushed = pushed.filter_map(|(_, claim)| claim.users());
        self.status.pushed = pushed.map(|users| users.len()).sum();
        let claims: Vec<_> = said.into_iter().map(|(_, claim)| claim).collect();
        union(&claims)
    }

    /// Whoever a source let go by its own word goes at once; the brake judges the others.
    fn judged(&mut self, known: &Known, leaving: Vec<UserId>, pass: Pass) -> Verdict {
        let half = self.parts.interval / 2;
        let is_let_go = |user: &UserId| {
            let mut sources = self.parts.sources.iter();
            sources.any(|source| source.let_go(&self.parts.key, *user))
        };
        let (let_go, leaving): (Vec<_>, Vec<_>) = leaving.into_iter().partition(is_let_go);
        let base = known.live.managed().max(self.state.applied_count);
        let answer = Answer {
            base: base.saturating_sub(let_go.len()),
            is_poll: pass.is_poll,
            at: pass.at.unwrap_or_else(|| self.parts.observer.clock.now()),
            apart: SignedDuration::try_from(half).unwrap_or(SignedDuration::MAX),
            force: pass.force,
        };
        let absences = &mut self.state.absences;
        let mut verdict = judge(absences, &leaving, answer, self.parts.brake);
        verdict.confirmed.extend(let_go);
        verdict.confirmed.sort_unstable();
        verdict
    }

    async fn is_still_itself(&mut self) -> Result<bool, ObserveError> {
        let Some(known) = &mut self.known else {
            return Ok(false);
        };
        let same = self.parts.observer.still_is(known).await?;
        if !same {
            self.known = None;
        }
        Ok(same)
    }

    fn note(&mut self, draft: &Draft) {
        let Some(known) = &self.known else { return };
        self.status.protocol = Some(known.spec.kind.protocol().name().to_owned());
        self.status.core = Some(known.core.name().to_owned());
        self.status.read_back = known.read_back;
        self.status.desired = draft.wanted.len() + draft.collisions;
        self.status.live = known.live.managed();
        self.status.foreign = known.live.foreign.len();
        self.status.held = draft.verdict.held.len();
        self.status.held_polls = (draft.verdict.needed > 0 && self.status.held > 0)
            .then_some((draft.verdict.needed, draft.verdict.seen));
        self.status.conflicts = draft.collisions + draft.plan.conflicts.len();
        let aliens = known.live.aliens();
        if aliens > 0 {
            self.said.once("aliens", || {
                warn!(inbound = %self.parts.key, entries = aliens, "somebody put entries with \
                    another protocol's account into this inbound, and removing one would end Xray: \
                    they are left alone, and go when Xray is restarted");
            });
        }
    }

    fn note_boot(&mut self, known: &Known) {
        let Some(now) = &known.boot else { return };
        let before = self.boot.replace(now.clone());
        if before.is_some_and(|before| !before.is_same(now)) {
            self.status.xray_restarts += 1;
        }
    }

    fn note_stubborn(&mut self, plan: &Plan) {
        let again = self.patience.look_at_the_mended(plan, Instant::now());
        if let Some(first) = again.first() {
            self.said.failure(format!(
                "Xray keeps {} users otherwise than they were written (level, flow or secret), the \
                 first is {first}",
                again.len()
            ));
        }
    }

    /// Sees whether whoever leaves next could be cut off.
    async fn look_ahead(&mut self) {
        if let Some(known) = &self.known {
            let emails = |at: usize| known.live.fit.get(at).map(|user| self.emails.write(*user));
            self.kicks.look_ahead(known.info.as_ref(), emails).await;
        }
        self.kicks.kicker().blocks.tend().await;
        self.status.kick = self.kicks.status();
    }

    /// After a pass that went through.
    fn settle(&mut self) {
        if let Some(known) = &self.known {
            self.status.live = known.live.managed();
            self.status.foreign = known.live.foreign.len();
        }
        self.status.error = (self.status.failed > 0).then(|| {
            format!(
                "{} users could not be changed; they are tried again",
                self.status.failed
            )
        });
        if self.status.error.is_none() && self.status.held == 0 {
            self.status.last_success = Some(self.parts.observer.clock.now());
            self.keep_count();
        }
    }

    /// How many were applied: what the next removals are measured against, also by another process.
    fn keep_count(&mut self) {
        let applied = self.status.live;
        if self.status.unknown_sources.is_empty() && self.state.applied_count != applied {
            self.state.applied_count = applied;
            self.keep_state();
        }
    }

    /// Absences are counted on after a restart as long as they hold a removal up. While a source is
    /// unknown nobody is judged, and what was counted before stands.
    fn keep_state(&mut self) {
        let mut kept = self.state.clone();
        if self.status.held == 0 && self.status.unknown_sources.is_empty() {
            kept.absences = Absences::default();
        }
        if let Err(error) = self.parts.observer.folder.save_state(&kept) {
            self.said
                .failure(format!("{error}; held removals start anew after a restart"));
        }
    }

    fn count(&self, added: usize, removed: usize, took: Duration) {
        let passes = &self.parts.passes;
        let result = match &self.status {
            status if status.error.is_some() => &passes.failed,
            status if status.held > 0 => &passes.held,
            _ => &passes.done,
        };
        result.fetch_add(1, Ordering::Relaxed);
        passes.added.fetch_add(added as u64, Ordering::Relaxed);
        passes.removed.fetch_add(removed as u64, Ordering::Relaxed);
        passes.took.count(took);
    }

    /// One INFO line for a pass that changed something; what is wrong once, when it begins.
    fn tell(&mut self, changed: bool, took: Duration) {
        let (key, status) = (&self.parts.key, &self.status);
        if changed {
            info!(node = %key.node, xray = key.xray, inbound = %key.tag, added = status.added,
                removed = status.removed, live = status.live, held = status.held,
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "users changed");
        }
        if status.core.as_deref() == Some(Dialect::V2Ray4.name()) {
            self.said.once("v2ray", || {
                info!(inbound = %key, "the core is a V2Ray 4, which cannot list its users: what was \
                    applied is taken for live, and changes by other hands are not seen");
            });
        } else if !status.read_back {
            self.said.once("no-read-back", || {
                warn!(inbound = %key, "this Xray cannot list its users (older than 24.11.5): what \
                    was applied is taken for live, and changes by other hands are not seen");
            });
        }
        if status.conflicts > 0 {
            self.said.once("conflicts", || {
                warn!(inbound = %key, users = status.conflicts, "some allowed users share a \
                    secret with another user of the inbound and were not added");
            });
        }
        self.said
            .state(&key.to_string(), status.problem().as_deref());
    }
}
