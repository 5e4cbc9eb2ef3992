//! One holder at a time: an exclusive `flock` on a file, given back by the kernel however the
//! holder ends. The file tells who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::files::{FileError, PRIVATE_FILE};

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What trying to take a lock came to.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Held(Lock),
    /// Somebody else has it; what they wrote of themselves.
    Busy(String),
}

impl Lock {
    /// Takes the lock on `path` if it is free, and writes `holder` into it.
    pub fn try_take(path: &Path, holder: &str) -> Result<Taken, FileError> {
        let fail = |e| FileError::new("cannot lock", path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).map_err(fail)?;
                file.rewind().map_err(fail)?;
                file.write_all(holder.as_bytes()).map_err(fail)?;
                Ok(Taken::Held(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut who = String::new();
                file.read_to_string(&mut who).map_err(fail)?;
                Ok(Taken::Busy(who.trim().to_owned()))
            }
            Err(TryLockError::Error(e)) => Err(fail(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_who_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::try_take(&path, "the first").unwrap();
        assert!(matches!(first, Taken::Held(_)));
        match Lock::try_take(&path, "the second").unwrap() {
            Taken::Busy(who) => assert_eq!(who, "the first"),
            Taken::Held(_) => panic!("two holders"),
        }
        drop(first);
        assert!(matches!(
            Lock::try_take(&path, "x").unwrap(),
            Taken::Held(_)
        ));
    }
}
