//! The panel's key: from the environment, a file that the environment names, systemd's
//! credentials, or the configuration file, in this order. Never quoted, whatever is wrong with it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::problems::{Complaint, Place, Problem};
use super::source::{Raw, Source};
use super::values::{self, Read};
use crate::base::secret::Secret;

/// Largest file of a token in bytes; HTTP servers take no longer headers.
const FILE_BYTES_MAX: u64 = 16 << 10;
/// Names that the credential may have.
const CREDENTIALS: [&str; 2] = ["internal_api_key", "INTERNAL_API_KEY"];
/// The variable that systemd names its folder of credentials by.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The token, and the file that it came from, if it was one of ours and not of systemd's.
pub(super) struct Token {
    pub(super) secret: Secret,
    pub(super) file: Option<PathBuf>,
}

impl Token {
    fn without_file(secret: Secret) -> Self {
        Self { secret, file: None }
    }
}

/// The token, or `None` where none is set.
pub(super) fn read(source: &Source) -> Result<Option<Token>, Problem> {
    if let Some(raw) = source.variable("INTERNAL_API_KEY") {
        return raw.read(token).map(Token::without_file).map(Some);
    }
    if let Some(raw) = source.variable("INTERNAL_API_KEY_FILE") {
        return named_file(&raw).map(Some);
    }
    if let Some(token) = credential(source)? {
        return Ok(Some(Token::without_file(token)));
    }
    let panel = source.section("panel");
    match (panel.in_file("token"), panel.in_file("token_file")) {
        (Some(_), Some(file)) => {
            let what = "is set beside token";
            Err(Complaint::new(what, "keep one of the two").at(&file.place))
        }
        (Some(raw), None) => {
            let secret = raw.read(token)?;
            let file = source.file.as_ref().map(|file| file.path.clone());
            Ok(Some(Token { secret, file }))
        }
        (None, Some(raw)) => named_file(&raw).map(Some),
        (None, None) => Ok(None),
    }
}

/// The problem of having none.
pub(super) fn missing() -> Problem {
    let mend = "set it to the panel's internal key, or set INTERNAL_API_KEY_FILE, \
                or token_file under [panel] in the file";
    Complaint::new("is not set", mend).at(&Place::Variable("INTERNAL_API_KEY".to_owned()))
}

fn credential(source: &Source) -> Result<Option<Secret>, Problem> {
    let Some(folder) = source.environment.get(CREDENTIALS_DIRECTORY) else {
        return Ok(None);
    };
    for name in CREDENTIALS {
        let path = Path::new(folder).join(name);
        let place = Place::OtherFile(path.clone());
        match read_text(&path) {
            Ok(text) if !text.is_empty() => return Raw { text, place }.read(token).map(Some),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unreadable(&e).at(&place)),
            _ => {}
        }
    }
    Ok(None)
}

/// The token in the file that a variable or key names.
fn named_file(raw: &Raw) -> Result<Token, Problem> {
    let path = raw.read(values::path)?;
    let named = |complaint: Complaint| {
        let what = format!("{} {}", path.display(), complaint.what);
        Complaint::new(what, complaint.mend).at(&raw.place)
    };
    let text = read_text(&path).map_err(|e| named(unreadable(&e)))?;
    if text.is_empty() {
        return Err(named(Complaint::new(
            "is empty",
            "write the panel's internal key into it",
        )));
    }
    let secret = token(&text).map_err(named)?;
    let file = Some(path.clone());
    Ok(Token { secret, file })
}

fn unreadable(error: &io::Error) -> Complaint {
    Complaint::new(
        format!("cannot be read: {error}"),
        "make it a file that this user may read",
    )
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 16 KiB",
        ));
    }
    Ok(text.trim().to_owned())
}

/// A token that a header can carry: UTF-8 without control characters, as Go's client sends it.
fn token(text: &str) -> Read<Secret> {
    if text.chars().any(char::is_control) {
        let what = "holds a line break or another control character";
        return Err(Complaint::new(what, "write the key as one line"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;

    #[test]
    fn the_token_is_taken_from_the_first_place_that_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (named, in_toml) = (put("named", " named\n"), put("toml", "toml\n"));
        put("INTERNAL_API_KEY", "credential\n");
        let credentials = folder.path().to_str().unwrap();
        let file = format!("[panel]\ntoken_file = '{in_toml}'\n");
        let all = [
            ("INTERNAL_API_KEY", "direct"),
            ("INTERNAL_API_KEY_FILE", &named),
            ("CREDENTIALS_DIRECTORY", credentials),
            ("NODE_IDS", "1"),
        ];
        let token = |variables| {
            run(&file, variables)
                .panel
                .unwrap()
                .token
                .expose()
                .to_owned()
        };
        for (skip, expected) in ["direct", "named", "credential", "toml"]
            .into_iter()
            .enumerate()
        {
            assert_eq!(token(&all[skip..]), expected);
        }
        put("internal_api_key", "lower");
        assert_eq!(token(&all[2..]), "lower");
        put("internal_api_key", "");
        assert_eq!(token(&all[2..]), "credential");
    }
}
