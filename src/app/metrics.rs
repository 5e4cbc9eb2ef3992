//! Fills the page of metrics from what the engines tell of themselves anyway: they know nothing of
//! Prometheus. Nothing here waits for a panel, an Xray or the ledger's writer.

mod ledger;
mod of_traffic;
mod of_users;

use std::sync::Arc;

use jiff::Timestamp;

use crate::base::clock::Clock;
use crate::base::supervise::TaskBoard;
use crate::config::Config;
use crate::metrics::families::{BUILD_INFO, TASK_RESTARTS, TASK_UP};
use crate::metrics::{Exposition, Format, Page, process};
use crate::sync;
use crate::traffic;
use ledger::Looker;

/// Shows the metrics of a running agent. Cheap to clone.
#[derive(Clone)]
pub struct Meter {
    mode: &'static str,
    sync: sync::engine::Handle,
    /// `None` where traffic is not counted.
    traffic: Option<(traffic::engine::Handle, Arc<Looker>)>,
    board: TaskBoard,
    clock: Clock,
    started: Option<Timestamp>,
}

impl Meter {
    /// One of what runs.
    pub fn new(
        config: &Config,
        mode: &'static str,
        sync: sync::engine::Handle,
        traffic: Option<traffic::engine::Handle>,
        board: TaskBoard,
    ) -> Self {
        let clock = Clock::system();
        let spec = traffic::ledger::spec(&config.state_dir, clock);
        Self {
            mode,
            sync,
            traffic: traffic.map(|handle| (handle, Looker::new(spec, clock, config.metrics))),
            board,
            clock,
            started: process::started(),
        }
    }

    /// All metrics as they are now, as text.
    pub async fn exposition(&self, format: Format) -> Exposition {
        self.page().await.exposition(format)
    }

    async fn page(&self) -> Page {
        let mut page = Page::default();
        page.add(&BUILD_INFO, &[env!("CARGO_PKG_VERSION"), self.mode], true);
        of_users::add(&mut page, &self.sync.status(), self.sync.tallies());
        if let Some((handle, looker)) = &self.traffic {
            of_traffic::add(&mut page, handle);
            let seen = looker.seen().await;
            of_traffic::add_ledger(&mut page, seen.as_deref(), self.clock.now());
        }
        let requests = self
            .traffic
            .iter()
            .flat_map(|(handle, _)| handle.requests());
        let panel = [&self.sync.tallies().panel].into_iter().chain(requests);
        of_users::add_requests(&mut page, panel.map(AsRef::as_ref));
        self.add_calls(&mut page);
        for task in self.board.status() {
            page.add(&TASK_UP, &[&task.name], task.alive);
            page.add(&TASK_RESTARTS, &[&task.name], task.restarts);
        }
        process::add(&mut page);
        process::add_start(&mut page, self.started);
        page
    }

    /// Users' part and traffic's have connections of their own to each Xray.
    fn add_calls(&self, page: &mut Page) {
        let of_users = &self.sync.tallies().xrays;
        let of_users = of_users
            .iter()
            .map(|(xray, calls)| (xray.as_str(), calls.clone()));
        let of_traffic = self.traffic.iter().flat_map(|(handle, _)| handle.calls());
        of_users::add_calls(page, of_users.chain(of_traffic));
    }
}
