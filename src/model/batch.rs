//! Reports that go together to a panel that pushes users (`kernel.md`): how it calls their inbounds, and
//! what it answers to all of them at once. Pure.

use std::time::Duration;

use serde_json::Value;

use super::desired::InboundKey;

/// Most records in one request.
pub const RECORDS_MAX: usize = 500;

/// By which numbers a panel that pushes users knows an inbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its node.
    pub node_id: u64,
    /// Its binding of that node to a protocol.
    pub binding_id: u64,
}

/// Tells of inbounds what records say of them. Answers from memory.
pub trait Bindings: Send + Sync {
    /// By which numbers the configured panel knows it; `None`: by none.
    fn binding(&self, inbound: &InboundKey) -> Option<Binding>;

    /// What it speaks, as the panel calls that; `None`: it is not known yet.
    fn protocol(&self, inbound: &InboundKey) -> Option<String>;
}

/// What the body of an answer to a batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// How many records were taken and how many were not.
    Tally {
        /// Taken.
        accepted: u64,
        /// Not taken.
        failed: u64,
    },
    /// Nothing, or JSON that says nothing of that.
    Nothing,
    /// Anything else: it need not be the panel's.
    Foreign,
}

impl Said {
    /// Reads a body; `is_whole` says whether it is all of it.
    pub fn read(body: &[u8], is_whole: bool) -> Self {
        if !is_whole {
            return Self::Foreign;
        }
        if body.trim_ascii().is_empty() {
            return Self::Nothing;
        }
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            return Self::Foreign;
        };
        match (json.get("accepted"), json.get("failed")) {
            (None, None) => Self::Nothing,
            (accepted, failed) => {
                let number = |it: Option<&Value>| it.and_then(Value::as_u64);
                match (number(accepted), number(failed)) {
                    (Some(accepted), Some(failed)) => Self::Tally { accepted, failed },
                    _ => Self::Foreign,
                }
            }
        }
    }
}

/// A whole answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchReply {
    /// HTTP status.
    pub status: u16,
    /// What it says.
    pub said: Said,
    /// Whether the sink always says how many it took. One that does not has taken all by a status
    /// of success.
    pub tallies: bool,
    /// What `Retry-After` asked for.
    pub retry_after: Option<Duration>,
    /// The answer in one line, fit to be shown.
    pub shown: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_tally_is_one() {
        let tally = |accepted, failed| Said::Tally { accepted, failed };
        for (body, said) in [
            (r#"{"accepted":3,"failed":0}"#, tally(3, 0)),
            (r#" {"failed":2,"accepted":1,"more":[]} "#, tally(1, 2)),
            ("", Said::Nothing),
            (" \n", Said::Nothing),
            ("{}", Said::Nothing),
            ("null", Said::Nothing),
            (r#""ok""#, Said::Nothing),
            (r#"{"code":200}"#, Said::Nothing),
            (r#"{"accepted":3}"#, Said::Foreign),
            (r#"{"accepted":-1,"failed":0}"#, Said::Foreign),
            (r#"{"accepted":"3","failed":0}"#, Said::Foreign),
            (r#"{"accepted":3,"failed":0"#, Said::Foreign),
            ("<html>", Said::Foreign),
            ("ok", Said::Foreign),
        ] {
            assert_eq!(Said::read(body.as_bytes(), true), said, "{body}");
            assert_eq!(Said::read(body.as_bytes(), false), Said::Foreign, "{body}");
        }
    }
}
