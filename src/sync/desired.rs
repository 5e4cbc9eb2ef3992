//! From what the sources say to who is wanted: their union, without users that Xray would take for
//! one another. Pure.

use crate::model::desired::Desired;
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
}

/// The union of what the sources say.
pub fn union(said: &[Desired]) -> Wanted {
    let complete = said
        .iter()
        .all(|desired| matches!(desired, Desired::Known(_)));
    let lists: Vec<&Users> = said
        .iter()
        .filter_map(|desired| match desired {
            Desired::Known(users) => Some(users),
            Desired::Unknown { last_good, .. } => last_good.as_ref(),
        })
        .filter(|users| !users.is_empty())
        .collect();
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
    Wanted { users, complete }
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
    for near in users.chunk_by(|a, b| a.bytes()[..6] == b.bytes()[..6]) {
        for (place, refused) in near.iter().enumerate().skip(1) {
            let key = kind.secret_key(*refused);
            if let Some(served) = near[..place].iter().find(|u| kind.secret_key(**u) == key) {
                collisions.push(Collision {
                    served: *served,
                    refused: *refused,
                });
            }
        }
    }
    if collisions.is_empty() {
        return (Users::clone(users), collisions);
    }
    let kept: Vec<UserId> = users
        .iter()
        .copied()
        .filter(|user| {
            !collisions
                .iter()
                .any(|collision| collision.refused == *user)
        })
        .collect();
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
            assert_eq!(
                union(&said),
                Wanted {
                    users: expected,
                    complete
                }
            );
        }
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
}
