//! Hooks with real processes. Hooks take turns by themselves, so these tests may run in parallel;
//! limits are short, and what is waited for is a state, with a bound far beyond what it takes.

use std::fs;
use std::future::pending;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::model::ids::NodeId;

use super::process::Limits;
use super::run::ONE_AT_A_TIME;
use super::{HookCall, HookDone, HookError, HookRunner};

/// Generous: a bound against hanging, not a measure.
const BOUND: Duration = Duration::from_mins(2);
const LONG: Limits = Limits {
    hook: Duration::from_mins(1),
    term: Duration::from_mins(1),
    leftovers: Duration::from_millis(100),
};
const SHORT: Limits = Limits {
    hook: Duration::from_millis(500),
    term: Duration::from_millis(100),
    leftovers: Duration::from_millis(100),
};

fn call(folder: &Path) -> HookCall {
    HookCall {
        node: NodeId(7),
        uuids_file: folder.join("allowed-uuids.txt"),
        uuids_json: folder.join("allowed-uuids.json"),
    }
}

/// A folder in which a hook's processes write their numbers, one file each.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `$D` is the folder.
    async fn run(&self, script: &str, limits: Limits) -> Result<HookDone, HookError> {
        let script = format!("D={}; {script}", self.0.path().display());
        let runner = HookRunner::with_limits(&script, limits);
        tokio::time::timeout(BOUND, runner.run(&call(self.0.path()), pending()))
            .await
            .unwrap()
    }

    /// The number that a process wrote into `name`, once it is there.
    async fn number(&self, name: &str) -> u32 {
        let path = self.path(name);
        let mut number = None;
        eventually(|| {
            number = fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            number.is_some()
        })
        .await;
        number.unwrap()
    }

    async fn assert_gone(&self, name: &str) {
        let number = self.number(name).await;
        assert!(
            !Path::new(&format!("/proc/{number}")).exists(),
            "{name} ({number}) lives on"
        );
    }
}

async fn eventually(mut state: impl FnMut() -> bool) {
    let bound = Instant::now() + BOUND;
    while !state() {
        assert!(Instant::now() < bound, "the state was not reached");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_good_hook_gets_its_values_and_nothing_of_it_is_lost() {
    let stage = Stage::new();
    let script = "cat > $D/stdin; printf '%s\n' {node_id} {uuids_file} {uuids_json} > $D/values";
    let done = stage
        .run(&format!("{script}; echo one; echo two >&2"), LONG)
        .await
        .unwrap();
    assert_eq!(
        (done.output_bytes, done.thrown_bytes, done.left_behind),
        (8, 0, 0)
    );
    let call = call(stage.0.path());
    let (file, json) = (call.uuids_file.display(), call.uuids_json.display());
    assert_eq!(
        fs::read_to_string(stage.path("values")).unwrap(),
        format!("7\n{file}\n{json}\n")
    );
    assert_eq!(fs::read(stage.path("stdin")).unwrap(), b"");
}

#[tokio::test]
async fn a_failed_hook_is_told_with_its_code_and_last_words() {
    let id = "AAAAAAAA-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let script = format!("echo out; printf 'no user {id}\\033[2J\\n' >&2; exit 3");
    match Stage::new().run(&script, LONG).await.unwrap_err() {
        HookError::Failed { code: 3, said } => {
            assert_eq!(said.0, "no user AAAAAAAA…\\u{1b}[2J");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_command_that_is_not_there_and_a_signal_are_told() {
    let missing = Stage::new().run("/no/such/hook", LONG).await.unwrap_err();
    assert!(
        matches!(missing, HookError::Failed { code: 127, .. }),
        "{missing}"
    );
    let killed = Stage::new().run("kill -9 $$", LONG).await.unwrap_err();
    assert!(
        matches!(killed, HookError::Signalled { signal: 9, .. }),
        "{killed}"
    );
}

#[tokio::test]
async fn a_gigabyte_of_output_neither_blocks_nor_stays() {
    let before = memory_kib();
    let script = "head -c 536870912 /dev/zero; head -c 536870912 /dev/zero >&2";
    let done = Stage::new().run(script, LONG).await.unwrap();
    assert_eq!(done.output_bytes, 1 << 30);
    assert_eq!(done.thrown_bytes, (1 << 30) - (64 << 10));
    // Other tests share this process: the bound is far below what was printed, no more.
    assert!(memory_kib() < before + 128 * 1024);
}

/// The highest resident memory of this process so far.
fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hook_that_ignores_term_is_killed() {
    let stage = Stage::new();
    let script = "trap '' TERM; echo $$ > $D/a; while :; do sleep 600; done";
    let late = stage.run(script, SHORT).await.unwrap_err();
    assert!(
        matches!(late, HookError::TimedOut { after, .. } if after == SHORT.hook),
        "{late}"
    );
    stage.assert_gone("a").await;
}

#[tokio::test]
async fn a_flood_does_not_hold_up_the_limit() {
    let stage = Stage::new();
    let script = "trap '' TERM; echo $$ > $D/a; yes & yes >&2";
    let late = stage.run(script, SHORT).await.unwrap_err();
    assert!(matches!(late, HookError::TimedOut { .. }), "{late}");
    assert!(late.to_string().contains("it said: …"), "{late}");
    stage.assert_gone("a").await;
}

#[tokio::test]
async fn a_hook_that_heeds_term_ends_within_its_grace() {
    let stage = Stage::new();
    let script = "trap 'echo bye > $D/bye; exit' TERM; echo $$ > $D/a; sleep 600 & wait";
    let limits = Limits {
        hook: Duration::from_secs(1),
        ..LONG
    };
    let late = stage.run(script, limits).await.unwrap_err();
    assert!(matches!(late, HookError::TimedOut { .. }), "{late}");
    assert_eq!(fs::read_to_string(stage.path("bye")).unwrap(), "bye\n");
    stage.assert_gone("a").await;
}

/// Every way out of a hook's process group that a shell knows, and out of its environment.
const FAMILY: &str = "
    sleep 600 & echo $! > $D/child
    (sh -c 'echo $$ > '$D'/grandchild; sleep 600; true' &)
    setsid sh -c 'echo $$ > '$D'/session; sleep 600; true' &
    (setsid sh -c '(echo $$ > '$D'/daemon; trap \"\" TERM HUP; sleep 600; sleep 600) &' &)
    env -i /usr/bin/setsid /bin/sh -c 'echo $$ > '$D'/stranger; sleep 600; true' &
    export D
    setsid sh -c '
        setsid sh -c \"echo \\$\\$ > $D/deep; trap : TERM; sleep 600; sleep 600\" & wait' &
    for f in child grandchild session daemon stranger deep; do
        until [ -s $D/$f ]; do sleep 0.01; done
    done
";
const MEMBERS: [&str; 6] = [
    "child",
    "grandchild",
    "session",
    "daemon",
    "stranger",
    "deep",
];

#[tokio::test]
async fn nothing_outlives_a_good_hook() {
    let stage = Stage::new();
    let done = stage.run(FAMILY, LONG).await.unwrap();
    assert!(done.left_behind >= MEMBERS.len(), "{done:?}");
    for name in MEMBERS {
        stage.assert_gone(name).await;
    }
}

#[tokio::test]
async fn nothing_outlives_a_hook_that_took_too_long() {
    let stage = Stage::new();
    let limits = Limits {
        hook: Duration::from_secs(3),
        ..SHORT
    };
    let late = stage
        .run(&format!("{FAMILY} sleep 600"), limits)
        .await
        .unwrap_err();
    assert!(matches!(late, HookError::TimedOut { .. }), "{late}");
    for name in MEMBERS {
        stage.assert_gone(name).await;
    }
}

#[tokio::test]
async fn a_pipe_held_open_in_the_background_does_not_block() {
    let stage = Stage::new();
    let script = "(echo early; exec sleep 600) & echo $! > $D/holder; exit 4";
    let failed = stage.run(script, LONG).await.unwrap_err();
    assert!(
        matches!(failed, HookError::Failed { code: 4, .. }),
        "{failed}"
    );
    stage.assert_gone("holder").await;
}

#[tokio::test]
async fn a_pipe_held_open_by_somebody_else_does_not_block() {
    let stage = Stage::new();
    let hook = stage.run(
        "echo $$ > $D/a; until [ -e $D/go ]; do sleep 0.01; done",
        LONG,
    );
    let hold = async {
        let number = stage.number("a").await;
        let pipe = fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{number}/fd/1"));
        fs::write(stage.path("go"), "").unwrap();
        pipe.unwrap()
    };
    let (done, _pipe) = tokio::join!(hook, hold);
    assert_eq!(done.unwrap().left_behind, 0);
}

#[tokio::test]
async fn a_hook_finds_its_call_in_the_environment() {
    let stage = Stage::new();
    stage.run("env > $D/env", LONG).await.unwrap();
    let env = fs::read_to_string(stage.path("env")).unwrap();
    assert!(
        env.contains("XRAY_AGENT_NODE_ID=7\n") && env.contains("XRAY_AGENT_HOOK="),
        "{env}"
    );
    assert!(env.contains(&format!(
        "UUIDS_FILE={}\n",
        stage.path("allowed-uuids.txt").display()
    )));
}

#[tokio::test]
async fn a_stop_ends_the_hook_and_one_that_waits_does_not_begin() {
    let stage = Stage::new();
    let script = format!("echo $$ > {}; sleep 600", stage.path("a").display());
    let runner = HookRunner::with_limits(&script, SHORT_GRACE);
    let call = call(stage.0.path());
    let stop = async { assert!(stage.number("a").await > 0) };
    assert!(matches!(
        runner.run(&call, stop).await,
        Err(HookError::Stopped)
    ));
    stage.assert_gone("a").await;

    fs::remove_file(stage.path("a")).unwrap();
    assert!(matches!(
        runner.run(&call, async {}).await,
        Err(HookError::Stopped)
    ));
    assert!(!stage.path("a").exists());
}

const SHORT_GRACE: Limits = Limits {
    hook: BOUND,
    ..SHORT
};

#[tokio::test]
async fn dropping_the_future_kills_at_once() {
    let stage = Stage::new();
    let script = format!(
        "D={}; {FAMILY} echo $$ > $D/all; sleep 600",
        stage.0.path().display()
    );
    let runner = HookRunner::with_limits(&script, LONG);
    let call = call(stage.0.path());
    tokio::select! {
        _ = runner.run(&call, pending()) => panic!("it ended"),
        _ = stage.number("all") => {}
    }
    for name in MEMBERS {
        stage.assert_gone(name).await;
    }
    // The shell itself is reaped by tokio.
    let shell = stage.number("all").await;
    eventually(|| !Path::new(&format!("/proc/{shell}")).exists()).await;
}

#[tokio::test]
async fn hooks_of_two_runners_take_turns() {
    let stage = Stage::new();
    let script = "mkdir $D/busy && sleep 0.05 && rmdir $D/busy";
    let (one, two) = tokio::join!(stage.run(script, LONG), stage.run(script, LONG));
    one.unwrap();
    two.unwrap();
}

#[tokio::test]
async fn a_child_that_was_there_before_is_left_alone() {
    let turn = ONE_AT_A_TIME.lock().await;
    let mut other = std::process::Command::new("/bin/sleep")
        .arg("600")
        .process_group(0)
        .spawn()
        .unwrap();
    drop(turn);
    let done = Stage::new().run("sleep 600 &", LONG).await.unwrap();
    assert_eq!(done.left_behind, 1);
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_command_with_a_nul_cannot_be_started() {
    let refused = Stage::new().run("echo \0", LONG).await.unwrap_err();
    assert!(matches!(refused, HookError::Start { .. }), "{refused}");
}

#[tokio::test]
async fn a_template_that_cannot_take_its_values_is_not_run() {
    let stage = Stage::new();
    let call = HookCall {
        uuids_file: "/a b".into(),
        ..call(stage.0.path())
    };
    let runner = HookRunner::new("echo 'x {uuids_file}'".to_owned(), BOUND);
    let refused = runner.run(&call, pending()).await.unwrap_err();
    assert!(
        refused.to_string().contains("a word of its own"),
        "{refused}"
    );
}
