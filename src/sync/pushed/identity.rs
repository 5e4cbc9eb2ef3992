//! Who a pushed user is towards Xray: his UUID, or an id derived of his password. And which passwords
//! an inbound can have at all. Pure.

use crate::model::credentials::{CredentialForm, DerivingKey};
use crate::model::ids::UserId;
use crate::model::pushed::PushedUser;
use crate::xray::account::{KeyBytes, is_key, user_of_key};

/// Longest password in bytes: more than any panel makes, and no weight on Xray's tables.
pub const PASSWORD_BYTES_MAX: usize = 256;

/// A pushed user's ids by what an inbound's users show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// Where they show a UUID.
    pub uuid: Option<UserId>,
    /// Where they show a text.
    pub text: Option<UserId>,
    /// Where they show a key, with its length, if the password is one.
    pub key: Option<(KeyBytes, UserId)>,
    /// The password is a UUID: keys are made of it as they are for polled users.
    is_uuid: bool,
}

impl Identities {
    /// Those of a user with this UUID, if he has one, and password.
    pub fn new(uuid: Option<UserId>, password: &str, ids: &DerivingKey) -> Self {
        let lengths = [KeyBytes::K16, KeyBytes::K32];
        let length = lengths.into_iter().find(|bytes| is_key(password, *bytes));
        let key = length.and_then(|bytes| {
            // Xray could not tell him from whoever has the UUID of which it is the beginning.
            let user = user_of_key(password, bytes).or_else(|| ids.derive(password));
            Some((bytes, user?))
        });
        let is_text = wrong_text(password).is_none();
        Self {
            uuid,
            text: is_text.then(|| ids.user_of(password)).flatten(),
            key,
            is_uuid: UserId::parse(password).is_some_and(|user| user.text() == password),
        }
    }

    /// His id in an inbound whose users show credentials of this form; `None`: he has none for it.
    pub fn in_form(&self, form: CredentialForm) -> Option<UserId> {
        let key = |bytes| match self.key {
            Some((own, user)) => (own == bytes).then_some(user),
            None => self.text.filter(|_| self.is_uuid),
        };
        match form {
            CredentialForm::Uuid => self.uuid,
            CredentialForm::Text => self.text,
            CredentialForm::Key16 => key(KeyBytes::K16),
            CredentialForm::Key32 => key(KeyBytes::K32),
        }
    }

    /// All of them, each once.
    pub fn all(&self) -> impl Iterator<Item = UserId> + use<> {
        let key = self.key.map(|(_, user)| user);
        let text = self.text.filter(|text| self.uuid != Some(*text));
        let key = key.filter(|key| self.uuid != Some(*key) && self.text != Some(*key));
        [self.uuid, text, key].into_iter().flatten()
    }

    /// Whether it is one of his.
    pub fn has(&self, user: UserId) -> bool {
        self.all().any(|own| own == user)
    }
}

/// A user's UUID: the first that is a whole one of `metadata.uuid`, name, password and id.
pub fn uuid_of(user: &PushedUser) -> Option<UserId> {
    let said = user.metadata.get("uuid").and_then(|value| value.as_str());
    let texts = [
        said.unwrap_or_default(),
        &user.username,
        user.password.expose(),
        &user.id.0,
    ];
    texts.into_iter().find_map(UserId::parse)
}

/// Why `user` cannot be let in by any of the inbounds whose users show these forms (none: nobody knows
/// them yet). One that fits is enough: from the others he is left out.
pub fn unfit(
    user: &PushedUser,
    ids: &Identities,
    forms: &[CredentialForm],
) -> Option<&'static str> {
    if user.id.0.is_empty() {
        return Some("a user's id must not be empty");
    }
    let fits = if forms.is_empty() {
        ids.all().next().is_some()
    } else {
        forms.iter().any(|form| ids.in_form(*form).is_some())
    };
    if fits {
        return None;
    }
    Some(match forms.first() {
        Some(CredentialForm::Key16) => {
            "the password must be the base64 of a key of 16 bytes, as this Shadowsocks 2022 needs it"
        }
        Some(CredentialForm::Key32) => {
            "the password must be the base64 of a key of 32 bytes, as this Shadowsocks 2022 needs it"
        }
        Some(CredentialForm::Text) => wrong_text(user.password.expose()).unwrap_or_default(),
        Some(CredentialForm::Uuid) | None => {
            "none of metadata.uuid, username, password and id is a whole UUID"
        }
    })
}

/// What Xray takes as a password and nobody can have meant.
fn wrong_text(password: &str) -> Option<&'static str> {
    if password.is_empty() {
        Some("the password is empty")
    } else if password.len() > PASSWORD_BYTES_MAX {
        Some("the password is longer than 256 bytes")
    } else if password.chars().any(char::is_control) {
        Some("the password holds control characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::base::secret::Secret;
    use crate::model::credentials::{Credentials, KEY_BYTES};
    use crate::model::pushed::{PushedId, Quota, Rate};
    use crate::xray::account::{AccountKind, AccountSpec, Cipher};

    const UUID: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    const FORMS: [CredentialForm; 4] = [
        CredentialForm::Uuid,
        CredentialForm::Text,
        CredentialForm::Key16,
        CredentialForm::Key32,
    ];

    fn key() -> DerivingKey {
        DerivingKey::new(&[7; KEY_BYTES])
    }

    fn user(id: &str, username: &str, password: &str, uuid: Option<&str>) -> PushedUser {
        let uuid = uuid.map(|uuid| ("uuid".to_owned(), uuid.into()));
        PushedUser {
            id: PushedId(id.into()),
            username: username.into(),
            password: Secret::new(password),
            quota: Quota::default(),
            rate: Rate::default(),
            metadata: BTreeMap::from_iter(uuid),
            tags: Vec::new(),
        }
    }

    fn identities(user: &PushedUser) -> Identities {
        Identities::new(uuid_of(user), user.password.expose(), &key())
    }

    fn kind(form: CredentialForm) -> AccountKind {
        let key_bytes = |key_bytes| AccountKind::Shadowsocks2022 { key_bytes };
        match form {
            CredentialForm::Uuid => AccountKind::Vmess,
            CredentialForm::Text => AccountKind::Shadowsocks {
                cipher: Cipher::Aes256Gcm,
            },
            CredentialForm::Key16 => key_bytes(KeyBytes::K16),
            CredentialForm::Key32 => key_bytes(KeyBytes::K32),
        }
    }

    #[test]
    fn a_uuid_is_looked_for_in_four_places_in_their_order() {
        let nth = |n: u8| UserId::from_bytes([n; 16]);
        let text = |n: u8| nth(n).text();
        let table = [
            (
                user(&text(4), &text(2), &text(3), Some(&text(1))),
                Some(nth(1)),
            ),
            (user(&text(4), &text(2), &text(3), Some("no")), Some(nth(2))),
            (user(&text(4), "ann", &text(3), None), Some(nth(3))),
            (user(&text(4), "ann", "hunter2", None), Some(nth(4))),
            (user("7", "ann", "hunter2", None), None),
            (user("7", &text(2).to_uppercase(), "", None), Some(nth(2))),
        ];
        for (user, expected) in table {
            assert_eq!(identities(&user).uuid, expected, "{user:?}");
        }
    }

    #[test]
    fn an_inbound_takes_what_its_protocol_can_have() {
        let (k16, k32) = (STANDARD.encode([1; 16]), STANDARD.encode([1; 32]));
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        // Who fits by UUID, text, key of 16 and of 32 bytes.
        let table = [
            ("hunter2", [false, true, false, false]),
            (UUID, [true, true, true, true]),
            (&UUID.to_uppercase(), [true, true, false, false]),
            (&k16, [false, true, true, false]),
            (&k32, [false, true, false, true]),
            (k16.trim_end_matches('='), [false, true, false, false]),
            ("", [false; 4]),
            ("a\nb", [false; 4]),
            (&long, [false; 4]),
        ];
        for (password, expected) in table {
            let user = user("7", "ann", password, None);
            let ids = identities(&user);
            let fits = FORMS.map(|form| ids.in_form(form).is_some());
            assert_eq!(fits, expected, "{password:?}");
            let taken = FORMS.map(|form| unfit(&user, &ids, &[form]).is_none());
            assert_eq!(taken, expected, "{password:?}");
            assert_eq!(unfit(&user, &ids, &FORMS).is_none(), fits.contains(&true));
            assert_eq!(unfit(&user, &ids, &[]).is_none(), fits.contains(&true));
        }
        assert!(
            unfit(
                &user("", UUID, "x", None),
                &identities(&user("", UUID, "x", None)),
                &[]
            )
            .is_some()
        );
    }

    #[test]
    fn a_key_made_of_a_uuid_is_that_users() {
        let polled = UserId::parse(UUID).unwrap();
        let password = STANDARD.encode(&UUID.as_bytes()[..16]);
        let ids = identities(&user("7", "ann", &password, None));
        let kind = kind(CredentialForm::Key16);
        let pushed = ids.in_form(CredentialForm::Key16).unwrap();
        assert_eq!(kind.secret_key(pushed), kind.secret_key(polled));
    }

    proptest! {
        /// Whoever is written is read back as himself and as nobody else, in every protocol.
        #[test]
        fn what_is_pushed_is_known_again_in_xray(
            own in password(), other in password()
        ) {
            for form in FORMS {
                let id_of = |password: &str| {
                    Identities::new(uuid_of(&user("7", "ann", password, None)), password, &key())
                        .in_form(form)
                };
                let Some(id) = id_of(&own) else { continue };
                let secret = std::sync::Arc::new(Secret::new(own.clone()));
                let spec = AccountSpec {
                    key: key(),
                    credentials: Credentials::new([(id, secret)].into()),
                    ..AccountSpec::new(kind(form), 0)
                };
                let entry = spec.user(id, "e".into()).unwrap();
                prop_assert!(spec.is_as_written(id, &entry), "{form:?}");
                prop_assert_eq!(spec.secret_of(&entry), Some(spec.kind.secret_key(id)));
                let nameless = AccountSpec { credentials: Credentials::default(), ..spec.clone() };
                if form != CredentialForm::Uuid && id.text() != own {
                    let unknown = nameless.user(id, "e".into());
                    prop_assert!(unknown.is_none() || unknown == Some(entry.clone()));
                }
                if let Some(other) = id_of(&other).filter(|other| *other != id) {
                    prop_assert!(!spec.is_as_written(other, &entry), "{form:?}");
                }
            }
        }
    }

    fn password() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<[u8; 16]>().prop_map(|key| STANDARD.encode(key)),
            any::<[u8; 32]>().prop_map(|key| STANDARD.encode(key)),
            any::<[u8; 16]>().prop_map(|id| UserId::from_bytes(id).text()),
            any::<[u8; 16]>().prop_map(|id| STANDARD.encode(&UserId::from_bytes(id).text()[..16])),
            "[a-zA-Z0-9äß !]{1,40}",
        ]
    }
}
