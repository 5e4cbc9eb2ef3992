//! What goes wrong at the panel: about a third of the reports, and now and then the polls.
//!
//! Invariant: the panel never lies in its own words. It may count a report and fail to say so, but
//! one that it refuses in its envelope it has not counted; only where it drops repeats may it call
//! a counted one an internal error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::dice::Dice;
use super::stage::NODE;
use crate::lab::{Answer, Fault, Panel};

/// One report of so many meets a fault.
const ONE_IN: u64 = 3;
/// Longer than the agent waits for an answer.
const TOO_LATE: Duration = Duration::from_millis(1_500);

/// Its name, and what the panel does.
type Kind = (&'static str, fn() -> Fault);

const KINDS: [Kind; 11] = [
    ("500", || Fault::Instead(Answer::error(500, "db"))),
    ("429", || Fault::Instead(Answer::error(429, "slow down"))),
    ("HTML 502", || Fault::Instead(page(502))),
    ("HTML 200", || Fault::Instead(page(200))),
    ("hang", || Fault::Hang),
    ("close", || Fault::CloseBeforeBody),
    ("counted, then close", || Fault::AcceptThenClose),
    ("counted, then hang", || Fault::AcceptThenHang),
    ("counted, then HTML 502", || Fault::AcceptThen(page(502))),
    ("counted, then truncated", || {
        Fault::AcceptThen(Answer::success().truncated(5))
    }),
    ("counted, answered late", || Fault::AcceptThenWait(TOO_LATE)),
];
/// Harmless only at a panel that drops repeats: the agent believes it and sends the report again.
const LIE: Kind = ("counted, then 500", || {
    Fault::AcceptThen(Answer::error(500, "db"))
});
/// What the agent keeps as rejected, so that at a panel that drops repeats all can be settled.
const REFUSAL: Kind = ("refused", || {
    Fault::Instead(Answer::error(403, "no_entitlement_for_node"))
});

/// A page of the proxy before the panel, which knows no keys.
fn page(status: u16) -> Answer {
    Answer::html(status).without_echo()
}

/// Counts what went wrong, and ends it.
#[derive(Default)]
pub struct Faults {
    over: AtomicBool,
    injected: Mutex<BTreeMap<&'static str, u64>>,
}

impl Faults {
    /// Faults of reports at `panel` from now on.
    pub fn plant(panel: &Panel, dedupes: bool, mut dice: Dice) -> Arc<Self> {
        let faults = Arc::new(Self::default());
        let extra = if dedupes { LIE } else { REFUSAL };
        let kinds: Vec<Kind> = KINDS.into_iter().chain([extra]).collect();
        let planted = Arc::clone(&faults);
        panel.script_report_faults(move |_| {
            let spared = planted.over.load(Ordering::Relaxed) || !dice.one_in(ONE_IN);
            if spared {
                return None;
            }
            let (name, fault) = dice.pick(&kinds);
            planted.note(name);
            Some(fault())
        });
        faults
    }

    /// Perhaps the next polls fail, perhaps they work again.
    pub fn shake_polls(&self, panel: &Panel, dice: &mut Dice) {
        panel.clear_answer(NODE);
        if !dice.one_in(4) {
            return;
        }
        let (name, answer) = match dice.below(4) {
            0 => ("poll: 500", Answer::error(500, "db")),
            1 => ("poll: HTML", Answer::html(200)),
            2 => ("poll: close", Answer::close()),
            _ => ("poll: late", Answer::error(503, "late").after(TOO_LATE)),
        };
        self.note(name);
        panel.set_answer(NODE, answer);
    }

    /// Everything is healthy from now on.
    pub fn end(&self, panel: &Panel) {
        self.over.store(true, Ordering::Relaxed);
        panel.clear_answer(NODE);
    }

    /// How often what went wrong.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        let injected = self.injected.lock();
        injected.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, name: &'static str) {
        let injected = self.injected.lock();
        let mut injected = injected.unwrap_or_else(PoisonError::into_inner);
        *injected.entry(name).or_default() += 1;
    }
}
