//! The bar that a terminal shows while many users are changed.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::model::progress::{Progress, Silent};

/// Fewer changes than this are over before anybody could read a bar.
const SHOWN_FROM: usize = 500;

/// A bar on a terminal, nothing elsewhere.
pub(super) fn for_stderr() -> Arc<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Arc::new(Bar {
            bar: ProgressBar::hidden(),
            running: AtomicUsize::new(0),
        })
    } else {
        Arc::new(Silent)
    }
}

/// One bar for all inbounds whose passes run at the same time.
struct Bar {
    bar: ProgressBar,
    running: AtomicUsize,
}

impl Progress for Bar {
    fn begin(&self, inbound: &str, total: usize) {
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.bar.reset();
            self.bar.set_length(0);
        }
        self.bar.inc_length(total as u64);
        if self.bar.length().unwrap_or_default() >= SHOWN_FROM as u64 {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
            self.bar
                .set_style(style.expect("invariant: the template is well-formed"));
            self.bar
                .set_draw_target(indicatif::ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(Duration::from_millis(200));
            self.bar.set_message(inbound.to_owned());
        }
    }

    fn step(&self) {
        self.bar.inc(1);
    }

    fn end(&self) {
        if self.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.bar.disable_steady_tick();
            self.bar.finish_and_clear();
            self.bar
                .set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
    }
}
