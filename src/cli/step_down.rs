//! Root gives way to the owner of the state folder. What root made there, that user could not open
//! again; and a folder that another user writes is no place for root to write in.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::FAILED;

/// Starts this very command again as the owner of `state_dir`, where we are root and that is somebody
/// else. Comes back where there is nothing to do, or with the exit code of what did not work.
pub(super) fn to_owner_of(state_dir: &Path) -> Option<u8> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    // No folder: nobody's to give way to.
    let owner = std::fs::metadata(state_dir).ok()?;
    if owner.uid() == 0 {
        return None;
    }
    let failed = std::env::current_exe().map(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .uid(owner.uid())
            .gid(owner.gid())
            .exec()
    });
    let why = failed.unwrap_or_else(|error| error);
    eprintln!(
        "cannot run as the owner of {}, user {}: {why}",
        state_dir.display(),
        owner.uid()
    );
    Some(FAILED)
}
