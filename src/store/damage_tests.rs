//! Files that are not what was written: each is either used and right, or set aside with all its
//! bytes, or refused untouched.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::tests::{MIGRATIONS, insert, spec, texts};
use super::*;

/// Rows of a populated store, over some dozens of pages.
const ROWS: usize = 400;
/// Flips of one bit for each kind of file.
const FLIPS: u32 = 200;

/// What stands in a row says by itself whether it is right.
fn row(n: usize) -> String {
    let text = format!("row {n} of a user's bytes, long enough to fill pages; ").repeat(4);
    format!("{text}{:08x}", crc32fast::hash(text.as_bytes()))
}

async fn populate(store: &Store, from: usize, to: usize) {
    let add = move |work: &Work<'_>| (from..to).try_for_each(|n| insert(work, &row(n)));
    store.write("populate", add).await.unwrap();
}

/// All rows, as an engine reads them: one that is not right is damage.
async fn rows(store: &Store) -> Result<usize, StoreError> {
    let look = |work: &Work<'_>| {
        let found = texts(work)?;
        let wrong = (0..).zip(&found).find(|(n, text)| row(*n) != **text);
        match wrong {
            Some((n, _)) => Err(WorkError::Damaged(format!("row {n} is wrong"))),
            None => Ok(found.len()),
        }
    };
    store.write("look", look).await
}

type Files = BTreeMap<String, Vec<u8>>;

fn files_of(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    entries
        .map(|entry| (name(&entry), fs::read(entry.path()).unwrap()))
        .collect()
}

fn lay(files: &Files, folder: &Path) {
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// A populated store after its end: database and witness.
async fn closed_store() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    populate(&store, 0, ROWS).await;
    store.close().await;
    files_of(folder.path())
}

/// A populated store as a crash leaves it: half in the database, half in many commits in the log.
async fn crashed_store() -> Files {
    let folder = tempfile::tempdir().unwrap();
    lay(&closed_store().await, folder.path());
    let store = Store::start(spec(folder.path())).unwrap();
    for n in 0..20 {
        populate(&store, ROWS + n * 5, ROWS + n * 5 + 5).await;
    }
    let files = files_of(folder.path());
    assert!(files["test.db-wal"].len() > 50_000);
    files
}

/// The bytes set aside, by the name that the file had.
fn set_aside_in(folder: &Path) -> Files {
    let files = files_of(folder).into_iter();
    files
        .filter_map(|(name, bytes)| Some((name.split_once(".corrupt-")?.0.to_owned(), bytes)))
        .collect()
}

/// Opens what was laid down, which has to be right or set aside, and to work afterwards.
/// Tells whether it was right.
async fn right_or_set_aside(laid: &Files, expected: usize, what: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    lay(laid, folder.path());
    let store = Store::start(spec(folder.path())).unwrap();
    match rows(&store).await {
        Ok(found) => {
            assert_eq!(found, expected, "{what}");
            return true;
        }
        // A bit of the schema's number: whether it is damage nobody can tell.
        Err(StoreError::Newer { .. }) => return false,
        Err(StoreError::Damaged { kept_as, .. }) => {
            assert_eq!(store.health().set_aside, Some(kept_as.clone()), "{what}");
            let kept = set_aside_in(folder.path());
            for (name, bytes) in laid.iter().filter(|(name, _)| !name.ends_with("-shm")) {
                assert!(kept.get(name) == Some(bytes), "{what}: {name} was changed");
            }
        }
        Err(other) => panic!("{what}: {other:?}"),
    }
    assert_eq!(rows(&store).await, Ok(0), "{what}");
    populate(&store, 0, 1).await;
    assert_eq!(rows(&store).await, Ok(1), "{what}");
    assert_eq!(store.health().state, State::Ok, "{what}");
    false
}

/// Numbers that look random and are the same in every run.
fn numbers() -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap()
    })
}

async fn flip_bits_of(files: Files, name: &str, expected: usize) {
    let bits = files[name].len() * 8;
    let mut numbers = numbers();
    let mut right = 0;
    for _ in 0..FLIPS {
        let bit = numbers.next().unwrap() % bits;
        let mut flipped = files.clone();
        flipped.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {} of byte {} of {name}", bit % 8, bit / 8);
        right += u32::from(right_or_set_aside(&flipped, expected, &what).await);
    }
    assert!(right < FLIPS, "no flip was noticed");
}

#[tokio::test]
async fn flipped_bits_of_the_database_are_never_taken_for_what_was_written() {
    flip_bits_of(closed_store().await, "test.db", ROWS).await;
}

#[tokio::test]
async fn flipped_bits_below_a_log_are_never_taken_for_what_was_written() {
    flip_bits_of(crashed_store().await, "test.db", ROWS + 100).await;
}

#[tokio::test]
async fn a_log_that_was_cut_is_noticed() {
    let files = crashed_store().await;
    let length = files["test.db-wal"].len();
    for cut in [length - 1, length / 2, 32, 1, 0] {
        let mut files = files.clone();
        files.get_mut("test.db-wal").unwrap().truncate(cut);
        assert!(!right_or_set_aside(&files, ROWS, &format!("cut at {cut}")).await);
    }
}

#[tokio::test]
async fn a_lost_log_that_held_everything_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    populate(&store, 0, 5).await;
    let mut files = files_of(folder.path());
    assert!(right_or_set_aside(&files, 5, "with its log").await);
    files.remove("test.db-wal");
    assert!(!right_or_set_aside(&files, 5, "without its log").await);
}

#[tokio::test]
async fn flipped_bits_of_the_log_are_never_taken_for_what_was_written() {
    flip_bits_of(crashed_store().await, "test.db-wal", ROWS + 100).await;
}

#[tokio::test]
async fn flipped_bits_of_the_head_and_the_schema_are_noticed_or_harmless() {
    let files = closed_store().await;
    let database = &files["test.db"];
    let head = (0..100 * 8).step_by(3);
    let page = u16::from_be_bytes([database[16], database[17]]);
    let content = u16::from_be_bytes([database[105], database[106]]);
    let schema = (usize::from(content) * 8..usize::from(page) * 8).step_by(37);
    for bit in head.chain(schema) {
        let mut flipped = files.clone();
        flipped.get_mut("test.db").unwrap()[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {} of byte {}", bit % 8, bit / 8);
        right_or_set_aside(&flipped, ROWS, &what).await;
    }
}

#[tokio::test]
async fn a_crashed_store_goes_on_where_it_was() {
    assert!(right_or_set_aside(&crashed_store().await, ROWS + 100, "as it was").await);
}

#[tokio::test]
async fn garbage_and_cut_files_are_set_aside_and_nothing_is_a_new_store() {
    let whole = closed_store().await;
    let database = &whole["test.db"];
    for (what, bytes, marked) in [
        ("garbage", vec![7_u8; 20_000], false),
        (
            "a page is lost",
            database[..database.len() - 4_096].to_vec(),
            false,
        ),
        ("half a page", database[..2_000].to_vec(), false),
        ("a few bytes", database[..10].to_vec(), false),
        ("emptied", Vec::new(), true),
    ] {
        let mut files = Files::from([("test.db".to_owned(), bytes)]);
        if marked {
            files.insert("test.db.mark".to_owned(), whole["test.db.mark"].clone());
        }
        assert!(!right_or_set_aside(&files, ROWS, what).await, "{what}");
    }
    let empty = Files::from([("test.db".to_owned(), Vec::new())]);
    assert!(right_or_set_aside(&empty, 0, "empty").await);
}

#[tokio::test]
async fn an_old_copy_put_back_is_noticed() {
    let old = closed_store().await;
    let mut now = crashed_store().await;
    now.insert("test.db".to_owned(), old["test.db"].clone());
    now.remove("test.db-wal");
    now.remove("test.db-shm");
    assert!(!right_or_set_aside(&now, ROWS, "old copy").await);
    let mut gone = now.clone();
    gone.remove("test.db");
    assert!(!right_or_set_aside(&gone, ROWS, "no database").await);
}

#[tokio::test]
async fn a_witness_that_is_torn_or_behind_is_no_damage() {
    let files = crashed_store().await;
    let mark = &files["test.db.mark"];
    let old = closed_store().await["test.db.mark"].clone();
    for (what, mark) in [
        ("torn", mark[..11].to_vec()),
        ("empty", Vec::new()),
        ("behind", old),
    ] {
        let mut files = files.clone();
        files.insert("test.db.mark".to_owned(), mark);
        assert!(right_or_set_aside(&files, ROWS + 100, what).await, "{what}");
    }
}

/// As of an old copy that somebody put back alone.
#[tokio::test]
async fn a_database_without_its_witness_is_set_aside() {
    let mut files = closed_store().await;
    files.remove("test.db.mark");
    assert!(!right_or_set_aside(&files, ROWS, "no witness").await);
}

#[tokio::test]
async fn a_database_of_another_program_is_kept_but_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let other = Connection::open(folder.path().join("test.db")).unwrap();
    other
        .execute_batch("PRAGMA application_id = 7; CREATE TABLE rows (id, text);")
        .unwrap();
    drop(other);
    assert!(!right_or_set_aside(&files_of(folder.path()), 0, "another's").await);
}

#[tokio::test]
async fn damage_that_only_the_engine_sees_sets_the_file_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    populate(&store, 0, 3).await;
    for round in 1..4 {
        let found = store.write::<()>("look", |_| Err(WorkError::Damaged("a sum".to_owned())));
        let Err(StoreError::Damaged { why, .. }) = found.await else {
            panic!("round {round}");
        };
        assert!(why.contains("a sum"), "{why}");
        let databases = files_of(folder.path());
        let databases = databases.keys();
        let kept = databases.filter(|name| name.starts_with("test.db.corrupt-"));
        assert_eq!(kept.count(), round, "none is overwritten");
        assert_eq!(rows(&store).await, Ok(0));
    }
}

#[tokio::test]
async fn a_newer_store_is_refused_and_left_as_it_is() {
    const LATER: &[&str] = &[MIGRATIONS[0], "CREATE TABLE later (id INTEGER) STRICT;"];
    let files = crashed_store().await;
    let folder = tempfile::tempdir().unwrap();
    lay(&files, folder.path());
    let newer = Spec {
        migrations: LATER,
        ..spec(folder.path())
    };
    let store = Store::start(newer).unwrap();
    populate(&store, 0, 1).await;
    let before = files_of(folder.path());
    let copy = tempfile::tempdir().unwrap();
    lay(&before, copy.path());
    let store = Store::start(spec(copy.path())).unwrap();
    for _ in 0..3 {
        let refused = rows(&store).await;
        let right = matches!(
            refused,
            Err(StoreError::Newer {
                found: 2,
                known: 1,
                ..
            })
        );
        assert!(right, "{refused:?}");
    }
    assert!(matches!(store.health().state, State::Refused(_)));
    store.close().await;
    for (name, bytes) in files_of(copy.path()) {
        assert!(
            name.ends_with("-shm") || before.get(&name) == Some(&bytes),
            "{name}"
        );
    }
}
