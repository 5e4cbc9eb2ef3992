//! A store seen through its handle: what is committed, what is undone, what a crash of a caller or
//! a full disk leaves.

use super::*;

pub(super) const MIGRATIONS: &[&str] =
    &["CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"];

pub(super) fn spec(folder: &std::path::Path) -> Spec {
    Spec {
        what: "test",
        file: folder.join("test.db"),
        migrations: MIGRATIONS,
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

#[tokio::test]
async fn what_is_written_is_read_by_the_next_handle() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..3_usize {
        let store = Store::start(spec(folder.path())).unwrap();
        let before = store.read("look", |work| texts(work)).await.unwrap();
        assert_eq!(before.len(), n);
        store.write("add", |work| insert(work, "a")).await.unwrap();
        assert_eq!(
            (store.health().state, store.health().commits),
            (State::Ok, 1)
        );
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
    assert!(
        store
            .read("look", |work| texts(work))
            .await
            .unwrap()
            .is_empty()
    );
}
