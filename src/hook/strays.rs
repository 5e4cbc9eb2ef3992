//! The processes that a hook leaves behind. We are their subreaper: whatever loses its parent
//! becomes our child, however it daemonised, so what is not our child has a live ancestor that is.
//!
//! Kept here: a child is taken for the hook's only if it was not there before the hook, is not the
//! hook's shell, and is outside our process group or carries our token. So this process's other
//! children, should it have any (a shell that began them and then became the agent), are left
//! alone. Reaped is only what is the hook's: tokio waits for its own.
//!
//! What can be taken wrongly is somebody else's orphan that comes to us while a hook runs: as
//! process 1 of a container we get those of `docker exec`.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions};

use super::environment::TOKEN;

/// A process, safe against its number being used again: number and start (clock ticks since boot).
pub(super) type Identity = (i32, u64);

/// A child of ours, as `/proc/<pid>/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) pid: Pid,
    /// Its process group's number.
    pub(super) group: i32,
    started: u64,
    ended: bool,
}

impl Child {
    pub(super) fn identity(&self) -> Identity {
        (self.pid.as_raw_pid(), self.started)
    }
}

/// Finds what one hook leaves behind.
#[derive(Debug)]
pub(super) struct Strays {
    /// Children that were there before the hook and are not a hook's.
    before: HashSet<Identity>,
    /// Known as the hook's: an ended process no longer shows the token.
    known: HashSet<Identity>,
}

impl Strays {
    /// To be called right before the hook is started.
    pub(super) fn before_hook() -> Self {
        let before = children()
            .into_iter()
            .filter(|child| !carries_token(child.pid));
        Self {
            before: before.map(|child| child.identity()).collect(),
            known: HashSet::new(),
        }
    }

    /// The live processes of the hook that are our children; those that ended are reaped.
    /// `shell` is the hook's shell as long as tokio has not reaped it.
    pub(super) fn find(&mut self, shell: Option<Pid>) -> Vec<Child> {
        let own_group = rustix::process::getpgrp().as_raw_pid();
        let mut live = Vec::new();
        for child in children() {
            let identity = child.identity();
            let is_hooks = Some(child.pid) != shell
                && !self.before.contains(&identity)
                && (child.group != own_group
                    || self.known.contains(&identity)
                    || carries_token(child.pid));
            if !is_hooks {
                continue;
            }
            self.known.insert(identity);
            if child.ended {
                let _ = rustix::process::waitpid(Some(child.pid), WaitOptions::NOHANG);
            } else {
                live.push(child);
            }
        }
        live
    }
}

/// This process's own random word, the value of [`TOKEN`] for all its hooks.
pub(super) fn token() -> &'static str {
    static WORD: OnceLock<String> = OnceLock::new();
    WORD.get_or_init(|| format!("{:016x}", RandomState::new().hash_one(std::process::id())))
}

/// All children of this process. Found by their parent's number in `/proc`: the kernel's own list
/// (`/proc/self/task/*/children`) is optional, and incomplete while children come and go.
fn children() -> Vec<Child> {
    if !has_children() {
        return Vec::new();
    }
    let own = rustix::process::getpid();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .and_then(Pid::from_raw)
        })
        .filter_map(|pid| {
            let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
            parse_stat(pid, own, &String::from_utf8_lossy(&stat))
        })
        .collect()
}

/// Asks the kernel, which is much cheaper than a look at every process of the host.
fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(
        rustix::process::waitid(WaitId::All, look),
        Err(Errno::CHILD)
    )
}

/// Reads `pid (name) state ppid pgrp … starttime …` (`man 5 proc_pid_stat`) if the parent is
/// `parent`. The name can hold anything, brackets too, and ends at the last one.
fn parse_stat(pid: Pid, parent: Pid, stat: &str) -> Option<Child> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
    (number(1)? == parent.as_raw_pid()).then_some(Child {
        pid,
        group: number(2)?,
        started: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

fn carries_token(pid: Pid) -> bool {
    let mark = format!("{TOKEN}={}", token());
    fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).is_ok_and(|all| {
        all.split(|byte| *byte == 0)
            .any(|entry| entry == mark.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "42 (a) Z 1 (x) S 7 41 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 5555 1 1";
        let child = parse_stat(pid(42), pid(7), line).unwrap();
        assert_eq!(
            (child.group, child.identity(), child.ended),
            (41, (42, 5555), false)
        );
        assert_eq!(parse_stat(pid(42), pid(1), line), None);
        assert_eq!(parse_stat(pid(42), pid(7), "42 (a) S 7"), None);
        assert_eq!(parse_stat(pid(42), pid(7), ""), None);
    }

    /// A child in our own process group, found or not, while no hook runs.
    fn found(marked: bool) -> bool {
        let _turn = super::super::run::ONE_AT_A_TIME.blocking_lock();
        let mut strays = Strays {
            before: HashSet::new(),
            known: HashSet::new(),
        };
        let mut command = std::process::Command::new("/bin/sleep");
        command.arg("600").envs(marked.then_some((TOKEN, token())));
        let mut other = command.spawn().unwrap();
        let number = pid(i32::try_from(other.id()).unwrap());
        // It is started a moment before its environment can be read.
        let environment = format!("/proc/{}/environ", other.id());
        while std::fs::read(&environment).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let mut found = || strays.find(None).iter().any(|child| child.pid == number);
        let was_found = found();
        other.kill().unwrap();
        // Once known it is reaped here, though it no longer shows its token.
        while was_found && children().iter().any(|child| child.pid == number) {
            found();
        }
        assert_eq!(other.wait().is_err(), was_found);
        was_found
    }

    #[test]
    fn a_child_in_our_group_is_taken_for_a_hooks_by_its_token_only() {
        assert!(found(true));
        assert!(!found(false));
    }
}
