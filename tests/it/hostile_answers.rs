//! Answers of a panel that must cost nobody the access, and what the agent has to say of each.

use std::time::Duration;

use serde_json::{Value, json};

use super::hostile::USERS;
use crate::lab::Answer;
use crate::lab::secrets::nth_uuid;
use crate::support::TOKEN;

/// One hostile answer, and what the log has to say of it.
pub struct Case {
    pub name: &'static str,
    pub answer: Answer,
    pub says: &'static [&'static str],
}

pub fn case(name: &'static str, answer: Answer, says: &'static [&'static str]) -> Case {
    Case { name, answer, says }
}

pub fn users() -> Vec<String> {
    (0..USERS).map(nth_uuid).collect()
}

/// A panel's success, as the text that a case spoils.
pub fn good() -> String {
    list(&json!(users()))
}

pub fn list(uuids: &Value) -> String {
    json!({"code": 200, "message": "success", "data": {"node_id": 1, "uuids": uuids}}).to_string()
}

pub fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Answer::bytes(200, "application/json; charset=utf-8", body.into())
}

pub fn envelope(code: &str, data: &str) -> Answer {
    ok(format!(
        r#"{{"code":{code},"message":"success","data":{data}}}"#
    ))
}

pub fn cut_short() -> Vec<Case> {
    let good = good();
    let cut = |length: usize| ok(&good.as_bytes()[..length]);
    let not_json: &[&str] = &[
        "allowed-uuids: answered 200 OK",
        "not with the panel's JSON",
    ];
    vec![
        case("cut after one byte", cut(1), not_json),
        case("cut in the envelope", cut(25), not_json),
        case("cut in a user", cut(good.len() / 2), not_json),
        case("cut before the end", cut(good.len() - 1), not_json),
        case("a page", Answer::html(200), not_json),
        case("blanks", ok("  \n"), not_json),
        case("nothing", ok(""), &["answered 200 OK", "with no body"]),
        case(
            "204",
            Answer::bytes(204, "text/plain", ""),
            &["answered 204 No Content", "with no body"],
        ),
        case(
            "a body without its end",
            ok(good.clone()).truncated(500),
            &["answered 200 OK"],
        ),
        case(
            "closed without an answer",
            Answer::close(),
            &["allowed-uuids: "],
        ),
        case(
            "1 GiB promised",
            ok(good.clone()).truncated(1 << 30),
            &["answered 200 OK"],
        ),
        case(
            "a body that stalls",
            ok(good).stalled(500),
            &["answered 200 OK", "HTTP_TIMEOUT_SECONDS"],
        ),
        case(
            "an answer that never comes",
            Answer::html(200).after(Duration::from_mins(10)),
            &["allowed-uuids: ", "HTTP_TIMEOUT_SECONDS"],
        ),
    ]
}

pub fn not_json() -> Vec<Case> {
    let good = good();
    let bad_utf8 = good.replacen("5eed", "5\u{0}ed", 1).replace('\u{0}', "@");
    let bad_utf8: Vec<u8> = bad_utf8
        .bytes()
        .map(|byte| if byte == b'@' { 0xff } else { byte })
        .collect();
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let says: &[&str] = &["allowed-uuids: answered 200 OK"];
    let spoiled = [
        ("invalid UTF-8", bad_utf8),
        ("UTF-16", utf16),
        ("a byte order mark", format!("\u{feff}{good}").into()),
        (
            "a code twice",
            good.replacen('{', r#"{"code":200,"#, 1).into(),
        ),
        (
            "data twice",
            good.replacen('{', r#"{"data":null,"#, 1).into(),
        ),
        (
            "users twice",
            good.replacen("\"uuids\"", "\"uuids\":[],\"uuids\"", 1)
                .into(),
        ),
        ("NaN", good.replacen("200", "NaN", 1).into()),
        ("garbage after it", format!("{good}garbage").into()),
        ("two documents", format!("{good}\n{good}").into()),
        ("NUL bytes after it", format!("{good}\0\0\0\0").into()),
        (
            "a NUL byte in a user",
            good.replacen("5eed", "5\0ed", 1).into(),
        ),
        ("nothing but depth", "[".repeat(10_000).into_bytes()),
        (
            "a list in place of the envelope",
            format!("[200,\"success\",{}]", one_user()).into(),
        ),
        ("null", b"null".to_vec()),
        ("a number", b"200".to_vec()),
    ];
    let cases = spoiled.into_iter();
    cases
        .map(|(name, body)| case(name, ok(body), says))
        .collect()
}

/// The `data` of a good answer that would leave one user only.
pub fn one_user() -> String {
    json!({"node_id": 1, "uuids": [nth_uuid(0)]}).to_string()
}

pub fn wrong_envelopes() -> Vec<Case> {
    let one = one_user();
    let of = |code: &str| envelope(code, &one);
    let text = nth_uuid(1);
    let says: &[&str] = &["allowed-uuids: answered 200 OK"];
    vec![
        case("code 500", of("500"), &["answered 200 OK", "code 500"]),
        case("code 403", of("403"), &["answered 200 OK", "code 403"]),
        case(
            "code 404",
            of("404"),
            &["answered 200 OK", "code 404", "NODE_IDS"],
        ),
        case("code 0", of("0"), &["answered 200 OK", "code 0"]),
        case("code as text", of(r#""200""#), says),
        case("code as a fraction", of("200.5"), says),
        case("code as true", of("true"), says),
        case("code as a user", of(&format!(r#""{text}""#)), says),
        case("no code", ok(format!(r#"{{"data":{one}}}"#)), says),
        case("no data", ok(r#"{"code":200,"message":"success"}"#), says),
        case("data null", envelope("200", "null"), says),
        case("data an empty list", envelope("200", "[]"), says),
        case(
            "data the list",
            envelope("200", &format!(r#"["{text}"]"#)),
            says,
        ),
        case(
            "data a text",
            envelope("200", &format!(r#""{text}""#)),
            says,
        ),
        case("data empty", envelope("200", "{}"), says),
    ]
}

pub fn wrong_lists() -> Vec<Case> {
    let user = nth_uuid(2);
    let data = |node: &str| {
        let data = format!(r#"{{"node_id":{node},"uuids":["{user}"]}}"#);
        envelope("200", &data)
    };
    let uuids = |uuids: &str| envelope("200", &format!(r#"{{"node_id":1,"uuids":{uuids}}}"#));
    let says: &[&str] = &["allowed-uuids: answered 200 OK"];
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let many: Vec<String> = (0..101).map(nth_uuid).collect();
    vec![
        case(
            "another node's list",
            data("2"),
            &["answered 200 OK", "asked for node 1"],
        ),
        case("a node as text", data(r#""1""#), says),
        case("a node as a user", data(&format!(r#""{user}""#)), says),
        case("a negative node", data("-1"), says),
        case("a node as a fraction", data("1.0"), says),
        case("no node", envelope("200", r#"{"uuids":[]}"#), says),
        case("no list", envelope("200", r#"{"node_id":1}"#), says),
        case("a list of null", uuids("null"), says),
        case(
            "a list that is an object",
            uuids(&format!(r#"{{"{user}":true}}"#)),
            says,
        ),
        case(
            "a list that is a user",
            uuids(&format!(r#""{user}""#)),
            says,
        ),
        case("a list of numbers", uuids("[1,2,3]"), says),
        case(
            "a user and a number",
            uuids(&format!(r#"["{user}",7]"#)),
            says,
        ),
        case(
            "a user and null",
            uuids(&format!(r#"["{user}",null]"#)),
            says,
        ),
        case(
            "a user in a list in a list",
            uuids(&format!(r#"[["{user}"]]"#)),
            says,
        ),
        case("a list 10 000 deep", uuids(&deep), says),
        case("no user among the users", uuids(r#"["x","y","z"]"#), says),
        case(
            "more users than may be",
            Answer::users(1, &json!(many)),
            &["answered 200 OK", "panel.users_max"],
        ),
    ]
}

pub fn too_large() -> Vec<Case> {
    let says: &[&str] = &["answered 200 OK", "panel.body_bytes_max"];
    let gzipped = |body: Vec<u8>| ok(body).header("content-encoding", "gzip");
    vec![
        case(
            "100 MB, announced",
            Answer::endless_zeros().header("content-length", "100000000"),
            says,
        ),
        case("zeros for ever", Answer::endless_zeros(), says),
        case("users for ever", Answer::endless_list(1), says),
        case("100 MB of zeros as gzip", gzipped(bomb(100 << 20)), says),
        case(
            "plain under the name of gzip",
            gzipped(good().into_bytes()),
            &["answered 200 OK"],
        ),
        case(
            "half a gzip",
            gzipped(stored_gzip(good().as_bytes())[..600].to_vec()),
            &["answered 200 OK"],
        ),
    ]
}

pub fn wrong_statuses() -> Vec<Case> {
    let late = Answer::html(429).header("retry-after", "3600");
    let whole = |status| Answer::bytes(status, "application/json", good());
    vec![
        case(
            "a wrong token",
            Answer::error(403, "forbidden"),
            &["403", "INTERNAL_API_KEY"],
        ),
        case(
            "no such node",
            Answer::error(404, "node not found"),
            &["404", "NODE_IDS"],
        ),
        case(
            "a broken database",
            Answer::error(500, "ER_LOCK"),
            &["500", "ER_LOCK"],
        ),
        case("too many questions", late, &["answered 429"]),
        case(
            "a proxy's 502",
            Answer::html(502),
            &["answered 502", "nginx"],
        ),
        case(
            "a proxy's 503",
            Answer::bytes(503, "text/plain", ""),
            &["answered 503"],
        ),
        case(
            "a proxy's 504",
            Answer::html(504),
            &["answered 504", "nginx"],
        ),
        case("a list with 201", whole(201), &["answered 201"]),
        case("a list with 206", whole(206), &["answered 206"]),
        case("a list with 500", whole(500), &["answered 500"]),
        case(
            "304 to a question without an ETag",
            Answer::not_modified("W/\"1\""),
            &["answered 304", "ETag"],
        ),
    ]
}

/// Answers that hold what must not be told, where a careless message would tell it.
pub fn leaking() -> Vec<Case> {
    let (token, user) = (TOKEN, nth_uuid(3));
    // Shown are the first 200 characters: a user or token that begins before them ends after them.
    let at_the_edge = |what: &str| format!("{}{what}", "x".repeat(200 - what.len() + 1));
    let of = |text: &str| Answer::error(500, text);
    let page = |text: &str| Answer::bytes(502, "text/html", text.to_owned());
    let says_500: &[&str] = &["answered 500"];
    let says_502: &[&str] = &["answered 502"];
    vec![
        case(
            "SQL with a user",
            of(&format!("WHERE uuid='{user}'")),
            says_500,
        ),
        case(
            "a user at the edge of what is shown",
            page(&at_the_edge(&user)),
            says_502,
        ),
        case(
            "a user at the edge of a message",
            of(&at_the_edge(&user)),
            says_500,
        ),
        case(
            "the token in a message",
            of(&format!("bad key {token}")),
            says_500,
        ),
        case(
            "the token in a page",
            page(&format!("x-internal-token: {token}")),
            says_502,
        ),
        case("the token at the edge", page(&at_the_edge(token)), says_502),
        case(
            "the token as a redirect's host",
            Answer::html(302).header("location", format!("http://{token}/")),
            &["answered 302"],
        ),
        case(
            "the token as the list",
            envelope("200", &format!(r#"{{"node_id":1,"uuids":"{token}"}}"#)),
            &["answered 200 OK"],
        ),
    ]
}

/// Well-formed lists that would cost nearly everybody the access.
pub fn braked() -> Vec<Case> {
    let mut mixed: Vec<String> = (1..USERS).map(|n| format!("malformed {n}")).collect();
    mixed.push(nth_uuid(0));
    let says: &[&str] = &["removals are held"];
    vec![
        case("an empty list", Answer::users(1, &json!([])), says),
        case(
            "a list of blanks",
            Answer::users(1, &json!(["", " "])),
            says,
        ),
        case("one of all", Answer::users(1, &json!([nth_uuid(0)])), says),
        case("others", Answer::users(1, &json!([nth_uuid(0), " "])), says),
        case(
            "one that is no nonsense",
            Answer::users(1, &json!(mixed)),
            says,
        ),
    ]
}

/// That many zeros, as gzip packs them: 158 times smaller. Without the end, which nobody reaches.
pub fn bomb(zeros: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.push(&[1, 1, 0]); // last block, fixed codes
    bits.push(&[0, 0, 1, 1, 0, 0, 0, 0]); // a zero
    for _ in 0..zeros / 258 {
        bits.push(&[1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]); // 258 times the byte before
    }
    [&GZIP_HEAD[..], &bits.bytes].concat()
}

const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

#[derive(Default)]
pub struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn push(&mut self, bits: &[u8]) {
        for bit in bits {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= bit << (self.used % 8);
            self.used += 1;
        }
    }
}

/// A small text as gzip, not packed at all.
pub fn stored_gzip(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a small text");
    let mut gzip = GZIP_HEAD.to_vec();
    gzip.push(1);
    gzip.extend(length.to_le_bytes());
    gzip.extend((!length).to_le_bytes());
    gzip.extend(text);
    gzip.extend(crc32(text).to_le_bytes());
    gzip.extend(u32::from(length).to_le_bytes());
    gzip
}

pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}
