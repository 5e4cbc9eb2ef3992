//! `xray-agent kick-helper`: the privileged half, started by its own unit. It has no use for the
//! panel's token, and does not read it.

use std::path::{Path, PathBuf};

use super::USAGE;
use crate::app;
use crate::config::{self, Config, Environment, Log, Need, Sources};

/// What stands for the token: as long as the variable is set, no file of a token is opened.
const NO_TOKEN: (&str, &str) = ("INTERNAL_API_KEY", "not-needed-here");

pub(super) async fn run(file: Option<PathBuf>, socket: Option<&Path>) -> u8 {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .chain([(NO_TOKEN.0.to_owned(), NO_TOKEN.1.to_owned())]);
    let sources = Sources {
        environment: Environment::from_pairs(variables),
        file,
    };
    let config = config::read(&sources, Need::Run);
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
