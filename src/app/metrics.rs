//! Fills the page of metrics from what the engines tell of themselves anyway: they know nothing of
//! Prometheus. Nothing here waits for a panel, an Xray or the ledger's writer.

mod ledger;
mod of_store;
mod of_traffic;
mod of_users;

use jiff::Timestamp;

use super::reload::Reloads;
use super::running::{Engines, Running};
use crate::base::clock::Clock;
use crate::base::supervise::TaskBoard;
use crate::metrics::families::{
    BUILD_INFO, CONFIG_BEHIND, CONFIG_GOOD, CONFIG_LOADED, TASK_RESTARTS, TASK_UP,
};
use crate::metrics::{Exposition, Format, Page, process};

pub(super) use ledger::Looker;

/// Shows the metrics of a running agent. Cheap to clone.
#[derive(Clone)]
pub(super) struct Meter {
    running: Running,
    reloads: Reloads,
    board: TaskBoard,
    clock: Clock,
    started: Option<Timestamp>,
}

impl Meter {
    /// One of what runs.
    pub(super) fn new(running: Running, reloads: Reloads, board: TaskBoard) -> Self {
        Self {
            running,
            reloads,
            board,
            clock: Clock::system(),
            started: process::started(),
        }
    }

    /// All metrics as they are now, as text.
    pub(super) async fn exposition(&self, format: Format) -> Exposition {
        self.page().await.exposition(format)
    }

    async fn page(&self) -> Page {
        let now = self.running.now();
        let mut page = Page::default();
        page.add(&BUILD_INFO, &[env!("CARGO_PKG_VERSION"), now.mode()], true);
        of_users::add(&mut page, &now.sync.status(), now.sync.tallies());
        if let Some(traffic) = &now.traffic {
            of_traffic::add(&mut page, &traffic.handle);
            let seen = traffic.looker.seen().await;
            of_traffic::add_ledger(&mut page, seen.as_deref(), self.clock.now());
        }
        if let Some(store) = &now.agent_store {
            of_store::add(&mut page, store);
        }
        let traffic = now.traffic.iter();
        let requests = traffic.flat_map(|traffic| traffic.handle.requests());
        let polls = now.sync.tallies().panel.clone();
        let panel: Vec<_> = [polls].into_iter().chain(requests).collect();
        of_users::add_requests(&mut page, panel.iter().map(AsRef::as_ref));
        add_calls(&mut page, &now);
        self.add_configuration(&mut page);
        for task in self.board.status() {
            page.add(&TASK_UP, &[&task.name], task.alive);
            page.add(&TASK_RESTARTS, &[&task.name], task.restarts);
        }
        process::add(&mut page);
        process::add_start(&mut page, self.started);
        page
    }

    fn add_configuration(&self, page: &mut Page) {
        let status = self.reloads.status();
        page.add(&CONFIG_GOOD, &[], status.error.is_none());
        page.add(&CONFIG_BEHIND, &[], !status.after_restart.is_empty());
        page.add_time(&CONFIG_LOADED, &[], status.loaded_at);
    }
}

/// Users' part and traffic's have connections of their own to each Xray.
fn add_calls(page: &mut Page, now: &Engines) {
    let of_users = now.sync.tallies().xrays.iter();
    let of_users = of_users.map(|(xray, calls)| (xray.as_str(), calls.clone()));
    let traffic = now.traffic.iter();
    let of_traffic = traffic.flat_map(|traffic| traffic.handle.calls());
    of_users::add_calls(page, of_users.chain(of_traffic));
}
