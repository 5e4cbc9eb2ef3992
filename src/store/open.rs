//! Opening a store's file: whose it is, whether it is whole, whether it is older than what was
//! committed, and bringing its schema up to date. Until all of that is known nothing is written to
//! it, and closing it leaves its log as it is: a file that is refused or set aside keeps its bytes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, Transaction};
use rusqlite_migration::{HookError, M, Migrations};
use rustix::fs::{Access, access};
use url::Url;

use crate::base::files::PRIVATE_FILE;

use super::aside;
use super::error::{Class, StoreError, Trouble, class_of, describe, reason_of};
use super::witness::{self, Witness};
use super::{APPLICATION_ID, Spec};

/// How long another process (a command line, a backup) may hold a lock that we need.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A file of up to this size is checked whole at each opening, which takes about a tenth of a second.
const CHECKED_BYTES_MAX: u64 = 8 << 20;
/// One that was not closed in order is checked up to this size, which takes some seconds. Else a file is
/// believed, and is found damaged only where it is read.
const CHECKED_UNCLOSED_BYTES_MAX: u64 = 256 << 20;
/// Statements that an engine uses in its loop stay prepared.
const STATEMENTS_CACHED: usize = 64;
/// Set at every opening. The log is taken into the database when it is 128 pages long, half a MiB: one
/// that is left to grow to SQLite's 4 MiB fills a small disk by itself, and then there is no room to
/// take it in. After that it is cut to 4 MiB (`journal_size_limit`, bytes), which only a large
/// transaction makes longer. SQLite passes over a checkpoint that fails; what it was to move stays in
/// the log, which each commit syncs, and is written again by the next one.
const PRAGMAS: &str = "
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA temp_store = MEMORY;
    PRAGMA wal_autocheckpoint = 128;
    PRAGMA journal_size_limit = 4194304;
";
/// The store's own table, made with the first migration: how many commits there were, and the
/// CRC-32 of the schema as the migrations left it.
const OWN_TABLE: &str = "
    CREATE TABLE store_commits (
        id INTEGER PRIMARY KEY CHECK (id = 1), n INTEGER NOT NULL, schema_crc INTEGER NOT NULL
    ) STRICT;
    INSERT INTO store_commits (id, n, schema_crc) VALUES (1, 0, 0);
";

/// An open store.
#[derive(Debug)]
pub(super) struct Opened {
    /// The only connection that writes.
    pub(super) connection: Connection,
    /// `None` where it cannot be written; then going back is not noticed, which is all it costs.
    pub(super) witness: Witness,
}

/// What a file says of itself.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Nothing is in it yet.
    Empty,
    /// A store of ours with this schema.
    Ours(usize),
}

/// Opens the file, which is created if there is none.
pub(super) fn open(spec: &Spec) -> Result<Opened, Trouble> {
    let file = &spec.file;
    refuse_what_is_left_of_a_lost_file(file)?;
    // The last handle that is closed in order takes the log in.
    let was_closed = fs::metadata(aside::log_of(file)).map_or(true, |log| log.len() == 0);
    create(file)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let known = spec.migrations.len();
    let identity = identify(&connection).map_err(without_bugs)?;
    match identity {
        Identity::Ours(found) if found > known => return Err(Trouble::Newer(found)),
        Identity::Ours(found) => {
            check_pages(&connection, file, was_closed).map_err(without_bugs)?;
            check(&connection, file, found).map_err(without_bugs)?;
        }
        // Its whole content may have been in a log that is lost.
        Identity::Empty => hear_the_witness(file, 0)?,
    }
    connection.execute_batch(PRAGMAS)?;
    // In KiB where it is negative.
    connection.pragma_update(None, "cache_size", -i64::from(spec.cache_kib))?;
    log_ahead(&connection)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    migrate(&mut connection, spec.migrations)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    // Without it an old copy could be put back unseen.
    let witness = Witness::open(file).map_err(|e| {
        let path = witness::path_of(file);
        Trouble::Unavailable(format!("{} cannot be written: {e}", path.display()))
    })?;
    Ok(Opened {
        connection,
        witness,
    })
}

/// Opens the file for reading only, beside the writer or from another process. `None` without a file
/// and with an empty one. The schema has to be the one that this program knows.
pub fn open_read_only(spec: &Spec) -> Result<Option<Connection>, StoreError> {
    open_by(spec, peek)
}

/// [`open_read_only`] for whoever must leave the folder as it is: a file that nobody has open is read
/// as it lies, for SQLite would put an index and a log beside it. One who opens it meanwhile to write
/// writes to the log, which this reader does not look at.
pub fn look_into(spec: &Spec) -> Result<Option<Connection>, StoreError> {
    let is_at_rest = !exists(&aside::index_of(&spec.file))
        && fs::metadata(aside::log_of(&spec.file)).map_or(true, |log| log.len() == 0);
    open_by(spec, if is_at_rest { peek_at_rest } else { peek })
}

fn open_by(
    spec: &Spec,
    peek: fn(&Path) -> Result<(Connection, Identity), Trouble>,
) -> Result<Option<Connection>, StoreError> {
    let file = &spec.file;
    if fs::metadata(file).is_ok_and(|found| found.len() == 0) || !exists(file) {
        return Ok(None);
    }
    let unusable = |reason: &str| {
        let doing = format!("reading the {}", spec.what);
        StoreError::Unavailable(describe(Class::Unavailable, &doing, file, reason))
    };
    let known = spec.migrations.len();
    match peek(file) {
        Ok((connection, Identity::Ours(found))) if found == known => Ok(Some(connection)),
        Ok((_, Identity::Ours(found))) if found > known => Err(StoreError::Newer {
            found,
            known,
            file: file.clone(),
        }),
        Ok((_, Identity::Ours(found))) => Err(unusable(&format!(
            "it has schema {found} and this program knows {known}: start the agent once, which \
             brings it up to date"
        ))),
        Ok((_, Identity::Empty)) => Ok(None),
        Err(Trouble::Damaged(why) | Trouble::Unavailable(why) | Trouble::Bug(why)) => {
            Err(unusable(&why))
        }
        Err(Trouble::Sql(error)) => Err(unusable(&reason_of(&error))),
        Err(Trouble::Newer(found)) => Err(StoreError::Newer {
            found,
            known,
            file: file.clone(),
        }),
    }
}

fn peek(file: &Path) -> Result<(Connection, Identity), Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    // The writer's log is the writer's.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let identity = identify(&connection)?;
    Ok((connection, identity))
}

/// The file alone, taken for one that nobody changes.
fn peek_at_rest(file: &Path) -> Result<(Connection, Identity), Trouble> {
    let name = Url::from_file_path(std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    let Ok(mut name) = name else {
        return peek(file);
    };
    name.set_query(Some("immutable=1"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(name.as_str(), flags)?;
    let identity = identify(&connection)?;
    Ok((connection, identity))
}

fn exists(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

/// SQLite deletes the log of a database that is empty, and an empty database has no commits to
/// hold against its witness. So what is left of a file that was lost is found before.
fn refuse_what_is_left_of_a_lost_file(file: &Path) -> Result<(), Trouble> {
    if fs::metadata(file).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    if let Some(commits) = marked(file)?.filter(|commits| *commits > 0) {
        return Err(Trouble::Damaged(format!(
            "{} is gone or empty, though {commits} commits were made to it",
            file.display()
        )));
    }
    if fs::metadata(aside::log_of(file)).is_ok_and(|log| log.len() > 0) {
        return Err(Trouble::Damaged(format!(
            "{} is gone or empty, though its log is there",
            file.display()
        )));
    }
    Ok(())
}

fn marked(file: &Path) -> Result<Option<u64>, Trouble> {
    witness::read(file)
        .map_err(|e| Trouble::Unavailable(format!("{}: {e}", witness::path_of(file).display())))
}

/// Creates the file with the mode that SQLite then gives to its log, too. An existing file is not
/// opened here: closing any handle to it would give up SQLite's locks on it (they are per process).
fn create(file: &Path) -> Result<(), Trouble> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(file);
    match created {
        Ok(_) => aside::sync_folder_of(file).map_err(|e| Trouble::Unavailable(e.to_string())),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => make_private(file),
        Err(e) if e.kind() == io::ErrorKind::StorageFull => Err(Trouble::Sql(full())),
        Err(e) => Err(Trouble::Unavailable(e.to_string())),
    }
}

/// A file that a person put here may be open to others.
fn make_private(file: &Path) -> Result<(), Trouble> {
    let has = fs::metadata(file).map(|found| found.permissions().mode() & 0o777);
    let private = fs::Permissions::from_mode(PRIVATE_FILE);
    let made = has.and_then(|has| match has {
        PRIVATE_FILE => Ok(()),
        _ => fs::set_permissions(file, private),
    });
    made.map_err(|e| Trouble::Unavailable(e.to_string()))
}

fn full() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    rusqlite::Error::SqliteFailure(code, None)
}

/// Whose file it is. One of another program is damage: it is kept, but not in our place.
fn identify(connection: &Connection) -> Result<Identity, Trouble> {
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, pragma, |row| row.get(0))
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match usize::try_from(version) {
        Ok(0) if application == 0 && tables == 0 => Ok(Identity::Empty),
        Ok(version) if application == APPLICATION_ID && version > 0 => Ok(Identity::Ours(version)),
        _ => Err(Trouble::Damaged(format!(
            "it is not a store of ours (application {application}, schema {version})"
        ))),
    }
}

/// Whether SQLite finds its own structures whole.
fn check_pages(connection: &Connection, file: &Path, was_closed: bool) -> Result<(), Trouble> {
    let bytes_max = if was_closed {
        CHECKED_BYTES_MAX
    } else {
        CHECKED_UNCLOSED_BYTES_MAX
    };
    if fs::metadata(file).is_ok_and(|found| found.len() > bytes_max) {
        return Ok(());
    }
    let mut said = String::new();
    connection.pragma(None, "integrity_check", 1, |row| {
        said = row.get(0)?;
        Ok(())
    })?;
    if said == "ok" {
        Ok(())
    } else {
        Err(Trouble::Damaged(said))
    }
}

/// Whether the file is what was last committed, as far as that can be told without its content.
fn check(connection: &Connection, file: &Path, schema: usize) -> Result<(), Trouble> {
    // SQLite never writes to a file whose head asks for a newer form than it knows; ours never do.
    let writable = access(file, Access::WRITE_OK).is_ok();
    if writable && connection.is_readonly(MAIN_DB)? {
        let why = "its head asks for a form that SQLite does not know";
        return Err(Trouble::Damaged(why.to_owned()));
    }
    let query = "SELECT n, schema_crc FROM store_commits WHERE id = 1";
    let (commits, schema_crc): (i64, u32) =
        connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if schema_crc != crc_of_schema(connection, schema)? {
        return Err(Trouble::Damaged(
            "its schema is not what was made".to_owned(),
        ));
    }
    let negative = |_| Trouble::Damaged(format!("it counts {commits} commits"));
    hear_the_witness(file, u64::try_from(commits).map_err(negative)?)
}

/// Whether the witness knows of more commits than the file holds, or is not there at all: then the
/// file was put there by somebody else than us.
fn hear_the_witness(file: &Path, commits: u64) -> Result<(), Trouble> {
    let path = witness::path_of(file);
    match marked(file)? {
        Some(marked) if marked > commits => Err(Trouble::Damaged(format!(
            "it went back: it holds {commits} commits, and {marked} were made; an old copy cannot \
             be put back"
        ))),
        // It is made before the first commit that counts.
        None if commits > 0 && !exists(&path) => Err(Trouble::Damaged(format!(
            "{} is not there, so that it may be an old copy",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Looking at the head and at our own table cannot fail but for the file, whatever SQLite calls it.
fn without_bugs(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Sql(error) if class_of(&error) == Class::Bug => {
            Trouble::Damaged(format!("its head or schema makes no sense ({error})"))
        }
        other => other,
    }
}

/// A flipped bit in the name of a table or column is no damage to SQLite. Also tells a version
/// that went back, before migrations would run a second time.
fn crc_of_schema(connection: &Connection, version: usize) -> rusqlite::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&(version as u64).to_le_bytes());
    let mut query = connection.prepare(
        "SELECT type || '|' || name || '|' || tbl_name || '|' || coalesce(sql, '')
         FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        sum.update(row.get_ref(0)?.as_bytes()?);
    }
    Ok(sum.finalize())
}

/// Switches to the write-ahead log, which a file system may not be able to carry.
fn log_ahead(connection: &Connection) -> Result<(), Trouble> {
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    Err(Trouble::Unavailable(format!(
        "the file system cannot hold a write-ahead log (journal mode {mode}); put the state \
         folder on a local one"
    )))
}

/// All that lack, in one transaction, each leaving the checksum of the schema that it made.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Trouble> {
    let first = migrations.first().copied().unwrap_or_default();
    let first = format!("PRAGMA application_id = {APPLICATION_ID}; {OWN_TABLE} {first}");
    let steps = migrations.iter().enumerate().map(|(at, sql)| {
        let sql = if at == 0 { first.as_str() } else { sql };
        M::up_with_hook(sql, move |transaction: &Transaction<'_>| {
            let crc = crc_of_schema(transaction, at + 1).map_err(HookError::RusqliteError)?;
            transaction
                .execute("UPDATE store_commits SET schema_crc = ?1", [crc])
                .map_err(HookError::RusqliteError)?;
            Ok(())
        })
    });
    Migrations::new(steps.collect()).to_latest(connection)?;
    Ok(())
}
