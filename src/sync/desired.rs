//! From what the sources say to who is wanted: their union, without users that Xray would take for
//! one another. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::secret::Secret;
use crate::model::credentials::{Credentials, may_be_derived};
use crate::model::desired::{Claim, Desired};
use crate::model::ids::UserId;
use crate::model::user_list::Users;
use crate::xray::account::AccountKind;

/// Who is wanted in an inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Ascending, each once.
    pub users: Users,
    /// Whether every source is known. Otherwise nobody may be removed.
    pub complete: bool,
    /// For every user whose id is derived, or looks so.
    pub credentials: Credentials,
}

/// The union of what the sources say.
pub fn union(claims: &[Claim]) -> Wanted {
    let complete = claims
        .iter()
        .all(|claim| matches!(claim.desired, Desired::Known(_)));
    let lists: Vec<&Users> = claims
        .iter()
        .filter_map(|claim| users_of(&claim.desired))
        .filter(|users| !users.is_empty())
        .collect();
    let credentials = claims.iter().map(credentials_of);
    let credentials = credentials.fold(Credentials::default(), Credentials::and);
    let users = match lists.as_slice() {
        [] => Users::from([]),
        [only] => Users::clone(only),
        several => {
            let mut all: Vec<UserId> = several
                .iter()
                .flat_map(|list| list.iter().copied())
                .collect();
            all.sort_unstable();
            all.dedup();
            all.into()
        }
    };
    Wanted {
        users,
        complete,
        credentials,
    }
}

fn users_of(desired: &Desired) -> Option<&Users> {
    match desired {
        Desired::Known(users) => Some(users),
        Desired::Unknown { last_good, .. } => last_good.as_ref(),
    }
}

/// What a source's users show whose ids look as if they were derived: who has no credential there is
/// let in by that UUID itself.
fn credentials_of(claim: &Claim) -> Credentials {
    let users = users_of(&claim.desired).map(|users| users.iter());
    let plain = users.into_iter().flatten().copied();
    let plain =
        plain.filter(|user| may_be_derived(*user) && claim.credentials.get(*user).is_none());
    let plain = plain.map(|user| (user, Arc::new(Secret::new(user.text()))));
    claim
        .credentials
        .clone()
        .and(Credentials::new(plain.collect()))
}

/// The wanted users (ascending) and those whose removal is held (ascending, none of them wanted): whoever
/// has to be there. A held one whose secret a wanted one has is as good as there.
pub fn with_held(wanted: &Users, held: &[UserId], kind: &AccountKind) -> Users {
    if held.is_empty() {
        return Users::clone(wanted);
    }
    let taken: HashSet<_> = wanted.iter().map(|user| kind.secret_key(*user)).collect();
    let shares = |user: &UserId| taken.contains(&kind.secret_key(*user));
    let kept = held.iter().filter(|user| !shares(user)).copied();
    let mut all: Vec<UserId> = wanted.iter().copied().chain(kept).collect();
    all.sort_unstable();
    all.into()
}

/// Two wanted users whom Xray cannot tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The smaller one, who is served.
    pub served: UserId,
    /// The other one, who is not added.
    pub refused: UserId,
}

/// Splits users who share a secret in this protocol: the smallest of them is kept.
pub fn without_collisions(users: &Users, kind: &AccountKind) -> (Users, Vec<Collision>) {
    let mut collisions = Vec::new();
    // Equal secrets have equal first 6 bytes, and `users` is sorted: only neighbours can collide.
    let alike = users.chunk_by(|a, b| a.bytes()[..6] == b.bytes()[..6]);
    for near in alike.filter(|near| near.len() > 1) {
        let mut first = HashMap::new();
        for user in near {
            let served = *first.entry(kind.secret_key(*user)).or_insert(*user);
            if served != *user {
                collisions.push(Collision {
                    served,
                    refused: *user,
                });
            }
        }
    }
    if collisions.is_empty() {
        return (Users::clone(users), collisions);
    }
    // Both are ascending.
    let mut refused = collisions.iter().map(|c| c.refused).peekable();
    let is_kept = |user: &UserId| refused.next_if_eq(user).is_none();
    let kept: Vec<UserId> = users.iter().copied().filter(is_kept).collect();
    (kept.into(), collisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xray::account::KeyBytes;

    fn users(bytes: &[u8]) -> Users {
        bytes.iter().map(|b| UserId::from_bytes([*b; 16])).collect()
    }

    #[test]
    fn sources_are_united_and_an_unknown_one_makes_it_incomplete() {
        let unknown = |last_good| Desired::Unknown {
            last_good,
            why: "down".into(),
        };
        let table = [
            (vec![Desired::Known(users(&[1, 2]))], users(&[1, 2]), true),
            (
                vec![
                    Desired::Known(users(&[1, 3])),
                    Desired::Known(users(&[2, 3])),
                ],
                { users(&[1, 2, 3]) },
                true,
            ),
            (
                vec![Desired::Known(users(&[1])), unknown(None)],
                users(&[1]),
                false,
            ),
            (
                vec![Desired::Known(users(&[1])), unknown(Some(users(&[2])))],
                users(&[1, 2]),
                false,
            ),
            (vec![Desired::Known(users(&[]))], users(&[]), true),
            (vec![], users(&[]), true),
        ];
        for (said, expected, complete) in table {
            let claims: Vec<Claim> = said.into_iter().map(Claim::from).collect();
            let wanted = union(&claims);
            assert_eq!((wanted.users, wanted.complete), (expected, complete));
        }
    }

    #[test]
    fn a_uuid_that_looks_derived_is_its_own_credential_unless_its_source_says_another() {
        let looks = |n: u8| {
            let text = format!("{n:08x}-aaaa-8aaa-8aaa-aaaaaaaaaaaa");
            UserId::parse(&text).unwrap()
        };
        let table = HashMap::from([(looks(1), Arc::new(Secret::new("hunter2")))]);
        let pushed = Claim {
            desired: Desired::Known([looks(1)].into()),
            credentials: Credentials::new(table),
        };
        let polled = Claim::from(Desired::Known(
            [looks(2), UserId::from_bytes([3; 16])].into(),
        ));
        let wanted = union(&[polled, pushed]);
        let shown = |user| wanted.credentials.get(user).map(Secret::expose);
        assert_eq!(shown(looks(1)), Some("hunter2"));
        assert_eq!(shown(looks(2)), Some(&*looks(2).text()));
        assert_eq!(shown(UserId::from_bytes([3; 16])), None);
        assert_eq!(shown(looks(4)), None, "nobody names him");
    }

    #[test]
    fn who_is_held_is_kept_unless_a_wanted_one_has_the_secret() {
        let twin = |group: u8| {
            let mut bytes = [9; 16];
            bytes[7] = group;
            UserId::from_bytes(bytes)
        };
        let vless = AccountKind::Vless {
            flow: String::new(),
        };
        let wanted = Users::from([UserId::from_bytes([1; 16]), twin(2)]);
        let held = [UserId::from_bytes([5; 16]), twin(1)];
        assert_eq!(
            *with_held(&wanted, &held, &vless),
            [wanted[0], held[0], wanted[1]]
        );
        assert_eq!(with_held(&wanted, &held, &AccountKind::Vmess).len(), 4);
        assert_eq!(with_held(&wanted, &[], &vless), wanted);
    }

    #[test]
    fn of_users_that_xray_takes_for_one_the_smallest_is_kept() {
        let ids: Users = [
            "aaaaaaaa-aaaa-1aaa-8aaa-aaaaaaaaaaaa",
            "aaaaaaaa-aaaa-2aaa-8aaa-aaaaaaaaaaaa",
            "aaaaaaaa-aaaa-2aaa-8aaa-aaaaaaaaaaab",
            "aaaaaaaa-aaaa-3aaa-8aaa-aaaaaaaaaaaa",
        ]
        .iter()
        .map(|text| UserId::parse(text).unwrap())
        .collect();
        let refused = |kind: &AccountKind| -> Vec<UserId> {
            without_collisions(&ids, kind)
                .1
                .iter()
                .map(|c| c.refused)
                .collect()
        };
        assert_eq!(
            refused(&AccountKind::Vless {
                flow: String::new()
            }),
            [ids[1], ids[3]]
        );
        assert_eq!(refused(&AccountKind::Vmess), []);
        let k16 = AccountKind::Shadowsocks2022 {
            key_bytes: KeyBytes::K16,
        };
        assert_eq!(refused(&k16), [ids[2]]);
        assert_eq!(without_collisions(&ids, &k16).0.len(), 3);
    }

    #[test]
    fn users_who_look_alike_are_told_apart_as_fast_as_others() {
        const MANY: u32 = 60_000;
        // Equal but for the last bytes, as numbered ones are; and equal but for those passed over.
        let numbered = (0..MANY).map(|n| UserId::from_bytes(u128::from(n).to_be_bytes()));
        let same = (0..MANY).map(|n| UserId::from_bytes((u128::from(n) << 64).to_be_bytes()));
        let numbered: Users = numbered.collect();
        let same: Users = same.collect();
        let vless = AccountKind::Vless {
            flow: String::new(),
        };
        let begun = std::time::Instant::now();
        assert_eq!(
            without_collisions(&numbered, &vless).0.len(),
            numbered.len()
        );
        assert_eq!(without_collisions(&same, &vless).0, same[..1].into());
        let (wanted, held) = numbered.split_at(numbered.len() / 2);
        assert_eq!(with_held(&wanted.into(), held, &vless), numbered);
        // Twenty times what it takes; looking at each pair takes minutes.
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }
}
