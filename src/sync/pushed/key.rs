//! The key by which ids are derived from pushed passwords: random, made once, kept in the state folder.
//! Another key makes other ids, so that all derived users would leave and come.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use tracing::warn;
use zeroize::Zeroizing;

use crate::base::clock::Clock;
use crate::base::files::{FileError, PRIVATE_FILE, read_if_there, set_aside, write_atomically};
use crate::model::credentials::{DerivingKey, KEY_BYTES};

/// The key of this state folder, made where there is none. The folder of pushed users is there. One
/// that is no key is set aside and told.
pub(super) fn open(state_dir: &Path, clock: Clock) -> Result<DerivingKey, FileError> {
    if let Some(key) = read(state_dir)? {
        return Ok(key);
    }
    let path = path(state_dir);
    if path.exists() {
        let aside = set_aside(&path, clock.now().as_second())?;
        warn!(kept_as = %aside.display(), "the key of pushed users makes no sense: a new one is made, \
            and whoever is let in by a password gets a new e-mail");
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(&mut *key).map_err(|_| {
        let source = std::io::Error::other("the system gives no random bytes");
        FileError::new("cannot make", &path, source)
    })?;
    write_atomically(&path, &*key, PRIVATE_FILE)?;
    Ok(DerivingKey::new(&key))
}

/// The key that is kept, for whoever only looks; one that makes no ids where there is none.
pub fn kept(state_dir: &Path) -> Result<DerivingKey, FileError> {
    Ok(read(state_dir)?.unwrap_or_default())
}

fn read(state_dir: &Path) -> Result<Option<DerivingKey>, FileError> {
    let bytes = read_if_there(&path(state_dir))?.map(Zeroizing::new);
    let key = bytes.and_then(|bytes| {
        <&[u8; KEY_BYTES]>::try_from(&**bytes)
            .ok()
            .map(DerivingKey::new)
    });
    Ok(key)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("pushed").join("key")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pushed")).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), DerivingKey::default());
        let key = open(dir.path(), Clock::system()).unwrap();
        assert!(key.derive("a").is_some());
        assert_eq!(open(dir.path(), Clock::system()).unwrap(), key);
        assert_eq!(kept(dir.path()).unwrap(), key);
        let mode = path(dir.path()).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_key_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pushed")).unwrap();
        std::fs::write(path(dir.path()), b"short").unwrap();
        let key = open(dir.path(), Clock::system()).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), key);
        assert_eq!(
            std::fs::read_dir(dir.path().join("pushed"))
                .unwrap()
                .count(),
            2
        );
    }
}
