//! What a stream of the status asks for, and who tells it. Pure.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use serde_json::Value;

/// Names that a client may list at most; the contract has some twenty.
const NAMES_MAX: usize = 64;
/// Longest of them, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// The name that stands for all of them.
const ALL: &str = "all";

/// Which part of the status is asked for. Streams of equal cuts share what is built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cut {
    /// Names of the parts, in lower case; `None`: all parts, and of the users their number only.
    pub include: Option<BTreeSet<String>>,
    /// Whether names and tags of users are hidden.
    pub redact_users: bool,
    /// Whether the summary of users' rate limits is added.
    pub rate_limit_summary: bool,
}

/// Tells how the agent is.
pub trait Snapshots: Send + Sync {
    /// The snapshot, cut so: an object. What is null in it is left out of streams.
    fn snapshot<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Value>;
}

impl Cut {
    /// Reads `include`, a list of names with commas. Fails, in words, where it is too long.
    pub fn parse(include: Option<&str>) -> Result<Self, String> {
        let names = include.unwrap_or_default().split(',');
        let names = names.map(|name| name.trim().to_ascii_lowercase());
        let mut names: BTreeSet<_> = names.filter(|name| !name.is_empty()).collect();
        if names.len() > NAMES_MAX || names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(format!(
                "include is a list of at most {NAMES_MAX} names of parts, such as nodes,users"
            ));
        }
        if names.contains(ALL) {
            names.retain(|name| name == ALL);
        }
        Ok(Self {
            include: (!names.is_empty()).then_some(names),
            ..Self::default()
        })
    }

    /// Whether this part is asked for.
    pub fn wants(&self, part: &str) -> bool {
        let named = |names: &BTreeSet<String>| names.contains(part) || names.contains(ALL);
        self.include.as_ref().is_none_or(named)
    }

    /// Whether each user is asked for, not only how many there are.
    pub fn lists_users(&self) -> bool {
        self.include.is_some() && self.wants("users")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_listed_only_where_they_are_asked_for() {
        let wants = |include| {
            let cut = Cut::parse(include).unwrap();
            (cut.wants("nodes"), cut.wants("users"), cut.lists_users())
        };
        assert_eq!(wants(None), (true, true, false));
        assert_eq!(wants(Some(" , ")), (true, true, false));
        assert_eq!(wants(Some("Nodes, system")), (true, false, false));
        assert_eq!(wants(Some("users")), (false, true, true));
        assert_eq!(wants(Some("users,ALL")), (true, true, true));
    }

    #[test]
    fn equal_wishes_are_equal_cuts_and_endless_ones_are_refused() {
        let parse = |text: &str| Cut::parse(Some(text));
        assert_eq!(parse("users,nodes"), parse("NODES,,users,nodes"));
        assert_eq!(parse("users,all"), parse("all"));
        assert!(parse(&"x".repeat(65)).is_err());
        let many: Vec<_> = (0..65).map(|n| n.to_string()).collect();
        assert!(parse(&many.join(",")).is_err());
    }
}
