//! Each way in which a task can fail, on paused time.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::task::FAILURES_MAX;
use super::{Ended, Kind, Supervisor};

const GRACE: Duration = Duration::from_secs(10);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Counts starts.
#[derive(Clone, Default)]
struct Starts(Arc<AtomicUsize>);

impl Starts {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that fails at each start, as `fail` does, and ends in peace when asked.
fn failing(kind: Kind, fail: fn()) -> (Supervisor, Starts) {
    let mut supervisor = Supervisor::new();
    let starts = Starts::default();
    let count = starts.clone();
    supervisor.tasks().task("it", kind, move |_, _| {
        count.add();
        async move { fail() }
    });
    (supervisor, starts)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_started_again_and_shown() {
    let (supervisor, starts) = failing(Kind::Leaf, || panic!("of {} fears", 3));
    let board = supervisor.board();
    let ended = supervisor.run(sleep(seconds(600)), GRACE).await;
    assert_eq!(ended, Ended::Stopped);
    // Pauses of 30 to 60 s, after a few short ones.
    assert!((15..=35).contains(&starts.count()), "{}", starts.count());
    let status = board.status().remove(0);
    assert_eq!(status.last_error.as_deref(), Some("panicked: of 3 fears"));
    assert_eq!(status.restarts, starts.count() as u64 - 1);
    assert!(!status.alive);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_returns_early_is_started_again() {
    let (supervisor, starts) = failing(Kind::Leaf, || {});
    let board = supervisor.board();
    assert_eq!(
        supervisor.run(sleep(seconds(2)), GRACE).await,
        Ended::Stopped
    );
    assert!(starts.count() >= 3, "{}", starts.count());
    let why = board.status().remove(0).last_error.unwrap();
    assert_eq!(why, "ended though nobody asked it to");
}

#[tokio::test(start_paused = true)]
async fn an_essential_task_is_given_up_after_five_failures() {
    for (fail, reason) in [
        ((|| panic!("no")) as fn(), "panicked: no"),
        (|| {}, "ended though nobody asked it to"),
    ] {
        let (supervisor, starts) = failing(Kind::Essential, fail);
        let ended = supervisor.run(pending(), GRACE).await;
        let expected = ("it".to_owned(), reason.to_owned());
        assert_eq!(
            ended,
            Ended::EssentialFailed {
                name: expected.0,
                why: expected.1
            }
        );
        assert_eq!(starts.count(), FAILURES_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_the_task_is_made_is_a_failure_too() {
    let mut supervisor = Supervisor::new();
    supervisor
        .tasks()
        .task("it", Kind::Essential, |_, _| -> std::future::Ready<()> {
            panic!("no")
        });
    let ended = supervisor.run(pending(), GRACE).await;
    assert!(matches!(ended, Ended::EssentialFailed { why, .. } if why == "panicked: no"));
}

#[tokio::test(start_paused = true)]
async fn an_essential_task_that_fails_now_and_then_goes_on() {
    let mut supervisor = Supervisor::new();
    let starts = Starts::default();
    let count = starts.clone();
    supervisor
        .tasks()
        .task("it", Kind::Essential, move |mut shutdown, _| {
            count.add();
            async move {
                let _ = timeout(seconds(61), shutdown.requested()).await;
            }
        });
    let ended = supervisor.run(sleep(seconds(3_600)), GRACE).await;
    assert_eq!(ended, Ended::Stopped);
    // It lived long each time, so each pause was short.
    assert!(starts.count() >= 58, "{}", starts.count());
}

/// Waits for a lock that it holds itself.
async fn deadlock() {
    let lock = tokio::sync::Mutex::new(());
    let _held = lock.lock().await;
    drop(lock.lock().await);
}

#[tokio::test(start_paused = true)]
async fn an_essential_task_that_hangs_ends_the_run() {
    let mut supervisor = Supervisor::new();
    supervisor.tasks().watched_task(
        "it",
        Kind::Essential,
        seconds(30),
        |_, heartbeat| async move {
            for _ in 0..10 {
                sleep(seconds(20)).await;
                heartbeat.beat();
            }
            deadlock().await;
        },
    );
    let began = Instant::now();
    let ended = supervisor.run(pending(), GRACE).await;
    let why = "hung: no sign of life for 30s".to_owned();
    assert_eq!(
        ended,
        Ended::EssentialFailed {
            name: "it".to_owned(),
            why
        }
    );
    assert_eq!(began.elapsed().as_secs(), 10 * 20 + 30);
}

/// A supervisor that is polled no more gives nobody up: the board still tells who hangs.
#[tokio::test(start_paused = true)]
async fn the_board_names_the_essential_tasks_that_hang_under_a_stuck_supervisor() {
    let mut supervisor = Supervisor::new();
    for (name, kind) in [("vital", Kind::Essential), ("leaf", Kind::Leaf)] {
        supervisor
            .tasks()
            .watched_task(name, kind, seconds(30), |_, _| deadlock());
    }
    supervisor
        .tasks()
        .task("unwatched", Kind::Essential, |_, _| deadlock());
    let board = supervisor.board();
    let mut run = Box::pin(supervisor.run(pending(), GRACE));
    assert!(timeout(seconds(29), &mut run).await.is_err());
    assert!(board.overdue().is_empty());
    sleep(seconds(1)).await;
    assert_eq!(board.overdue(), ["vital"]);
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_hangs_is_aborted_and_started_again() {
    let mut supervisor = Supervisor::new();
    let (starts, ends) = (Starts::default(), Starts::default());
    let (count, ended) = (starts.clone(), ends.clone());
    supervisor
        .tasks()
        .watched_task("it", Kind::Leaf, seconds(5), move |_, _| {
            count.add();
            let guard = OnDrop(ended.clone());
            async move {
                let _guard = guard;
                deadlock().await;
            }
        });
    let board = supervisor.board();
    let ended = supervisor.run(sleep(seconds(18)), GRACE).await;
    assert_eq!(ended, Ended::TimedOut(vec!["it".to_owned()]));
    assert!(starts.count() >= 3, "{}", starts.count());
    assert_eq!(ends.count(), starts.count());
    assert!(
        board
            .status()
            .remove(0)
            .last_error
            .unwrap()
            .starts_with("hung")
    );
}

struct OnDrop(Starts);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_tasks_that_end_and_aborts_the_others() {
    let mut supervisor = Supervisor::new();
    let (finished, dropped) = (Starts::default(), Starts::default());
    let count = finished.clone();
    supervisor.tasks().watched_task(
        "good",
        Kind::Essential,
        seconds(1),
        move |mut shutdown, heartbeat| {
            let count = count.clone();
            async move {
                while !shutdown.is_requested() {
                    heartbeat.beat();
                    let _ = timeout(Duration::from_millis(500), shutdown.requested()).await;
                }
                // Longer than its limit: on the way out it is not watched.
                sleep(seconds(3)).await;
                count.add();
            }
        },
    );
    let guard = dropped.clone();
    supervisor.tasks().task("deaf", Kind::Leaf, move |_, _| {
        let guard = OnDrop(guard.clone());
        async move {
            let _guard = guard;
            pending::<()>().await;
        }
    });
    let board = supervisor.board();
    let began = Instant::now();
    let ended = supervisor.run(sleep(seconds(60)), GRACE).await;
    assert_eq!(ended, Ended::TimedOut(vec!["deaf".to_owned()]));
    assert_eq!(began.elapsed().as_secs(), 70);
    assert_eq!((finished.count(), dropped.count()), (1, 1));
    assert!(
        board
            .status()
            .iter()
            .all(|task| !task.alive && task.restarts == 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_pause() {
    let (supervisor, _) = failing(Kind::Leaf, || {});
    let began = Instant::now();
    assert_eq!(
        supervisor.run(sleep(seconds(300)), GRACE).await,
        Ended::Stopped
    );
    assert_eq!(began.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn the_others_may_end_in_peace_when_an_essential_one_is_given_up() {
    let (mut supervisor, _) = failing(Kind::Essential, || {});
    let finished = Starts::default();
    let count = finished.clone();
    supervisor
        .tasks()
        .task("other", Kind::Essential, move |mut shutdown, _| {
            let count = count.clone();
            async move {
                shutdown.requested().await;
                sleep(seconds(1)).await;
                count.add();
            }
        });
    let ended = supervisor.run(pending(), GRACE).await;
    assert!(matches!(ended, Ended::EssentialFailed { name, .. } if name == "it"));
    assert_eq!(finished.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_run_ends_all_tasks() {
    let dropped = Starts::default();
    let guard = dropped.clone();
    let mut supervisor = Supervisor::new();
    let mut shutdown = supervisor.shutdown();
    supervisor.tasks().task("it", Kind::Leaf, move |_, _| {
        let guard = OnDrop(guard.clone());
        async move {
            let _guard = guard;
            pending::<()>().await;
        }
    });
    assert!(!shutdown.is_requested());
    assert!(
        timeout(seconds(1), supervisor.run(pending(), GRACE))
            .await
            .is_err()
    );
    tokio::task::yield_now().await;
    assert_eq!(dropped.count(), 1);
    shutdown.requested().await;
    assert!(shutdown.is_requested());
}

/// What ran, in order.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn lines(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_is_over_before_what_takes_its_place_begins_and_the_others_run_on() {
    let mut supervisor = Supervisor::new();
    let (board, groups, log) = (supervisor.board(), supervisor.groups(), Log::default());
    supervisor
        .tasks()
        .task("stays", Kind::Essential, |mut shutdown, _| async move {
            shutdown.requested().await;
        });
    let notes = log.clone();
    let reload = async {
        let slow = notes.clone();
        let (first, ()) = groups.start(|tasks| {
            tasks.task("comes and goes", Kind::Essential, move |mut shutdown, _| {
                let log = slow.clone();
                async move {
                    shutdown.requested().await;
                    sleep(seconds(3)).await;
                    log.note("the first ends");
                }
            });
        });
        sleep(seconds(1)).await;
        assert_eq!(names(&board), ["stays", "comes and goes"]);
        assert!(board.status().iter().all(|task| task.alive));
        first.stop(GRACE).await;
        assert_eq!(names(&board), ["stays"]);
        let late = notes.clone();
        let (_second, ()) = groups.start(|tasks| {
            tasks.task("new", Kind::Essential, move |mut shutdown, _| {
                late.note("the second begins");
                async move { shutdown.requested().await }
            });
        });
        sleep(seconds(1)).await;
        assert_eq!(names(&board), ["stays", "new"]);
    };
    assert_eq!(supervisor.run(reload, GRACE).await, Ended::Stopped);
    assert_eq!(log.lines(), ["the first ends", "the second begins"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_end_is_aborted_and_alone() {
    let mut supervisor = Supervisor::new();
    let (board, groups) = (supervisor.board(), supervisor.groups());
    supervisor
        .tasks()
        .task("stays", Kind::Essential, |mut shutdown, _| async move {
            shutdown.requested().await;
        });
    let reload = async {
        let (group, ()) = groups.start(|tasks| {
            tasks.task("deaf", Kind::Essential, |_, _| pending());
        });
        sleep(seconds(1)).await;
        let began = Instant::now();
        group.stop(seconds(5)).await;
        assert_eq!(began.elapsed(), seconds(5));
        assert_eq!(names(&board), ["stays"]);
        assert!(board.status()[0].alive);
    };
    assert_eq!(supervisor.run(reload, GRACE).await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn an_essential_task_of_a_group_ends_the_run_as_any_other() {
    let supervisor = Supervisor::new();
    let groups = supervisor.groups();
    let forever = async {
        let _group = groups.start(|tasks| {
            tasks.task("it", Kind::Essential, |_, _| async { panic!("so") });
        });
        pending::<()>().await;
    };
    let ended = supervisor.run(forever, GRACE).await;
    assert!(matches!(ended, Ended::EssentialFailed { name, .. } if name == "it"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_run_ends_groups_too() {
    let supervisor = Supervisor::new();
    let (groups, starts) = (supervisor.groups(), Starts::default());
    let ended = starts.clone();
    let stop = async {
        let (group, ()) = groups.start(|tasks| {
            tasks.task("it", Kind::Leaf, move |mut shutdown, _| {
                let ended = ended.clone();
                async move {
                    shutdown.requested().await;
                    ended.add();
                }
            });
        });
        sleep(seconds(1)).await;
        drop(group);
        sleep(seconds(1)).await;
    };
    assert_eq!(supervisor.run(stop, GRACE).await, Ended::Stopped);
    assert_eq!(starts.count(), 1);
    // Whoever comes too late starts nothing, and waits for nobody.
    let (group, ()) = groups.start(|tasks| {
        tasks.task("late", Kind::Leaf, |_, _| async { panic!("it ran") });
    });
    timeout(GRACE, group.stop(GRACE)).await.unwrap();
}

fn names(board: &super::TaskBoard) -> Vec<String> {
    board.status().into_iter().map(|task| task.name).collect()
}
