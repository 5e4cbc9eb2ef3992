//! How the loops of traffic and whoever asks something of them hear of each other: by numbers in
//! watches. A newer order stands for all older ones, so nothing queues up, and a loop that is started
//! anew finds everything in place.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::ids::UserId;

/// Orders of one kind, and what the last carried out came to.
#[derive(Debug)]
pub(super) struct Orders<T> {
    asked: Arc<watch::Sender<u64>>,
    answered: Arc<watch::Sender<(u64, T)>>,
}

impl<T> Clone for Orders<T> {
    fn clone(&self) -> Self {
        Self {
            asked: self.asked.clone(),
            answered: self.answered.clone(),
        }
    }
}

impl<T: Clone + Default> Default for Orders<T> {
    fn default() -> Self {
        Self {
            asked: Arc::new(watch::Sender::new(0)),
            answered: Arc::new(watch::Sender::new((0, T::default()))),
        }
    }
}

impl<T: Clone> Orders<T> {
    /// Gives an order; its number.
    pub(super) fn give(&self) -> u64 {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        number
    }

    /// Gives an order and waits until it, or a later one, is carried out.
    pub(super) async fn carried_out(&self) -> T {
        let number = self.give();
        let mut answers = self.answered.subscribe();
        let answer = answers
            .wait_for(|(done, _)| *done >= number)
            .await
            .expect("invariant: this handle holds the sender");
        answer.1.clone()
    }

    /// For the loop: wakes at each order. Those given before are seen as new.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        let mut orders = self.asked.subscribe();
        if *orders.borrow() > self.answered.borrow().0 {
            orders.mark_changed();
        }
        orders
    }

    /// The last order.
    pub(super) fn last(&self) -> u64 {
        *self.asked.borrow()
    }

    /// What all orders up to `number` came to.
    pub(super) fn answer(&self, number: u64, answer: T) {
        self.answered.send_modify(|answered| {
            if number >= answered.0 {
                *answered = (number, answer);
            }
        });
    }

    /// Nobody carries out orders any more: those that were given, and those to come, came to this.
    pub(super) fn close(&self, answer: T) {
        self.answer(u64::MAX, answer);
    }
}

/// Users who were removed and whose last bytes are to be read and reported at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Leavers(Arc<Mutex<BTreeSet<UserId>>>);

impl Leavers {
    pub(super) fn add(&self, users: impl IntoIterator<Item = UserId>) {
        self.locked().extend(users);
    }

    pub(super) fn take(&self) -> Vec<UserId> {
        std::mem::take(&mut *self.locked()).into_iter().collect()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeSet<UserId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
