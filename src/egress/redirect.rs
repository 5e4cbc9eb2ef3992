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
