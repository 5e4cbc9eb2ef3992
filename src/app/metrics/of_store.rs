//! Metrics of `agent.db`, as the ledger has them.

use super::ledger::size_of;
use crate::app::agent_store::AgentStore;
use crate::metrics::Page;
use crate::metrics::families as of;

/// How it is called among stores.
const AGENT: &str = "agent";

/// Adds how the store is.
pub(super) fn add(page: &mut Page, of_agent: &AgentStore) {
    let store = of_agent.store();
    page.add(&of::STORE_UP, &[AGENT], of_agent.trouble().is_none());
    page.add(&of::STORE_COMMIT, &[AGENT], store.commits());
    page.add(&of::STORE_SIZE, &[AGENT], size_of(of_agent.file()));
}
