//! How fast reports go to a sink: many at once while it takes them, one at a time after one was lost or
//! refused for now, none while it is to be left alone. So its return causes no stampede. A sink that
//! takes many reports in one request gets one request at a time, and after a failure with one report.

use std::time::{Duration, Instant};

use super::classify::Verdict;
use crate::base::retry::Backoff;

/// Requests under way at once, to a sink that takes one report in each.
const AT_ONCE: usize = 16;
/// First pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Pauses grow to about twice this, jitter included.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The pace of one sink.
#[derive(Debug)]
pub struct Pace {
    backoff: Backoff,
    /// Most reports in one request.
    batch_max: usize,
    /// After a failure, until something is settled.
    careful: bool,
    resumes_at: Option<Instant>,
    /// Until then the sink asked to be left alone.
    asked_until: Option<Instant>,
    trouble: Option<Trouble>,
}

/// Why reports do not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What the sink did.
    pub why: String,
    /// Whether waiting alone does not help.
    pub fault: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self::of(1)
    }
}

impl Pace {
    /// Of a sink that takes so many reports in one request.
    pub fn of(batch_max: usize) -> Self {
        Self {
            batch_max: batch_max.max(1),
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
            careful: false,
            resumes_at: None,
            asked_until: None,
            trouble: None,
        }
    }

    /// Whether reports go together.
    pub fn is_batched(&self) -> bool {
        self.batch_max > 1
    }

    /// Reports in the next request.
    pub fn batch(&self) -> usize {
        if self.careful { 1 } else { self.batch_max }
    }

    /// How many more requests may go at `now`, while so many are under way.
    pub fn places(&self, under_way: usize, now: Instant) -> usize {
        if self.resumes_at.is_some_and(|at| at > now) {
            return 0;
        }
        self.at_once().saturating_sub(under_way)
    }

    /// Most requests under way at once.
    pub fn at_once(&self) -> usize {
        if self.careful || self.is_batched() {
            1
        } else {
            AT_ONCE
        }
    }

    /// When reports go again, if they are held back now.
    pub fn resumes_at(&self, now: Instant) -> Option<Instant> {
        self.resumes_at.filter(|at| *at > now)
    }

    /// Why reports do not go, or last did not.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Takes in what became of a report.
    pub fn heard(&mut self, verdict: &Verdict, now: Instant) {
        let (why, fault, asked) = match verdict {
            Verdict::Settled => return self.settled(now),
            // The sink is there and works; but nothing was settled by it.
            Verdict::Rejected { .. } => {
                self.backoff.reset();
                self.trouble = None;
                return;
            }
            Verdict::Pending {
                why,
                retry_after,
                fault,
            } => (why, *fault, *retry_after),
            Verdict::Unknown { why } => (why, false, None),
        };
        self.careful = true;
        self.trouble = Some(Trouble {
            why: why.clone(),
            fault,
        });
        // Those that were under way together fail together: that is one failure.
        let pause = match self.resumes_at(now) {
            Some(_) => Duration::ZERO,
            None => self.backoff.next_pause(),
        };
        self.asked_until = self.asked_until.max(asked.map(|asked| now + asked));
        let resumes = Some(now + pause).max(self.asked_until);
        self.resumes_at = self.resumes_at.max(resumes);
    }

    /// All is well, but for a pause that the sink asked for with another report.
    fn settled(&mut self, now: Instant) {
        let asked_until = self.asked_until.filter(|at| *at > now);
        let trouble = self.trouble.take().filter(|_| asked_until.is_some());
        *self = Self {
            resumes_at: asked_until,
            asked_until,
            trouble,
            ..Self::of(self.batch_max)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(retry_after: Option<Duration>) -> Verdict {
        Verdict::Pending {
            why: "away".into(),
            retry_after,
            fault: false,
        }
    }

    fn unknown() -> Verdict {
        Verdict::Unknown { why: "lost".into() }
    }

    #[test]
    fn after_an_unknown_reports_go_one_at_a_time_until_one_is_settled() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.places(3, start), AT_ONCE - 3);
        pace.heard(&unknown(), start);
        assert_eq!(pace.places(0, start), 0);
        let later = start + 3 * PAUSE_MAX;
        assert_eq!((pace.places(0, later), pace.places(1, later)), (1, 0));
        let rejected = Verdict::Rejected { words: "no".into() };
        pace.heard(&rejected, later);
        assert_eq!(pace.places(0, later), 1);
        pace.heard(&Verdict::Settled, later);
        assert_eq!(pace.places(0, later), AT_ONCE);
        assert_eq!(pace.trouble(), None);
    }

    #[test]
    fn failures_that_come_together_are_one_and_pauses_grow_from_one_to_the_next() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        let mut longest = Duration::ZERO;
        for _ in 0..8 {
            pace.heard(&pending(None), now);
            let at = pace.resumes_at(now).unwrap();
            assert!(at - now >= PAUSE_MIN && at - now <= 2 * PAUSE_MAX);
            for _ in 0..AT_ONCE {
                pace.heard(&pending(None), now);
            }
            assert_eq!(pace.resumes_at(now), Some(at));
            longest = longest.max(at - now);
            now = at;
        }
        assert!(longest >= PAUSE_MAX);
    }

    #[test]
    fn a_sink_that_asks_for_more_time_gets_it() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.heard(&pending(None), now);
        pace.heard(&pending(Some(Duration::from_mins(15))), now);
        assert_eq!(pace.resumes_at(now), Some(now + Duration::from_mins(15)));
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_though_a_report_from_before_is_settled() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.heard(&pending(Some(Duration::from_mins(15))), now);
        pace.heard(&Verdict::Settled, now);
        assert_eq!(pace.places(0, now), 0);
        assert!(pace.trouble().is_some());
        let later = now + Duration::from_mins(15);
        assert_eq!(pace.places(0, later), AT_ONCE);
        pace.heard(&Verdict::Settled, later);
        assert_eq!(pace.trouble(), None);
    }
}
