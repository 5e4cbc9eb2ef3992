//! What a pass does to the running Xray: who leaves is removed and cut off, who comes is added, and
//! what is known afterwards is what Xray was told.

use std::collections::HashSet;

use futures_util::future::join;
use tokio::time::Instant;
use tracing::warn;

use super::InboundSync;
use crate::base::failpoint;
use crate::base::said::Said;
use crate::config::Protocol;
use crate::model::ids::UserId;
use crate::sync::apply::{Applied, Executor, Removal};
use crate::sync::inbound::Pass;
use crate::sync::kick::{Kicked, Sessions};
use crate::sync::observe::{Known, ObserveError};
use crate::sync::plan::Plan;
use crate::sync::state::{AppliedUsers, StateFolder};

impl InboundSync {
    /// Carries the plan out. Whether the live users have to be looked at again at once.
    pub(super) async fn apply(&mut self, plan: Plan, pass: Pass) -> Result<bool, ObserveError> {
        let Some(mut known) = self.known.take() else {
            return Ok(true);
        };
        let leavers = leavers(&plan);
        let seen = if plan.removals.is_empty() {
            Sessions::default()
        } else {
            let before = self.parts.around_removal.before(&self.parts.key.xray);
            let look = self.kicks.kicker().look(&leavers);
            join(look, before).await.0
        };
        self.keep_cutting(seen.emails().map(str::to_owned).collect());
        self.let_through(&plan).await;
        self.patience.begin(&plan);
        if !known.read_back {
            // Until it is known how it went, and also if we end before.
            known.unsure.extend(plan.users());
            keep_applied(&self.parts.observer.folder, &known, &mut self.said);
        }
        let executor = Executor {
            client: &self.parts.observer.client,
            tag: &self.parts.key.tag,
            spec: &known.spec,
            emails: &self.emails,
            read_back: known.read_back,
            progress: &*self.parts.progress,
        };
        let ports = self.kicks.kicker().ports(known.info.as_ref());
        let by = self.kicks.kicker();
        let (key, around) = (&self.parts.key, &self.parts.around_removal);
        let cut = |removal: Removal| async move {
            let kicked = if leavers.is_empty() || !removal.is_over {
                None
            } else {
                failpoint::reach("kick.before_cut");
                Some(by.kick(&leavers, seen, &ports).await)
            };
            if !removal.users.is_empty() {
                around.after(&key.xray, &removal.users);
            }
            kicked
        };
        let suspects = self.patience.suspects();
        let (applied, kicked) = executor.carry_out(plan, suspects, cut).await;
        if let Some(kicked) = kicked {
            self.note_kicked(&kicked, pass).await;
        }
        self.absorb(&mut known, &applied);
        if !known.read_back {
            keep_applied(&self.parts.observer.folder, &known, &mut self.said);
        }
        if let Some(error) = applied.stopped {
            return Err(error.into());
        }
        let again = self.has_to_look_again(&mut known, &applied).await?;
        self.known = Some(known);
        Ok(again)
    }

    /// Cuts off whoever was being removed when an earlier process, or Xray's answers, ended.
    pub(super) async fn finish_cutting(&mut self, wanted: &[UserId], pass: Pass) {
        let Some(known) = &self.known else {
            return;
        };
        let is_gone = |email: &String| {
            let user = self.emails.read(email);
            user.is_none_or(|user| !known.live.has(user) && wanted.binary_search(&user).is_err())
        };
        let emails: Vec<String> = self
            .state
            .cutting
            .iter()
            .filter(|e| is_gone(e))
            .cloned()
            .collect();
        let ports = self.kicks.kicker().ports(known.info.as_ref());
        let by = self.kicks.kicker();
        let kicked = by.kick(&emails, Sessions::default(), &ports).await;
        let users: Vec<UserId> = emails
            .iter()
            .filter_map(|email| self.emails.read(email))
            .collect();
        self.parts
            .around_removal
            .after(&self.parts.key.xray, &users);
        self.note_kicked(&kicked, pass).await;
    }

    async fn note_kicked(&mut self, kicked: &Kicked, pass: Pass) {
        self.kicks.kicker().blocks.block(&kicked.not_cut).await;
        let now = self.parts.observer.clock.now();
        self.kicks.note(kicked, pass.at, now);
        self.keep_cutting(Vec::new());
    }

    /// Keeps who is to be cut off, for the next process if this one ends before.
    fn keep_cutting(&mut self, emails: Vec<String>) {
        if self.state.cutting != emails {
            self.state.cutting = emails;
            self.keep_state();
        }
    }

    /// Whoever is added is blocked no more.
    async fn let_through(&self, plan: &Plan) {
        let blocks = &self.kicks.kicker().blocks;
        if blocks.len().await == 0 {
            return;
        }
        let repaired = plan.repairs.iter().map(|repair| repair.user);
        let coming = plan.additions.iter().copied().chain(repaired);
        let emails: Vec<String> = coming.map(|user| self.emails.write(user)).collect();
        blocks.release(&emails).await;
    }

    async fn has_to_look_again(
        &self,
        known: &mut Known,
        applied: &Applied,
    ) -> Result<bool, ObserveError> {
        if !known.read_back {
            return Ok(false);
        }
        // These two never say that an entry was there before, or not there.
        let mute = matches!(
            known.spec.kind.protocol(),
            Protocol::Shadowsocks | Protocol::Hysteria
        );
        let news = applied.uncertain || !self.parts.observer.count_holds(known).await?;
        known.distrust();
        Ok(news || mute)
    }

    fn absorb(&mut self, known: &mut Known, applied: &Applied) {
        known
            .live
            .after(&applied.removed, &applied.added, &applied.foreign_removed);
        self.status.added += applied.added.len();
        self.status.removed += applied.removed.len() + applied.foreign_removed.len();
        for user in applied.added.iter().chain(&applied.removed) {
            known.unsure.remove(user);
        }
        if let Some(user) = self.patience.learn(applied, Instant::now()) {
            warn!(inbound = %self.parts.key, %user,
                "Xray ended at this user's call, twice; it is not repeated for an hour");
        }
        if let Some((user, error)) = applied.failed.first() {
            self.status.failed += applied.failed.len();
            self.said.failure(format!(
                "{} users could not be changed, the first is {user}: {error}",
                applied.failed.len()
            ));
        }
    }
}

/// For a core that does not tell who is live: what is known of it, kept for a restart of ours.
fn keep_applied(folder: &StateFolder, known: &Known, said: &mut Said) {
    let is_sure = |user: &&UserId| !known.unsure.contains(user);
    let applied = AppliedUsers {
        boot: known.boot.clone(),
        uuids: known.live.fit.iter().filter(is_sure).copied().collect(),
        unsure: known.unsure.clone(),
    };
    if let Err(error) = folder.save_applied(&applied) {
        said.failure(format!(
            "{error}; everybody is added once more after a restart"
        ));
    }
}

/// E-mails of users who go for good. Whoever is also written anew stays, and so do his sessions.
fn leavers(plan: &Plan) -> Vec<String> {
    let additions = plan.additions.iter().copied();
    let staying: HashSet<UserId> = additions
        .chain(plan.repairs.iter().map(|r| r.user))
        .collect();
    let goes = |user: Option<UserId>| user.is_none_or(|user| !staying.contains(&user));
    let removals = plan.removals.iter().filter(|removal| goes(removal.user));
    removals
        .flat_map(|removal| removal.emails.iter().cloned())
        .collect()
}
