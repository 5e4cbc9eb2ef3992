//! Reads beside the writer: for long lists and pages, which must not hold up what is to be written.
//!
//! Kept here: each read sees the file as it is at one moment, on a connection of its own that cannot
//! write, and few run at once.

use std::fmt::Display;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::error::{StoreError, WorkError};
use super::{Spec, open_read_only};

/// Reads at once: each takes a thread and up to 2 MiB. More wait for their turn.
const AT_ONCE: usize = 2;

/// A handle; clones share the places.
#[derive(Clone, Debug)]
pub struct Reader {
    spec: Spec,
    places: Arc<Semaphore>,
}

impl Reader {
    /// One of this store, whoever writes it.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What `read` finds; `None` before anything was written. What it does not find readable is told,
    /// and left to the writer to judge. A read whose caller leaves is carried through, in its place.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("invariant: nobody closes the semaphore");
        let spec = self.spec.clone();
        let reading = spawn_blocking(move || {
            let _place = place;
            let unread = |why: &dyn Display| {
                let file = spec.file.display();
                StoreError::Unavailable(format!("reading {file}: {why}"))
            };
            let Some(connection) = open_read_only(&spec)? else {
                return Ok(None);
            };
            let snapshot = connection.unchecked_transaction().map_err(|e| unread(&e))?;
            read(&snapshot).map(Some).map_err(|e| unread(&e))
        });
        let failed = |e| Err(StoreError::Bug(format!("reading the store: {e}")));
        reading.await.unwrap_or_else(failed)
    }
}
