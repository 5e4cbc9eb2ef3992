//! Who is connected from where (`GetStatsOnlineIpList`, since 25.2.18), as far as Xray keeps that: with
//! `statsUserOnline` in the policy of the user's level, and never for 127.0.0.1 and `::1`.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use super::client::{BULK_FACTOR, XrayClient, stats};
use super::error::XrayError;

impl XrayClient {
    /// The addresses from which a user's connections come now, in the case of `email`. `None`: Xray
    /// keeps no list of that user, who has not come in since it started, or whom its policy does not
    /// watch. What is no address (a socket's path) is left out.
    pub async fn online_addresses(
        &self,
        email: &str,
    ) -> Result<Option<BTreeSet<IpAddr>>, XrayError> {
        let mut client = self.stats.clone();
        let request = stats::GetStatsRequest {
            name: format!("user>>>{email}>>>online"),
            reset: false,
        };
        match self
            .within(
                "GetStatsOnlineIpList",
                1,
                client.get_stats_online_ip_list(request),
            )
            .await
        {
            Ok(answer) => Ok(Some(
                answer.ips.keys().filter_map(|ip| address(ip)).collect(),
            )),
            Err(XrayError::UserNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The e-mails of everybody who is connected now (`GetAllOnlineUsers`, since 26.1.13).
    pub async fn online_users(&self) -> Result<HashSet<String>, XrayError> {
        let mut client = self.stats.clone();
        let request = stats::GetAllOnlineUsersRequest {};
        let answer = self
            .within(
                "GetAllOnlineUsers",
                BULK_FACTOR,
                client.get_all_online_users(request),
            )
            .await?;
        let email = |name: &String| {
            let email = name.strip_prefix("user>>>")?.strip_suffix(">>>online")?;
            Some(email.to_owned())
        };
        Ok(answer.users.iter().filter_map(email).collect())
    }

    /// Whether the user has moved bytes since Xray started, so that Xray's policy counts them.
    pub async fn has_counter(&self, email: &str) -> Result<bool, XrayError> {
        let mut client = self.stats.clone();
        let request = stats::GetStatsRequest {
            name: format!("user>>>{email}>>>traffic>>>downlink"),
            reset: false,
        };
        match self.within("GetStats", 1, client.get_stats(request)).await {
            Ok(_) => Ok(true),
            Err(XrayError::UserNotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// As Xray writes addresses: IPv6 in brackets or without, IPv4 at times mapped into IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_xray_writes_them() {
        let table = [
            ("192.0.2.1", Some("192.0.2.1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("@", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(
                address(text),
                expected.map(|ip| ip.parse().unwrap()),
                "{text}"
            );
        }
    }
}
