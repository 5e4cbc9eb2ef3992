//! `agent.db`: everything that is kept and is not traffic. Its schema is one numbered list, to which
//! every part that keeps tables there adds its own steps at the end; a step that was released is
//! never changed. A table is read and written by the part that owns it only; the step's head says
//! which that is.
//!
//! Works that wait together share one commit; each is on the disk when its caller hears of it.

use std::path::{Path, PathBuf};

use super::{Spec, Store, StoreError};
use crate::base::clock::Clock;

/// Its file in the state folder.
pub const FILE: &str = "agent.db";
/// All that can wait in the queue shares a commit: a burst costs a few syncs of the disk.
const GROUP_MAX: usize = super::QUEUE_MAX;
/// Most of what is read is a row by its number; an idle agent takes 16 MiB in all.
const CACHE_KIB: u32 = 512;
/// The steps of its schema, in order.
const MIGRATIONS: &[&str] = &[
    include_str!("agent/001_events.sql"),
    include_str!("agent/002_registry.sql"),
    include_str!("agent/010_audit.sql"),
    include_str!("agent/011_limits.sql"),
];

/// Where the store of a state folder is, and its schema.
pub fn spec(state_dir: &Path, clock: Clock) -> Spec {
    Spec {
        what: "agent",
        file: file(state_dir),
        migrations: MIGRATIONS,
        group_max: GROUP_MAX,
        cache_kib: CACHE_KIB,
        clock,
    }
}

/// Where the store of a state folder is.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The store of `state_dir`. The caller holds the folder's lock. Whoever only reads from beside the
/// writer takes [`super::open_read_only`] with [`spec`].
pub fn start(state_dir: &Path, clock: Clock) -> Result<Store, StoreError> {
    Store::start(spec(state_dir, clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_in_the_folder_is_in_the_list_in_its_order() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/agent");
        let mut steps: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|step| step.unwrap().path())
            .collect();
        steps.sort();
        let texts: Vec<_> = steps
            .iter()
            .map(|step| std::fs::read_to_string(step).unwrap())
            .collect();
        assert_eq!(texts, MIGRATIONS);
        // Numbers may be left out between parts; sorted by them, the steps were compared above.
        for step in &steps {
            let name = step.file_name().unwrap().to_str().unwrap();
            let number = name.split_once('_').unwrap().0;
            assert!(number.len() == 3 && number.parse::<u16>().is_ok(), "{name}");
        }
    }
}
