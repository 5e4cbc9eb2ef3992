//! An agent that keeps running, between its start and its end: it heeds signals and takes new
//! configurations in.

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::reload::{Reloaded, Reloader};
use super::run::Outcome;
use super::running::Running;
use super::service_manager;
use super::signals::{Asked, Signals};

/// What it heeds.
pub(super) struct Serving {
    pub(super) running: Running,
    pub(super) signals: Signals,
    pub(super) reloader: Reloader,
    /// Somebody asks for a reload, and waits for what it comes to.
    pub(super) asked: mpsc::Receiver<oneshot::Sender<Result<Reloaded, String>>>,
    /// It ends as soon as a pass fails.
    pub(super) fail_fast: bool,
    /// A reload was asked for while another was under way, which may have read the file before.
    pub(super) again: bool,
}

impl Serving {
    /// Until the agent has to end; why.
    pub(super) async fn serve(&mut self) -> Outcome {
        let mut announced = false;
        loop {
            // What runs is another after each reload.
            let sync = self.running.now().sync;
            let mut ready = Box::pin(sync.attempted().fuse());
            let mut failed = Box::pin(sync.failed().fuse());
            let answer = loop {
                if std::mem::take(&mut self.again) {
                    break None;
                }
                // All arms are cancel-safe.
                tokio::select! {
                    () = &mut ready, if !announced => {
                        announced = true;
                        service_manager::ready(&self.running);
                    }
                    problems = &mut failed, if self.fail_fast => return Outcome::Failed(problems),
                    Some(answer) = self.asked.recv() => break Some(answer),
                    asked = self.signals.next() => match asked {
                        Asked::Stop => {
                            service_manager::stopping();
                            return Outcome::Stopped;
                        }
                        Asked::Reload => break None,
                        // Not awaited: the outcome is in the log and the status.
                        Asked::Sync => {
                            info!("asked by signal to sync now");
                            sync.ask();
                        }
                    },
                }
            };
            drop((ready, failed));
            drop(sync);
            if announced {
                service_manager::reloading();
            }
            let Some(outcome) = self.reload().await else {
                service_manager::stopping();
                return Outcome::Stopped;
            };
            if announced {
                service_manager::reloaded();
            }
            // Whoever asked may have gone.
            answer.map(|answer| answer.send(outcome));
        }
    }

    /// Takes a new configuration in; `None`: the end was asked for meanwhile.
    async fn reload(&mut self) -> Option<Result<Reloaded, String>> {
        let Self {
            running,
            signals,
            reloader,
            again,
            ..
        } = self;
        let mut reload = Box::pin(reloader.reload());
        loop {
            // The signals' arm is cancel-safe; the reload is dropped only when everything ends.
            tokio::select! {
                outcome = &mut reload => return Some(outcome),
                asked = signals.next() => match asked {
                    Asked::Stop => return None,
                    Asked::Sync => running.now().sync.ask(),
                    Asked::Reload => *again = true,
                }
            }
        }
    }
}
