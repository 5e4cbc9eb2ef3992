//! `xray-agent kick-helper`: the privileged half, started by its own unit. It has no use for the
//! panel's token, and does not read it.

use std::path::{Path, PathBuf};

use super::USAGE;
use crate::app;
use crate::config::{self, Config, Environment, Log, Need, Sources};

pub(super) async fn run(file: Option<PathBuf>, socket: Option<&Path>) -> u8 {
    let sources = Sources {
        environment: Environment::of_process(),
        file,
    };
    let config = config::read(&sources, Need::Cut);
    if let Err(why) = app::init_logging(&log_of(config.as_ref().ok())) {
        eprintln!("{why}");
        return USAGE;
    }
    if let Err(problems) = &config {
        // It serves on: whoever asks is told why nothing is cut.
        eprintln!("{problems}");
    }
    match app::kick_helper(config.as_ref().ok(), socket).await {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            USAGE
        }
    }
}

fn log_of(config: Option<&Config>) -> Log {
    config.map_or_else(
        || Log {
            format: None,
            filter: "info".to_owned(),
        },
        |config| config.log.clone(),
    )
}
