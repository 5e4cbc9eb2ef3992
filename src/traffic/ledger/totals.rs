//! What was counted in each inbound, kept in memory for those who ask more often than it changes.
//!
//! Kept here: what was read before the ledger was written to is never told after it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::views::InboundTotals;

/// The totals as of a number of writes.
#[derive(Default)]
pub(super) struct Totals {
    writes: AtomicU64,
    kept: Mutex<Option<(Writes, Vec<InboundTotals>)>>,
}

/// How often the ledger was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Writes(u64);

impl Totals {
    /// The ledger was written to, or may have been.
    pub(super) fn changed(&self) {
        self.writes.fetch_add(1, Ordering::AcqRel);
    }

    /// To be asked before the ledger is read.
    pub(super) fn writes(&self) -> Writes {
        Writes(self.writes.load(Ordering::Acquire))
    }

    /// What is kept, where nothing was written since.
    pub(super) fn get(&self) -> Option<Vec<InboundTotals>> {
        let now = self.writes();
        let kept = self.kept();
        let (_, totals) = kept.as_ref().filter(|(as_of, _)| *as_of == now)?;
        Some(totals.clone())
    }

    /// Keeps what was read after that many writes.
    pub(super) fn keep(&self, as_of: Writes, totals: &[InboundTotals]) {
        *self.kept() = Some((as_of, totals.to_vec()));
    }

    /// A panic elsewhere leaves it whole: it is replaced in one step.
    fn kept(&self) -> MutexGuard<'_, Option<(Writes, Vec<InboundTotals>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_write_is_not_told_after_it() {
        let totals = Totals::default();
        assert!(totals.get().is_none());
        let before = totals.writes();
        totals.changed();
        totals.keep(before, &[]);
        assert!(totals.get().is_none(), "read while it was written");
        totals.keep(totals.writes(), &[]);
        assert!(totals.get().is_some());
        totals.changed();
        assert!(totals.get().is_none());
    }
}
