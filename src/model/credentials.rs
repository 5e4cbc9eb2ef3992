//! By what users are let in where that is not their UUID: a password or key that a panel pushes. Such
//! a user's id is derived from it with a key of this host, so that it tells nothing of the password
//! (e-mails stand in Xray's logs). Pure; what is secret prints as stars.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::ids::UserId;
use crate::base::secret::Secret;

/// Before the password, so that the key could serve for something else, too.
const TAG: &[u8] = b"xray-agent pushed user\0";
/// The version of a UUID whose bits are anybody's own (RFC 9562).
const OWN_VERSION: u8 = 0x80;
/// The variant of every UUID of RFC 9562.
const VARIANT: u8 = 0x80;

/// Bytes of the key by which ids are derived: as many as SHA-256 makes.
pub const KEY_BYTES: usize = 32;

/// What an inbound's users show to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialForm {
    /// A UUID (VLESS, VMess).
    Uuid,
    /// Any text (Trojan, Shadowsocks, Hysteria).
    Text,
    /// The base64 of 16 bytes (Shadowsocks 2022).
    Key16,
    /// The base64 of 32 bytes (Shadowsocks 2022).
    Key32,
}

/// Makes ids of passwords. One without a key makes none.
#[derive(Clone, Default)]
pub struct DerivingKey(Option<Arc<hmac::Key>>);

impl DerivingKey {
    /// With this key.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(Some(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key))))
    }

    /// The id of whoever has this password: a UUID of version 8.
    pub fn derive(&self, password: &str) -> Option<UserId> {
        let mut signing = hmac::Context::with_key(self.0.as_deref()?);
        signing.update(TAG);
        signing.update(password.as_bytes());
        let tag = signing.sign();
        let mut bytes: [u8; 16] = tag.as_ref().get(..16)?.try_into().ok()?;
        bytes[6] = bytes[6] & 0x0f | OWN_VERSION;
        bytes[8] = bytes[8] & 0x3f | VARIANT;
        Some(UserId::from_bytes(bytes))
    }

    /// The id of whoever is let in by this text: a UUID as it is usually written is that user's, any
    /// other text is one from which the id is derived.
    pub fn user_of(&self, text: &str) -> Option<UserId> {
        let plain = UserId::parse(text).filter(|user| user.text() == text);
        plain.or_else(|| self.derive(text))
    }
}

impl fmt::Debug for DerivingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Two keys are equal that make the same ids.
impl PartialEq for DerivingKey {
    fn eq(&self, other: &Self) -> bool {
        self.derive("") == other.derive("")
    }
}

impl Eq for DerivingKey {}

/// Whether this id may be a derived one: nobody but [`Credentials`] knows then what the user is let in
/// by. An ordinary UUID of version 8 looks the same.
pub fn may_be_derived(user: UserId) -> bool {
    let bytes = user.bytes();
    bytes[6] & 0xf0 == OWN_VERSION && bytes[8] & 0xc0 == VARIANT
}

/// By what users are let in whose ids may be derived. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials(Option<Arc<HashMap<UserId, Arc<Secret>>>>);

impl Credentials {
    /// Of a table.
    pub fn new(table: HashMap<UserId, Arc<Secret>>) -> Self {
        Self((!table.is_empty()).then(|| Arc::new(table)))
    }

    /// By what `user` is let in, if it is known here.
    pub fn get(&self, user: UserId) -> Option<&Secret> {
        let known = self.0.as_ref()?.get(&user)?;
        Some(known)
    }

    /// Both; what is known twice is taken from `self`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(own), Some(others)) => {
                let mut table = HashMap::clone(&others);
                table.extend(own.iter().map(|(user, secret)| (*user, secret.clone())));
                Self::new(table)
            }
            (own, others) => Self(own.or(others)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DerivingKey {
        DerivingKey::new(&[7; KEY_BYTES])
    }

    #[test]
    fn a_uuid_is_its_own_user_and_any_other_text_gets_an_id_of_version_8() {
        let text = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
        assert_eq!(key().user_of(text), UserId::parse(text));
        assert_eq!(DerivingKey::default().user_of(text), UserId::parse(text));
        for other in [&*text.to_uppercase(), "hunter2", "", "pässword"] {
            let user = key().user_of(other).unwrap();
            assert!(may_be_derived(user), "{other}");
            assert_eq!(key().derive(other), Some(user));
            assert_eq!(user.text().as_bytes()[14], b'8');
            assert_eq!(DerivingKey::default().user_of(other), None);
        }
        assert!(!may_be_derived(UserId::parse(text).unwrap()));
    }

    #[test]
    fn an_id_depends_on_password_and_key() {
        let other = DerivingKey::new(&[8; KEY_BYTES]);
        assert_ne!(key().derive("hunter2"), key().derive("hunter3"));
        assert_ne!(key().derive("hunter2"), other.derive("hunter2"));
        assert_ne!(key(), other);
        assert_eq!(key(), key());
        assert_eq!(format!("{:?}", key()), "***");
    }

    #[test]
    fn tables_are_united_and_the_first_word_counts() {
        let of = |pairs: &[(u8, &str)]| {
            let pairs = pairs.iter();
            let pairs =
                pairs.map(|(n, text)| (UserId::from_bytes([*n; 16]), Arc::new(Secret::new(*text))));
            Credentials::new(pairs.collect())
        };
        let both = of(&[(1, "a"), (2, "b")]).and(of(&[(2, "c"), (3, "d")]));
        assert_eq!(both, of(&[(1, "a"), (2, "b"), (3, "d")]));
        assert_eq!(of(&[]).and(of(&[(1, "a")])), of(&[(1, "a")]));
        assert!(of(&[]).get(UserId::from_bytes([1; 16])).is_none());
    }
}
