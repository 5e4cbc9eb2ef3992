//! What was checked for a call, carried to where its connection is made. Keeps: the HTTP client
//! looks up nothing by itself, and two calls to one name, at ports that are not judged alike, do
//! not share an answer. (An address in a URL passes no resolver: it is judged before, and dialled
//! as it stands.)

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::dial::Checked;

tokio::task_local! {
    /// The addresses that the call under way may be connected to. A connection is begun by the task
    /// that asks for it; one that is not would find nothing here, and fail.
    static CHECKED: Pins;
}

/// Names, and the addresses that were judged behind them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pins(Arc<Vec<(String, Vec<SocketAddr>)>>);

impl Pins {
    /// Adds a host as the URL has it.
    pub(super) fn add(&mut self, host: &str, checked: &Checked) {
        let entry = (host.to_owned(), checked.addresses().to_vec());
        Arc::make_mut(&mut self.0).push(entry);
    }

    /// Runs a request that may be connected to these addresses and to no others.
    pub(super) async fn hold_for<F: Future>(self, request: F) -> F::Output {
        CHECKED.scope(self, request).await
    }

    fn behind(&self, host: &str) -> Option<Vec<SocketAddr>> {
        let is_it = |(name, _): &&(String, _)| name.eq_ignore_ascii_case(host);
        self.0
            .iter()
            .find(is_it)
            .map(|(_, addresses)| addresses.clone())
    }
}

/// Gives out what was checked for the call under way, and nothing else.
#[derive(Debug)]
pub(super) struct Pinned;

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        let found = CHECKED.try_with(|pins| pins.behind(name.as_str()));
        Box::pin(async move {
            match found {
                Ok(Some(addresses)) => Ok(Box::new(addresses.into_iter()) as Addrs),
                _ => Err(io::Error::other("no address was checked for this connection").into()),
            }
        })
    }
}
