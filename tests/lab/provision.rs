//! Where the real Xray comes from: `XRAY_BIN`, else `xray` on PATH, else the pinned `PyPI` wheel,
//! installed once under cargo's target folder.
//!
//! Invariant: the wheel's folder is complete or absent (installed aside, then renamed), and
//! processes that start together install it once (a lock file).
use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use super::process::leashed;

/// The wheel's version; it is Xray 26.10.10.
const WHEEL: &str = "1.8.26.13";
const HOW_TO_GET_IT: &str = "a real Xray is needed: install Python 3.9-3.14 with pip (Debian: \
    `apt install python3-pip`), which fetches it from PyPI, or set XRAY_BIN to an xray program";
/// Runs the wheel's Xray in a Python process, which any signal ends.
const RUNNER: &str = r#""""Run a real Xray-core in this process: run.py CONFIG.json"""
import signal
import sys

import xray

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
with open(sys.argv[1]) as config:
    xray.startFromJSON(config.read())
"#;

#[derive(Clone, Debug)]
pub enum XrayProgram {
    Binary(PathBuf),
    /// A V2Ray 4, which is told its configuration otherwise.
    V2Ray(PathBuf),
    /// The folder holds the package and the runner.
    Wheel {
        python: PathBuf,
        folder: PathBuf,
    },
}

impl XrayProgram {
    /// The command that runs a server or a client with that configuration file.
    pub fn command(&self, config: &Path) -> tokio::process::Command {
        match self {
            Self::Binary(path) => {
                let mut command = leashed(path);
                command.arg("run").arg("-c").arg(config);
                command
            }
            Self::V2Ray(path) => {
                let mut command = leashed(path);
                command.arg("-config").arg(config);
                command
            }
            Self::Wheel { python, folder } => {
                let mut command = leashed(python);
                command
                    .arg(folder.join("run.py"))
                    .arg(config)
                    .env("PYTHONPATH", folder);
                command
            }
        }
    }
}

/// Finds Xray, or installs it at the first call on a machine (some 12 MB). Blocks.
pub fn xray_program() -> Result<XrayProgram> {
    static FOUND: OnceLock<XrayProgram> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let program = match binary("XRAY_BIN", "xray") {
        Some(path) => XrayProgram::Binary(path),
        None => wheel(&target_dir().join("xray")).context(HOW_TO_GET_IT)?,
    };
    Ok(FOUND.get_or_init(|| program).clone())
}

/// The program that this variable names, else the one of this name on PATH.
pub(super) fn binary(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The wheel below `root`, installed when it is not there yet.
pub fn wheel(root: &Path) -> Result<XrayProgram> {
    let (python, abi) = python()?;
    // A wheel fits one Python: the folder's name is the marker of both.
    let folder = root.join(format!("{WHEEL}-{abi}"));
    install_once(root, &folder, |aside| install(&python, aside))?;
    Ok(XrayProgram::Wheel { python, folder })
}

/// Makes `folder` below `root` complete: `install` makes it in the folder that it is given, and says
/// what of that is to become `folder`.
pub(super) fn install_once(
    root: &Path,
    folder: &Path,
    install: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
    let lock = File::create(root.join("install.lock")).context("opening install.lock")?;
    lock.lock().context("locking install.lock")?;
    if folder.is_dir() {
        return Ok(());
    }
    let aside = tempfile::Builder::new()
        .prefix("installing-")
        .tempdir_in(root)?;
    let fresh = install(aside.path())?;
    std::fs::rename(&fresh, folder).with_context(|| format!("renaming to {}", folder.display()))
}

fn install(python: &Path, aside: &Path) -> Result<PathBuf> {
    let fresh = aside.join("xray");
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    pip.args(["--only-binary=:all:", "--no-deps", "--target"])
        .arg(&fresh);
    run(pip.arg(format!("Xray-core=={WHEEL}")))?;
    std::fs::write(fresh.join("run.py"), RUNNER)?;
    Ok(fresh)
}

/// The interpreter itself (not a shim in front of it) and the name of its binary interface.
fn python() -> Result<(PathBuf, String)> {
    let ask = "import sys; print(sys.executable); print(sys.implementation.cache_tag)";
    let answer = run(Command::new("python3").args(["-c", ask]))?;
    let (python, abi) = answer
        .trim()
        .split_once('\n')
        .context("python3 does not say who it is")?;
    Ok((python.into(), abi.to_owned()))
}

pub(super) fn run(command: &mut Command) -> Result<String> {
    let last = command.get_args().last().unwrap_or_default();
    let line = format!("{} … {}", command.get_program().display(), last.display());
    let output = command
        .output()
        .with_context(|| format!("running {line}"))?;
    if !output.status.success() {
        bail!(
            "{line}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading what {line} says"))
}

/// Cargo's target folder: as told, else the one that this program was built into.
pub(super) fn target_dir() -> PathBuf {
    if let Some(told) = env::var_os("CARGO_TARGET_DIR").filter(|told| !told.is_empty()) {
        return told.into();
    }
    let program = env::current_exe().unwrap_or_default();
    let built_in = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    built_in.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        Path::to_owned,
    )
}
