//! A list of users as it came from outside, made fit: trimmed, lower-cased, sorted, each once.
//! One bad entry never spoils the others; a list of bad entries only is no list.

use std::sync::Arc;

use super::ids::UserId;

/// Users, ascending, each once. Cheap to share.
pub type Users = Arc<[UserId]>;

/// What was made of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserList {
    /// The users that are fit to be used.
    pub users: Users,
    /// Entries that are no UUID, blank ones not counted.
    pub malformed: usize,
    /// The first such entry, cut to 8 characters, with its place in the list (from 0).
    pub first_malformed: Option<(usize, String)>,
}

/// A list none of whose entries is a UUID: it must not be taken for an empty one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of the {entries} entries is a UUID (the first begins {first:?})")]
pub struct NoUsers {
    /// How many entries there were, blank ones not counted.
    pub entries: usize,
    /// The beginning of the first one.
    pub first: String,
}

/// Reads a list of texts.
pub fn read<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<UserList, NoUsers> {
    let mut reader = Reader::default();
    for entry in entries {
        reader.push(entry.as_ref());
    }
    reader.finish()
}

/// Reads a list entry by entry, keeping 16 bytes of each.
#[derive(Debug, Default)]
pub struct Reader {
    users: Vec<UserId>,
    place: usize,
    malformed: usize,
    first_malformed: Option<(usize, String)>,
}

impl Reader {
    /// Takes the next entry.
    pub fn push(&mut self, entry: &str) {
        let text = entry.trim();
        if !text.is_empty() {
            if let Some(user) = UserId::parse(text) {
                self.users.push(user);
            } else {
                self.malformed += 1;
                self.first_malformed
                    .get_or_insert_with(|| (self.place, beginning(text)));
            }
        }
        self.place += 1;
    }

    /// How many entries were taken.
    pub fn entries(&self) -> usize {
        self.place
    }

    /// The list, unless it had entries and none was good.
    pub fn finish(mut self) -> Result<UserList, NoUsers> {
        if let (true, Some((_, first))) = (self.users.is_empty(), &self.first_malformed) {
            return Err(NoUsers {
                entries: self.malformed,
                first: first.clone(),
            });
        }
        self.users.sort_unstable();
        self.users.dedup();
        let (malformed, first_malformed) = (self.malformed, self.first_malformed);
        Ok(UserList {
            users: self.users.into(),
            malformed,
            first_malformed,
        })
    }
}

/// The first 8 characters, control characters shown as they are written in source.
fn beginning(text: &str) -> String {
    text.chars().take(8).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";

    #[test]
    fn a_list_is_trimmed_lowered_sorted_and_deduplicated() {
        let upper = A.to_uppercase();
        let list = read([B, " \t", &format!(" {upper}\r\n"), A, ""]).unwrap();
        assert_eq!(
            list.users.iter().map(UserId::text).collect::<Vec<_>>(),
            [A, B]
        );
        assert_eq!((list.malformed, list.first_malformed), (0, None));
    }

    #[test]
    fn bad_entries_are_counted_and_the_rest_kept() {
        let control = "aaaaaaaa-0000-4000-8000-00000000000\u{7}";
        let list = read(["\u{1b}[31mabcdefgh", A, "zzz", control]).unwrap();
        assert_eq!((list.users.len(), list.malformed), (1, 3));
        assert_eq!(list.first_malformed, Some((0, "\\u{1b}[31mabc".to_owned())));
    }

    #[test]
    fn a_list_without_one_good_entry_is_an_error_and_an_empty_one_is_not() {
        assert_eq!(read(["x", "y"]).unwrap_err().entries, 2);
        assert!(read(Vec::<String>::new()).unwrap().users.is_empty());
        assert!(read([" "]).unwrap().users.is_empty());
    }
}
