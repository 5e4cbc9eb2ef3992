//! Where bytes go. Each sink has its own reports and states in the ledger; what one takes or refuses is
//! nothing to another.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::ledger::Fit;
use super::receivers::{REPORT_TRAFFIC, SinkName};
use crate::model::report::{Answer, Report};
use crate::model::tally::Calls;
use crate::panel::PanelClient;

/// Takes reports.
pub trait Sink: Send + Sync {
    /// Its name in the ledger, which never changes.
    fn name(&self) -> SinkName;

    /// Where it is: what it has shown of itself holds for that address only.
    fn address(&self) -> String;

    /// Its requests that are over, by status.
    fn calls(&self) -> Arc<Calls> {
        Arc::default()
    }

    /// Most reports that it takes in one request; where that is more than one, one request is under way
    /// at a time.
    fn batch_max(&self) -> usize {
        1
    }

    /// Of which bytes it can be told.
    fn fit(&self) -> Fit {
        Fit::default()
    }

    /// Sends reports, once, in one request: at least one, and no more than it takes. What is answered
    /// holds for all of them.
    fn send<'a>(&'a self, reports: &'a [Report]) -> BoxFuture<'a, Answer>;
}

impl Sink for PanelClient {
    fn name(&self) -> SinkName {
        REPORT_TRAFFIC.into()
    }

    fn address(&self) -> String {
        self.base_url().to_string()
    }

    fn calls(&self) -> Arc<Calls> {
        Self::calls(self)
    }

    fn send<'a>(&'a self, reports: &'a [Report]) -> BoxFuture<'a, Answer> {
        let [report] = reports else {
            let why = "it takes one report at a time".to_owned();
            return Box::pin(async { Answer::NotSent { why } });
        };
        Box::pin(self.report(report))
    }
}
