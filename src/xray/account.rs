//! How a user's UUID, or the password from which his id is derived, becomes an account of an inbound's
//! protocol, and how one that is there is read (credentials: `behaviour.md` §8). Pure. The only maker of accounts: one of another protocol than
//! the inbound's would end the whole Xray.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::{Message, Name};

use super::proto::xray::common::protocol::User;
use super::proto::xray::common::serial::TypedMessage;
use super::proto::xray::proxy;
use crate::config::Protocol;
use crate::model::credentials::{CredentialForm, Credentials, DerivingKey, may_be_derived};
use crate::model::ids::UserId;

pub use super::proto::xray::proxy::shadowsocks::CipherType as Cipher;

/// Everything that decides how the users of one inbound are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSpec {
    /// The inbound's protocol with what its accounts need besides the UUID.
    pub kind: AccountKind,
    /// Policy level.
    pub level: u32,
    /// By what the ids of users are told who show no UUID.
    pub key: DerivingKey,
    /// What users show whose ids are derived.
    pub credentials: Credentials,
}

/// A protocol with what its accounts need besides the UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountKind {
    /// `id` = UUID, with a flow (empty for none).
    Vless {
        /// The flow, as Xray spells it.
        flow: String,
    },
    /// `id` = UUID.
    Vmess,
    /// `password` = UUID.
    Trojan,
    /// `password` = UUID, under the inbound's cipher.
    Shadowsocks {
        /// The cipher that its users have.
        cipher: Cipher,
    },
    /// `key` = base64 of the first characters of the UUID's text.
    Shadowsocks2022 {
        /// How many: 16 or 32.
        key_bytes: KeyBytes,
    },
    /// `auth` = UUID.
    Hysteria,
}

/// Length of a Shadowsocks 2022 key. Any other freezes the user table of older cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyBytes {
    /// `2022-blake3-aes-128-gcm`.
    K16,
    /// `2022-blake3-aes-256-gcm`.
    K32,
}

impl KeyBytes {
    const fn len(self) -> usize {
        match self {
            Self::K16 => 16,
            Self::K32 => 32,
        }
    }
}

/// The bits of a UUID by which Xray tells two users of this protocol apart. Two users equal in them
/// share one secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey([u8; 16]);

impl SecretKey {
    /// The first 6 bytes, which in every protocol are those of the user.
    pub fn prefix(&self) -> &[u8] {
        &self.0[..6]
    }
}

impl AccountKind {
    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Vless { .. } => Protocol::Vless,
            Self::Vmess => Protocol::Vmess,
            Self::Trojan => Protocol::Trojan,
            Self::Shadowsocks { .. } => Protocol::Shadowsocks,
            Self::Shadowsocks2022 { .. } => Protocol::Shadowsocks2022,
            Self::Hysteria => Protocol::Hysteria,
        }
    }

    /// What its users show to be let in.
    pub fn form(&self) -> CredentialForm {
        match self {
            Self::Vless { .. } | Self::Vmess => CredentialForm::Uuid,
            Self::Trojan | Self::Shadowsocks { .. } | Self::Hysteria => CredentialForm::Text,
            Self::Shadowsocks2022 {
                key_bytes: KeyBytes::K16,
            } => CredentialForm::Key16,
            Self::Shadowsocks2022 {
                key_bytes: KeyBytes::K32,
            } => CredentialForm::Key32,
        }
    }

    /// What of `user` this protocol's secret depends on: VLESS and Hysteria pass over bytes 6 and 7,
    /// a 2022 key of 16 bytes holds bytes 0 to 6, one of 32 bytes 0 to 13.
    pub fn secret_key(&self, user: UserId) -> SecretKey {
        let mut bytes = *user.bytes();
        match self {
            Self::Vless { .. } | Self::Hysteria => bytes[6..8].fill(0),
            Self::Shadowsocks2022 {
                key_bytes: KeyBytes::K16,
            } => bytes[7..].fill(0),
            Self::Shadowsocks2022 {
                key_bytes: KeyBytes::K32,
            } => bytes[14..].fill(0),
            Self::Vmess | Self::Trojan | Self::Shadowsocks { .. } => {}
        }
        SecretKey(bytes)
    }

    /// The account of whoever shows `text`; `None`: this protocol has none for it.
    fn account(&self, text: String) -> Option<TypedMessage> {
        Some(match self {
            Self::Vless { flow } => typed(&proxy::vless::Account {
                id: text,
                flow: flow.clone(),
                ..Default::default()
            }),
            Self::Vmess => typed(&proxy::vmess::Account { id: text }),
            Self::Trojan => typed(&proxy::trojan::Account { password: text }),
            Self::Shadowsocks { cipher } => typed(&proxy::shadowsocks::Account {
                password: text,
                cipher_type: (*cipher).into(),
            }),
            Self::Shadowsocks2022 { key_bytes } => typed(&proxy::shadowsocks_2022::Account {
                key: key_of(text, *key_bytes)?,
            }),
            Self::Hysteria => typed(&proxy::hysteria::account::Account { auth: text }),
        })
    }

    /// What a user's entry in Xray holds, as far as it concerns us.
    fn read(&self, account: &TypedMessage, ids: &DerivingKey) -> Read {
        match self {
            Self::Vless { flow } => match untyped::<proxy::vless::Account>(account) {
                Some(found) => Read::uuid(self, &found.id, found.flow == *flow),
                None => Read::NOTHING,
            },
            Self::Vmess => untyped::<proxy::vmess::Account>(account)
                .map_or(Read::NOTHING, |found| Read::uuid(self, &found.id, true)),
            Self::Trojan => untyped::<proxy::trojan::Account>(account)
                .map_or(Read::NOTHING, |found| {
                    Read::text(self, ids.user_of(&found.password), true)
                }),
            Self::Shadowsocks { cipher } => match untyped::<proxy::shadowsocks::Account>(account) {
                Some(found) => {
                    let fits = found.cipher_type() == *cipher;
                    Read::text(self, ids.user_of(&found.password), fits)
                }
                None => Read::NOTHING,
            },
            Self::Shadowsocks2022 { key_bytes } => {
                untyped::<proxy::shadowsocks_2022::Account>(account)
                    .map_or(Read::NOTHING, |found| {
                        Read::key(self, &found.key, *key_bytes, ids)
                    })
            }
            Self::Hysteria => untyped::<proxy::hysteria::account::Account>(account)
                .map_or(Read::NOTHING, |found| {
                    Read::text(self, ids.user_of(&found.auth), true)
                }),
        }
    }
}

impl AccountSpec {
    /// One of this kind and level, whose users all show their UUIDs.
    pub fn new(kind: AccountKind, level: u32) -> Self {
        Self {
            kind,
            level,
            key: DerivingKey::default(),
            credentials: Credentials::default(),
        }
    }

    /// The entry of `user` under `email`, as it is sent to Xray; `None` where it is not known what he
    /// shows: an id that may be derived is never sent as if it were the password.
    pub fn user(&self, user: UserId, email: String) -> Option<User> {
        Some(User {
            level: self.level,
            email,
            account: Some(self.kind.account(self.text_of(user)?)?),
        })
    }

    fn text_of(&self, user: UserId) -> Option<String> {
        if self.kind.form() == CredentialForm::Uuid || !may_be_derived(user) {
            return Some(user.text());
        }
        let shown = self.credentials.get(user)?;
        Some(shown.expose().to_owned())
    }

    /// Whether `found` is just what [`AccountSpec::user`] would write for `user`, compared by field
    /// (Xray gives back more than it was sent), the e-mail left aside.
    pub fn is_as_written(&self, user: UserId, found: &User) -> bool {
        found.level == self.level
            && found.account.as_ref().is_some_and(|account| {
                let read = self.kind.read(account, &self.key);
                // A 2022 key tells only part of a UUID, so keys are compared, not users.
                read.rest_fits && read.secret == Some(self.kind.secret_key(user)) && {
                    read.whole.is_none_or(|whole| whole == user)
                }
            })
    }

    /// Whether the entry's account is of another protocol, so that its removal ends Xray. Of the
    /// protocols only VMess keeps entries that it refused, of whatever type.
    pub fn is_alien(&self, found: &User) -> bool {
        let own = self.kind.protocol();
        found
            .account
            .as_ref()
            .is_some_and(|account| match protocol_of_account(&account.r#type) {
                Some(protocol) => protocol != own,
                None => own == Protocol::Vmess,
            })
    }

    /// Which secret the entry holds, if it is one that a user of ours could have.
    pub fn secret_of(&self, found: &User) -> Option<SecretKey> {
        found
            .account
            .as_ref()
            .and_then(|account| self.kind.read(account, &self.key).secret)
    }
}

/// What was read of an account.
struct Read {
    secret: Option<SecretKey>,
    /// The whole UUID, where the account holds it.
    whole: Option<UserId>,
    /// Whether what it holds besides the secret is as we write it.
    rest_fits: bool,
}

impl Read {
    const NOTHING: Self = Self {
        secret: None,
        whole: None,
        rest_fits: false,
    };

    /// Xray knows the UUID as such: its spelling does not matter.
    fn uuid(kind: &AccountKind, id: &str, rest_fits: bool) -> Self {
        let whole = UserId::parse(id);
        Self {
            secret: whole.map(|user| kind.secret_key(user)),
            whole,
            rest_fits,
        }
    }

    /// Xray knows a text, which is that of this user.
    fn text(kind: &AccountKind, whole: Option<UserId>, rest_fits: bool) -> Self {
        Self {
            secret: whole.map(|user| kind.secret_key(user)),
            whole,
            rest_fits,
        }
    }

    /// A 2022 key holds the beginning of a UUID's text, or is one of somebody's own.
    fn key(kind: &AccountKind, key: &str, bytes: KeyBytes, ids: &DerivingKey) -> Self {
        let Some(beginning) = user_of_key(key, bytes) else {
            let is_key = is_key(key, bytes);
            return Self::text(kind, is_key.then(|| ids.derive(key)).flatten(), true);
        };
        Self {
            secret: Some(kind.secret_key(beginning)),
            whole: None,
            rest_fits: true,
        }
    }
}

/// The key of whoever shows this text: a UUID's first characters, or a key as it stands.
fn key_of(text: String, bytes: KeyBytes) -> Option<String> {
    if UserId::parse(&text).is_some() {
        return Some(STANDARD.encode(&text.as_bytes()[..bytes.len()]));
    }
    is_key(&text, bytes).then_some(text)
}

/// Whether this is a key of so many bytes in the one spelling that Xray gives back.
pub fn is_key(text: &str, bytes: KeyBytes) -> bool {
    let raw = STANDARD.decode(text).ok();
    raw.is_some_and(|raw| raw.len() == bytes.len() && STANDARD.encode(raw) == text)
}

/// The user, filled up with zeros, of whose UUID's text this key is the beginning.
pub fn user_of_key(key: &str, bytes: KeyBytes) -> Option<UserId> {
    const FILLER: &str = "00000000-0000-0000-0000-000000000000";
    let raw = STANDARD.decode(key).ok()?;
    let text = String::from_utf8(raw).ok()?;
    if text.len() != bytes.len() {
        return None;
    }
    let whole = UserId::parse(&format!("{text}{}", &FILLER[text.len()..]))?;
    whole.text().starts_with(&text).then_some(whole)
}

/// The protocol of an account by the name of its message.
pub fn protocol_of_account(account_type: &str) -> Option<Protocol> {
    let of = |name: String, protocol| (account_type == name).then_some(protocol);
    of(proxy::vless::Account::full_name(), Protocol::Vless)
        .or_else(|| of(proxy::vmess::Account::full_name(), Protocol::Vmess))
        .or_else(|| of(proxy::trojan::Account::full_name(), Protocol::Trojan))
        .or_else(|| {
            of(
                proxy::shadowsocks::Account::full_name(),
                Protocol::Shadowsocks,
            )
        })
        .or_else(|| {
            of(
                proxy::shadowsocks_2022::Account::full_name(),
                Protocol::Shadowsocks2022,
            )
        })
        .or_else(|| {
            of(
                proxy::hysteria::account::Account::full_name(),
                Protocol::Hysteria,
            )
        })
}

/// The cipher of a Shadowsocks user.
pub fn cipher_of(found: &User) -> Option<Cipher> {
    let account = untyped::<proxy::shadowsocks::Account>(found.account.as_ref()?)?;
    Some(account.cipher_type()).filter(|cipher| *cipher != Cipher::Unknown)
}

/// The key length of a Shadowsocks 2022 user.
pub fn key_bytes_of(found: &User) -> Option<KeyBytes> {
    let account = untyped::<proxy::shadowsocks_2022::Account>(found.account.as_ref()?)?;
    match STANDARD.decode(account.key).ok()?.len() {
        16 => Some(KeyBytes::K16),
        32 => Some(KeyBytes::K32),
        _ => None,
    }
}

/// The flow of a VLESS user; empty for none.
pub fn flow_of(found: &User) -> Option<String> {
    Some(untyped::<proxy::vless::Account>(found.account.as_ref()?)?.flow)
}

/// `message` with its full name beside it.
pub fn typed<M: Message + Name>(message: &M) -> TypedMessage {
    TypedMessage {
        r#type: M::full_name(),
        value: Bytes::from(message.encode_to_vec()),
    }
}

fn untyped<M: Message + Name + Default>(typed: &TypedMessage) -> Option<M> {
    (typed.r#type == M::full_name())
        .then(|| M::decode(typed.value.clone()).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<AccountKind> {
        vec![
            AccountKind::Vless {
                flow: "xtls-rprx-vision".into(),
            },
            AccountKind::Vmess,
            AccountKind::Trojan,
            AccountKind::Shadowsocks {
                cipher: Cipher::Aes256Gcm,
            },
            AccountKind::Shadowsocks2022 {
                key_bytes: KeyBytes::K16,
            },
            AccountKind::Shadowsocks2022 {
                key_bytes: KeyBytes::K32,
            },
            AccountKind::Hysteria,
        ]
    }

    fn user(byte: u8) -> UserId {
        UserId::from_bytes([byte; 16])
    }

    #[test]
    fn what_is_written_is_recognised_and_nothing_else_is() {
        for kind in kinds() {
            let spec = AccountSpec::new(kind.clone(), 0);
            let entry = spec.user(user(0xab), "e".into()).unwrap();
            assert!(spec.is_as_written(user(0xab), &entry), "{kind:?}");
            assert_eq!(
                spec.secret_of(&entry),
                Some(kind.secret_key(user(0xab))),
                "{kind:?}"
            );
            assert!(!spec.is_as_written(user(0xcd), &entry), "{kind:?}");
            let other_level = AccountSpec {
                level: 1,
                ..spec.clone()
            };
            assert!(!other_level.is_as_written(user(0xab), &entry), "{kind:?}");
            for other in kinds()
                .into_iter()
                .filter(|other| other.protocol() != kind.protocol())
            {
                let other = AccountSpec::new(other, 0);
                assert!(
                    !other.is_as_written(user(0xab), &entry),
                    "{kind:?} as {other:?}"
                );
            }
        }
    }

    #[test]
    fn an_account_of_another_protocol_is_alien() {
        for kind in kinds() {
            let spec = AccountSpec::new(kind, 0);
            let mut entry = spec.user(user(1), "e".into()).unwrap();
            for other in kinds() {
                entry.account = other.account(user(1).text());
                let expected = other.protocol() != spec.kind.protocol();
                assert_eq!(spec.is_alien(&entry), expected, "{other:?} in {spec:?}");
            }
            entry.account = Some(TypedMessage {
                r#type: "xray.proxy.shadowsocks_2022.User".into(),
                ..TypedMessage::default()
            });
            assert_eq!(spec.is_alien(&entry), spec.kind == AccountKind::Vmess);
        }
    }

    #[test]
    fn the_protocol_is_told_by_the_account() {
        for kind in kinds() {
            let account = kind.account(user(1).text()).unwrap();
            assert_eq!(protocol_of_account(&account.r#type), Some(kind.protocol()));
        }
        assert_eq!(protocol_of_account("xray.proxy.socks.Account"), None);
    }

    #[test]
    fn a_2022_key_is_the_beginning_of_the_text_not_of_the_bytes() {
        let id = UserId::parse("12345678-9abc-4def-8012-3456789abcde").unwrap();
        let k16 = AccountKind::Shadowsocks2022 {
            key_bytes: KeyBytes::K16,
        };
        let entry = AccountSpec::new(k16, 0).user(id, "e".into()).unwrap();
        let account: proxy::shadowsocks_2022::Account =
            untyped(entry.account.as_ref().unwrap()).unwrap();
        assert_eq!(STANDARD.decode(account.key).unwrap(), b"12345678-9abc-4d");
        assert_eq!(key_bytes_of(&entry), Some(KeyBytes::K16));
    }

    #[test]
    fn users_that_share_a_secret_are_seen() {
        let a = UserId::parse("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa").unwrap();
        let third_group = UserId::parse("aaaaaaaa-aaaa-1bbb-8aaa-aaaaaaaaaaaa").unwrap();
        let late = UserId::parse("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaabb").unwrap();
        let shares = |kind: &AccountKind, b| kind.secret_key(a) == kind.secret_key(b);
        let collisions: Vec<_> = kinds()
            .iter()
            .map(|k| (shares(k, third_group), shares(k, late)))
            .collect();
        let expected = [
            (true, false),  // VLESS
            (false, false), // VMess
            (false, false), // Trojan
            (false, false), // Shadowsocks
            (false, true),  // 2022, 16
            (false, true),  // 2022, 32
            (true, false),  // Hysteria
        ];
        assert_eq!(collisions, expected);
    }

    #[test]
    fn a_trojan_password_in_upper_case_is_another_secret() {
        let spec = AccountSpec::new(AccountKind::Trojan, 0);
        let password = user(0xab).text().to_uppercase();
        let found = User {
            account: Some(typed(&proxy::trojan::Account { password })),
            ..User::default()
        };
        assert!(!spec.is_as_written(user(0xab), &found));
        assert_eq!(spec.secret_of(&found), None);
    }
}
