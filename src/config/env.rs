//! The environment as the configuration sees it: a copy, taken once. An empty variable is the same
//! as one that is not set. Never prints a value: one of them is the panel's token.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A process's variables, or a test's.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Names whose values are not UTF-8.
    not_text: BTreeSet<String>,
}

impl Environment {
    /// The variables of this process, as they are now.
    pub fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => drop(environment.variables.insert(name, value)),
                Err(_) => drop(environment.not_text.insert(name)),
            }
        }
        environment
    }

    /// These variables and no others.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        let variables = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self {
            variables: variables.collect(),
            not_text: BTreeSet::new(),
        }
    }

    /// A variable's value without the white space around it; `None` where nothing is left.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// Whether the variable is set to something that is not UTF-8.
    pub(super) fn is_not_text(&self, name: &str) -> bool {
        self.not_text.contains(name)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.variables.keys())
            .entries(&self.not_text)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Environment;

    #[test]
    fn empty_and_blank_variables_are_not_set() {
        let environment = Environment::from_pairs([("A", ""), ("B", " \t"), ("C", " c ")]);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get("B"), None);
        assert_eq!(environment.get("C"), Some("c"));
        assert_eq!(environment.get("D"), None);
    }

    #[test]
    fn printing_it_shows_names_only() {
        let environment = Environment::from_pairs([("INTERNAL_API_KEY", "canary")]);
        assert_eq!(format!("{environment:?}"), r#"{"INTERNAL_API_KEY"}"#);
    }
}
