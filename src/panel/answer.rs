//! Reads the panel's answers. Pure. Strict where a doubt could cost users their access: a list that
//! is not wholly and plainly the one that was asked for is an error.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{Reason, beginning};
use crate::model::ids::NodeId;
use crate::model::user_list::{Reader, UserList};

/// Longest pause that is granted: a panel that asks for more is asked again sooner.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// The panel's own word.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    pub(super) code: i64,
    #[serde(borrow, default)]
    pub(super) message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AllowedData<'a> {
    node_id: u64,
    #[serde(borrow)]
    uuids: &'a RawValue,
}

impl Envelope<'_> {
    /// It as a reason, for whoever did not ask for its data.
    pub(super) fn refusal(&self, status: StatusCode, retry_after: Option<Duration>) -> Reason {
        Reason::Refused {
            status,
            code: self.code,
            message: beginning(self.message.as_deref().unwrap_or_default().as_bytes()),
            retry_after,
        }
    }
}

/// The envelope that a body is, the whole of it; or what the body is instead.
pub(super) fn envelope(body: &[u8]) -> Result<Envelope<'_>, String> {
    if body.is_empty() {
        return Err("with no body".to_owned());
    }
    // Serde would take a list of the fields' values, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("not with the panel's JSON object".to_owned());
    }
    let not_json = |e: &dyn fmt::Display| format!("not with the panel's JSON ({e})");
    // Serde does not look at the texts of keys that it passes over.
    let text = str::from_utf8(body).map_err(|e| not_json(&e))?;
    serde_json::from_str(text).map_err(|e| not_json(&e))
}

/// What `Retry-After` asks for: seconds, or a date of HTTP.
pub(super) fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let asked = if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let until = date(text)?;
        // A date that is past asks for no pause.
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

/// A date of HTTP.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

/// The `data` of a successful envelope: HTTP 200 *and* `code` 200.
pub(super) fn data(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Result<&RawValue, Reason> {
    let envelope =
        envelope(body).map_err(|why| Reason::malformed(status, retry_after, why, body))?;
    if status != StatusCode::OK || envelope.code != 200 {
        return Err(envelope.refusal(status, retry_after));
    }
    envelope
        .data
        .ok_or_else(|| Reason::malformed(status, retry_after, "without data", body))
}

/// The users in the `data` of `allowed-uuids`.
pub(super) fn allowed(data: &RawValue, node: NodeId, users_max: usize) -> Result<UserList, Reason> {
    let absurd = |why: String| Reason::Absurd(why);
    if !data.get().starts_with('{') {
        return Err(absurd("the answer's data is not {node_id, uuids}".into()));
    }
    let data: AllowedData<'_> = serde_json::from_str(data.get())
        .map_err(|e| absurd(format!("the answer's data is not {{node_id, uuids}}: {e}")))?;
    if data.node_id != node.0 {
        return Err(absurd(format!(
            "asked for node {node}, the answer is for node {}",
            data.node_id
        )));
    }
    let mut json = serde_json::Deserializer::from_str(data.uuids.get());
    let reader = Uuids { users_max }
        .deserialize(&mut json)
        .map_err(|e| absurd(format!("the answer's uuids cannot be taken: {e}")))?;
    reader.finish().map_err(|e| absurd(e.to_string()))
}

/// A list of texts, read one at a time and not past the limit.
struct Uuids {
    users_max: usize,
}

impl<'de> DeserializeSeed<'de> for Uuids {
    type Value = Reader;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Reader, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Uuids {
    type Value = Reader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Reader, A::Error> {
        let mut reader = Reader::default();
        while let Some(entry) = list.next_element::<Text<'de>>()? {
            if reader.entries() == self.users_max {
                let why = format!("more than {} users (panel.users_max)", self.users_max);
                return Err(serde::de::Error::custom(why));
            }
            reader.push(&entry.0);
        }
        Ok(reader)
    }
}

/// Borrowed where it has no escapes, which no UUID has.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::base::secret::Secret;
    use crate::model::ids::UserId;

    const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";

    fn read(body: &str) -> Result<UserList, Reason> {
        read_bytes(body.as_bytes())
    }

    fn read_bytes(body: &[u8]) -> Result<UserList, Reason> {
        allowed(data(StatusCode::OK, None, body)?, NodeId(1), 3)
    }

    fn list(uuids: &str) -> String {
        format!(r#"{{"code":200,"message":"ok","data":{{"node_id":1,"uuids":{uuids}}}}}"#)
    }

    #[test]
    fn a_good_answer_is_read() {
        let answer = list(&format!(
            r#"["{A}"," {} ","\u0061bc",""]"#,
            A.to_uppercase()
        ));
        // Four entries are over the limit of three, whatever they hold.
        assert!(matches!(read(&answer), Err(Reason::Absurd(why)) if why.contains("users_max")));
        let answer = list(&format!(r#"["{A}"," {} ","\u0061bc"]"#, A.to_uppercase()));
        let read = read(&answer).unwrap();
        assert_eq!((read.users.len(), read.malformed), (1, 1));
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(read(&list("[]")).unwrap().users.len(), 0);
    }

    #[test]
    fn whatever_is_not_plainly_a_list_is_an_error() {
        let bad = [
            String::new(),
            "<html>".into(),
            "null".into(),
            "[]".into(),
            "{}".into(),
            r#"{"code":200}"#.into(),
            r#"{"code":"200","data":{"node_id":1,"uuids":[]}}"#.into(),
            r#"{"code":200,"data":null}"#.into(),
            r#"{"code":200,"data":[]}"#.into(),
            format!(r#"{{"code":200,"data":[1,["{A}"]]}}"#),
            format!(r#"[200,"ok",{{"node_id":1,"uuids":["{A}"]}}]"#),
            r#"{"code":200,"data":{"node_id":1}}"#.into(),
            r#"{"code":200,"data":{"uuids":[]}}"#.into(),
            r#"{"code":200,"data":{"node_id":2,"uuids":[]}}"#.into(),
            r#"{"code":200,"data":{"node_id":"1","uuids":[]}}"#.into(),
            r#"{"code":500,"message":"db","data":{"node_id":1,"uuids":[]}}"#.into(),
            list("null"),
            list("{}"),
            list(r#""""#),
            list("[1]"),
            list("[null]"),
            list(&format!(r#"["{A}",7]"#)),
            list(r#"["x","y"]"#),
            format!("{} ", &list("[]")[..40]),
            format!("{}x", list("[]")),
            r#"{"code":200,"code":200,"data":{"node_id":1,"uuids":[]}}"#.into(),
            r#"{"code":200,"data":{"node_id":1,"uuids":[],"uuids":[]}}"#.into(),
        ];
        for body in bad {
            assert!(read(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn only_status_200_is_success() {
        for status in [201, 204, 206, 400, 403, 404, 500, 502] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(
                data(status, None, list("[]").as_bytes()).is_err(),
                "{status}"
            );
        }
    }

    #[test]
    fn an_error_tells_neither_the_token_nor_a_user() {
        let token = Secret::new("canary-token");
        let edge = "x".repeat(195);
        for secret in [A, token.expose()] {
            let message = format!(r#"{{"code":500,"message":"{edge}{secret}"}}"#);
            let spoiled = [
                format!("{edge}{secret}"),
                format!("{}{secret}", &edge[..170]),
                message,
                format!(r#"{{"code":"{secret}"}}"#),
                format!(r#"{{"code":200,"data":"{secret}"}}"#),
                format!(r#"{{"code":200,"data":{{"node_id":"{secret}","uuids":[]}}}}"#),
                list(&format!(r#""{secret}""#)),
                list(&format!(r#"{{"{secret}":1}}"#)),
            ];
            for body in spoiled {
                let told = read(&body).unwrap_err().told(&token).to_string();
                assert!(!told.contains(&secret[..10]), "{told}");
            }
        }
    }

    #[test]
    fn an_envelope_is_text_throughout() {
        let passed_over = b"{\"code\":200,\"other\":\"\x80\"}";
        assert!(envelope(passed_over).err().unwrap().contains("utf-8"));
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_a_date() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("3601", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sat, 21 Nov 2026 12:01:30 GMT", Some(90)),
            ("Sat, 21 Nov 2026 23:00:00 GMT", Some(3600)),
            ("Fri, 20 Nov 2026 12:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("2026-11-21T12:01:30Z", None),
        ];
        for (text, secs) in cases {
            assert_eq!(
                retry_after(text, now),
                secs.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_shows_the_beginning_without_uuids() {
        let body = format!("<html>{A} {}", "x".repeat(1000));
        let pause = Some(Duration::from_secs(7));
        let error = data(StatusCode::BAD_GATEWAY, pause, body.as_bytes()).unwrap_err();
        let error = error.told(&Secret::new("token"));
        let text = error.to_string();
        assert!(
            text.contains("502") && text.contains("<html>aaaaaaaa"),
            "{text}"
        );
        assert!(!text.contains(A) && text.len() < 400, "{text}");
        assert!(
            matches!(error, Reason::Malformed { retry_after: Some(d), .. } if d.as_secs() == 7)
        );
    }

    /// What a reader that trusts nothing takes for the users of node 1 in an answer.
    fn plainly_listed(body: &[u8]) -> Option<Vec<UserId>> {
        let json: serde_json::Value = serde_json::from_slice(body).ok()?;
        let data =
            (json["code"] == 200 && json["data"]["node_id"] == 1).then_some(&json["data"])?;
        let entries = data["uuids"].as_array()?;
        let mut users = Vec::new();
        for entry in entries {
            users.extend(UserId::parse(entry.as_str()?.trim()));
        }
        users.sort_unstable();
        users.dedup();
        Some(users)
    }

    fn good() -> String {
        let uuid = |n: u8| UserId::from_bytes([n; 16]).text();
        list(&format!(
            r#"["{}","{}","{}"]"#,
            uuid(1),
            uuid(0xab),
            uuid(3)
        ))
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, json in r#"[\[\]{}",:0-9a-z\\ ]{0,60}"#) {
            let _ = read_bytes(&body);
            let _ = read(&json);
            let _ = read(&list(&json));
        }

        #[test]
        fn an_answer_that_was_cut_is_no_list(length in 0..good().len()) {
            prop_assert!(read(&good()[..length]).is_err());
        }

        #[test]
        fn of_a_garbled_answer_only_a_plain_list_is_taken(
            changes in vec((0..good().len(), 0u8..3, any::<u8>()), 1..4)
        ) {
            let mut body = good().into_bytes();
            for (at, how, byte) in changes {
                let at = at.min(body.len() - 1);
                match how {
                    0 => body[at] = byte,
                    1 => body.insert(at, byte),
                    _ => drop(body.remove(at)),
                }
            }
            if let Ok(list) = read_bytes(&body) {
                prop_assert_eq!(plainly_listed(&body), Some(list.users.to_vec()));
            }
        }
    }
}
