//! Looks into the ledger for whoever shows something of it: reads it as it is at one moment, and leaves
//! its folder as it is.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::Connection;

use crate::base::clock::Clock;
use crate::store::{WorkError, look_into};
use crate::traffic::ledger;

/// What `read` finds; `None` where there is no ledger yet. An error is in words, with the file.
pub(super) fn look<T>(
    state_dir: &Path,
    read: impl FnOnce(&Connection) -> Result<T, WorkError>,
) -> Result<Option<T>, String> {
    let spec = ledger::spec(state_dir, Clock::system());
    let unread = |why: &dyn std::fmt::Display| format!("reading {}: {why}", spec.file.display());
    // One that this user may not see is not one that is not there.
    match fs::symlink_metadata(&spec.file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread(&error)),
        Ok(_) => {}
    }
    let Some(connection) = look_into(&spec).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let snapshot = connection.unchecked_transaction().map_err(|e| unread(&e))?;
    read(&snapshot).map(Some).map_err(|e| unread(&e))
}
