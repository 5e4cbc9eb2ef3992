//! The users: each makes one transfer of a known size after the other through its own SOCKS port,
//! whatever fails.
//!
//! Invariant: of each user, the bytes of completed transfers moved for certain, and what is beyond
//! those of all attempted ones cannot have moved. Whoever holds [`Load::quiesce`] holds the only
//! moments in which no transfer is under way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::books::{Pair, Users};
use super::dice::Dice;
use crate::lab::secrets::nth_uuid;
use crate::lab::transfer::HEAD_BYTES;
use crate::lab::{Client, Origin, Transfer};

/// The most that a transfer carries up and down: a third of a second at its pace.
const UP_BYTES_MAX: u64 = 20_000;
const DOWN_BYTES_MAX: u64 = 60_000;
/// The pace: 20 users move 2 to 3 MB/s, which leaves a small machine something for the others.
const CHUNK_BYTES: u64 = 4_096;
const CHUNK_PAUSE: Duration = Duration::from_millis(25);
/// A transfer through an Xray that is gone or does not know the user fails by then.
const TRANSFER_BOUND: Duration = Duration::from_secs(10);
/// Between two transfers of a user, at most, and after a failed one.
const REST: Duration = Duration::from_millis(100);

/// What one user did.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    pub attempted: Pair,
    pub completed: Pair,
    /// Of which began and ended within the present boot of Xray.
    pub in_boot: Pair,
    /// Of all attempted ones, what a part of may have moved within the present boot.
    pub touched_boot: Pair,
    /// Of the transfer that goes on.
    under_way: Pair,
    pub transfers: u64,
    pub failed: u64,
}

pub struct Load {
    shared: Arc<Shared>,
    /// Ends with the value.
    users: JoinSet<()>,
}

struct Shared {
    client: Client,
    origin: Origin,
    gate: Arc<RwLock<()>>,
    tally: Mutex<Tally>,
}

struct Tally {
    /// Counts up with every beginning and every end of a boot.
    boot: u64,
    users: Vec<Moved>,
}

impl Load {
    /// So many users, each of whom has the route of its number, who do nothing yet.
    pub fn new(client: Client, origin: Origin, users: usize) -> Self {
        let tally = Tally {
            boot: 0,
            users: vec![Moved::default(); users],
        };
        let shared = Arc::new(Shared {
            client,
            origin,
            gate: Arc::new(RwLock::new(())),
            tally: Mutex::new(tally),
        });
        Self {
            shared,
            users: JoinSet::new(),
        }
    }

    /// They begin.
    pub fn begin(&mut self, dice: &mut Dice) {
        for user in 0..self.moved().len() {
            let shared = Arc::clone(&self.shared);
            self.users.spawn(run(shared, user, dice.fork()));
        }
    }

    /// Waits for the transfers under way; no other begins until the guard is dropped.
    pub async fn quiesce(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.shared.gate).write_owned().await
    }

    /// To be called before Xray is killed: a transfer that goes on is of no boot for certain.
    pub fn boot_ends(&self) {
        self.shared.tally().boot += 1;
    }

    /// To be called when Xray has started.
    pub fn boot_begins(&self) {
        let mut tally = self.shared.tally();
        tally.boot += 1;
        for moved in &mut tally.users {
            moved.in_boot = Pair::default();
            moved.touched_boot = moved.under_way;
        }
    }

    /// By user.
    pub fn moved(&self) -> Vec<Moved> {
        self.shared.tally().users.clone()
    }

    /// What was completed within the present boot.
    pub fn in_boot(&self) -> Users {
        self.by_user(|moved| moved.in_boot)
    }

    /// No user moved more than this within the present boot, or the one that was killed last as long
    /// as the next has not begun.
    pub fn touched_boot(&self) -> Users {
        self.by_user(|moved| moved.touched_boot)
    }

    pub fn attempted(&self) -> Users {
        self.by_user(|moved| moved.attempted)
    }

    fn by_user(&self, of: impl Fn(&Moved) -> Pair) -> Users {
        let users = (0..).map(nth_uuid);
        users.zip(self.moved().iter().map(of)).collect()
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn transfer(&self, user: usize, dice: &mut Dice) -> bool {
        let _under_way = self.gate.read().await;
        let (up, down) = (
            1_000 + dice.below(UP_BYTES_MAX),
            1 + dice.below(DOWN_BYTES_MAX),
        );
        let bytes = (HEAD_BYTES + up, down);
        let began = self.begin(user, bytes);
        let transfer = Transfer::at_once(up, down).paced(CHUNK_BYTES, CHUNK_PAUSE);
        let moving = self.client.transfer_at(user, &self.origin, transfer);
        let moved = timeout(TRANSFER_BOUND, moving).await;
        let completed = moved.is_ok_and(|moved| moved.is_ok());
        self.end(user, began, completed.then_some(bytes));
        completed
    }

    fn begin(&self, user: usize, bytes: (u64, u64)) -> u64 {
        let mut tally = self.tally();
        let boot = tally.boot;
        let moved = &mut tally.users[user];
        moved.transfers += 1;
        moved.attempted += bytes.into();
        moved.touched_boot += bytes.into();
        moved.under_way = bytes.into();
        boot
    }

    fn end(&self, user: usize, began: u64, completed: Option<(u64, u64)>) {
        let mut tally = self.tally();
        let is_of_boot = tally.boot == began;
        let moved = &mut tally.users[user];
        moved.under_way = Pair::default();
        let Some(bytes) = completed else {
            moved.failed += 1;
            return;
        };
        moved.completed += bytes.into();
        if is_of_boot {
            moved.in_boot += bytes.into();
        }
    }
}

async fn run(shared: Arc<Shared>, user: usize, mut dice: Dice) {
    loop {
        let completed = shared.transfer(user, &mut dice).await;
        let rest = dice.time(Duration::ZERO, REST);
        sleep(if completed { rest } else { REST }).await;
    }
}
