//! `xray-agent users`: what a person does to one user.

use clap::Subcommand;
use serde_json::json;

use super::FAILED;
use crate::app::users;
use crate::config::Config;
use crate::model::ids::UserId;
use crate::sync::kick::by_hand::KickOutcome;

/// What is done.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Cut a user's open sessions now. One who is still allowed may come back at once.
    Kick {
        /// The user's UUID.
        #[arg(value_parser = uuid)]
        uuid: UserId,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn uuid(text: &str) -> Result<UserId, String> {
    UserId::parse(text).ok_or_else(|| "this is no UUID".to_owned())
}

/// Carries out what was said; the exit code.
pub(super) async fn run(config: &Config, command: UsersCommand) -> u8 {
    let UsersCommand::Kick { uuid, json } = command;
    match users::kick(config, uuid).await {
        Ok(inbounds) => {
            if json {
                println!("{:#}", json!({ "inbounds": inbounds }));
            } else {
                for inbound in &inbounds {
                    println!("{}", line(inbound));
                }
            }
            let failed = inbounds.iter().any(|inbound| inbound.error.is_some());
            if failed { FAILED } else { 0 }
        }
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}

fn line(inbound: &KickOutcome) -> String {
    let (xray, tag) = (&inbound.xray, &inbound.tag);
    let what = match (&inbound.error, inbound.was_online, inbound.sockets) {
        (Some(why), ..) => format!("may be connected still: {why}"),
        (None, true, sockets) => format!("cut off, {sockets} connections"),
        (None, false, _) => "not connected".to_owned(),
    };
    format!("{tag} in {xray}: {what}")
}
