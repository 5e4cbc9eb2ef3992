//! Where bytes go. Each sink has its own reports and states in the ledger; what one takes or refuses is
//! nothing to another.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::model::report::{Answer, Report};
use crate::model::tally::Calls;
use crate::panel::PanelClient;

/// The panel's `report-traffic`, as the ledger names it.
pub const REPORT_TRAFFIC: &str = "report-traffic";

/// Takes reports.
pub trait Sink: Send + Sync {
    /// Its name in the ledger, which never changes.
    fn name(&self) -> &'static str;

    /// Where it is: what it has shown of itself holds for that address only.
    fn address(&self) -> String;

    /// Its requests that are over, by status.
    fn calls(&self) -> Arc<Calls> {
        Arc::default()
    }

    /// Sends one report, once.
    fn send<'a>(&'a self, report: &'a Report) -> BoxFuture<'a, Answer>;
}

impl Sink for PanelClient {
    fn name(&self) -> &'static str {
        REPORT_TRAFFIC
    }

    fn address(&self) -> String {
        self.base_url().to_string()
    }

    fn calls(&self) -> Arc<Calls> {
        Self::calls(self)
    }

    fn send<'a>(&'a self, report: &'a Report) -> BoxFuture<'a, Answer> {
        Box::pin(self.report(report))
    }
}
