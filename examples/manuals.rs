//! Writes what the packages carry beside the program: the manual pages, and the scripts by which
//! bash, fish and zsh complete our command lines. `cargo run --example manuals -- FOLDER`

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use xray_agent::cli::Cli;

fn main() -> Result<()> {
    let folder: Option<OsString> = std::env::args_os().nth(1);
    let folder = PathBuf::from(folder.context("name the folder to write to")?);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder)?;
    }
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut Cli::command(), "xray-agent", &completions)?;
    }
    Ok(())
}
