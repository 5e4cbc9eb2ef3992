//! Who says for whom bytes are, and who hears of them: what was counted and taken of pushed users, as it
//! was committed, in the order of commits.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::inbounds::Inbounds;
use super::rows::{Done, ReportRow};
use super::sums;
use crate::model::ids::UserId;
use crate::model::pushed::{NobodyPushes, Owners, PushedBytes};
use crate::model::report::{Taken, TakenBytes};
use crate::store::Work;
use crate::traffic::receivers::is_kernel;

/// What is around a ledger.
#[derive(Clone)]
pub struct Around {
    /// For whom bytes are.
    pub owners: Arc<dyn Owners>,
    /// Hears of all sums of pushed users whenever the file is opened, and of those that change.
    pub pushed_bytes: Option<Arc<dyn PushedBytes>>,
    /// Hears what panels that push have taken.
    pub taken_bytes: Option<Arc<dyn TakenBytes>>,
}

impl Default for Around {
    fn default() -> Self {
        Self {
            owners: Arc::new(NobodyPushes),
            pushed_bytes: None,
            taken_bytes: None,
        }
    }
}

/// [`Around`] as the ledger's works use it.
pub(super) struct Ears(Around);

impl Ears {
    pub(super) fn new(around: Around) -> Self {
        Self(around)
    }

    pub(super) fn owners(&self) -> &dyn Owners {
        &*self.0.owners
    }

    /// Tells all sums of a file that was opened just now.
    pub(super) fn all(&self, work: &Work<'_>) -> Done<()> {
        if let Some(hears) = &self.0.pushed_bytes {
            let pushed = sums::pushed(work)?;
            hears.counted(&pushed.counted);
            hears.settled(&pushed.settled);
        }
        Ok(())
    }

    /// Tells these sums when `work` is committed.
    pub(super) fn counted(&self, work: &Work<'_>, sums: Vec<(UserId, u64)>) {
        if let Some(hears) = self.0.pushed_bytes.clone().filter(|_| !sums.is_empty()) {
            work.after_commit(move || hears.counted(&sums));
        }
    }

    /// Tells what `sink` has taken when `work` is committed.
    pub(super) fn settled(&self, work: &Work<'_>, sink: &str, rows: Vec<ReportRow>) -> Done<()> {
        if rows.is_empty() || !is_kernel(sink) {
            return Ok(());
        }
        if let Some(hears) = self.0.pushed_bytes.clone() {
            let users: BTreeSet<_> = rows.iter().map(|row| row.user).collect();
            let sums = sums::settled_of(work, &users)?;
            work.after_commit(move || hears.settled(&sums));
        }
        if let Some(hears) = self.0.taken_bytes.clone() {
            let inbounds = Inbounds::read(work)?;
            let mut records = Vec::with_capacity(rows.len());
            for row in rows {
                let inbound = inbounds.of(sink, row.node)?;
                records.extend(inbound.map(|inbound| Taken {
                    user: row.user,
                    inbound: inbound.clone(),
                    up: row.bytes.up,
                    down: row.bytes.down,
                }));
            }
            let sink = sink.to_owned();
            work.after_commit(move || hears.taken(&sink, &records));
        }
        Ok(())
    }
}
