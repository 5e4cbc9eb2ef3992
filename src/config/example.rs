//! The commented configuration that a new installation begins with, and whether anything was said
//! beyond it.

use std::path::Path;

use super::keys::KEYS;
use super::{DEFAULT_FILE, Sources};
use crate::base::files::read_if_there;
use crate::base::secret::Secret;

/// The file, ready to be edited: it lacks the panel's key.
pub const EXAMPLE: &str = include_str!("../../packaging/config.toml");
/// Where [`EXAMPLE`] has the panel's key looked for.
const TOKEN_FILE: &str = "/etc/xray-agent/token";
/// The variable that systemd names its folder of credentials by.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Keys of [`EXAMPLE`] that have no secret in it; each stands there once, as a comment.
const SECRETS: [&str; 2] = ["read_token", "secret_key"];

/// [`EXAMPLE`] with these secrets: the read token, and the password of a panel that pushes.
pub fn example_with(read_token: &Secret, secret_key: &Secret) -> String {
    let mut text = EXAMPLE.to_owned();
    for (key, secret) in SECRETS.into_iter().zip([read_token, secret_key]) {
        let line = format!("#{key} = \"{}\"\n", secret.expose());
        // The one that nobody needs yet stays a comment: it opens nothing until it is wanted.
        let line = if key == SECRETS[0] {
            line.trim_start_matches('#').to_owned()
        } else {
            line
        };
        text = text.replace(&without(key), &line);
    }
    text
}

/// The line of a key that has no secret.
fn without(key: &str) -> String {
    format!("#{key} = \"\"\n")
}

/// As it was installed, or as [`example_with`] some token.
fn is_example(content: &str) -> bool {
    let lines = content.split_inclusive('\n');
    let plain = lines.map(|line| {
        let open = line.strip_prefix('#').unwrap_or(line);
        let is_of = |key: &&str| open.starts_with(&format!("{key} = \""));
        let key = SECRETS.into_iter().find(|key| is_of(key));
        key.map_or_else(|| line.to_owned(), without)
    });
    plain.eq(EXAMPLE.split_inclusive('\n').map(str::to_owned))
}

/// Whether nobody has configured anything yet: the file is missing or as it was installed, and
/// neither a variable nor the panel's key is there. What cannot be told counts as configured: whoever
/// reads it for good says what is wrong.
pub fn is_untouched(sources: &Sources) -> bool {
    let file = sources.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    untouched(sources, file, Path::new(TOKEN_FILE))
}

fn untouched(sources: &Sources, file: &Path, token: &Path) -> bool {
    let is_set = |name: &str| sources.environment.get(name).is_some();
    let said = KEYS
        .iter()
        .any(|key| !key.variable.is_empty() && is_set(key.variable));
    let as_installed = match read_if_there(file) {
        Ok(content) => content.is_none_or(|content| is_example(&String::from_utf8_lossy(&content))),
        Err(_) => false,
    };
    let no_token = matches!(token.try_exists(), Ok(false));
    as_installed && no_token && !said && !is_set(CREDENTIALS_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Environment;

    #[test]
    fn whatever_somebody_said_makes_it_configured() {
        let folder = tempfile::tempdir().unwrap();
        let (file, token) = (
            folder.path().join("config.toml"),
            folder.path().join("token"),
        );
        let sources = |pairs: &[(&str, &str)]| Sources {
            environment: Environment::from_pairs(pairs.iter().copied()),
            file: None,
        };
        let bare = sources(&[("PATH", "/bin"), ("INTERNAL_API_KEY", " ")]);
        assert!(untouched(&bare, &file, &token));
        fs::write(&file, EXAMPLE).unwrap();
        assert!(untouched(&bare, &file, &token));
        let secret = Secret::new("0123456789abcdef");
        let with_token = example_with(&secret, &secret);
        assert_eq!(with_token.matches(secret.expose()).count(), 2);
        assert_ne!(with_token, EXAMPLE);
        fs::write(&file, &with_token).unwrap();
        assert!(untouched(&bare, &file, &token));
        fs::write(&file, with_token.replace("localhost", "panel")).unwrap();
        assert!(!untouched(&bare, &file, &token));
        fs::write(&file, EXAMPLE).unwrap();
        for name in ["INTERNAL_API_KEY", "PANEL_BASE_URL", CREDENTIALS_DIRECTORY] {
            assert!(
                !untouched(&sources(&[(name, "x")]), &file, &token),
                "{name}"
            );
        }
        fs::write(&token, "").unwrap();
        assert!(!untouched(&bare, &file, &token));
        fs::remove_file(&token).unwrap();
        fs::write(&file, EXAMPLE.replace("localhost", "panel")).unwrap();
        assert!(!untouched(&bare, &file, &token));
        // A folder is no file: that is for the reader to complain of.
        assert!(!untouched(&bare, folder.path(), &token));
    }

    #[test]
    fn the_example_says_where_the_token_lies() {
        assert!(EXAMPLE.contains(&format!("\ntoken_file = \"{TOKEN_FILE}\"\n")));
    }
}
