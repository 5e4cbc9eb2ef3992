//! How a node's loop, its appliers (one for each inbound, or the hook) and whoever asks for a pass
//! hear of each other: by numbered requests and reports in watches. A newer request stands for all
//! older ones, so nothing queues up, and a loop that is started anew finds everything in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::status::{HookStatus, InboundStatus, NodeStatus};
use crate::model::user_list::Users;

/// Somebody asks a node for a poll and a pass, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// Counts up.
    pub(super) number: u64,
    /// It counts as a poll for the brake.
    pub(super) is_poll: bool,
    /// Held removals go through.
    pub(super) force: bool,
    /// The panel is asked first.
    pub(super) polls: bool,
}

/// A node's word on a request.
#[derive(Clone, Debug)]
pub(super) struct NodeReport {
    /// The last request that was carried out.
    pub(super) request: u64,
    /// Whether at least one pass is over, however it went.
    pub(super) attempted: bool,
    /// How the node stands.
    pub(super) status: NodeStatus,
}

/// What an applier is to bring about.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// Counts up; 0: nothing yet.
    pub(super) number: u64,
    /// It follows a poll of its own.
    pub(super) is_poll: bool,
    /// Held removals go through.
    pub(super) force: bool,
    /// When the panel's last good answer came.
    pub(super) at: Option<Timestamp>,
    /// Who is on the node's list, held ones included; for the hook.
    pub(super) users: Option<Users>,
}

/// An applier's word on an order.
#[derive(Clone, Debug)]
pub(super) struct ApplierReport {
    /// The last order that was carried out, or tried.
    pub(super) number: u64,
    /// Whether all of it was.
    pub(super) done: bool,
    /// How it stands.
    pub(super) status: ApplierStatus,
}

/// How an applier stands.
#[derive(Clone, Debug)]
pub(super) enum ApplierStatus {
    /// An inbound of an Xray.
    Inbound(Box<InboundStatus>),
    /// The hook.
    Hook(HookStatus),
}

/// Between a node and one applier.
#[derive(Clone, Debug)]
pub(super) struct ApplierLink {
    order: Arc<watch::Sender<Order>>,
    /// The last order that the applier took. Changed under the order's lock only.
    taken: Arc<AtomicU64>,
    report: Arc<watch::Sender<ApplierReport>>,
    /// Wakes the node when a report is there.
    reported: Arc<Notify>,
}

impl ApplierLink {
    /// A link over which nothing was said yet.
    pub(super) fn new(status: ApplierStatus, reported: Arc<Notify>) -> Self {
        let report = ApplierReport {
            number: 0,
            done: false,
            status,
        };
        Self {
            order: Arc::new(watch::Sender::new(Order::default())),
            taken: Arc::default(),
            report: Arc::new(watch::Sender::new(report)),
            reported,
        }
    }

    /// Gives an order; the force of one that nobody has taken yet is kept. It is not for the answer
    /// that comes while a forced one is being carried out.
    pub(super) fn give(&self, order: Order) {
        self.order.send_modify(|old| {
            let pending = old.number > self.taken.load(Ordering::Relaxed);
            let force = order.force || (pending && old.force);
            let is_poll = order.is_poll || (pending && old.is_poll);
            *old = Order {
                is_poll,
                force,
                ..order
            };
        });
    }

    /// For the applier: its orders.
    pub(super) fn orders(&self) -> watch::Receiver<Order> {
        self.order.subscribe()
    }

    /// For the applier: takes the last order.
    pub(super) fn take_order(&self, orders: &mut watch::Receiver<Order>) -> Order {
        let order = orders.borrow_and_update();
        self.taken.store(order.number, Ordering::Relaxed);
        order.clone()
    }

    /// For the node: the number of the last order.
    pub(super) fn last_order(&self) -> u64 {
        self.order.borrow().number
    }

    /// For the applier: how it went.
    pub(super) fn report(&self, report: ApplierReport) {
        self.report.send_replace(report);
        self.reported.notify_one();
    }

    /// For the node: the last report.
    pub(super) fn last_report(&self) -> ApplierReport {
        self.report.borrow().clone()
    }
}

/// Between a node and whoever asks it for something.
#[derive(Clone, Debug)]
pub(super) struct NodeLink {
    request: Arc<watch::Sender<Request>>,
    /// The last request that the node took. Changed under the request's lock only.
    taken: Arc<AtomicU64>,
    report: Arc<watch::Sender<NodeReport>>,
}

impl NodeLink {
    /// A link over which nothing was said yet.
    pub(super) fn new(status: NodeStatus) -> Self {
        Self {
            request: Arc::new(watch::Sender::new(Request::default())),
            taken: Arc::default(),
            report: Arc::new(watch::Sender::new(NodeReport {
                request: 0,
                attempted: false,
                status,
            })),
        }
    }

    /// Asks for a poll and a pass; the number of the request.
    pub(super) fn request(&self, is_poll: bool, force: bool) -> u64 {
        self.demand(is_poll, force, true)
    }

    /// Asks for a pass without a poll; the number of the request.
    pub(super) fn request_pass(&self) -> u64 {
        self.demand(false, false, false)
    }

    fn demand(&self, is_poll: bool, force: bool, polls: bool) -> u64 {
        let mut number = 0;
        self.request.send_modify(|old| {
            let pending = old.number > self.taken.load(Ordering::Relaxed);
            number = old.number + 1;
            *old = Request {
                number,
                is_poll: is_poll || (pending && old.is_poll),
                force: force || (pending && old.force),
                polls: polls || (pending && old.polls),
            };
        });
        number
    }

    /// Asks for a poll and a pass, and waits until they are over.
    pub(super) async fn ask(&self, is_poll: bool, force: bool) -> NodeStatus {
        let number = self.request(is_poll, force);
        self.answered(number).await
    }

    /// Asks for a pass without a poll, and waits until it is over.
    pub(super) async fn pass(&self) {
        let number = self.request_pass();
        self.answered(number).await;
    }

    async fn answered(&self, number: u64) -> NodeStatus {
        let mut reports = self.report.subscribe();
        let report = reports.wait_for(|report| report.request >= number).await;
        report
            .expect("invariant: this link holds the sender")
            .status
            .clone()
    }

    /// The node is not served any more: whoever waits for it gets its last word.
    pub(super) fn retire(&self) {
        self.report.send_modify(|report| {
            report.request = u64::MAX;
            report.attempted = true;
        });
    }

    /// How the node stands.
    pub(super) fn status(&self) -> NodeStatus {
        self.report.borrow().status.clone()
    }

    /// Waits until one pass is over, however it went.
    pub(super) async fn attempted(&self) {
        let mut reports = self.report.subscribe();
        let report = reports.wait_for(|report| report.attempted).await;
        report
            .map(drop)
            .expect("invariant: this link holds the sender");
    }

    /// Waits until something is wrong with the node, and says what.
    pub(super) async fn failed(&self) -> Vec<String> {
        let mut reports = self.report.subscribe();
        let wrong = |report: &NodeReport| report.attempted && !report.status.problems().is_empty();
        let report = reports.wait_for(wrong).await;
        report
            .expect("invariant: this link holds the sender")
            .status
            .problems()
    }

    /// Its reports from now on.
    pub(super) fn reports(&self) -> watch::Receiver<NodeReport> {
        self.report.subscribe()
    }

    /// For the node: what it reported last.
    pub(super) fn last_report(&self) -> NodeReport {
        self.report.borrow().clone()
    }

    /// For the node: what is asked of it.
    pub(super) fn requests(&self) -> watch::Receiver<Request> {
        self.request.subscribe()
    }

    /// For the node: takes the last request.
    pub(super) fn take_request(&self, requests: &mut watch::Receiver<Request>) -> Request {
        let request = requests.borrow_and_update();
        self.taken.store(request.number, Ordering::Relaxed);
        *request
    }

    /// For the node: the last request and how it stands.
    pub(super) fn report(&self, report: NodeReport) {
        self.report.send_replace(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::NodeId;

    fn order(number: u64, force: bool) -> Order {
        Order {
            number,
            force,
            ..Order::default()
        }
    }

    fn applier() -> ApplierLink {
        let status = ApplierStatus::Hook(HookStatus::default());
        ApplierLink::new(status, Arc::default())
    }

    fn reported(link: &ApplierLink, number: u64) {
        let status = ApplierStatus::Hook(HookStatus::default());
        link.report(ApplierReport {
            number,
            done: true,
            status,
        });
    }

    #[test]
    fn the_force_of_an_order_that_nobody_took_goes_over_to_the_next() {
        let link = applier();
        link.give(order(1, true));
        link.give(order(2, false));
        assert!(link.take_order(&mut link.orders()).force);
    }

    #[test]
    fn the_force_of_an_order_that_is_being_carried_out_is_for_that_one_alone() {
        let link = applier();
        let mut orders = link.orders();
        link.give(order(1, true));
        assert!(link.take_order(&mut orders).force);
        // Another answer, which nobody has looked at.
        link.give(order(2, false));
        reported(&link, 1);
        assert!(!link.take_order(&mut orders).force);
    }

    #[test]
    fn a_pass_asked_for_takes_the_poll_from_no_request_that_nobody_took() {
        let link = NodeLink::new(NodeStatus::new(NodeId(1)));
        let mut requests = link.requests();
        link.request(true, false);
        link.request_pass();
        let both = link.take_request(&mut requests);
        assert!(both.polls && both.is_poll);
        link.request_pass();
        assert!(!link.take_request(&mut requests).polls);
    }

    #[tokio::test]
    async fn whoever_asks_a_node_that_is_gone_gets_its_last_word() {
        let link = NodeLink::new(NodeStatus::new(NodeId(1)));
        let (answer, ()) = tokio::join!(link.ask(false, false), async { link.retire() });
        assert_eq!(answer, NodeStatus::new(NodeId(1)));
        assert_eq!(link.ask(true, true).await, answer);
        link.attempted().await;
    }

    #[test]
    fn the_force_of_a_request_that_is_being_served_is_for_that_one_alone() {
        let link = NodeLink::new(NodeStatus::new(NodeId(1)));
        let mut requests = link.requests();
        link.request(false, true);
        link.request(false, false);
        assert!(link.take_request(&mut requests).force, "nobody took it");
        link.request(false, false);
        assert!(!link.take_request(&mut requests).force);
    }
}
