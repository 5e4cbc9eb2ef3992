//! `xray-agent init`: a configuration to begin with; and whether anything was configured, for the
//! unit. A file that is there is never touched.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::FAILED;
use crate::base::files::{FileError, PRIVATE_FILE, create_folder};
use crate::base::secret::Secret;
use crate::config::{self, DEFAULT_FILE, Environment, Sources};

/// Of a folder that the file needs and that is not there.
const FOLDER_MODE: u32 = 0o750;
/// Of a secret that is generated: what no machine will ever try out.
const SECRET_BYTES: usize = 32;
/// Of a file that root writes for the agent's group.
const GROUP_FILE: u32 = 0o640;

/// Writes the example to `output`; the exit code.
pub(super) fn write(output: &Path) -> u8 {
    match written(output) {
        Ok(()) => {
            print_next_steps(output);
            0
        }
        Err(error) => {
            eprintln!("{error}");
            if error.kind() == io::ErrorKind::AlreadyExists {
                eprintln!("edit that file, or write another one: xray-agent init --output FILE");
            }
            FAILED
        }
    }
}

fn written(output: &Path) -> Result<(), FileError> {
    let fail = |e| FileError::new("cannot write", output, e);
    let folder = match output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    create_folder(folder, FOLDER_MODE)?;
    let mut new = OpenOptions::new();
    let new = new.write(true).create_new(true).mode(PRIVATE_FILE);
    let secrets = random().and_then(|token| Ok((token, random()?)));
    let (read_token, secret_key) = secrets.map_err(fail)?;
    let example = config::example_with(&read_token, &secret_key);
    let mut file = new.open(output).map_err(fail)?;
    file.write_all(example.as_bytes())
        .and_then(|()| open_to_the_group_of(folder, &file))
        .and_then(|()| file.sync_all())
        .map_err(fail)
}

/// A secret of this installation alone.
fn random() -> io::Result<Secret> {
    let mut bytes = [0; SECRET_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// What root writes into the agent's folder, the agent has to read: its group may.
fn open_to_the_group_of(folder: &Path, file: &File) -> io::Result<()> {
    let group = folder.metadata()?.gid();
    if group == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(file, None, Some(group))?;
    file.set_permissions(Permissions::from_mode(GROUP_FILE))
}

fn print_next_steps(output: &Path) {
    let file = output.display();
    let (named, run) = if output == Path::new(DEFAULT_FILE) {
        (
            String::new(),
            "systemctl enable --now xray-agent".to_owned(),
        )
    } else {
        let named = format!(" --config {file}");
        let run = format!("xray-agent{named}");
        (named, run)
    };
    say!("{file} is written. What is left to do:");
    say!(
        "1. In it: the panel's address, your nodes and their inbounds, and where the panel's key is"
    );
    say!("2. Try it: xray-agent{named} check-config && xray-agent{named} sync --dry-run");
    say!("3. Start it: {run}");
}

/// For `ExecCondition=`: 1 keeps the unit from starting, without a failure.
pub(super) fn is_configured(file: Option<PathBuf>) -> u8 {
    let sources = Sources {
        environment: Environment::of_process(),
        file,
    };
    if config::is_untouched(&sources) {
        eprintln!(
            "nothing is configured yet: edit {DEFAULT_FILE}, try it with «xray-agent check-config», \
             then «systemctl start xray-agent»"
        );
        return FAILED;
    }
    0
}
