//! By what a target knows that a delivery is ours: the header that the real panel checks, and the
//! signature of Standard Webhooks (<https://www.standardwebhooks.com>), over id, time and body.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::base::secret::Secret;
use crate::model::event::EventId;

/// Before a secret that is the base64 of a key; any other secret is a key as it stands.
const ENCODED: &str = "whsec_";

/// All headers of a delivery; names in lower case.
pub fn headers(
    event: EventId,
    now: Timestamp,
    body: &[u8],
    secret: Option<&Secret>,
    bearer: Option<&Secret>,
) -> Vec<(&'static str, Secret)> {
    let id = event.to_string();
    let mut headers = vec![
        ("content-type", Secret::new("application/json")),
        ("x-event-id", Secret::new(id.clone())),
    ];
    if let Some(bearer) = bearer {
        let value = format!("Bearer {}", bearer.expose());
        headers.push(("authorization", Secret::new(value)));
    }
    if let Some(secret) = secret {
        let time = now.as_second();
        let signature = signature(secret, &id, time, body);
        headers.extend([
            ("x-znp-webhook-token", secret.clone()),
            ("webhook-id", Secret::new(id)),
            ("webhook-timestamp", Secret::new(time.to_string())),
            ("webhook-signature", Secret::new(signature)),
        ]);
    }
    headers
}

/// `v1,<base64 of the HMAC-SHA-256>`; `time` in seconds since 1970.
fn signature(secret: &Secret, id: &str, time: i64, body: &[u8]) -> String {
    let text = secret.expose();
    let decoded = text
        .strip_prefix(ENCODED)
        .and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = decoded.unwrap_or_else(|| text.as_bytes().to_vec());
    let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    signing.update(format!("{id}.{time}.").as_bytes());
    signing.update(body);
    format!("v1,{}", STANDARD.encode(signing.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_that_others_make() {
        for (secret, id, time, body, right) in [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            // By Python's `hmac`, for a secret that is a key as it stands.
            (
                "Jefe",
                "what do ya want for nothing?",
                0,
                "",
                "v1,qEg2gGNtUqYi5jTx9NaGpPdW6IqYea/aSSiPL1fsXvE=",
            ),
        ] {
            let signed = signature(&Secret::new(secret), id, time, body.as_bytes());
            assert_eq!(signed, right, "{secret}");
        }
    }

    #[test]
    fn a_secret_that_only_looks_encoded_is_a_key_as_it_stands() {
        let signed = |secret: &str| signature(&Secret::new(secret), "id", 1, b"{}");
        assert_ne!(signed("whsec_???"), signed("???"));
        assert_ne!(signed("whsec_AAAA"), signed("AAAA"));
    }

    #[test]
    fn only_who_has_a_secret_is_sent_one() {
        let names = |secret: Option<&Secret>, bearer: Option<&Secret>| -> Vec<_> {
            let headers = headers(
                EventId::generate(),
                Timestamp::UNIX_EPOCH,
                b"",
                secret,
                bearer,
            );
            headers.into_iter().map(|(name, _)| name).collect()
        };
        let secret = Secret::new("s");
        assert_eq!(names(None, None), ["content-type", "x-event-id"]);
        assert_eq!(
            names(None, Some(&secret)),
            ["content-type", "x-event-id", "authorization"]
        );
        assert_eq!(
            names(Some(&secret), None),
            [
                "content-type",
                "x-event-id",
                "x-znp-webhook-token",
                "webhook-id",
                "webhook-timestamp",
                "webhook-signature"
            ]
        );
    }
}
