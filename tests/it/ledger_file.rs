//! The ledger's file as tests look at it: read by plain SQL, copied, put back. A second opinion: none
//! of the agent's own code reads it here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

/// Bytes up and down, by user.
pub type ByUser = BTreeMap<String, (u64, u64)>;

/// What a ledger holds: bytes by user, by where they stand (`open`, `settled` or a report's state).
#[derive(Clone, Debug, Default)]
pub struct Holdings(BTreeMap<String, ByUser>);

impl Holdings {
    /// Of the ledger in this file, and its log.
    pub fn read(ledger: &Path) -> Result<Self> {
        // Also for writing: a log that a killed writer left is taken in, as the agent would.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let ledger = Connection::open_with_flags(ledger, flags).context("opening the ledger")?;
        let mut query = ledger.prepare(
            "SELECT 'open' AS place, user, up, down FROM open
             UNION ALL SELECT 'settled', user, up, down FROM settled
             UNION ALL SELECT state, user, up, down FROM report",
        )?;
        let mut rows = query.query([])?;
        let mut all: BTreeMap<String, ByUser> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let user = Uuid::from_bytes(row.get("user")?).to_string();
            let (up, down): (i64, i64) = (row.get("up")?, row.get("down")?);
            let place = all.entry(row.get("place")?).or_default();
            add(place, user, (up.try_into()?, down.try_into()?));
        }
        Ok(Self(all))
    }

    /// Everything, wherever it stands.
    pub fn all(&self) -> ByUser {
        let mut sum = ByUser::new();
        for (user, bytes) in self.0.values().flatten() {
            add(&mut sum, user.clone(), *bytes);
        }
        sum
    }

    /// How many users have bytes that stand so.
    pub fn users(&self, place: &str) -> usize {
        self.0.get(place).map_or(0, BTreeMap::len)
    }

    /// Whether anything is left that the agent moves by itself.
    pub fn moves(&self) -> bool {
        ["open", "pending", "sending"]
            .iter()
            .any(|place| self.users(place) > 0)
    }
}

fn add(sum: &mut ByUser, user: String, (up, down): (u64, u64)) {
    let of_user = sum.entry(user).or_default();
    of_user.0 += up;
    of_user.1 += down;
}

/// The ledger of an agent whose output folder this is.
pub fn ledger_of(output: &Path) -> PathBuf {
    state_of(output).join("ledger.db")
}

/// The state folder of an agent whose output folder this is.
pub fn state_of(output: &Path) -> PathBuf {
    output.join(".xray-agent")
}

/// Makes `to` the same as `from`, files and folders.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to.to_owned());
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
