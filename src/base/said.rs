//! Says each thing once: a trouble when it begins or changes, its end, and notes of a kind. What
//! stays as it is goes to DEBUG.

use std::collections::BTreeSet;

use tracing::{debug, info, warn};

/// What was said last.
#[derive(Debug, Default)]
pub struct Said {
    trouble: Option<String>,
    notes: BTreeSet<&'static str>,
    failure: Option<String>,
}

impl Said {
    /// A trouble of `subject`, or that there is none.
    pub fn state(&mut self, subject: &str, trouble: Option<&str>) {
        match trouble {
            Some(now) if self.trouble.as_deref() == Some(now) => debug!(subject, "still: {now}"),
            Some(now) => {
                warn!(subject, "{now}");
                self.trouble = Some(now.to_owned());
            }
            None if self.trouble.take().is_some() => info!(subject, "recovered"),
            None => {}
        }
    }

    /// A note that is made once for as long as the process lives.
    pub fn once(&mut self, kind: &'static str, note: impl FnOnce()) {
        if self.notes.insert(kind) {
            note();
        }
    }

    /// A detail that is told when it is another one than before.
    pub fn failure(&mut self, text: String) {
        if self.failure.as_ref() == Some(&text) {
            debug!("still: {text}");
        } else {
            warn!("{text}");
            self.failure = Some(text);
        }
    }
}
