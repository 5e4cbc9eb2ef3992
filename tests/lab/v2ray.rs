//! A real V2Ray 4 in the place of an Xray server: Debian's package, from `V2RAY_BIN`, else `v2ray` on
//! PATH, else downloaded by apt and unpacked once under cargo's target folder. Its configuration is
//! Xray's, with the API behind a door.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::Value;

use super::provision::{XrayProgram, binary, install_once, run, target_dir};
use super::xray::Xray;

/// Of Debian 12; the last one that speaks Xray's API under V2Ray's names.
const VERSION: &str = "4.34.0";
const HOW_TO_GET_IT: &str = "a V2Ray 4.34 is needed: on Debian 12 `apt-get update` makes the package \
    `v2ray` known, which is then fetched by itself; elsewhere set V2RAY_BIN to a v2ray program, with \
    its v2ctl beside it";

impl Xray {
    /// A V2Ray 4 instead, given an API behind doors.
    pub async fn start_v2ray(config: impl Into<Value>) -> Result<Self> {
        Self::start_program(v2ray_program, config.into()).await
    }
}

/// Finds V2Ray, or fetches it at the first call on a machine (some 7 MB). Blocks.
pub fn v2ray_program() -> Result<XrayProgram> {
    static FOUND: OnceLock<XrayProgram> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let path = match binary("V2RAY_BIN", "v2ray") {
        Some(path) => path,
        None => unpacked(&target_dir().join("v2ray")).context(HOW_TO_GET_IT)?,
    };
    Ok(FOUND.get_or_init(|| XrayProgram::V2Ray(path)).clone())
}

/// The package below `root`, unpacked when it is not there yet.
pub fn unpacked(root: &Path) -> Result<PathBuf> {
    let folder = root.join(VERSION);
    install_once(root, &folder, |aside| {
        if download(aside).is_err() {
            // The lists may be missing or old.
            run(Command::new("apt-get").args(["--quiet", "update"]))?;
            download(aside)?;
        }
        let unpacked = aside.join("v2ray");
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(package(aside)?)
            .arg(&unpacked))?;
        Ok(unpacked)
    })?;
    Ok(folder.join("usr/bin/v2ray"))
}

fn download(into: &Path) -> Result<()> {
    let package = format!("v2ray={VERSION}*");
    let mut apt = Command::new("apt-get");
    apt.args(["--quiet", "download", &package])
        .current_dir(into);
    run(&mut apt).map(drop)
}

fn package(folder: &Path) -> Result<PathBuf> {
    let mut files = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .context("apt-get downloaded no package")
}
