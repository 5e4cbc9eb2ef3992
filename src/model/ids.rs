//! Names of things: a number is not a node, and a text is not an inbound.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The panel's number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Self)
    }
}

/// Xray's tag of an inbound, in exact case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InboundTag(pub String);

impl InboundTag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InboundTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user: the UUID by which the panel knows them. Ordered as its lower-case text is.
///
/// It is a live credential. `Debug` and `Display` show its first 8 characters; [`UserId::text`]
/// gives the whole, for Xray and for the files that hold it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Uuid);

impl UserId {
    /// Reads the usual form of 36 characters, in either case. Nothing shorter, longer or otherwise
    /// written: Xray quietly makes another UUID of a text of 1 to 30 characters.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 36)
            .then(|| Uuid::try_parse(text).ok())
            .flatten()
            .map(Self)
    }

    /// From the 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The whole, lower-case, with dashes.
    pub fn text(&self) -> String {
        self.0.hyphenated().to_string()
    }

    /// The first 8 characters: enough to find a user, too little to be one.
    pub fn short(&self) -> String {
        let mut text = self.text();
        text.truncate(8);
        text
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Written whole: only files of ours and the control socket serialise users.
impl Serialize for UserId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0.hyphenated())
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a UUID of 36 characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "AAAAAAAA-bbbb-4ccc-8ddd-eeeeeeeeeeee";

    #[test]
    fn a_user_is_read_in_either_case_and_shown_by_eight_characters() {
        let user = UserId::parse(TEXT).unwrap();
        assert_eq!(user.text(), TEXT.to_lowercase());
        assert_eq!(format!("{user} {user:?}"), "aaaaaaaa aaaaaaaa");
    }

    #[test]
    fn what_is_not_a_whole_uuid_is_refused() {
        let bare = TEXT.replace('-', "");
        let braced = format!("{{{bare}}}");
        for bad in [
            "",
            "zzz",
            &TEXT[1..],
            &bare,
            &braced,
            &TEXT.replace('A', "g"),
        ] {
            assert!(UserId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn users_sort_as_their_texts_do() {
        let mut users: Vec<_> = [0x9f, 0xa0, 0x00, 0x0a]
            .map(|b| UserId::from_bytes([b; 16]))
            .to_vec();
        users.sort();
        let texts: Vec<_> = users.iter().map(UserId::text).collect();
        assert!(texts.is_sorted());
    }
}
