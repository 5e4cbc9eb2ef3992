//! Named places where a test ends the process at once, as `kill -9` would, to see what a crash just
//! there leaves behind. A test's means: a release build (no `debug_assertions`) does not have it,
//! and reads no variable.
//!
//! `XRAY_AGENT_FAILPOINT=<name>` ends the process when that place is reached, `<name>:3` when it is
//! reached for the third time. Names are `<part>.<what>.<edge>`, for example
//! `ledger.collect.after_commit`.

#[cfg(debug_assertions)]
pub use armed::reach;

/// Says that a named place is reached. Nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn reach(_place: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// Which place ends the process, and at which time it is reached.
    const VARIABLE: &str = "XRAY_AGENT_FAILPOINT";

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// Says that a named place is reached. The process ends here if the variable asks for it.
    pub fn reach(place: &str) {
        let armed = ARMED.get_or_init(|| Armed::parse(&std::env::var(VARIABLE).ok()?));
        if armed.as_ref().is_some_and(|armed| armed.is_due(place)) {
            end_at_once();
        }
    }

    /// Without any of the ends that a program can see: no unwinding, no flush, no handler.
    fn end_at_once() -> ! {
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort()
    }

    /// A place, and how often it is still to be reached.
    #[derive(Debug)]
    struct Armed {
        place: String,
        left: AtomicU32,
    }

    impl Armed {
        /// `<place>` or `<place>:<count>`; `None` for nothing.
        fn parse(text: &str) -> Option<Self> {
            let counted = text
                .rsplit_once(':')
                .and_then(|(place, count)| Some((place, count.parse().ok()?)));
            let (place, count) = counted.unwrap_or((text, 1));
            (!place.is_empty()).then(|| Self {
                place: place.to_owned(),
                left: AtomicU32::new(count),
            })
        }

        /// Counts, and tells whether this is the time.
        fn is_due(&self, place: &str) -> bool {
            place == self.place && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    #[cfg(test)]
    mod tests {
        use std::os::unix::process::ExitStatusExt;
        use std::process::{Command, ExitStatus};

        use super::*;

        /// The place that the child below reaches twice.
        const PLACE: &str = "failpoint.test.reached";
        /// Set for that child only; without it the test that it runs does nothing.
        const CHILD: &str = "XRAY_AGENT_FAILPOINT_TEST_CHILD";

        fn child_with(failpoint: &str) -> ExitStatus {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "base::failpoint::armed::tests::child"])
                .env(CHILD, "1")
                .env(VARIABLE, failpoint)
                .output()
                .unwrap()
                .status
        }

        #[test]
        fn child() {
            if std::env::var_os(CHILD).is_some() {
                reach(PLACE);
                reach("failpoint.test.other");
                reach(PLACE);
            }
        }

        #[test]
        fn the_process_ends_as_by_kill_9_at_the_named_place_and_time() {
            for due in [PLACE.to_owned(), format!("{PLACE}:1"), format!("{PLACE}:2")] {
                assert_eq!(child_with(&due).signal(), Some(9), "{due}");
            }
            for never in [
                format!("{PLACE}:3"),
                "failpoint.test".to_owned(),
                String::new(),
            ] {
                assert!(child_with(&never).success(), "{never:?}");
            }
        }
    }
}
