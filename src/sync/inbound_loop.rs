//! Runs the passes of one inbound: at every order, at once when the connection to Xray breaks, every
//! quarter of a second while Xray is away, and once more after a change, to see what Xray made of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::inbound::{InboundSync, Parts, Pass};
use super::link::{ApplierLink, ApplierReport, ApplierStatus, Order};
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::model::progress::Progress;
use crate::model::user_list::Users;

/// While Xray is away it is asked this often whether it is back; a refused connection costs nothing.
const AWAY_PAUSE: Duration = Duration::from_millis(250);
/// At the latest after this the loop wakes, so that it can be seen to live.
const WAKE: Duration = Duration::from_secs(30);

/// Runs until the end is asked for.
pub(super) async fn run(
    parts: Parts,
    link: ApplierLink,
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let lost = parts.observer.client.lost_connections();
    let progress = Arc::clone(&parts.progress);
    let before = link.last_report();
    let served = match before.number {
        0 => parts.served,
        // For a loop that is started anew that was long ago.
        _ => Users::from([]),
    };
    let parts = Parts {
        served,
        progress: Arc::new(Beating {
            progress,
            heartbeat: heartbeat.clone(),
        }),
        ..parts
    };
    let mut sync = match InboundSync::open(parts) {
        Ok(sync) => sync,
        Err(failure) => {
            error!("{failure}");
            return;
        }
    };
    if let (1.., ApplierStatus::Inbound(status)) = (before.number, &before.status) {
        sync.resume(status);
    }
    let orders = link.orders();
    let mut applier = Applier {
        sync,
        // A loop that was started anew looks at everything again, and carries out the last order
        // unless it was carried out before: its force was for the answer of that moment.
        served: before.number,
        is_first: true,
        link,
        orders,
        lost,
        next: Instant::now() + WAKE,
    };
    applier.orders.mark_changed();
    loop {
        heartbeat.beat();
        tokio::select! {
            () = shutdown.requested() => return,
            () = applier.turn() => {}
        }
    }
}

struct Applier {
    sync: InboundSync,
    link: ApplierLink,
    orders: watch::Receiver<Order>,
    lost: watch::Receiver<u64>,
    next: Instant,
    /// The order that was served last.
    served: u64,
    /// No pass was made yet.
    is_first: bool,
}

impl Applier {
    /// Waits for a reason, and makes one pass.
    async fn turn(&mut self) {
        let lost = tokio::select! {
            changed = self.orders.changed() => {
                changed.expect("invariant: the link holds the sender");
                false
            }
            // Its sender lives as long as the client does.
            _ = self.lost.changed() => true,
            () = sleep_until(self.next) => false,
        };
        let order = self.link.take_order(&mut self.orders);
        let is_new = order.number > self.served;
        let waited = self.is_first || self.sync.is_down() || self.sync.wants_verification();
        if order.number == 0 || !(is_new || waited || lost) {
            self.next = Instant::now() + WAKE;
            return;
        }
        let pass = Pass {
            is_poll: is_new && order.is_poll,
            at: order.at,
            force: is_new && order.force,
            is_second_look: !is_new && !lost && self.sync.wants_verification(),
        };
        self.is_first = false;
        self.sync.pass(pass).await;
        self.served = order.number;
        self.report(order.number);
        self.next = Instant::now()
            // One second look: what it finds odd again waits for the next order.
            + if self.sync.wants_verification() && !pass.is_second_look {
                Duration::ZERO
            } else if self.sync.is_down() {
                AWAY_PAUSE
            } else {
                WAKE
            };
    }

    fn report(&self, number: u64) {
        let status = self.sync.status().clone();
        let done = status.error.is_none() && status.held == 0;
        self.link.report(ApplierReport {
            number,
            done,
            status: ApplierStatus::Inbound(Box::new(status)),
        });
    }
}

/// A long pass is alive as long as it comes on.
struct Beating {
    progress: Arc<dyn Progress>,
    heartbeat: Heartbeat,
}

impl Progress for Beating {
    fn begin(&self, inbound: &str, total: usize) {
        self.heartbeat.beat();
        self.progress.begin(inbound, total);
    }

    fn step(&self) {
        self.heartbeat.beat();
        self.progress.step();
    }

    fn end(&self) {
        self.progress.end();
    }
}
