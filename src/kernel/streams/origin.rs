//! From which pages a WebSocket may be opened. A browser lets every page open one to everywhere, and
//! names the page in `Origin`; who is no browser sends none. Pure.

use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;

/// Whether a page of `origin` may speak to us as `host`; `hosts` are the names of the configuration.
pub(super) fn is_allowed(origin: &str, host: Option<&str>, hosts: &[String]) -> bool {
    let page = origin.parse::<Uri>().ok();
    let Some(page) = page.as_ref().and_then(Uri::authority).and_then(name) else {
        return false;
    };
    let asked = host.and_then(|host| host.parse::<Authority>().ok());
    let asked = asked.as_ref().and_then(name);
    let is_known = |own: &String| own.eq_ignore_ascii_case(&page);
    asked.as_ref() == Some(&page) || is_loopback(&page) || hosts.iter().any(is_known)
}

/// The host in it, in lower case, without brackets and the last dot.
fn name(authority: &Authority) -> Option<String> {
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().to_ascii_lowercase();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(&host));
    (!bare.is_empty()).then(|| bare.to_owned())
}

fn is_loopback(name: &str) -> bool {
    let address = name.parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|it| it.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_and_those_of_this_host_are_let_in() {
        let hosts = ["panel.example".to_owned()];
        let cases = [
            ("http://agent.example:1", Some("agent.example:23860"), true),
            ("https://Agent.Example.", Some("agent.example"), true),
            ("http://[2001:db8::1]", Some("[2001:db8::1]:1"), true),
            ("http://localhost:3000", Some("agent.example"), true),
            ("http://127.0.0.1", None, true),
            ("http://[::1]:5", None, true),
            ("https://PANEL.example", None, true),
            ("http://evil.example", Some("agent.example"), false),
            ("http://evil.example", None, false),
            ("http://127.0.0.1.evil.example", None, false),
            ("http://localhost@evil.example", None, false),
            (
                "http://agent.example@evil.example",
                Some("agent.example"),
                false,
            ),
            ("null", Some("agent.example"), false),
            ("", Some(""), false),
            ("/", Some("/"), false),
        ];
        for (origin, host, allowed) in cases {
            assert_eq!(
                is_allowed(origin, host, &hosts),
                allowed,
                "{origin} {host:?}"
            );
        }
    }
}
