//! What is told is kept, found again, bounded, and holds nobody up.

use std::fs;

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::base::supervise::{Kind, Supervisor};
use crate::store::agent;

/// The promises are about records, not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";
/// Against hanging.
const LONG: Duration = Duration::from_mins(1);
const ID: &str = "aaaaaaaa-0000-4000-8000-00000000000f";

fn stage(retention: Retention, clock: Clock) -> (TempDir, Audit) {
    let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let store = agent::start(folder.path(), clock).unwrap();
    let reader = Reader::new(agent::spec(folder.path(), clock));
    let audit = Audit::new(store, reader, retention, clock);
    (folder, audit)
}

fn told(action: &str, success: bool) -> Record {
    Record {
        channel: "http",
        endpoint: "/v1/users".to_owned(),
        action: action.to_owned(),
        actor: Some("api-key:panel".to_owned()),
        target: Some(format!("user {ID}")),
        success,
        detail: None,
        metadata: [("request_id".to_owned(), "req-1".to_owned())].into(),
    }
}

async fn actions(audit: &Audit, filter: Filter) -> Vec<String> {
    audit.flush().await.unwrap();
    let found = audit.query(filter).await.unwrap();
    found.into_iter().map(|entry| entry.action).collect()
}

#[tokio::test]
async fn what_is_told_is_found_again_newest_first_and_without_credentials() {
    let (_folder, audit) = stage(Retention::default(), Clock::system());
    assert!(audit.query(Filter::default()).await.unwrap().is_empty());
    audit.record(told("a", true));
    audit.record(told("b", false));
    audit.flush().await.unwrap();
    let found = audit.query(Filter::default()).await.unwrap();
    assert_eq!(found.len(), 2);
    let shown = serde_json::to_value(&found[0]).unwrap();
    assert_eq!(shown["action"], "b");
    assert_eq!(shown["channel"], "http");
    assert_eq!(shown["endpoint"], "/v1/users");
    assert_eq!(shown["actor"], "api-key:panel");
    assert_eq!(shown["target"], "user aaaaaaaa…");
    assert_eq!(shown["success"], false);
    assert!(shown["detail"].is_null());
    assert_eq!(shown["metadata"]["request_id"], "req-1");
    assert_eq!(found[0].id.get_version_num(), 7);
    assert_eq!(found[1].action, "a");
}

/// What is asked for.
type Set = Box<dyn Fn(&mut Filter)>;

#[tokio::test]
async fn each_filter_lets_through_what_it_says() {
    let clock = Clock::following(Timestamp::from_second(1_000).unwrap());
    let (_folder, audit) = stage(Retention::default(), clock);
    audit.record(told("a", true));
    audit.record(told("b", false));
    audit.record(Record {
        actor: Some("uid:0".to_owned()),
        target: None,
        ..told("c", true)
    });
    let text = |text: &str| Some(text.to_owned());
    let cases: [(Set, &[&str]); 10] = [
        (Box::new(|_| {}), &["c", "b", "a"]),
        (Box::new(|it| it.limit = Some(2)), &["c", "b"]),
        (Box::new(|it| it.limit = Some(0)), &["c"]),
        (Box::new(|it| it.success = Some(false)), &["b"]),
        (Box::new(move |it| it.action = text("a")), &["a"]),
        (Box::new(move |it| it.actor = text("uid:0")), &["c"]),
        (
            Box::new(|it| it.target = Some(format!("user {ID}"))),
            &["b", "a"],
        ),
        (
            Box::new(|it| it.since_ms = Some(1_000_000)),
            &["c", "b", "a"],
        ),
        (Box::new(|it| it.since_ms = Some(9_000_000)), &[]),
        (
            Box::new(move |it| (it.action, it.success) = (text("a"), Some(false))),
            &[],
        ),
    ];
    for (set, found) in cases {
        let mut filter = Filter::default();
        set(&mut filter);
        assert_eq!(actions(&audit, filter.clone()).await, found, "{filter:?}");
    }
}

#[tokio::test]
async fn a_question_hears_what_was_told_before_it() {
    let (_folder, audit) = stage(Retention::default(), Clock::system());
    let mut supervisor = Supervisor::new();
    let runs = audit.clone();
    supervisor
        .tasks()
        .task("audit", Kind::Leaf, move |shutdown, beat| {
            runs.clone().run(shutdown, beat)
        });
    let (done, stop) = tokio::sync::oneshot::channel::<()>();
    let asked = async {
        for n in 0..200 {
            audit.record(told(&format!("{n}"), true));
            let newest = audit
                .query(Filter {
                    limit: Some(1),
                    ..Filter::default()
                })
                .await
                .unwrap();
            assert_eq!(newest[0].action, format!("{n}"));
        }
        audit.record(told("the last one", true));
        drop(done);
    };
    let stop = async { drop(stop.await) };
    let both = async { tokio::join!(asked, supervisor.run(stop, LONG)) };
    timeout(LONG, both).await.expect("it hangs");
    assert_eq!(
        audit.health().queued,
        0,
        "what was told before the end is written"
    );
}

#[tokio::test]
async fn telling_never_waits_and_what_finds_no_place_is_counted() {
    let (_folder, audit) = stage(Retention::default(), Clock::system());
    for n in 0..queue::QUEUE_MAX + 3 {
        audit.record(told(&format!("{n}"), true));
    }
    let health = audit.health();
    assert_eq!((health.queued, health.dropped), (queue::QUEUE_MAX, 3));
    let newest = actions(
        &audit,
        Filter {
            limit: Some(1),
            ..Filter::default()
        },
    )
    .await;
    assert_eq!(newest, [format!("{}", queue::QUEUE_MAX - 1)]);
    assert_eq!((audit.health().queued, audit.health().dropped), (0, 3));
}

#[tokio::test]
async fn a_record_within_a_callers_work_shares_its_fate() {
    let (_folder, audit) = stage(Retention::default(), Clock::system());
    let write = async |action: &'static str, fails: bool| {
        let of_work = audit.clone();
        let work = move |work: &Work<'_>| {
            of_work.within(work, told(action, true))?;
            if fails {
                return Err(rusqlite::Error::QueryReturnedNoRows.into());
            }
            Ok(())
        };
        audit.store.write("test", work).await
    };
    write("kept", false).await.unwrap();
    write("undone", true).await.unwrap_err();
    assert_eq!(actions(&audit, Filter::default()).await, ["kept"]);
}

#[tokio::test]
async fn no_more_is_kept_than_the_bound_says() {
    let retention = Retention {
        records: 3,
        ..Retention::default()
    };
    let (_folder, audit) = stage(retention, Clock::system());
    for n in 0..1_000 {
        audit.record(told(&format!("{n}"), true));
    }
    let kept = actions(
        &audit,
        Filter {
            limit: Some(1_000),
            ..Filter::default()
        },
    )
    .await;
    assert_eq!(kept, ["999", "998", "997"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_goes_although_nothing_new_comes() {
    let start = Timestamp::from_second(1_700_000_000).unwrap();
    let clock = Clock::following(start);
    let (_folder, audit) = stage(Retention::default(), clock);
    for n in 0..1_000 {
        audit.record(told(&format!("{n}"), true));
    }
    assert_eq!(actions(&audit, Filter::default()).await.len(), 100);
    tokio::time::advance(Retention::default().age + Duration::from_secs(1)).await;
    let mut trimmed = None;
    audit.work_off(&mut trimmed).await.unwrap();
    assert_eq!(actions(&audit, Filter::default()).await, [""; 0]);
    assert_eq!(trimmed, Some(clock.monotonic()));
}

#[tokio::test]
async fn what_the_store_does_not_take_waits_for_it_and_is_told() {
    let above = tempfile::tempdir_in(IN_MEMORY).unwrap();
    let state = above.path().join("state");
    fs::write(&state, "a file, where a folder should be").unwrap();
    let clock = Clock::system();
    let store = agent::start(&state, clock).unwrap();
    let audit = Audit::new(
        store,
        Reader::new(agent::spec(&state, clock)),
        Retention::default(),
        clock,
    );
    audit.record(told("a", true));
    audit.flush().await.unwrap_err();
    let health = audit.health();
    assert_eq!(
        (health.queued, health.dropped, health.sink_failures),
        (1, 0, 1)
    );
    assert_eq!(health.sinks[0].failures, 1);
    assert!(health.last_error.unwrap().contains("cannot be used"));
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    assert_eq!(actions(&audit, Filter::default()).await, ["a"]);
}
