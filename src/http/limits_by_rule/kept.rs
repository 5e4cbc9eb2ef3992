//! Rules that stay: in `agent.db`, and in force from the moment when they are on the disk.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::DefaultClock;
use rusqlite::Connection;
use tracing::warn;

use super::{Rules, Scope, Snapshot};
use crate::store::{Store, StoreError, Work, WorkError};

/// Most rules: each may remember thousands of those that ask.
const RULES_MAX: i64 = 256;
/// Longest key, in characters.
const KEY_CHARS_MAX: usize = 200;

/// Why a rule is not set.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// Its key cannot be one.
    #[error(
        "the key must have 1 to {KEY_CHARS_MAX} characters, and that of an endpoint begin with /"
    )]
    Key,
    /// There are too many.
    #[error("{RULES_MAX} limits are set already, no more are taken; remove one")]
    TooMany,
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A handle; clones share the rules.
#[derive(Clone, Debug)]
pub struct RateLimits {
    rules: Arc<Rules<DefaultClock>>,
    store: Store,
}

impl RateLimits {
    /// The rules of this `agent.db`. Where they cannot be read none hold, and the log says so.
    pub async fn start(store: Store) -> Self {
        let rules = Arc::new(Rules::new(DefaultClock::default()));
        match store.read("rate_limits", |work| read(work)).await {
            Ok(all) => {
                for (scope, key, per_minute) in all {
                    rules.set(scope, &key, per_minute);
                }
            }
            Err(e) => warn!("limits of the API that were set do not hold: {e}"),
        }
        Self { rules, store }
    }

    /// Sets a rule, in requests a minute.
    pub async fn set(
        &self,
        scope: Scope,
        key: &str,
        per_minute: NonZeroU32,
    ) -> Result<(), SetError> {
        if !is_key(scope, key) {
            return Err(SetError::Key);
        }
        let (rules, key) = (Arc::clone(&self.rules), key.to_owned());
        let work = move |work: &Work<'_>| {
            let is_set = put(work, scope, &key, per_minute)?;
            if is_set {
                work.after_commit(move || rules.set(scope, &key, per_minute));
            }
            Ok(is_set)
        };
        let is_set = self.store.write("rate_limit", work).await?;
        is_set.then_some(()).ok_or(SetError::TooMany)
    }

    /// Removes a rule; false: there is none.
    pub async fn remove(&self, scope: Scope, key: &str) -> Result<bool, StoreError> {
        let (rules, key) = (Arc::clone(&self.rules), key.to_owned());
        let work = move |work: &Work<'_>| {
            let removed = work
                .prepare_cached("DELETE FROM rate_limit WHERE scope = ?1 AND key = ?2")?
                .execute((scope.word(), &key))?;
            work.after_commit(move || rules.remove(scope, &key));
            Ok(removed > 0)
        };
        self.store.write("rate_limit_removed", work).await
    }

    /// All rules.
    pub fn snapshot(&self) -> Snapshot {
        self.rules.snapshot()
    }

    /// Counts a request for a route (by its template) by whoever has these names, the most telling
    /// first. An error is how long it would have to wait: then it is not to be answered.
    pub fn check(&self, endpoint: &str, names: &[Arc<str>]) -> Result<(), Duration> {
        self.rules.check(endpoint, names)
    }
}

fn is_key(scope: Scope, key: &str) -> bool {
    let fits = !key.is_empty() && key.chars().count() <= KEY_CHARS_MAX;
    fits && !key.chars().any(char::is_control) && (scope == Scope::Identity || key.starts_with('/'))
}

/// False: there are too many, and it is not one of them.
fn put(
    work: &Work<'_>,
    scope: Scope,
    key: &str,
    per_minute: NonZeroU32,
) -> Result<bool, WorkError> {
    let rows = work
        .prepare_cached(
            "INSERT INTO rate_limit (scope, key, per_minute)
             SELECT ?1, ?2, ?3 WHERE (SELECT count(*) FROM rate_limit) < ?4
                OR EXISTS (SELECT 1 FROM rate_limit WHERE scope = ?1 AND key = ?2)
             ON CONFLICT (scope, key) DO UPDATE SET per_minute = excluded.per_minute",
        )?
        .execute((scope.word(), key, per_minute.get(), RULES_MAX))?;
    Ok(rows > 0)
}

type Kept = (Scope, String, NonZeroU32);

fn read(connection: &Connection) -> Result<Vec<Kept>, WorkError> {
    let mut query = connection.prepare("SELECT scope, key, per_minute FROM rate_limit")?;
    let mut rows = query.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (word, key): (String, String) = (row.get(0)?, row.get(1)?);
        let scope = Scope::of_word(&word);
        let per_minute = NonZeroU32::new(row.get(2)?);
        let (Some(scope), Some(per_minute)) = (scope, per_minute) else {
            return Err(WorkError::Damaged("a limit makes no sense".to_owned()));
        };
        all.push((scope, key, per_minute));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::clock::Clock;
    use crate::store::agent;

    /// The promises are about rules, not about the disk.
    const IN_MEMORY: &str = "/dev/shm";

    async fn open(folder: &Path) -> RateLimits {
        RateLimits::start(agent::start(folder, Clock::system()).unwrap()).await
    }

    fn n(per_minute: u32) -> NonZeroU32 {
        NonZeroU32::new(per_minute).unwrap()
    }

    #[tokio::test]
    async fn rules_hold_again_after_a_restart() {
        let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
        let limits = open(folder.path()).await;
        limits
            .set(Scope::Endpoint, "/v1/users", n(30))
            .await
            .unwrap();
        limits
            .set(Scope::Identity, "ip:127.0.0.1", n(300))
            .await
            .unwrap();
        limits
            .set(Scope::Identity, "ip:127.0.0.1", n(1))
            .await
            .unwrap();
        limits.set(Scope::Identity, "gone", n(1)).await.unwrap();
        assert!(limits.remove(Scope::Identity, "gone").await.unwrap());
        assert!(
            !limits
                .remove(Scope::Endpoint, "ip:127.0.0.1")
                .await
                .unwrap()
        );
        let before = limits.snapshot();
        limits.store.close().await;
        let limits = open(folder.path()).await;
        let snapshot = limits.snapshot();
        assert_eq!(snapshot, before);
        assert_eq!(snapshot.endpoints, [("/v1/users".to_owned(), 30)].into());
        assert_eq!(snapshot.identities, [("ip:127.0.0.1".to_owned(), 1)].into());
        let names = ["ip:127.0.0.1".into()];
        limits.check("/v1/status", &names).unwrap();
        assert!(limits.check("/v1/status", &names).unwrap_err() <= Duration::from_mins(1));
    }

    #[tokio::test]
    async fn rules_are_bounded_and_their_keys_make_sense() {
        let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
        let limits = open(folder.path()).await;
        let long = "x".repeat(KEY_CHARS_MAX + 1);
        for (scope, key) in [
            (Scope::Endpoint, "v1/users"),
            (Scope::Identity, ""),
            (Scope::Identity, "a\nb"),
            (Scope::Identity, &long),
        ] {
            let set = limits.set(scope, key, n(1)).await;
            assert!(matches!(set, Err(SetError::Key)), "{key}");
        }
        for rule in 0..RULES_MAX {
            limits
                .set(Scope::Identity, &rule.to_string(), n(1))
                .await
                .unwrap();
        }
        let one_more = limits.set(Scope::Identity, "one more", n(1)).await;
        assert!(matches!(one_more, Err(SetError::TooMany)));
        limits.set(Scope::Identity, "0", n(2)).await.unwrap();
        assert_eq!(limits.snapshot().identities["0"], 2);
        assert_eq!(limits.snapshot().identities.len(), 256);
    }
}
