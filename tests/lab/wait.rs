//! Waiting for a state. A probe is asked every 10 ms until it answers; the bound is against
//! hanging and says in words what never came.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a probe is asked.
const POLL: Duration = Duration::from_millis(10);

/// What a probe may answer: a bool, or an option with what was found.
pub trait Probed {
    type Found;
    fn found(self) -> Option<Self::Found>;
}

impl Probed for bool {
    type Found = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Probed for Option<T> {
    type Found = T;
    fn found(self) -> Option<T> {
        self
    }
}

/// Asks `probe` until it says yes. A probe that hangs is cut off by the bound as well.
pub async fn eventually<P: Probed>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> P,
) -> Result<P::Found> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(answer) = tokio::time::timeout(left, probe()).await
            && let Some(found) = answer.found()
        {
            return Ok(found);
        }
        // Also for a probe that never waits, which no timeout cuts off.
        if Instant::now() >= deadline {
            bail!("not within {within:?}: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_whether_its_probe_hangs_or_answers_at_once() {
        let within = Duration::from_millis(30);
        let no = eventually("a no that comes at once", within, async || false).await;
        assert!(no.is_err());
        let hangs = eventually("no answer", within, async || {
            std::future::pending::<bool>().await
        });
        assert!(hangs.await.is_err());
    }
}
