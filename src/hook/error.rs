//! Why a hook did not do its work. A hook is run again at the node's next change or tick, so none
//! of these is final; each says what to mend.

use std::fmt;
use std::io;
use std::time::Duration;

use super::template::TemplateError;

/// The end of what the hook printed on stderr, fit for a log: escaped, ids shortened, at most 400
/// characters. Displays with its own introduction, or as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(pub String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "; it said: {}", self.0)
        }
    }
}

/// A hook that was not run, or not to its good end.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It ended with an exit code other than 0.
    #[error("the hook ended with exit code {code}{said}{}", mend(*code))]
    Failed {
        /// The exit code.
        code: i32,
        /// Its last words.
        said: Said,
    },
    /// It was ended by a signal, and not by us.
    #[error(
        "the hook was ended by signal {signal}{said} (9 is often the kernel, out of memory: see \
         the unit's MemoryMax and `journalctl -k`)"
    )]
    Signalled {
        /// The signal's number.
        signal: i32,
        /// Its last words.
        said: Said,
    },
    /// It took too long and was ended with everything it had started.
    #[error(
        "the hook did not end within {after:?} and was ended{said}; make it quicker, or raise \
         APPLY_TIMEOUT_SECONDS"
    )]
    TimedOut {
        /// The limit.
        after: Duration,
        /// Its last words.
        said: Said,
    },
    /// The agent stops: the hook was ended, or not begun.
    #[error("the hook was ended because the agent stops; it runs again when the agent does")]
    Stopped,
    /// The command cannot take its values.
    #[error("the hook was not run: {0}")]
    Template(#[from] TemplateError),
    /// `/bin/sh` could not be started or watched.
    #[error(
        "the hook could not be run by /bin/sh: {source}; check that /bin/sh is there and that the \
         unit's TasksMax is not reached"
    )]
    Start {
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What a shell's own exit codes mean.
fn mend(code: i32) -> &'static str {
    match code {
        126 => " (126: found but not executable: check its mode with `ls -l`)",
        127 => " (127: command not found: use absolute paths in APPLY_CMD)",
        _ => "; run APPLY_CMD by hand as the agent's user to see why",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_happened_and_what_to_do() {
        let said = Said("no such tag".to_owned());
        let failed = HookError::Failed { code: 127, said }.to_string();
        assert!(
            failed.contains("code 127; it said: no such tag (127: command"),
            "{failed}"
        );
        let after = Duration::from_mins(1);
        let late = HookError::TimedOut {
            after,
            said: Said::default(),
        }
        .to_string();
        assert!(late.contains("within 60s and was ended; make it"), "{late}");
    }
}
