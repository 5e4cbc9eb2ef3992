//! Where a redirect leads, and what of the request goes along (RFC 9110, section 15.4). Keeps:
//! what a user set as headers, credentials above all, does not go to another origin. Pure.

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION,
};
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use super::call::Call;

/// What describes a body, and goes with it.
const OF_BODY: [http::HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_LOCATION,
];

/// Where an answer redirects to; `None` where it does not, or not to what can be read.
pub(super) fn location(url: &Url, status: StatusCode, headers: &HeaderMap) -> Option<Url> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let text = std::str::from_utf8(headers.get(LOCATION)?.as_bytes()).ok()?;
    let mut to = url.join(text).ok()?;
    to.set_fragment(None);
    Some(to)
}

/// Turns the call into the one that follows a redirect of this status.
pub(super) fn follow(call: &mut Call, status: StatusCode, mut to: Url) {
    let is_same = call.url.origin() == to.origin();
    if is_same {
        keep_user(&call.url, &mut to);
    } else {
        let of_body: Vec<_> = OF_BODY
            .iter()
            .filter_map(|name| Some((name, call.headers.get(name)?.clone())))
            .collect();
        call.headers = HeaderMap::new();
        call.headers
            .extend(of_body.into_iter().map(|(name, it)| (name.clone(), it)));
    }
    if becomes_get(&call.method, status) {
        call.method = Method::GET;
        call.body.clear();
        for name in OF_BODY {
            call.headers.remove(&name);
            call.own_headers.remove(&name);
        }
    }
    call.url = to;
}

/// Every client's habit for 301 and 302, and what 303 means.
fn becomes_get(method: &Method, status: StatusCode) -> bool {
    match status {
        StatusCode::SEE_OTHER => method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::POST,
        _ => false,
    }
}

/// User and password of a URL hold for its origin.
fn keep_user(from: &Url, to: &mut Url) {
    if to.username().is_empty() && to.password().is_none() {
        // Both fail only for URLs without a host, which have no origin to share.
        let _ = to.set_username(from.username());
        let _ = to.set_password(from.password());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;

    const FROM: &str = "http://user:pass@a.example/x/y";

    /// A call of this method, after a redirect.
    fn followed(method: Method, status: u16, to: &str) -> Call {
        let mut call = Call::new(method, FROM.parse().unwrap(), Duration::from_secs(1));
        call.body = Bytes::from_static(b"body");
        let text = HeaderValue::from_static("it");
        for name in ["authorization", "cookie", "content-type", "x-any"] {
            call.headers.insert(name, text.clone());
        }
        call.own_headers.insert("x-own", text.clone());
        let headers = HeaderMap::from_iter([(LOCATION, to.parse().unwrap())]);
        let status = StatusCode::from_u16(status).unwrap();
        let to = location(&call.url, status, &headers).unwrap();
        follow(&mut call, status, to);
        call
    }

    #[test]
    fn method_and_body_follow_the_status() {
        let table = [
            (301, "POST", "GET"),
            (302, "POST", "GET"),
            (303, "POST", "GET"),
            (307, "POST", "POST"),
            (308, "POST", "POST"),
            (301, "PUT", "PUT"),
            (302, "DELETE", "DELETE"),
            (303, "PUT", "GET"),
            (303, "HEAD", "HEAD"),
            (302, "HEAD", "HEAD"),
        ];
        for (status, method, expected) in table {
            let call = followed(method.parse().unwrap(), status, "/z");
            assert_eq!(call.method, expected, "{status} {method}");
            let has_body = method == expected;
            assert_eq!(!call.body.is_empty(), has_body, "{status} {method}");
            assert_eq!(call.headers.contains_key(CONTENT_TYPE), has_body);
        }
    }

    #[test]
    fn nothing_that_a_user_set_goes_to_another_origin() {
        for to in ["/z", "?q", "../z", "http://a.example:80/", "//a.example/"] {
            let call = followed(Method::POST, 307, to);
            assert_eq!(call.headers.len(), 4, "{to}");
            assert_eq!(
                (call.url.username(), call.url.password()),
                ("user", Some("pass")),
                "{to}"
            );
        }
        for to in [
            "https://a.example/",
            "http://a.example:81/",
            "//b.example/",
            "http://a.example./",
        ] {
            let call = followed(Method::POST, 307, to);
            assert_eq!(
                call.headers.keys().collect::<Vec<_>>(),
                [CONTENT_TYPE],
                "{to}"
            );
            assert!(call.own_headers.contains_key("x-own") && call.url.username().is_empty());
        }
    }

    #[test]
    fn what_leads_nowhere_is_an_answer() {
        let url = Url::parse(FROM).unwrap();
        let to = |status: u16, to: &[u8]| {
            let value = HeaderValue::from_bytes(to).unwrap();
            let headers = HeaderMap::from_iter([(LOCATION, value)]);
            location(&url, StatusCode::from_u16(status).unwrap(), &headers)
        };
        for status in [200, 201, 300, 304, 305, 306, 400, 503] {
            assert_eq!(to(status, b"/z"), None, "{status}");
        }
        for bad in [
            b"http://" as &[u8],
            b"http://[::1",
            b"http://a b/",
            b"\xff\xfe",
        ] {
            assert_eq!(to(302, bad), None, "{bad:?}");
        }
        assert_eq!(location(&url, StatusCode::FOUND, &HeaderMap::new()), None);
        assert_eq!(
            to(302, b"/z#part").unwrap().as_str(),
            "http://user:pass@a.example/z"
        );
    }
}
