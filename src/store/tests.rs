//! A store seen through its handle: what is committed, what is undone, what a caller who leaves, a
//! panic, a full disk or a crash leaves behind.
//!
//! In one file of some length, for all tests put the same few rows and count them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::FutureExt;
use rusqlite::ffi;

use super::*;

pub(super) const MIGRATIONS: &[&str] =
    &["CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"];

pub(super) fn spec(folder: &Path) -> Spec {
    Spec {
        what: "test",
        file: folder.join("test.db"),
        migrations: MIGRATIONS,
        group_max: 1,
        cache_kib: 2_000,
        clock: Clock::system(),
    }
}

pub(super) fn insert(work: &Work<'_>, text: &str) -> Result<(), WorkError> {
    work.prepare_cached("INSERT INTO rows (text) VALUES (?1)")?
        .execute([text])?;
    Ok(())
}

pub(super) fn texts(connection: &Connection) -> Result<Vec<String>, WorkError> {
    let mut query = connection.prepare_cached("SELECT text FROM rows ORDER BY id")?;
    let rows = query.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

async fn add(store: &Store, text: &'static str) -> Result<(), StoreError> {
    store.write("add", move |work| insert(work, text)).await
}

async fn all(store: &Store) -> Vec<String> {
    store.read("look", |work| texts(work)).await.unwrap()
}

async fn generation(store: &Store) -> u64 {
    store
        .read("look", |work| Ok(work.generation))
        .await
        .unwrap()
}

fn sqlite(code: i32) -> WorkError {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
}

#[tokio::test]
async fn what_is_written_is_read_by_the_next_handle() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..3_usize {
        let store = Store::start(spec(folder.path())).unwrap();
        assert_eq!(all(&store).await.len(), n);
        add(&store, "a").await.unwrap();
        let health = store.health();
        assert_eq!((health.state, health.commits), (State::Ok, 1));
        assert!(health.last_commit.is_some());
        store.close().await;
    }
}

#[tokio::test]
async fn work_that_fails_or_only_reads_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    let failed: Result<(), _> = store
        .write("add", |work| {
            insert(work, "a")?;
            Ok(work.execute_batch("INSERT INTO rows (id, text) VALUES (1, NULL)")?)
        })
        .await;
    assert!(matches!(failed, Err(StoreError::Bug(_))), "{failed:?}");
    store.read("look", |work| insert(work, "b")).await.unwrap();
    assert!(all(&store).await.is_empty());
    assert_eq!((generation(&store).await, store.health().commits), (1, 0));
}

#[tokio::test]
async fn work_that_ends_its_own_transaction_does_not_pass_for_committed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    let ended = store.write("add", |work| {
        insert(work, "a")?;
        Ok(work.execute_batch("ROLLBACK")?)
    });
    assert!(matches!(ended.await, Err(StoreError::Bug(_))));
    assert!(all(&store).await.is_empty());
}

#[tokio::test]
async fn a_panic_undoes_its_work_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let panicked: Result<(), _> = store
        .write("add", |work| {
            insert(work, "b")?;
            panic!("on purpose");
        })
        .await;
    let Err(StoreError::Bug(why)) = panicked else {
        panic!("{panicked:?}");
    };
    assert!(why.contains("panicked: on purpose"), "{why}");
    assert_eq!(all(&store).await, ["a"]);
    assert_eq!(generation(&store).await, 2, "what was remembered is void");
}

#[tokio::test]
async fn the_work_of_a_caller_who_left_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let work = store.write("add", move |work| {
        insert(work, "a")?;
        wait.recv().expect("the test goes on");
        Ok(())
    });
    let left = tokio::time::timeout(Duration::ZERO, work).await;
    assert!(left.is_err(), "the work waits for the line below");
    go.send(()).unwrap();
    assert_eq!(all(&store).await, ["a"]);
}

#[test]
fn many_writers_at_once_lose_nothing() {
    const THREADS: usize = 8;
    const WRITES: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    let run = |work: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        let runtime = tokio::runtime::Builder::new_current_thread();
        { runtime }.build().unwrap().block_on(work);
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let store = store.clone();
            scope.spawn(move || {
                run(Box::pin(async move {
                    for _ in 0..WRITES {
                        add(&store, "a").await.unwrap();
                    }
                }));
            });
        }
    });
    run(Box::pin(async move {
        assert_eq!(all(&store).await.len(), THREADS * WRITES);
        assert_eq!(store.health().commits, (THREADS * WRITES) as u64);
    }));
}

#[tokio::test]
async fn a_full_disk_undoes_the_work_and_is_over_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let large = |work: &Work<'_>| insert(work, &"x".repeat(100_000));
    // As many pages as there are: SQLite then says what it says on a full disk.
    let limit = |pages: u32| {
        store.read("limit", move |work| {
            Ok(work.pragma_update(None, "max_page_count", pages)?)
        })
    };
    limit(1).await.unwrap();
    let Err(StoreError::Full(why)) = store.write("large", large).await else {
        panic!("it fitted");
    };
    assert!(
        why.contains("test (large): no space is left for /"),
        "{why}"
    );
    assert!(matches!(store.health().state, State::Degraded(_)));
    assert_eq!(all(&store).await, ["a"]);
    limit(1_000).await.unwrap();
    store.write("large", large).await.unwrap();
    assert_eq!(store.health().state, State::Ok);
    assert_eq!((all(&store).await.len(), generation(&store).await), (2, 1));
}

/// As on a file system that turned read-only: SQLite says the same.
#[tokio::test]
async fn a_file_that_turned_read_only_loses_nothing_and_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let turned = store.read("turn", |work| {
        Ok(work.pragma_update(None, "query_only", true)?)
    });
    turned.await.unwrap();
    let refused = add(&store, "b").await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(matches!(store.health().state, State::Degraded(_)));
    assert_eq!(all(&store).await, ["a"]);
    add(&store, "b").await.unwrap();
    assert_eq!(store.health().state, State::Ok);
    assert_eq!(
        (all(&store).await, generation(&store).await),
        (vec!["a".to_owned(), "b".to_owned()], 2)
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::write(&state, "a file, where a folder should be").unwrap();
    let store = Store::start(spec(&state)).unwrap();
    let Err(StoreError::Unavailable(why)) = add(&store, "a").await else {
        panic!("it was written into a file");
    };
    assert!(why.contains("state/test.db cannot be used"), "{why}");
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    add(&store, "a").await.unwrap();
    assert_eq!(store.health().state, State::Ok);
}

#[tokio::test]
async fn after_an_io_error_the_file_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let failed = store.write::<()>("add", |work| {
        insert(work, "b")?;
        Err(sqlite(ffi::SQLITE_IOERR_WRITE))
    });
    assert!(matches!(failed.await, Err(StoreError::Unavailable(_))));
    assert_eq!(generation(&store).await, 2);
    assert_eq!(all(&store).await, ["a"]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let failed = store.write::<()>("add", |_| Err(sqlite(ffi::SQLITE_IOERR_FSYNC)));
    assert!(matches!(failed.await, Err(StoreError::Failed(_))));
    let why = store.failed().await;
    assert!(why.contains("the disk did not sync"), "{why}");
    assert_eq!(add(&store, "b").await, Err(StoreError::Failed(why.clone())));
    assert_eq!(store.health().state, State::Failed(why));
    store.close().await;
    let next = Store::start(spec(folder.path())).unwrap();
    assert_eq!(all(&next).await, ["a"]);
}

#[tokio::test]
async fn another_process_reads_while_the_writer_holds_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path());
    assert!(open_read_only(&spec).unwrap().is_none(), "no file yet");
    let store = Store::start(spec.clone()).unwrap();
    add(&store, "a").await.unwrap();
    let reader = open_read_only(&spec).unwrap().unwrap();
    assert_eq!(texts(&reader).unwrap(), ["a"]);
    add(&store, "b").await.unwrap();
    assert_eq!(texts(&reader).unwrap(), ["a", "b"]);
    assert!(reader.execute_batch("DELETE FROM rows").is_err());
}

#[tokio::test]
async fn a_reader_refuses_a_schema_that_it_does_not_know() {
    const LATER: &[&str] = &[MIGRATIONS[0], "SELECT 1"];
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path());
    let store = Store::start(spec.clone()).unwrap();
    add(&store, "a").await.unwrap();
    let with = |migrations| Spec {
        migrations,
        ..spec.clone()
    };
    let older = open_read_only(&with(&[])).unwrap_err();
    assert!(matches!(
        older,
        StoreError::Newer {
            found: 1,
            known: 0,
            ..
        }
    ));
    let newer = open_read_only(&with(LATER)).unwrap_err();
    assert!(
        newer.to_string().contains("start the agent once"),
        "{newer}"
    );
}

#[tokio::test]
async fn a_later_version_adds_its_steps_to_what_is_there() {
    const LATER: &[&str] = &[
        MIGRATIONS[0],
        "ALTER TABLE rows ADD COLUMN more INTEGER NOT NULL DEFAULT 7;",
        "CREATE INDEX rows_by_text ON rows (text);",
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    store.close().await;
    for _ in 0..2 {
        let store = Store::start(Spec {
            migrations: LATER,
            ..spec(folder.path())
        });
        let store = store.unwrap();
        let more = store.read("look", |work| {
            Ok(work.query_row("SELECT more FROM rows", [], |row| row.get::<_, i64>(0))?)
        });
        assert_eq!(more.await, Ok(7));
        store.close().await;
    }
}

#[tokio::test]
async fn the_files_are_ours_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("test.db"), "").unwrap();
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        ["test.db", "test.db-shm", "test.db-wal", "test.db.mark"]
    );
}

#[test]
fn health_shows_as_plain_fields() {
    let health = Health {
        state: State::Degraded("full".to_owned()),
        last_commit: Some(Duration::from_micros(1_500)),
        ..Health::default()
    };
    assert_eq!(
        serde_json::to_value(health).unwrap(),
        serde_json::json!({
            "state": "degraded", "why": "full", "last_commit_ms": 1.5, "commits": 0,
            "set_aside": null,
        })
    );
}

/// Tells the child below where its store is; without it the test that it runs does nothing.
const CHILD: &str = "XRAY_AGENT_STORE_TEST_FOLDER";

#[tokio::test]
async fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let store = Store::start(spec(Path::new(&folder))).unwrap();
        add(&store, "a").await.unwrap();
        add(&store, "b").await.unwrap();
    }
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_committed_and_keeps_nothing_that_was_not() {
    for (failpoint, kept) in [
        ("test.add.before_commit", &[][..]),
        ("test.add.after_commit", &["a"]),
        ("test.add.before_commit:2", &["a"]),
        ("test.add.after_commit:2", &["a", "b"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child"])
            .env(CHILD, folder.path())
            .env("XRAY_AGENT_FAILPOINT", failpoint)
            .output()
            .unwrap();
        assert_eq!(ended.status.signal(), Some(9), "{failpoint}");
        let store = Store::start(spec(folder.path())).unwrap();
        assert_eq!(all(&store).await, kept, "{failpoint}");
        add(&store, "c").await.unwrap();
        assert_eq!(store.health().set_aside, None, "{failpoint}");
    }
}

/// Holds the thread until the other end is dropped, so that what follows waits together.
async fn hold(store: &Store) -> std::sync::mpsc::Sender<()> {
    let (held, until) = std::sync::mpsc::channel::<()>();
    let (busy, is_busy) = tokio::sync::oneshot::channel();
    let store = store.clone();
    let mut holding = Box::pin(async move {
        let wait = move |_: &Work<'_>| {
            let _ = busy.send(());
            let _ = until.recv();
            Ok(())
        };
        store.read("hold", wait).await
    });
    // Polled once it is in the queue; a caller who leaves does not stop it.
    assert!((&mut holding).now_or_never().is_none());
    is_busy.await.unwrap();
    held
}

fn grouped(folder: &Path) -> Spec {
    Spec {
        group_max: 8,
        ..spec(folder)
    }
}

#[tokio::test]
async fn works_that_wait_together_share_a_commit_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(grouped(folder.path())).unwrap();
    add(&store, "first").await.unwrap();
    let held = hold(&store).await;
    let mut adds: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
        .map(|text| Box::pin(add(&store, text)))
        .into();
    for adding in &mut adds {
        assert!(adding.now_or_never().is_none());
    }
    drop(held);
    for done in futures_util::future::join_all(adds).await {
        done.unwrap();
    }
    assert_eq!(all(&store).await.concat(), "firstabcdefghi");
    assert_eq!(store.health().commits, 3, "the first, eight, and one");
}

#[tokio::test]
async fn of_works_that_share_a_commit_only_the_one_that_fails_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(grouped(folder.path())).unwrap();
    add(&store, "first").await.unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let tell = |name: &'static str| {
        let told = told.clone();
        move |work: &Work<'_>| work.after_commit(move || told.send(name).unwrap())
    };
    let held = hold(&store).await;
    let (of_failing, of_panicking, of_last) = (tell("failing"), tell("panicking"), tell("last"));
    let failing = store.write("fail", move |work| {
        insert(work, "lost")?;
        of_failing(work);
        Ok(work.execute_batch("INSERT INTO rows (id, text) VALUES (1, NULL)")?)
    });
    let panicking = store.write("panic", move |work| -> Result<(), WorkError> {
        insert(work, "lost")?;
        of_panicking(work);
        panic!("as the test wants")
    });
    let last = store.write("last", move |work| {
        of_last(work);
        insert(work, "last")
    });
    let together = async { tokio::join!(add(&store, "a"), failing, panicking, last) };
    let mut together = Box::pin(together);
    assert!((&mut together).now_or_never().is_none());
    drop(held);
    let (added, failed, panicked, last) = together.await;
    added.unwrap();
    last.unwrap();
    assert!(matches!(failed, Err(StoreError::Bug(_))), "{failed:?}");
    assert!(matches!(panicked, Err(StoreError::Bug(_))), "{panicked:?}");
    assert_eq!(all(&store).await, ["first", "a", "last"]);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["last"]);
    assert_eq!(store.health().commits, 2);
    assert_eq!(
        generation(&store).await,
        2,
        "after a panic the file is opened anew"
    );
}

#[tokio::test]
async fn what_ends_the_transaction_undoes_all_that_shared_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(grouped(folder.path())).unwrap();
    add(&store, "first").await.unwrap();
    let held = hold(&store).await;
    let full = store.write("fill", |_| -> Result<(), WorkError> {
        Err(sqlite(ffi::SQLITE_FULL))
    });
    let together = async { tokio::join!(add(&store, "a"), full, add(&store, "b")) };
    let mut together = Box::pin(together);
    assert!((&mut together).now_or_never().is_none());
    drop(held);
    let (a, full, b) = together.await;
    for done in [a, full, b] {
        assert!(matches!(done, Err(StoreError::Full(_))), "{done:?}");
    }
    assert_eq!(all(&store).await, ["first"]);
    add(&store, "second").await.unwrap();
}

#[tokio::test]
async fn a_reader_sees_what_is_committed_while_the_writer_is_busy_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let reader = Reader::new(spec(folder.path()));
    assert_eq!(reader.read(texts).await.unwrap(), None);
    let store = Store::start(spec(folder.path())).unwrap();
    add(&store, "a").await.unwrap();
    let held = hold(&store).await;
    assert_eq!(reader.read(texts).await.unwrap().unwrap(), ["a"]);
    let written = reader
        .read(|within| Ok(within.execute_batch("DELETE FROM rows")?))
        .await;
    assert!(
        matches!(written, Err(StoreError::Unavailable(_))),
        "{written:?}"
    );
    drop(held);
    assert_eq!(all(&store).await, ["a"]);
}
