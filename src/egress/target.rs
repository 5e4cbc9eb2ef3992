//! Where something is to be sent: a host and a port, read by the rules that browsers and URLs share
//! (<https://url.spec.whatwg.org/#host-parsing>), so that every disguise of an address
//! (`2130706433`, `0x7f.1`, `127。0。0。1`, `%31%32%37.1`) is an address here before anyone else reads
//! it. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use url::{Host, Url};

use super::policy::{Refusal, Why};
use crate::base::redact;
use crate::model::allowed::without_dot;

/// Most characters of a user's text that a message shows.
const SHOWN_CHARS: usize = 120;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: Host<String>,
    /// 0 where there is none.
    port: u16,
}

impl Target {
    /// Where an `http` or `https` URL leads.
    pub fn of_url(url: &Url) -> Result<Self, Refusal> {
        let refuse = |why| Err(Refusal::new(shown_url(url), why));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(Why::Scheme);
        }
        match (url.host(), url.port_or_known_default()) {
            (Some(host), Some(port)) if port > 0 => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            (Some(_), _) => refuse(Why::Port),
            (None, _) => refuse(Why::Host),
        }
    }

    /// Reads `host:port`, an IPv6 address in brackets.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |why| Err(Refusal::new(shown(text), why));
        let Some((host, port)) = text.rsplit_once(':') else {
            return refuse(Why::Port);
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if port > 0 && digits => Self::of_host(host, port),
            _ => refuse(Why::Port),
        }
    }

    /// Reads a host, an IPv6 address in brackets or bare, to be reached without any port.
    pub fn parse_host(text: &str) -> Result<Self, Refusal> {
        match text.parse::<Ipv6Addr>() {
            Ok(address) => Ok(Self::of_address(address.into(), 0)),
            Err(_) => Self::of_host(text, 0),
        }
    }

    /// An address that needs no reading; port 0 stands for none.
    pub fn of_address(address: IpAddr, port: u16) -> Self {
        let host = match address {
            IpAddr::V4(address) => Host::Ipv4(address),
            IpAddr::V6(address) => Host::Ipv6(address),
        };
        Self { host, port }
    }

    pub(super) fn of_host(text: &str, port: u16) -> Result<Self, Refusal> {
        match Host::parse(text) {
            Ok(host) => Ok(Self { host, port }),
            Err(_) => Err(Refusal::new(shown(text), Why::Host)),
        }
    }

    /// The host's address, where it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The host's name, in lower case and ASCII, where it is one.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Domain(name) => Some(name),
            _ => None,
        }
    }

    /// The host as it was read.
    pub(super) fn host(&self) -> Host<String> {
        self.host.clone()
    }

    /// The port; 0 where there is none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the name is this host's by its very meaning (RFC 6761).
    pub(super) fn is_localhost(&self) -> bool {
        let name = self.name().map_or("", without_dot);
        name == "localhost" || name.ends_with(".localhost")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.host.to_string()))?;
        match self.port {
            0 => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}

/// Of a URL what may be seen: its path may hold a token, its user a password.
pub(super) fn shown_url(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    shown(&format!("{}://{host}{port}", url.scheme()))
}

/// A text of the user's; before an `@` stands what may be a password.
fn shown(text: &str) -> String {
    let open = text.rsplit('@').next().unwrap_or_default();
    redact::line(open, SHOWN_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_probes_are_read_as_those_of_urls() {
        let table = [
            ("example.org:443", "example.org:443"),
            ("EXAMPLE.org.:80", "example.org.:80"),
            ("[::1]:80", "[::1]:80"),
            ("2130706433:80", "127.0.0.1:80"),
            ("0x7f.1:80", "127.0.0.1:80"),
            ("0177.0.0.01:80", "127.0.0.1:80"),
            ("%31%32%37.1:80", "127.0.0.1:80"),
            ("[::ffff:127.0.0.1]:80", "[::ffff:7f00:1]:80"),
        ];
        for (text, expected) in table {
            assert_eq!(Target::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            ":",
            ":80",
            "example.org",
            "example.org:",
            "example.org:0",
            "example.org:65536",
            "example.org:+1",
            "::1:80",
            "[::1]",
            "[fe80::1%25eth0]:80",
            "fe80::1%eth0:80",
            "a b:80",
            "a/b:80",
            "u:p@h:80",
            "1.2.3.256:80",
            "[::1:80",
            "h\0:80",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        for (text, expected) in [("::1", "[::1]"), ("[::1]", "[::1]"), ("127.1", "127.0.0.1")] {
            assert_eq!(Target::parse_host(text).unwrap().to_string(), expected);
        }
        assert!(Target::parse_host("fe80::1%eth0").is_err());
    }

    #[test]
    fn a_refusal_shows_neither_password_nor_path() {
        let url = Url::parse("ftp://user:canary@host/canary?canary#canary").unwrap();
        let texts = [
            Target::of_url(&url).unwrap_err().to_string(),
            Target::parse("user:canary@host:port")
                .unwrap_err()
                .to_string(),
            Target::parse_host("user:canary@host")
                .unwrap_err()
                .to_string(),
        ];
        for text in texts {
            assert!(text.contains("host") && !text.contains("canary"), "{text}");
        }
    }
}
