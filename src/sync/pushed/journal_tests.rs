//! The journal against an oracle: whatever is done to a set, and wherever the file is torn or bits in
//! it turn over, what is read is the set as it was, as it was before its last change, or unknown.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::super::record::Stored;
use super::super::set::{Gone, Put};
use super::*;
use crate::base::secret::Secret;
use crate::model::credentials::KEY_BYTES;
use crate::model::pushed::{PushedId, PushedUser, Quota, Rate};

fn key() -> DerivingKey {
    DerivingKey::new(&[7; KEY_BYTES])
}

fn user(id: u8, password: u8) -> PushedUser {
    PushedUser {
        id: PushedId(id.to_string().into()),
        username: format!("name {id}"),
        password: Secret::new(format!("password {password}")),
        quota: Quota {
            allocated: u64::from(password),
            used: 1,
        },
        rate: Rate::default(),
        metadata: BTreeMap::from([("subscription_id".to_owned(), id.into())]),
        tags: vec!["a \"tag\"\n".to_owned()],
    }
}

fn put(id: u8, password: u8) -> Change {
    Change::Put(Box::new(Put {
        user: Stored::new(&user(id, password), &key()).to_record(),
        at: 1,
        polled: Vec::new(),
    }))
}

fn drop_of(id: u8) -> Change {
    Change::Drop(Gone {
        id: id.to_string().into(),
        at: 2,
        polled: Vec::new(),
    })
}

/// What is done to a set: a user put with a password, or taken away; or the file written anew.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8, u8),
    Drop(u8),
    Rewrite,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..6, any::<u8>()).prop_map(|(id, password)| Step::Put(id, password)),
        2 => (0_u8..6).prop_map(Step::Drop),
        1 => Just(Step::Rewrite),
    ];
    proptest::collection::vec(step, 1..12)
}

/// Users by id.
type Users = BTreeMap<u8, PushedUser>;

fn users_of(set: &Set) -> Users {
    let users = set.users().map(Stored::user);
    users
        .map(|user| (user.id.0.parse().unwrap(), user))
        .collect()
}

/// The file after these steps, with the sets after each.
fn written(steps: &[Step], path: &Path) -> (Journal, Vec<Users>) {
    let (mut journal, loaded) = Journal::open(path.to_owned(), &key());
    let mut set = loaded.set;
    journal.rewrite(&Image::of(&set)).unwrap();
    let mut sets = vec![users_of(&set)];
    let mut oracle = Users::new();
    for step in steps {
        match *step {
            Step::Put(id, password) => {
                journal.append(&[put(id, password)]).unwrap();
                set.apply(put(id, password), &key());
                oracle.insert(id, user(id, password));
            }
            Step::Drop(id) => {
                journal.append(&[drop_of(id)]).unwrap();
                set.apply(drop_of(id), &key());
                oracle.remove(&id);
            }
            Step::Rewrite => {
                journal.rewrite(&Image::of(&set)).unwrap();
                sets.clear();
            }
        }
        assert_eq!(users_of(&set), oracle);
        sets.push(oracle.clone());
    }
    (journal, sets)
}

fn read(path: &Path) -> Loaded {
    Journal::open(path.to_owned(), &key()).1
}

proptest! {
    // Each case syncs files some twenty times.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_written_is_read(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set");
        let (journal, sets) = written(&steps, &path);
        let loaded = read(&path);
        prop_assert_eq!(&loaded.damage, &None);
        prop_assert_eq!(users_of(&loaded.set), sets.last().unwrap().clone());
        prop_assert_eq!(loaded.bytes, journal.bytes);
        prop_assert_eq!(loaded.changes, journal.changes);
    }

    #[test]
    fn a_torn_file_is_an_earlier_set_or_unknown(steps in steps(), at: prop::sample::Index) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set");
        let (_, sets) = written(&steps, &path);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..at.index(whole.len())]).unwrap();
        let (mut journal, loaded) = Journal::open(path.clone(), &key());
        let found = users_of(&loaded.set);
        if loaded.damage.is_some() {
            // The snapshot itself is not whole, and is never torn by us: it comes in one piece.
            return Ok(());
        }
        prop_assert!(sets.contains(&found));
        // And it goes on from there.
        journal.append(&[put(9, 1)]).unwrap();
        let mut expected = found;
        expected.insert(9, user(9, 1));
        let again = read(&path);
        prop_assert_eq!(again.damage, None);
        prop_assert_eq!(users_of(&again.set), expected);
    }

    #[test]
    fn a_bit_turned_over_is_seen(steps in steps(), at: prop::sample::Index, bit in 0_u8..8) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set");
        let (_, sets) = written(&steps, &path);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let is_end = at + 1 == bytes.len();
        fs::write(&path, bytes).unwrap();
        let loaded = read(&path);
        let mut all = sets.iter().rev();
        let last = all.next().unwrap();
        if is_end {
            // Without its end a line is as one that a crash tore.
            let before = all.next().unwrap_or(last);
            let found = users_of(&loaded.set);
            prop_assert!(loaded.damage.is_some() || found == *last || found == *before);
        } else {
            // Of a sum, either case of a letter will do.
            prop_assert!(loaded.damage.is_some() || users_of(&loaded.set) == *last);
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_an_empty_set_and_an_empty_file_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set");
    assert_eq!(read(&path).damage, None);
    fs::write(&path, b"").unwrap();
    assert!(read(&path).damage.is_some());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(read(&path).damage.is_some());
}

#[test]
fn the_readable_lines_of_a_damaged_file_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set");
    written(&[Step::Put(1, 1), Step::Put(2, 2), Step::Put(3, 3)], &path);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("password 2", "password x")).unwrap();
    let loaded = read(&path);
    assert!(loaded.damage.unwrap().starts_with("1 of its lines"));
    assert_eq!(
        users_of(&loaded.set).into_keys().collect::<Vec<_>>(),
        [1, 3]
    );
}

#[test]
fn a_mutation_that_cannot_be_written_leaves_the_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set");
    let (mut journal, _) = written(&[Step::Put(1, 1)], &path);
    let before = journal.bytes;
    fs::rename(&path, dir.path().join("away")).unwrap();
    assert!(journal.append(&[put(2, 2)]).is_err());
    fs::rename(dir.path().join("away"), &path).unwrap();
    assert_eq!(journal.bytes, before);
    journal.append(&[put(3, 3)]).unwrap();
    assert_eq!(
        users_of(&read(&path).set).into_keys().collect::<Vec<_>>(),
        [1, 3]
    );
}
