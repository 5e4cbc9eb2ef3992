//! Makes a task fail on purpose, by name, to see that it cannot do so unseen. A test's means, like
//! [`failpoint`](crate::base::failpoint): a release build does not have it, and reads no variable.
//!
//! `XRAY_AGENT_TASK_FAULT=<fault>:<task>` strikes every life of that task once it has run for a
//! moment. Faults are `panic`, `return`, `hang` (it is polled no more, and keeps what it holds) and
//! `deadlock` (it keeps its thread, too). Limits of signs of life are minutes, and seconds here; a task
//! without one gets none here either.

#[cfg(debug_assertions)]
pub(super) use armed::{limit, work};

/// The task's own work. Nothing is added to it in a release build.
#[cfg(not(debug_assertions))]
pub(super) fn work(_task: &str, own: super::task::Work) -> super::task::Work {
    own
}

/// The task's own limit, in a release build.
#[cfg(not(debug_assertions))]
pub(super) fn limit(_task: &str, own: Option<std::time::Duration>) -> Option<std::time::Duration> {
    own
}

#[cfg(debug_assertions)]
mod armed {
    use std::future::pending;
    use std::sync::OnceLock;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::task::Work;

    /// Which task fails, and how.
    const VARIABLE: &str = "XRAY_AGENT_TASK_FAULT";
    /// From the start of a life to its fault: long enough to be seen alive, far below any limit.
    const AFTER: Duration = Duration::from_millis(300);
    /// For a sign of life of a task that will give none: the real limits are minutes.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// For those of all tasks while one keeps its thread, which may be what they all need: they come
    /// at least every 10 s.
    const PATIENCE_WITH_ALL: Duration = Duration::from_secs(15);

    static FAULT: OnceLock<Option<(Fault, String)>> = OnceLock::new();

    /// How a task fails.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        Panic,
        Return,
        Hang,
        Deadlock,
    }

    /// The task's own work, struck by the fault that is meant for it.
    pub(in super::super) fn work(task: &str, own: Work) -> Work {
        match fault_of(task) {
            Some(fault) => Box::pin(struck(fault, own)),
            None => own,
        }
    }

    /// The task's own limit, shortened where it is to be reached.
    pub(in super::super) fn limit(task: &str, own: Option<Duration>) -> Option<Duration> {
        let patience = match fault() {
            Some((Fault::Hang | Fault::Deadlock, named)) if named == task => PATIENCE,
            Some((Fault::Deadlock, _)) => PATIENCE_WITH_ALL,
            _ => return own,
        };
        own.map(|own| own.min(patience))
    }

    fn fault_of(task: &str) -> Option<Fault> {
        let (fault, named) = fault()?;
        (named == task).then_some(*fault)
    }

    fn fault() -> Option<&'static (Fault, String)> {
        let fault = FAULT.get_or_init(|| parse(&std::env::var(VARIABLE).ok()?));
        fault.as_ref()
    }

    fn parse(text: &str) -> Option<(Fault, String)> {
        let (fault, task) = text.split_once(':')?;
        let fault = match fault {
            "panic" => Fault::Panic,
            "return" => Fault::Return,
            "hang" => Fault::Hang,
            "deadlock" => Fault::Deadlock,
            _ => return None,
        };
        Some((fault, task.to_owned()))
    }

    async fn struck(fault: Fault, mut own: Work) {
        // Both arms are cancel-safe: the work is only lent.
        tokio::select! {
            () = &mut own => return,
            () = sleep(AFTER) => {}
        }
        match fault {
            Fault::Panic => panic!("struck by a test"),
            Fault::Return => {}
            Fault::Hang => pending().await,
            Fault::Deadlock => loop {
                std::thread::park();
            },
        }
        drop(own);
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fault_is_named_with_its_task_and_nothing_else_is_one() {
            let named = |text: &str| parse(text).map(|(fault, task)| (fault, task.clone()));
            let inbound = "inbound xray@in:1".to_owned();
            assert_eq!(
                named("hang:inbound xray@in:1"),
                Some((Fault::Hang, inbound))
            );
            for other in ["", "hang", "burn:http", "panic"] {
                assert_eq!(named(other), None);
            }
        }
    }
}
