//! The list of loopback and private targets that callbacks may reach: addresses, networks, names,
//! each with a port or with all. A list opens nothing else: link-local addresses and our own
//! listeners stay closed whatever it says. Pure.

use std::net::IpAddr;
use std::str::FromStr;

use url::Host;

/// One entry of the list: `10.0.0.0/8`, `[fd00::5]:8080`, `fd00::/8`, `host.example:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    what: What,
    /// `None` for all.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Network(IpAddr, u8),
    Name(String),
}

/// Why a text is no entry, and what one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; {example}", example = Allowed::EXAMPLE)]
pub struct NotAnEntry(String);

impl NotAnEntry {
    /// What is wrong, alone.
    pub fn why(&self) -> &str {
        &self.0
    }
}

impl Allowed {
    /// What to write.
    pub const EXAMPLE: &str = "write an address, a network or a name, with a port if need be: \
        10.0.0.5:8080, 10.0.0.0/8, [fd00::5]:8080, fd00::/8, hooks.internal:8080";

    /// Whether the entry opens this address to whoever asked for that name, if for one, and port.
    pub fn opens(&self, name: Option<&str>, port: u16, address: IpAddr) -> bool {
        self.port.is_none_or(|it| it == port) && self.what.holds(name, address)
    }
}

impl What {
    fn holds(&self, name: Option<&str>, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Name(own), _) => name.is_some_and(|it| without_dot(it) == own),
            (Self::Network(IpAddr::V4(first), length), IpAddr::V4(address)) => is_within(
                (first.to_bits() ^ address.to_bits()).leading_zeros(),
                *length,
            ),
            (Self::Network(IpAddr::V6(first), length), IpAddr::V6(address)) => is_within(
                (first.to_bits() ^ address.to_bits()).leading_zeros(),
                *length,
            ),
            _ => false,
        }
    }
}

impl FromStr for Allowed {
    type Err = NotAnEntry;

    fn from_str(text: &str) -> Result<Self, NotAnEntry> {
        if let Some((address, length)) = text.split_once('/') {
            return network(address, length);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::host(What::Network(address, bits(address)), None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = port.map(read_port).transpose()?;
        match Host::parse(host) {
            Ok(Host::Domain(name)) => {
                Ok(Self::host(What::Name(without_dot(&name).to_owned()), port))
            }
            Ok(Host::Ipv4(address)) => Ok(Self::host(What::Network(address.into(), 32), port)),
            Ok(Host::Ipv6(address)) => Ok(Self::host(What::Network(address.into(), 128), port)),
            Err(_) => Err(NotAnEntry("it names no host".to_owned())),
        }
    }
}

impl Allowed {
    fn host(what: What, port: Option<u16>) -> Self {
        Self { what, port }
    }
}

fn network(address: &str, length: &str) -> Result<Allowed, NotAnEntry> {
    let refuse = |why: &str| Err(NotAnEntry(why.to_owned()));
    let Ok(address) = address.parse::<IpAddr>() else {
        return refuse("before the / stands no address");
    };
    match length.parse::<u8>() {
        Ok(length) if length <= bits(address) => {
            Ok(Allowed::host(What::Network(address, length), None))
        }
        _ => refuse("after the / stands no length of this family's prefixes"),
    }
}

fn read_port(text: &str) -> Result<u16, NotAnEntry> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(NotAnEntry("after the : stands no port".to_owned())),
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A name without the dot that ends a complete one.
pub fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether two addresses of one family share a prefix of so many bits.
pub fn is_within(bits_shared: u32, length: u8) -> bool {
    bits_shared >= u32::from(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(entry: &str, target: &str, address: &str) -> bool {
        let entry: Allowed = entry.parse().unwrap();
        let (host, port) = target.rsplit_once(':').unwrap();
        let name = host.to_lowercase();
        let name = host.parse::<IpAddr>().is_err().then_some(name.as_str());
        entry.opens(name, port.parse().unwrap(), address.parse().unwrap())
    }

    #[test]
    fn an_entry_opens_what_it_names_and_nothing_beside() {
        let table = [
            ("10.0.0.0/8", "h:1", "10.255.0.1", true),
            ("10.0.0.0/8", "h:1", "11.0.0.1", false),
            ("10.0.0.0/8", "h:1", "::a00:1", false),
            ("10.1.2.3/8", "h:1", "10.9.9.9", true),
            ("0.0.0.0/0", "h:1", "192.168.0.1", true),
            ("10.0.0.5", "h:1", "10.0.0.5", true),
            ("10.0.0.5", "h:1", "10.0.0.6", false),
            ("10.0.0.5:80", "h:80", "10.0.0.5", true),
            ("10.0.0.5:80", "h:81", "10.0.0.5", false),
            ("fd00::/8", "h:1", "fd12::1", true),
            ("fd00::/8", "h:1", "fe80::1", false),
            ("fd00::5", "h:1", "fd00::5", true),
            ("[fd00::5]", "h:1", "fd00::5", true),
            ("[fd00::5]:80", "h:80", "fd00::5", true),
            ("[fd00::5]:80", "h:81", "fd00::5", false),
            ("Hooks.Internal.", "hooks.internal:1", "10.0.0.1", true),
            ("hooks.internal", "HOOKS.internal.:1", "127.0.0.1", true),
            ("hooks.internal:80", "hooks.internal:81", "10.0.0.1", false),
            ("hooks.internal", "x.hooks.internal:1", "10.0.0.1", false),
            ("hooks.internal", "10.0.0.1:1", "10.0.0.1", false),
        ];
        for (entry, target, address, expected) in table {
            assert_eq!(
                opens(entry, target, address),
                expected,
                "{entry} {target} {address}"
            );
        }
    }

    #[test]
    fn what_is_no_entry_is_told_with_what_is() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "fd00::/129",
            "name/8",
            "10.0.0.0/-1",
            "h:0",
            "h:x",
            "h:65536",
            ":80",
            "http://h",
            "a b",
            "[::1",
            "1.2.3.256",
        ] {
            let error = text.parse::<Allowed>().unwrap_err();
            assert!(error.to_string().contains("10.0.0.0/8"), "{text}");
        }
    }
}
