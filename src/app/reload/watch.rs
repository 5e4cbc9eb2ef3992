//! Watches the configuration's file, whatever way it is changed in: written in place, renamed over,
//! behind a symlink that is turned, taken away and put back.
//!
//! The kernel's word on the folders of the path only says when to look: what counts is whether the
//! file's content is another. A look now and then stands in where the kernel says nothing (network
//! file systems, folders that were replaced).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::Reloads;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::config::Sources;

/// Between two looks that nobody asked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a change the file is left alone for so long: programs that save make several of it.
const SETTLES: Duration = Duration::from_millis(200);
/// But not longer than this, if it is changed on and on.
const SETTLES_MAX: Duration = Duration::from_secs(2);
/// Symlinks in a row that are followed, as the kernel does.
const LINKS_MAX: usize = 40;

/// What is in the configuration's file, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Option<u64>);

impl Stamp {
    /// Of the file that `sources` name, or of the default one.
    pub fn of(sources: &Sources) -> Self {
        Self::of_file(&sources.file_in_use())
    }

    fn of_file(path: &Path) -> Self {
        let hash = |bytes: Vec<u8>| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        };
        Self(std::fs::read(path).ok().map(hash))
    }

    /// Whether there is a file.
    pub(super) fn is_there(self) -> bool {
        self.0.is_some()
    }
}

/// Asks for a reload whenever the file's content is another than when it was last read. Runs until the
/// end is asked for.
pub(in crate::app) async fn watch(
    file: PathBuf,
    reloads: Reloads,
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let mut bell = Bell::new();
    loop {
        heartbeat.beat();
        bell.watch(folders_of(&file));
        let read = reloads.stamp();
        if Stamp::of_file(&file) != read {
            // What it came to is in the log and the status.
            let _ = reloads.reload().await;
            // Nobody reads it any more when the agent is ending.
            if reloads.stamp() != read {
                continue;
            }
        }
        // Both arms are cancel-safe.
        tokio::select! {
            () = shutdown.requested() => return,
            () = bell.rings() => {}
        }
    }
}

/// Rings when something happens in one of the folders.
struct Bell {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    rings: mpsc::Receiver<()>,
}

impl Bell {
    fn new() -> Self {
        let (ring, rings) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_| {
            // One that was not heard yet stands for all.
            let _ = ring.try_send(());
        });
        let watcher = watcher.map_err(|error| debug!(%error, "files cannot be watched"));
        Self {
            watcher: watcher.ok(),
            folders: BTreeSet::new(),
            rings,
        }
    }

    /// Listens to these folders, and to no others.
    fn watch(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        // A folder that was replaced has the same name: it is listened to anew.
        let listened = folders.into_iter().filter(|folder| {
            let listening = watcher.watch(folder, RecursiveMode::NonRecursive);
            listening
                .map_err(|error| debug!(%error, folder = %folder.display(), "cannot be watched"))
                .is_ok()
        });
        self.folders = listened.collect();
    }

    /// Until it is time to look. Cancel-safe.
    async fn rings(&mut self) {
        let rang = timeout(LOOK_EVERY, self.rings.recv()).await;
        if let Ok(Some(())) = rang {
            let settles =
                async { while let Ok(Some(())) = timeout(SETTLES, self.rings.recv()).await {} };
            let _ = timeout(SETTLES_MAX, settles).await;
        } else if rang.is_ok() {
            // Nobody is left who could ring.
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The folder of every name on the way from `file` to what it is in the end.
fn folders_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut path = file.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        // The folder may be reached by a symlink that is turned itself.
        for above in [folder.as_path()].into_iter().chain(folder.ancestors()) {
            if above.is_symlink()
                && let Some(holder) = above.parent()
            {
                folders.insert(holder.to_owned());
            }
        }
        folders.insert(folder.clone());
        match std::fs::read_link(&path) {
            Ok(target) => path = folder.join(target),
            Err(_) => break,
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_folder_on_the_way_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["etc", "etc/..one", "elsewhere"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        std::fs::write(at("elsewhere/real.toml"), "x").unwrap();
        // As a mounted map of configuration has it: the file by a link, through a folder that is one.
        symlink("..one", at("etc/..data")).unwrap();
        symlink("../../elsewhere/real.toml", at("etc/..one/config.toml")).unwrap();
        symlink("..data/config.toml", at("etc/config.toml")).unwrap();
        let folders = folders_of(&at("etc/config.toml"));
        for folder in ["etc", "etc/..data"] {
            assert!(folders.contains(&at(folder)), "{folder}: {folders:?}");
        }
        let last = at("etc/..data/../../elsewhere");
        assert!(folders.contains(&last), "{folders:?}");
    }

    #[test]
    fn a_circle_of_links_comes_to_an_end() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        symlink(at("b"), at("a")).unwrap();
        symlink(at("a"), at("b")).unwrap();
        assert_eq!(folders_of(&at("a")), [root.path().to_owned()].into());
        assert!(!Stamp::of_file(&at("a")).is_there());
    }
}
