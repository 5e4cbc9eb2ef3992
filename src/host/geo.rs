//! Xray's geo data files (`geoip.dat`, `geosite.dat` and others) as providers of rules: which there are
//! in the configured folder, and what is in them.
//!
//! Kept here: a file is read again only when it changed or somebody asks for it, one at a time; nothing
//! is written, and nothing outside the folder is read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::task::spawn_blocking;
use tracing::warn;
use utoipa::ToSchema;

use super::geo_file::{GeoFile, Stamp};
use crate::base::clock::Clock;
use crate::base::redact;

/// How the names of such files end.
const SUFFIX: &str = ".dat";
/// Most files that are listed: Xray's folder has two, and some people's a dozen.
const FILES_MAX: usize = 64;
/// Longest reason that is shown, in characters.
const REASON_CHARS_MAX: usize = 200;

/// How a provider is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderState {
    /// It was not read yet.
    Pending,
    /// It was read.
    Healthy,
    /// The last try to read it failed.
    Error,
}

/// A geo data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProviderStatus {
    /// The file's name.
    pub name: String,
    /// SHA-256 of what was last read of it, as hexadecimal digits.
    pub checksum: Option<String>,
    /// When the file that was last read had been changed, in Unix milliseconds.
    pub last_success_unix_ms: Option<i64>,
    /// When it was last read, in Unix milliseconds.
    pub last_attempt_unix_ms: Option<i64>,
    /// A file has none.
    pub etag: Option<String>,
    /// How it is.
    pub state: ProviderState,
    /// Why it could not be read.
    pub last_error: Option<String>,
}

/// The providers of a folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Providers(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    folder: PathBuf,
    clock: Clock,
    /// By file. Held while a file is read, on a thread that may wait.
    read: Mutex<HashMap<String, LastRead>>,
}

/// What came of reading a file.
#[derive(Clone, Debug)]
struct LastRead {
    stamp: Option<Stamp>,
    status: ProviderStatus,
}

impl Providers {
    /// The files of this folder; `None`: there are none.
    pub fn new(folder: Option<PathBuf>, clock: Clock) -> Self {
        Self(folder.map(|folder| {
            Arc::new(Known {
                folder,
                clock,
                read: Mutex::default(),
            })
        }))
    }

    /// All files of the folder, by name. One that changed since it was last read is read.
    pub async fn list(&self) -> Vec<ProviderStatus> {
        let Some(known) = self.0.clone() else {
            return Vec::new();
        };
        let listed = spawn_blocking(move || {
            let names = names(&known.folder);
            let mut read = known.locked();
            read.retain(|name, _| names.contains(name));
            let all = names.iter().map(|name| known.look(&mut read, name, false));
            all.collect()
        });
        listed.await.unwrap_or_default()
    }

    /// Reads a file now; `None` where the folder has none of this name.
    pub async fn refresh(&self, name: &str) -> Option<ProviderStatus> {
        let known = self.0.clone()?;
        let name = name.to_owned();
        let looked = spawn_blocking(move || {
            let is_there = names(&known.folder).contains(&name);
            is_there.then(|| known.look(&mut known.locked(), &name, true))
        });
        looked.await.ok().flatten()
    }
}

impl Known {
    /// A panic while it was held leaves it whole: each change is one step.
    fn locked(&self) -> MutexGuard<'_, HashMap<String, LastRead>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, read: &mut HashMap<String, LastRead>, name: &str, anew: bool) -> ProviderStatus {
        let before = read.get(name).cloned();
        let opened = GeoFile::open(&self.folder, name);
        let stamp = opened.as_ref().ok().map(GeoFile::stamp);
        if let Some(before) = &before
            && before.stamp.is_some()
            && before.stamp == stamp
            && !anew
        {
            return before.status.clone();
        }
        let checksum = opened.and_then(GeoFile::checksum);
        let status = self.status(name, before.map(|it| it.status), stamp, checksum);
        let last = LastRead {
            stamp: stamp.filter(|_| status.state == ProviderState::Healthy),
            status: status.clone(),
        };
        read.insert(name.to_owned(), last);
        status
    }

    fn status(
        &self,
        name: &str,
        before: Option<ProviderStatus>,
        stamp: Option<Stamp>,
        checksum: Result<String, String>,
    ) -> ProviderStatus {
        let last_attempt_unix_ms = Some(self.clock.now().as_millisecond());
        let status = before.unwrap_or_else(|| ProviderStatus {
            name: name.to_owned(),
            checksum: None,
            last_success_unix_ms: None,
            last_attempt_unix_ms,
            etag: None,
            state: ProviderState::Pending,
            last_error: None,
        });
        match checksum {
            Ok(checksum) => ProviderStatus {
                checksum: Some(checksum),
                last_success_unix_ms: stamp.and_then(|stamp| stamp.modified_ms()),
                last_attempt_unix_ms,
                state: ProviderState::Healthy,
                last_error: None,
                ..status
            },
            Err(why) => ProviderStatus {
                last_attempt_unix_ms,
                state: ProviderState::Error,
                last_error: Some(redact::line(&why, REASON_CHARS_MAX)),
                ..status
            },
        }
    }
}

/// The files of the folder that are such by their names, sorted. Names that are no text are left out.
fn names(folder: &Path) -> Vec<String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => {
            warn!(
                "the geo data folder {} cannot be read: {e}",
                folder.display()
            );
            return Vec::new();
        }
    };
    let texts = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = texts.filter(|name| name.ends_with(SUFFIX)).collect();
    names.sort();
    names.truncate(FILES_MAX);
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;

    /// Of `abc`, from FIPS 180-2.
    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn stage() -> (TempDir, Providers) {
        let folder = tempfile::tempdir().unwrap();
        let geo = folder.path().join("geo");
        fs::create_dir(&geo).unwrap();
        let clock = Clock::following(Timestamp::from_second(2_000).unwrap());
        let providers = Providers::new(Some(geo), clock);
        (folder, providers)
    }

    fn put(folder: &TempDir, name: &str, content: &str, modified_s: u64) {
        let path = folder.path().join("geo").join(name);
        fs::write(&path, content).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(modified_s);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(modified).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_dat_file_is_shown_with_its_checksum_and_age() {
        let (folder, providers) = stage();
        put(&folder, "geosite.dat", "x", 1);
        put(&folder, "geoip.dat", "abc", 1_000);
        put(&folder, "readme.txt", "abc", 1);
        let all = providers.list().await;
        assert_eq!(all.len(), 2);
        let expected = ProviderStatus {
            name: "geoip.dat".to_owned(),
            checksum: Some(OF_ABC.to_owned()),
            last_success_unix_ms: Some(1_000_000),
            last_attempt_unix_ms: Some(2_000_000),
            etag: None,
            state: ProviderState::Healthy,
            last_error: None,
        };
        assert_eq!(all[0], expected);
        assert_eq!(all[1].name, "geosite.dat");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_when_it_changed_or_somebody_asks() {
        let (folder, providers) = stage();
        put(&folder, "geoip.dat", "abc", 1_000);
        let first = providers.list().await.remove(0);
        tokio::time::advance(Duration::from_secs(1)).await;
        // By size and time it is as it was.
        put(&folder, "geoip.dat", "xyz", 1_000);
        assert_eq!(providers.list().await.remove(0), first);
        let asked = providers.refresh("geoip.dat").await.unwrap();
        assert_ne!(asked.checksum, first.checksum);
        assert_eq!(asked.last_attempt_unix_ms, Some(2_001_000));
        put(&folder, "geoip.dat", "abc", 1_001);
        let changed = providers.list().await.remove(0);
        assert_eq!(changed.checksum, first.checksum);
        assert_eq!(changed.last_success_unix_ms, Some(1_001_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_says_why_and_what_it_last_was() {
        let (folder, providers) = stage();
        put(&folder, "geoip.dat", "abc", 1_000);
        providers.list().await;
        put(&folder, "geoip.dat", "", 1_500);
        let broken = providers.list().await.remove(0);
        assert_eq!(broken.state, ProviderState::Error);
        assert!(broken.last_error.unwrap().contains("is empty"));
        assert_eq!(broken.checksum.as_deref(), Some(OF_ABC));
        assert_eq!(broken.last_success_unix_ms, Some(1_000_000));
        put(&folder, "geoip.dat", "abc", 1_500);
        let well = providers.list().await.remove(0);
        assert_eq!(
            (well.state, well.last_error),
            (ProviderState::Healthy, None)
        );
        fs::remove_file(folder.path().join("geo/geoip.dat")).unwrap();
        assert_eq!(providers.list().await, []);
        assert_eq!(providers.refresh("geoip.dat").await, None);
    }

    #[tokio::test]
    async fn nothing_outside_the_folder_is_read() {
        let (folder, providers) = stage();
        let outside = folder.path().join("outside.dat");
        fs::write(&outside, "abc").unwrap();
        let geo = folder.path().join("geo");
        symlink(&outside, geo.join("link.dat")).unwrap();
        fs::create_dir(geo.join("folder.dat")).unwrap();
        put(&folder, "real.dat", "abc", 1);
        symlink("real.dat", geo.join("within.dat")).unwrap();
        for name in ["../outside.dat", "/etc/passwd", "", "..", "absent.dat"] {
            assert_eq!(providers.refresh(name).await, None, "{name}");
        }
        let all = providers.list().await;
        let told: Vec<_> = all.iter().map(|it| (it.name.as_str(), it.state)).collect();
        let (error, healthy) = (ProviderState::Error, ProviderState::Healthy);
        let expected = [
            ("folder.dat", error),
            ("link.dat", error),
            ("real.dat", healthy),
            ("within.dat", healthy),
        ];
        assert_eq!(told, expected);
        assert!(all[1].checksum.is_none());
        assert!(all[1].last_error.as_ref().unwrap().contains("leads out"));
    }

    #[tokio::test]
    async fn without_a_folder_there_are_no_providers() {
        let none = Providers::new(None, Clock::system());
        assert_eq!(none.list().await, []);
        assert_eq!(none.refresh("geoip.dat").await, None);
        let gone = Providers::new(Some("/nowhere/at/all".into()), Clock::system());
        assert_eq!(gone.list().await, []);
    }
}
