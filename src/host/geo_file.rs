//! One geo data file: found in its folder, never outside, and read to the end for its checksum.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{Mode, OFlags};

/// Largest file that is read, in bytes: ten times what the largest published ones have.
const BYTES_MAX: u64 = 256 << 20;
/// Bytes at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// By which it is seen that a file is another one than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    bytes: u64,
}

impl Stamp {
    /// When the file was last changed, in Unix milliseconds.
    pub(super) fn modified_ms(&self) -> Option<i64> {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok()
    }
}

/// An open file of the folder.
#[derive(Debug)]
pub(super) struct GeoFile {
    file: File,
    stamp: Stamp,
}

impl GeoFile {
    /// Opens what has this name in the folder. Nothing is followed that leads out of it, and nothing is
    /// opened that is no file.
    pub(super) fn open(folder: &Path, name: &str) -> Result<Self, String> {
        let path = within(folder, name)?;
        // What was looked at is opened, not what a link put in its place leads to; and a pipe without a
        // writer keeps nobody waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
        let file = rustix::fs::open(&path, flags, Mode::empty());
        let file = File::from(file.map_err(|e| unreadable(e.into()))?);
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err("is not a file".to_owned());
        }
        if metadata.len() > BYTES_MAX {
            return Err(format!("is larger than {BYTES_MAX} bytes and is not read"));
        }
        let stamp = Stamp {
            modified: metadata.modified().map_err(unreadable)?,
            bytes: metadata.len(),
        };
        Ok(Self { file, stamp })
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// SHA-256 of what is in it, as hexadecimal digits.
    pub(super) fn checksum(self) -> Result<String, String> {
        let mut digest = Context::new(&SHA256);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut rest = self.file.take(BYTES_MAX);
        let mut is_empty = true;
        loop {
            let read = rest.read(&mut chunk);
            match read.map_err(|e| format!("cannot be read: {e}"))? {
                0 if is_empty => return Err("is empty; download it again".to_owned()),
                0 => break,
                bytes => digest.update(&chunk[..bytes]),
            }
            is_empty = false;
        }
        let mut text = String::new();
        for byte in digest.finish().as_ref() {
            let _ = write!(text, "{byte:02x}");
        }
        Ok(text)
    }
}

/// Where a name of the folder really is.
fn within(folder: &Path, name: &str) -> Result<PathBuf, String> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err("is not the name of a file".to_owned());
    }
    let unreadable = |e| format!("cannot be read: {e}");
    let folder = folder.canonicalize().map_err(unreadable)?;
    let path = folder.join(name).canonicalize().map_err(unreadable)?;
    if !path.starts_with(&folder) {
        return Err("is a link that leads out of the folder; put the file itself there".to_owned());
    }
    Ok(path)
}
