//! The campaign that shows to the byte what "every byte once" promises: users move known amounts
//! through a real Xray while the agent and Xray are killed with SIGKILL and the panel fails in every
//! way it can. `tests/it/chaos.rs` plays 25 kills, `examples/chaos.rs` as many as asked for.
//!
//! How what Xray counted is known of a boot that was killed:
//! - **The agent killed.** Xray lives on with its counters, so however often the agent died during a
//!   boot, at the boot's end the ledger must hold exactly the counters that were collected.
//! - **Xray killed while nobody moves anything.** All users finish their transfer and wait, two looks
//!   at the counters agree, and SIGKILL follows: that look is the truth to the byte. What Xray took to
//!   its grave is the truth less what the ledger has of that boot, for no user below zero. Was all of
//!   it collected before the kill, it is zero. Was the agent dead by then too, what has moved
//!   since its last read is lost with Xray, and the ledger must not have moved since.
//! - **Xray killed under traffic.** Its last counters are nobody's to read. They are no less than the
//!   last look before the kill, and no less than what users completed within the boot; over all boots
//!   they are no more than what users attempted. What the ledger has of the boot may be more than that
//!   look, for a read may have come after it, and is never less than a look one interval (and a grace
//!   for a busy machine) earlier: the grave is bounded by what moved since.
//!
//! Two books that know nothing of each other must then agree: the panel's, by key of each report that
//! it counted, and the ledger's. A report is settled exactly if the panel counted it and the ledger
//! does not hold it as unknown.
#![allow(
    unreachable_pub,
    reason = "two programs include it, and neither has an outside"
)]

pub mod books;
pub mod campaign;
pub mod dice;
pub mod faults;
pub mod load;
pub mod report;
pub mod stage;
pub mod verdict;

pub use campaign::{Options, run};
