//! From where users are connected, as Xray tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::{StreamExt, stream};

use crate::model::cut::Sockets;
use crate::xray::client::XrayClient;
use crate::xray::error::XrayError;

/// From so many users on, it is first asked who is connected at all.
const ASK_FOR_ALL_FROM: usize = 16;

/// The addresses of connected users, by e-mail. Nobody in it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sync) struct Sessions(BTreeMap<String, BTreeSet<IpAddr>>);

impl Sessions {
    /// Adds what Xray tells of those users. What was read before an error, or before this was
    /// dropped, stays.
    pub(super) async fn look(
        &mut self,
        client: &XrayClient,
        emails: &[String],
    ) -> Result<(), XrayError> {
        let wanted: Vec<String> = if emails.len() < ASK_FOR_ALL_FROM {
            emails.to_vec()
        } else {
            match client.online_users().await {
                Ok(online) => emails
                    .iter()
                    .filter(|e| online.contains(*e))
                    .cloned()
                    .collect(),
                Err(XrayError::Unimplemented(_)) => emails.to_vec(),
                Err(error) => return Err(error),
            }
        };
        let mut answers = stream::iter(wanted)
            .map(|email| async move {
                let answer = client.online_addresses(&email).await;
                (email, answer)
            })
            .buffer_unordered(client.in_flight());
        while let Some((email, answer)) = answers.next().await {
            self.add(&email, answer?.unwrap_or_default());
        }
        Ok(())
    }

    pub(super) fn add(&mut self, email: &str, addresses: BTreeSet<IpAddr>) {
        if !addresses.is_empty() {
            self.0
                .entry(email.to_owned())
                .or_default()
                .extend(addresses);
        }
    }

    /// Whether nobody is connected.
    pub(in crate::sync) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who is connected.
    pub(in crate::sync) fn emails(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// From where anybody is connected.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.values().flatten().copied().collect()
    }

    /// Those with an address at which no socket was destroyed.
    pub(super) fn without(&self, sockets: &Sockets) -> BTreeSet<String> {
        let is_left = |addresses: &BTreeSet<IpAddr>| {
            addresses
                .iter()
                .any(|address| !sockets.contains_key(address))
        };
        let left = self.0.iter().filter(|(_, addresses)| is_left(addresses));
        left.map(|(email, _)| email.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn whoever_has_an_address_at_which_nothing_was_cut_is_left() {
        let mut seen = Sessions::default();
        seen.add("a", addresses(&["192.0.2.1"]));
        seen.add("b", addresses(&["192.0.2.1", "192.0.2.2"]));
        seen.add("c", addresses(&["2001:db8::1"]));
        seen.add("offline", BTreeSet::new());
        let left = |cut: &[&str]| {
            let sockets = addresses(cut).into_iter().map(|ip| (ip, 1)).collect();
            seen.without(&sockets).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(left(&[]), ["a", "b", "c"]);
        assert_eq!(left(&["192.0.2.1"]), ["b", "c"]);
        assert_eq!(left(&["192.0.2.2", "2001:db8::1"]), ["a", "b"]);
        assert!(left(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).is_empty());
    }

    #[test]
    fn addresses_of_several_looks_are_united() {
        let mut seen = Sessions::default();
        seen.add("a", addresses(&["192.0.2.1"]));
        seen.add("a", addresses(&["192.0.2.2"]));
        assert_eq!(seen.addresses(), addresses(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(seen.emails().collect::<Vec<_>>(), ["a"]);
    }
}
