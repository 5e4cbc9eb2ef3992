//! What an agent may never print (A4), looked for in all that it printed when its life ends: every
//! secret that it was given, keys, and whole UUIDs. Whatever test runs an agent fails by it.
//!
//! Of UUIDs only those of version 7 that were made within the last days may stand there: they are
//! numbers of the agent's reports. Users' are not, or are older.
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;

use super::process::read_log;

/// In the name of a variable or a setting whose value is a secret.
const SECRET_NAMES: [&str; 5] = ["key", "token", "password", "secret", "credential"];
/// Settings that are named like one and are not, or name a file.
const NO_SECRETS: [&str; 3] = ["tls_cert", "_label", "idempotency"];
/// A shorter one would be found by chance.
const SECRET_CHARS_MIN: usize = 8;
/// Every private key begins so.
const PRIVATE_KEY: &str = "PRIVATE KEY";
/// A report's number is this old at most; tests step no clock further.
const NUMBERS_ARE_NEWER_THAN: Duration = Duration::from_hours(48);
/// So much of a key shows that it is made of a UUID: 15 bytes, two dashes among them.
const KEY_START_CHARS: usize = 20;
/// Of a found secret's line, so many characters are shown.
const LINE_CHARS_MAX: usize = 400;

/// Where the secrets of UUIDs are not to be looked for: what a user asked for by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uuids {
    Never,
    AreTheAnswer,
}

/// What one agent was given.
#[derive(Clone, Debug, Default)]
pub struct Canaries {
    /// Each with its name.
    secrets: Vec<(String, String)>,
    /// Numbers of reports that its caller named himself, however old.
    numbers: Vec<String>,
}

impl Canaries {
    /// Of its environment, of the files that this names, and of the configuration file.
    pub fn of(env: &[(OsString, OsString)], args: &[OsString], folder: Option<&Path>) -> Self {
        let mut found = Self::default();
        for (name, value) in env {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            found.take(&name, &value, folder);
        }
        if args.iter().any(|arg| arg == "traffic") {
            let said = args.iter().map(|arg| arg.to_string_lossy().into_owned());
            found.numbers.extend(said);
        }
        let mut args = args.iter();
        if args.any(|arg| arg == "--config")
            && let Some(file) = args.next()
        {
            for line in in_folder(folder, file).lines() {
                if let Some((name, value)) = line.split_once('=') {
                    found.take(name.trim(), value.trim().trim_matches('"'), folder);
                }
            }
        }
        found
    }

    fn take(&mut self, name: &str, value: &str, folder: Option<&Path>) {
        if let Some((_, rest)) = value.split_once("://")
            && let Some((user, _)) = rest.rsplit_once('@')
            && let Some((_, password)) = user.split_once(':')
        {
            self.add(name, password);
        }
        let named = name.to_lowercase();
        let is_secret = SECRET_NAMES.iter().any(|word| named.contains(word))
            && !NO_SECRETS.iter().any(|word| named.contains(word));
        if !is_secret {
            return;
        }
        let file = in_folder(folder, OsStr::new(value));
        let names_a_path = value.starts_with('/') || named.ends_with("_file");
        if file.is_empty() && !names_a_path {
            self.add(name, value);
        }
        for line in file.lines().filter(|line| !line.starts_with("-----")) {
            self.add(name, line.trim());
        }
    }

    fn add(&mut self, name: &str, secret: &str) {
        if secret.chars().count() >= SECRET_CHARS_MIN {
            self.secrets.push((name.to_owned(), secret.to_owned()));
        }
    }

    /// The first thing in `text` that must not be there, in words.
    pub fn leak(&self, text: &str, uuids: Uuids) -> Option<String> {
        let has_key = text.contains(PRIVATE_KEY).then(|| PRIVATE_KEY.to_owned());
        let secret = self
            .secrets
            .iter()
            .find(|(_, secret)| text.contains(secret));
        let (what, found) = has_key
            .map(|key| ("a private key".to_owned(), key))
            .or_else(|| secret.cloned())
            .or_else(|| Some(("a key made of a UUID".to_owned(), key_of_uuid(text)?)))
            .or_else(|| {
                let uuid = (uuids == Uuids::Never).then(|| self.whole_uuid(text));
                Some(("a whole UUID".to_owned(), uuid.flatten()?))
            })?;
        let line = text.lines().find(|line| line.contains(&found));
        let line: String = line.unwrap_or(text).chars().take(LINE_CHARS_MAX).collect();
        Some(format!("{what} was printed: {found} in {line}"))
    }

    /// The first UUID of somebody in the text, with dashes or without.
    fn whole_uuid(&self, text: &str) -> Option<String> {
        let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
        let words = text.split(|c| !is_part(c));
        let mut uuids = words.flat_map(uuids_in);
        uuids.find(|uuid| !is_a_reports_number(uuid) && !self.numbers.contains(uuid))
    }

    /// Fails the test that runs here if something is in `text` that must not be there.
    pub fn assert_none_in(&self, text: &str, uuids: Uuids) {
        // A second panic would end all tests, and the first says enough.
        if std::thread::panicking() {
            return;
        }
        if let Some(leak) = self.leak(text, uuids) {
            panic!("{leak}");
        }
    }
}

/// A file's text; nothing where it is none.
fn in_folder(folder: Option<&Path>, file: &OsStr) -> String {
    let path = folder.unwrap_or(Path::new("")).join(file);
    if path.is_file() {
        read_log(&path)
    } else {
        String::new()
    }
}

/// The first key of Shadowsocks 2022 in the text: base64 of a UUID's beginning.
fn key_of_uuid(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    let mut words = text.split(|c| !is_part(c));
    let is_key = |word: &&str| {
        let start = word.get(..KEY_START_CHARS);
        let start = start.and_then(|start| STANDARD.decode(start).ok());
        start.is_some_and(|start| {
            let mut bytes = start.iter().enumerate();
            bytes.all(|(at, byte)| match at {
                8 | 13 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
        })
    };
    words.find(is_key).map(str::to_owned)
}

/// All in a word of digits and dashes, wherever they begin.
fn uuids_in(word: &str) -> Vec<String> {
    let groups: Vec<&str> = word.split('-').collect();
    let bare = groups.iter().filter(|group| group.len() == 32);
    let dashed = groups.windows(5).filter(|window| {
        let inner = [window[1].len(), window[2].len(), window[3].len()];
        window[0].len() >= 8 && inner == [4, 4, 4] && window[4].len() >= 12
    });
    let dashed = dashed.map(|window| {
        let (first, last) = (window[0], window[4]);
        let (first, last) = (&first[first.len() - 8..], &last[..12]);
        [first, window[1], window[2], window[3], last].join("-")
    });
    bare.map(|bare| (*bare).to_owned()).chain(dashed).collect()
}

fn is_a_reports_number(uuid: &str) -> bool {
    let digits = uuid.replace('-', "");
    let made_ms = u64::from_str_radix(&digits[..12], 16).unwrap_or_default();
    let made = SystemTime::UNIX_EPOCH + Duration::from_millis(made_ms);
    let now = SystemTime::now();
    let is_new = made <= now + NUMBERS_ARE_NEWER_THAN && made + NUMBERS_ARE_NEWER_THAN >= now;
    digits.as_bytes()[12] == b'7' && is_new
}
