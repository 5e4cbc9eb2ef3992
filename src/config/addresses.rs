//! Addresses of panels, proxies and Xrays. Pure. What may hold a password or a token is never
//! quoted in a message.

use std::path::PathBuf;

use url::{Host, Url};

use super::XrayAddress;
use super::problems::Complaint;
use super::values::{Read, quoted};

/// Where an Xray listens when only a port is given.
const LOOPBACK: &str = "127.0.0.1";

fn refuse<T>(what: impl Into<String>, mend: impl Into<String>) -> Read<T> {
    Err(Complaint::new(what, mend))
}

/// The panel's address: `http` or `https`, with a path if need be and nothing else.
pub(super) fn panel_url(text: &str) -> Read<Url> {
    let mend = "write it as http://host:port or https://host";
    let mut url = parse(text, &["http", "https"], mend)?;
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("must not hold a user or password", mend);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("must not hold a query or fragment", mend);
    }
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty();
    }
    Ok(url)
}

/// A proxy's address; it may hold a user and a password.
pub(super) fn proxy(text: &str) -> Read<Url> {
    let mend = "write it as http://host:port, https://…, socks5://… or socks5h://…";
    parse(text, &["http", "https", "socks5", "socks5h"], mend)
}

fn parse(text: &str, schemes: &[&str], mend: &str) -> Read<Url> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => return refuse(format!("is not an address: {e}"), mend),
    };
    if !schemes.contains(&url.scheme()) {
        return refuse(
            format!("does not begin with {}://", schemes.join(":// or ")),
            mend,
        );
    }
    if url.host_str().is_none_or(str::is_empty) {
        return refuse("names no host", mend);
    }
    Ok(url)
}

/// Where an Xray's API listens.
pub(super) fn xray(text: &str) -> Read<XrayAddress> {
    if let Some(socket) = text.strip_prefix("unix:") {
        return unix(socket, text);
    }
    let bare = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    match bare.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse().is_ok_and(|port: u16| port > 0) => {
            let host = if host.is_empty() { LOOPBACK } else { host };
            Ok(XrayAddress::Tcp(format!("{host}:{port}")))
        }
        _ => refuse_xray(text),
    }
}

fn unix(socket: &str, text: &str) -> Read<XrayAddress> {
    if socket.contains('\0') {
        return refuse_xray(text);
    }
    if let Some(name) = socket.strip_prefix('@').filter(|name| !name.is_empty()) {
        return Ok(XrayAddress::Abstract(name.to_owned()));
    }
    let path = socket.trim_start_matches('/');
    if path.len() == socket.len() || path.is_empty() {
        return refuse_xray(text);
    }
    Ok(XrayAddress::Unix(PathBuf::from(format!("/{path}"))))
}

/// Whether it can stand before a port; empty stands for this host.
fn is_host(host: &str) -> bool {
    host.is_empty() || (!host.contains(['/', '@', '%']) && Host::parse(host).is_ok())
}

fn refuse_xray<T>(text: &str) -> Read<T> {
    let mend = "write it as 127.0.0.1:10085, [::1]:10085, unix:/path or unix:@name";
    refuse(
        format!("{} is not the address of an Xray's API", quoted(text)),
        mend,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> XrayAddress {
        XrayAddress::Tcp(address.to_owned())
    }

    fn unix(path: &str) -> XrayAddress {
        XrayAddress::Unix(path.into())
    }

    #[test]
    fn xrays_are_reached_over_tcp_and_unix_sockets() {
        let right = [
            ("127.0.0.1:10085", tcp("127.0.0.1:10085")),
            (":10085", tcp("127.0.0.1:10085")),
            ("http://xray:10085", tcp("xray:10085")),
            ("http://xray_core:10085/", tcp("xray_core:10085")),
            ("[::1]:1", tcp("[::1]:1")),
            ("unix:/run/x.sock", unix("/run/x.sock")),
            ("unix:///run/x.sock", unix("/run/x.sock")),
            ("unix:@xray", XrayAddress::Abstract("xray".into())),
        ];
        for (text, address) in right {
            assert_eq!(xray(text).as_ref(), Ok(&address), "{text}");
        }
        let wrong = [
            "10085",
            "::1:10085",
            "xray",
            "xray:0",
            "xray:65536",
            "xray:http",
            "https://xray:1",
            "a b:1",
            "user@xray:1",
            "unix:",
            "unix:@",
            "unix:/",
            "unix:relative",
        ];
        for text in wrong {
            assert!(xray(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_panel_is_a_plain_address_without_a_slash_at_its_end() {
        let cases = [
            ("http://127.0.0.1:3000", Ok("http://127.0.0.1:3000/")),
            (
                "https://panel.example/base/",
                Ok("https://panel.example/base"),
            ),
            ("http://backend:3000", Ok("http://backend:3000/")),
            (
                "backend:3000",
                Err("does not begin with http:// or https://"),
            ),
            ("ftp://h", Err("does not begin with http:// or https://")),
            (
                "127.0.0.1:3000",
                Err("is not an address: relative URL without a base"),
            ),
            ("http://u:canary@h", Err("must not hold a user or password")),
            (
                "http://h/?key=canary",
                Err("must not hold a query or fragment"),
            ),
            ("http://h/#canary", Err("must not hold a query or fragment")),
        ];
        for (text, expected) in cases {
            let read = panel_url(text)
                .map(|url| url.to_string())
                .map_err(|c| c.what);
            assert_eq!(read.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn proxies_may_hold_a_password_that_no_message_shows() {
        for good in [
            "http://p:1",
            "https://u:p@p",
            "socks5://p:1",
            "socks5h://u:p@p:1",
        ] {
            assert!(proxy(good).is_ok(), "{good}");
        }
        for bad in [
            "p:1",
            "socks4://u:canary@p:1",
            "socks5://u:canary@",
            "http://u:canary@h:x",
        ] {
            let complaint = proxy(bad).unwrap_err();
            assert!(
                !format!("{complaint:?}").contains("canary"),
                "{complaint:?}"
            );
        }
    }
}
