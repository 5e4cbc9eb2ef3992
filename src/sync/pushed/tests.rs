//! The pushed source as its callers see it: what is pushed is said of the inbounds, outlives the
//! process, and is refused where it cannot be meant.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::quota::{QuotaChanged, QuotaWatch, Room};
use super::*;
use crate::base::secret::Secret;
use crate::model::desired::{Desired, DesiredSource};
use crate::model::ids::{InboundTag, NodeId};
use crate::model::pushed::{
    Owner, Owners, PushedBytes, PushedId, PushedPatch, PushedUser, Quota, Rate, Wants,
};
use crate::model::user_list::Users;

const UUID: CredentialForm = CredentialForm::Uuid;
const TEXT: CredentialForm = CredentialForm::Text;

fn inbound(tag: &str) -> InboundKey {
    InboundKey {
        node: NodeId(1),
        xray: "x".into(),
        tag: InboundTag(tag.into()),
    }
}

fn uuid(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn id(n: u32) -> PushedId {
    PushedId(n.to_string().into())
}

/// A user with a UUID and a password.
fn user(n: u8) -> PushedUser {
    PushedUser {
        id: id(n.into()),
        username: uuid(n).text(),
        password: Secret::new(format!("password {n}")),
        quota: Quota::default(),
        rate: Rate::default(),
        metadata: BTreeMap::from([("subscription_id".to_owned(), "12".into())]),
        tags: Vec::new(),
    }
}

fn with_quota(n: u8, allocated: u64, used: u64) -> PushedUser {
    PushedUser {
        quota: Quota { allocated, used },
        ..user(n)
    }
}

fn open(dir: &TempDir) -> Arc<Pushed> {
    let keys = [inbound("a"), inbound("b")];
    Arc::new(Pushed::open(dir.path(), keys.iter(), Clock::system()).unwrap())
}

fn known(pushed: &Pushed, tag: &str, form: CredentialForm) -> Users {
    match pushed.desired(&inbound(tag), Some(form)).desired {
        Desired::Known(users) => users,
        Desired::Unknown { why, .. } => panic!("{why}"),
    }
}

fn polled(dir: &TempDir, users: &[u8]) -> Arc<Polled> {
    let polled = Polled::open(dir.path(), [NodeId(1)].into_iter()).unwrap();
    let users: Vec<UserId> = users.iter().map(|n| uuid(*n)).collect();
    polled.answered(NodeId(1), users.into());
    Arc::new(polled)
}

/// What is to be told by now; it is told.
fn turn(pushed: &Pushed) -> Vec<QuotaChanged> {
    pushed.turn_now();
    let untold = pushed.untold();
    let done = untold.iter().map(|(whose, change)| {
        let current = change.as_ref().map(|change| change.current);
        (whose.clone(), current)
    });
    pushed.keep_told(done.collect());
    assert!(lock(&pushed.news).is_empty());
    untold
        .into_iter()
        .filter_map(|(_, change)| change)
        .collect()
}

#[tokio::test]
async fn a_pushed_user_is_wanted_where_he_was_pushed_to_and_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed
        .replace_inbound(&inbound("a"), vec![user(1), user(2)])
        .await
        .unwrap();
    pushed.create(user(3)).await.unwrap();
    for pushed in [pushed, open(&dir)] {
        assert_eq!(*known(&pushed, "a", UUID), [uuid(1), uuid(2), uuid(3)]);
        assert_eq!(*known(&pushed, "b", UUID), [uuid(3)]);
        assert_eq!(pushed.get(&id(1))[0].user, user(1));
        assert_eq!(pushed.list(Some(&Scope::Everywhere))[0].user, user(3));
        assert_eq!(pushed.list(None).len(), 3);
    }
    let looked = kept(dir.path(), &inbound("a"), Some(UUID)).unwrap();
    assert_eq!(looked, open(&dir).desired(&inbound("a"), Some(UUID)));
}

#[tokio::test]
async fn a_password_becomes_an_id_that_stays_and_does_not_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.create(user(1)).await.unwrap();
    let first = known(&pushed, "a", TEXT);
    let claim = open(&dir).desired(&inbound("a"), Some(TEXT));
    assert_eq!(claim.desired, Desired::Known(first.clone()));
    let shown = claim.credentials.get(first[0]).map(Secret::expose);
    assert_eq!(shown, Some("password 1"));
    assert_ne!(first[0], uuid(1));

    let patch = PushedPatch {
        password: Some(Secret::new(uuid(9).text())),
        ..PushedPatch::default()
    };
    pushed.patch(&id(1), patch).await.unwrap();
    assert_eq!(*known(&pushed, "a", TEXT), [uuid(9)]);
    assert!(pushed.let_go(&inbound("a"), first[0]));
    assert_eq!(*known(&pushed, "a", UUID), [uuid(1)], "the name's");
}

#[tokio::test]
async fn a_push_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.desired(&inbound("a"), Some(CredentialForm::Key16));
    pushed.desired(&inbound("b"), Some(CredentialForm::Key16));
    let key = |n: u8, bytes: usize| PushedUser {
        password: Secret::new(STANDARD.encode(vec![n; bytes])),
        ..user(n)
    };
    pushed.import(vec![key(1, 16)], false).await.unwrap();
    let refused = pushed.import(vec![key(2, 16), key(3, 32)], false).await;
    assert!(matches!(refused, Err(PushError::NoCredential { id: of, .. }) if of == id(3)));
    let refused = pushed
        .replace_inbound(&inbound("a"), vec![key(2, 16), key(2, 16)])
        .await;
    assert!(matches!(refused, Err(PushError::Duplicate(of)) if of == id(2)));
    let refused = pushed.create(key(1, 16)).await;
    assert!(matches!(refused, Err(PushError::Exists(of)) if of == id(1)));
    let refused = pushed.patch(&id(7), PushedPatch::default()).await;
    assert!(matches!(refused, Err(PushError::Unknown(_))));
    let refused = pushed.delete(&id(7)).await;
    assert!(matches!(refused, Err(PushError::Unknown(_))));
    let patch = PushedPatch {
        password: Some(Secret::new("short")),
        ..PushedPatch::default()
    };
    let refused = pushed.patch(&id(1), patch).await;
    assert!(matches!(refused, Err(PushError::NoCredential { .. })));
    let refused = pushed.replace_inbound(&inbound("c"), vec![]).await;
    assert!(matches!(refused, Err(PushError::Unmanaged(_))));
    for pushed in [pushed, open(&dir)] {
        assert_eq!(pushed.list(None).len(), 1);
        assert_eq!(pushed.get(&id(1))[0].user, key(1, 16));
    }
}

#[tokio::test]
async fn an_import_that_would_take_most_users_away_is_refused_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    let some = |n: u8| (0..n).map(user).collect::<Vec<_>>();
    pushed.import(some(42), false).await.unwrap();
    let refused = pushed.import(some(20), false).await.unwrap_err();
    assert!(
        matches!(
            refused,
            PushError::TooManyRemoved {
                removed: 22,
                of: 42
            }
        ),
        "{refused}"
    );
    assert_eq!(pushed.import(some(21), false).await.unwrap(), 21);
    assert_eq!(
        pushed.import(some(1), false).await.unwrap(),
        1,
        "20 are not many"
    );
    pushed.import(some(42), false).await.unwrap();
    assert_eq!(pushed.import(vec![], true).await.unwrap(), 0);
}

#[tokio::test]
async fn a_user_of_inbounds_only_is_changed_and_deleted_in_each() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    for tag in ["a", "b"] {
        pushed
            .replace_inbound(&inbound(tag), vec![user(1)])
            .await
            .unwrap();
    }
    let patch = PushedPatch {
        tags: Some(vec!["vip".into()]),
        metadata: Some(BTreeMap::from([(
            "subscription_id".into(),
            serde_json::Value::Null,
        )])),
        ..PushedPatch::default()
    };
    pushed.patch(&id(1), patch).await.unwrap();
    let views = pushed.get(&id(1));
    assert_eq!(views.len(), 2);
    for view in views {
        assert_eq!(view.user.tags, ["vip"]);
        assert_eq!(view.user.metadata, BTreeMap::new());
    }
    pushed.delete(&id(1)).await.unwrap();
    assert_eq!(open(&dir).list(None), []);
    pushed.create(user(2)).await.unwrap();
    pushed.drop_inbound(&inbound("a")).await.unwrap();
    assert_eq!(*known(&pushed, "a", UUID), [uuid(2)]);
}

#[tokio::test]
async fn a_damaged_set_is_unknown_until_it_is_pushed_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir)
        .import(vec![user(1), user(2)], false)
        .await
        .unwrap();
    let file = dir.path().join("pushed/everywhere");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("password 2", "password x")).unwrap();
    let unknown = |pushed: &Pushed, users: &[UserId]| {
        let said = pushed.desired(&inbound("a"), Some(UUID)).desired;
        let Desired::Unknown { last_good, .. } = said else {
            panic!("{said:?}");
        };
        assert_eq!(*last_good.unwrap(), *users);
    };
    let pushed = open(&dir);
    unknown(&pushed, &[uuid(1)]);
    // Single users can still be pushed, and what cannot be read stays so.
    pushed.create(user(3)).await.unwrap();
    unknown(&pushed, &[uuid(1), uuid(3)]);
    unknown(&open(&dir), &[uuid(1), uuid(3)]);
    pushed.import(vec![user(4)], true).await.unwrap();
    assert_eq!(*known(&open(&dir), "a", UUID), [uuid(4)]);
}

#[tokio::test]
async fn an_inbound_never_observed_is_unknown_unless_nobody_was_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    let said = |pushed: &Pushed| pushed.desired(&inbound("a"), None).desired;
    assert_eq!(said(&pushed), Desired::Known([].into()));
    pushed.create(user(1)).await.unwrap();
    assert!(matches!(said(&pushed), Desired::Unknown { .. }));
}

#[tokio::test]
async fn a_long_journal_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    let file = dir.path().join("pushed/everywhere");
    let mut longest = 0;
    pushed.create(user(1)).await.unwrap();
    for n in 0..400 {
        let patch = PushedPatch {
            used: Some(n),
            ..PushedPatch::default()
        };
        pushed.patch(&id(1), patch).await.unwrap();
        longest = longest.max(fs::read_to_string(&file).unwrap().lines().count());
    }
    assert!((200..300).contains(&longest), "{longest}");
    assert_eq!(open(&dir).list(None)[0].user.quota.used, 399);
}

#[tokio::test]
async fn who_left_is_known_by_his_numbers_and_whose_he_was() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    let a = inbound("a");
    pushed.polled_by(Some(polled(&dir, &[2])));
    pushed.import(vec![user(1), user(2)], false).await.unwrap();
    let (both, only) = (
        Wants {
            polled: true,
            pushed: true,
        },
        Wants {
            polled: false,
            pushed: true,
        },
    );
    assert_eq!(
        [1, 2, 3].map(|n| pushed.wants(&a, uuid(n))),
        [only, both, Wants::POLLED]
    );
    let owner = Some(Owner {
        user_id: 1,
        subscription_id: Some(12),
    });
    assert_eq!(pushed.owner(uuid(1)), owner);
    let derived = known(&pushed, "a", TEXT);
    assert!(derived.iter().all(|user| pushed.owner(*user).is_some()));

    pushed.delete(&id(1)).await.unwrap();
    pushed.import(vec![], true).await.unwrap();
    for pushed in [pushed, open(&dir)] {
        pushed.polled_by(Some(polled(&dir, &[2])));
        assert_eq!(
            [1, 2, 3].map(|n| pushed.wants(&a, uuid(n))),
            [only, Wants::POLLED, Wants::POLLED]
        );
        // The poll wanted him when he was taken away: a bad answer does not make him the other panel's.
        pushed.polled_by(Some(polled(&dir, &[])));
        assert_eq!(
            [1, 2].map(|n| pushed.wants(&a, uuid(n))),
            [only, Wants::POLLED]
        );
        assert_eq!([1, 2].map(|n| pushed.let_go(&a, uuid(n))), [true, false]);
        assert_eq!(pushed.owner(uuid(1)), owner);
        assert!(derived.iter().all(|user| pushed.owner(*user).is_some()));
        assert_eq!(pushed.owner(uuid(3)), None);
        pushed.polled_by(None);
        assert_eq!(pushed.wants(&a, uuid(3)), only);
    }
}

#[tokio::test]
async fn who_has_used_up_his_quota_is_taken_off_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.settled(&[(uuid(1), 500)]);
    pushed.counted(&[(uuid(1), 520)]);
    pushed
        .import(vec![with_quota(1, 100, 70), user(2)], false)
        .await
        .unwrap();
    assert_eq!(turn(&pushed), []);
    assert_eq!(
        pushed.get(&id(1))[0].room,
        Room {
            used: 90,
            remaining: Some(10)
        }
    );
    pushed.counted(&[(uuid(1), 529), (uuid(2), 1 << 40)]);
    assert_eq!(turn(&pushed), []);
    pushed.counted(&[(uuid(1), 535)]);
    let news = turn(&pushed);
    let (previous, current) = (
        Room {
            used: 99,
            remaining: Some(1),
        },
        Room {
            used: 105,
            remaining: Some(0),
        },
    );
    assert_eq!(news.len(), 1);
    assert_eq!((news[0].previous, news[0].current), (previous, current));
    assert_eq!(
        (news[0].user_id, news[0].subscription_id),
        (Some(1), Some(12))
    );
    assert!(news[0].exhausted);
    assert!(pushed.let_go(&inbound("a"), uuid(1)));
    for pushed in [pushed, open(&dir)] {
        assert_eq!(*known(&pushed, "a", UUID), [uuid(2)]);
        // What was told is not told again.
        pushed.settled(&[(uuid(1), 500)]);
        pushed.counted(&[(uuid(1), 536)]);
        assert_eq!(turn(&pushed), []);
    }
    let pushed = open(&dir);
    pushed.counted(&[(uuid(1), 536)]);
    let patch = PushedPatch {
        allocated: Some(1000),
        ..PushedPatch::default()
    };
    pushed.patch(&id(1), patch).await.unwrap();
    let news = turn(&pushed);
    assert_eq!(news.len(), 1);
    assert_eq!(
        news[0].current,
        Room {
            used: 106,
            remaining: Some(894)
        }
    );
    assert_eq!(*known(&pushed, "a", UUID), [uuid(1), uuid(2)]);
}

/// Takes note of nothing at first.
#[derive(Default)]
struct Deaf {
    heard: Mutex<Vec<QuotaChanged>>,
    misses: AtomicU64,
}

impl Deaf {
    fn missing(misses: u64) -> Arc<Self> {
        Arc::new(Self {
            misses: misses.into(),
            ..Self::default()
        })
    }

    fn all(&self) -> Vec<QuotaChanged> {
        lock(&self.heard).clone()
    }
}

impl QuotaWatch for Deaf {
    fn changed(&self, change: QuotaChanged) -> futures_util::future::BoxFuture<'_, bool> {
        lock(&self.heard).push(change);
        let less = |left: u64| left.checked_sub(1);
        let misses = self
            .misses
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        Box::pin(std::future::ready(misses.is_err()))
    }
}

/// Runs the loop until it has nothing to tell any more, or has told so often.
async fn run_until_told(pushed: &Arc<Pushed>, watch: &Arc<Deaf>, often: usize) {
    let mut supervisor = crate::base::supervise::Supervisor::new();
    let (loops, hears) = (pushed.clone(), watch.clone());
    let name = "quotas";
    supervisor.tasks().watched_task(
        name,
        crate::base::supervise::Kind::Leaf,
        std::time::Duration::from_mins(2),
        move |shutdown, beat| run(loops.clone(), hears.clone(), || (), shutdown, beat),
    );
    let until = async {
        while watch.all().len() < often || !lock(&pushed.news).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            if watch.all().len() >= often && watch.misses.load(Ordering::Acquire) > 0 {
                return;
            }
        }
    };
    supervisor
        .run(until, std::time::Duration::from_secs(10))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_told_until_somebody_took_note_also_after_a_restart_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.settled(&[]);
    let users = vec![with_quota(1, 100, 100), with_quota(2, 100, 40)];
    pushed.import(users, false).await.unwrap();
    pushed.counted(&[(uuid(2), 60)]);
    let nobody = Deaf::missing(u64::MAX);
    run_until_told(&pushed, &nobody, 1).await;
    drop(pushed);
    // Nobody took note, and the agent was started anew.
    let pushed = open(&dir);
    let second = Deaf::missing(1);
    run_until_told(&pushed, &second, 3).await;
    let mut heard = second.all();
    // One of them twice.
    assert_eq!(heard.len(), 3);
    heard.dedup();
    assert_eq!(
        heard.iter().map(|it| &*it.id.0).collect::<Vec<_>>(),
        ["1", "2"]
    );
    assert!(heard.iter().all(|it| it.exhausted));
    let previous = Room {
        used: 40,
        remaining: Some(60),
    };
    assert_eq!(heard[1].previous, previous);
    drop(pushed);
    let pushed = open(&dir);
    assert_eq!(turn(&pushed), []);
}

#[tokio::test]
async fn changes_that_come_before_the_first_is_told_are_told_as_one_and_of_who_went_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.settled(&[]);
    pushed.create(with_quota(1, 100, 40)).await.unwrap();
    pushed.create(with_quota(2, 100, 100)).await.unwrap();
    pushed.counted(&[(uuid(1), 70)]);
    pushed.turn_now();
    let more = PushedPatch {
        allocated: Some(1000),
        ..PushedPatch::default()
    };
    pushed.patch(&id(1), more).await.unwrap();
    pushed.delete(&id(2)).await.unwrap();
    drop(pushed);
    let pushed = open(&dir);
    let news = turn(&pushed);
    assert_eq!(news.len(), 1);
    let remaining = |room: Room| room.remaining;
    assert_eq!(remaining(news[0].previous), Some(60));
    assert_eq!(remaining(news[0].current), Some(890));
}

#[tokio::test]
async fn what_changes_while_it_is_told_is_told_then() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.create(with_quota(1, 100, 100)).await.unwrap();
    let untold = pushed.untold();
    let more = PushedPatch {
        allocated: Some(150),
        ..PushedPatch::default()
    };
    pushed.patch(&id(1), more).await.unwrap();
    let told = untold.into_iter();
    let told = told.map(|(whose, change)| (whose, change.map(|change| change.current)));
    pushed.keep_told(told.collect());
    let again = open(&dir);
    let news = turn(&again);
    assert_eq!(news.len(), 1);
    assert!(!news[0].exhausted && news[0].previous.is_exhausted());
}

#[tokio::test]
async fn bytes_of_old_that_are_heard_of_after_a_push_use_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed
        .import(vec![with_quota(1, 100, 70)], false)
        .await
        .unwrap();
    pushed.settled(&[(uuid(1), 500)]);
    pushed.counted(&[(uuid(1), 520)]);
    assert_eq!(turn(&pushed), []);
    assert_eq!(pushed.get(&id(1))[0].room.used, 70);
}

#[tokio::test]
async fn bytes_under_a_former_password_count_to_the_same_quota() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    pushed.settled(&[]);
    pushed.create(with_quota(1, 100, 0)).await.unwrap();
    let first = known(&pushed, "a", TEXT)[0];
    pushed.counted(&[(first, 60)]);
    let patch = PushedPatch {
        password: Some(Secret::new("another")),
        ..PushedPatch::default()
    };
    pushed.patch(&id(1), patch).await.unwrap();
    let second = known(&pushed, "a", TEXT)[0];
    assert_ne!(first, second);
    pushed.counted(&[(second, 39)]);
    assert_eq!(turn(&pushed), []);
    pushed.counted(&[(first, 61)]);
    assert_eq!(turn(&pushed).len(), 1);
    assert_eq!(*known(&pushed, "a", TEXT), []);
}

#[test]
fn fifty_thousand_users_are_imported_read_and_asked_for_in_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = open(&dir);
    let many = (0..50_000_u32).map(|n| PushedUser {
        id: id(n),
        username: format!("user {n}"),
        password: Secret::new(format!("password {n}")),
        ..user(1)
    });
    let many: Vec<_> = many.collect();
    let begun = std::time::Instant::now();
    assert_eq!(
        pushed.replace(&Scope::Everywhere, &many, false).unwrap(),
        50_000
    );
    let again = open(&dir);
    let users = known(&again, "a", TEXT);
    assert_eq!(users.len(), 50_000);
    for user in users.iter() {
        assert!(again.owner(*user).is_some());
    }
    for _ in 0..1000 {
        assert!(Arc::ptr_eq(&users, &known(&again, "a", TEXT)), "made once");
    }
    // Twenty times what it takes.
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_mins(1), "{took:?}");
}
