//! Under which names a listener on loopback may be asked. A page of anybody can have its own name
//! resolve to 127.0.0.1 and then reads answers as its own (DNS rebinding); it cannot choose the name
//! that its browser puts into `Host`. Pure.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, Version, header};

use super::error::HttpError;

/// Names that may be asked for besides addresses.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    /// In lower case.
    names: Vec<String>,
}

impl Hosts {
    /// `localhost` and these.
    pub(super) fn new(further: &[String]) -> Self {
        let mut names = vec!["localhost".to_owned()];
        names.extend(further.iter().map(|name| name.to_ascii_lowercase()));
        Self { names }
    }

    /// Refuses a request for another name.
    pub(super) fn check(
        &self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), HttpError> {
        let mut named = headers.get_all(header::HOST).iter();
        let host = match (named.next(), named.next()) {
            (Some(host), None) => Some(host),
            // No browser speaks 1.0.
            (None, _) if version == Version::HTTP_10 => None,
            _ => {
                let message = "one Host header is needed";
                return Err(HttpError::new(StatusCode::BAD_REQUEST, message));
            }
        };
        let host_is_right =
            host.is_none_or(|host| host.to_str().is_ok_and(|host| self.allows(host)));
        let uri_is_right = uri.authority().is_none_or(|a| self.allows(a.as_str()));
        if host_is_right && uri_is_right {
            return Ok(());
        }
        Err(HttpError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this host name is not served here; add it to http.hosts (HTTP_HOSTS)",
        ))
    }

    fn allows(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let literal = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let name = host.strip_suffix('.').unwrap_or(host);
        literal.parse::<IpAddr>().is_ok()
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, uri: &str, hosts: &[&str]) -> u16 {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        let served = Hosts::new(&["agent.example".to_owned()]);
        served
            .check(version, &uri.parse().unwrap(), &headers)
            .map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_addresses_and_names_of_the_list_are_served() {
        let cases = [
            ("127.0.0.1:23860", 200),
            ("127.0.0.1", 200),
            ("[::1]:1", 200),
            ("localhost:23860", 200),
            ("LOCALHOST.", 200),
            ("Agent.Example:443", 200),
            ("evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("localhost.evil.example", 421),
            ("evil.example@127.0.0.1:x", 421),
            ("", 421),
            ("\u{e9}", 421),
        ];
        for (host, expected) in cases {
            let (got, uri) = (
                status(Version::HTTP_11, "/", &[host]),
                "http://evil.example/",
            );
            assert_eq!(got, expected, "{host}");
            assert_eq!(status(Version::HTTP_11, uri, &[host]), 421, "{host}");
        }
        assert_eq!(status(Version::HTTP_11, "/", &[]), 400);
        assert_eq!(status(Version::HTTP_10, "/", &[]), 200);
        assert_eq!(
            status(Version::HTTP_11, "/", &["localhost", "localhost"]),
            400
        );
    }
}
