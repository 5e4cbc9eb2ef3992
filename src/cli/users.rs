//! `xray-agent users`: who is live and who should be, what is known of one user, and cutting one off. A
//! user is never shown whole, also not where the UUID that was given is none.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::stream::{self, Out};
use super::{FAILED, USAGE, traffic::ended, traffic::told, users_print};
use crate::app::users::{self, LookError};
use crate::config::Config;
use crate::model::ids::{NodeId, UserId};
use crate::sync::kick::by_hand::KickOutcome;

/// What to show or do; who is live, where nothing is said.
#[derive(Args, Debug)]
pub struct UsersArgs {
    /// Only this node, by the panel's id.
    node: Option<u64>,

    /// Name the users too, by their first 8 characters.
    #[arg(short, long)]
    verbose: bool,

    /// As JSON.
    #[arg(long, global = true)]
    json: bool,

    /// What to show or do.
    #[command(subcommand)]
    command: Option<UsersCommand>,
}

/// What to show or do.
#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// Show what the panel, Xray and the ledger say of one user.
    ///
    /// Exit code 0 if the panel lets him in at a node and he is live there (where the agent changes no
    /// Xray: is in its list), else 1.
    Check {
        /// The user's UUID.
        uuid: String,
        /// Only this node, by the panel's id.
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
    },
    /// Cut a user's open sessions now. One who is still allowed may come back at once.
    Kick {
        /// The user's UUID.
        uuid: String,
    },
}

/// Carries out what was said; the exit code.
pub(super) async fn run(config: &Config, args: UsersArgs) -> u8 {
    let json = args.json;
    let (uuid, node) = match &args.command {
        None => return list(config, args.node, args.verbose, json).await,
        Some(UsersCommand::Check { uuid, node }) => (uuid, *node),
        Some(UsersCommand::Kick { uuid }) => (uuid, None),
    };
    if args.node.is_some() {
        eprintln!("say the node after the command: `xray-agent users check --node ID UUID`");
        return USAGE;
    }
    // Clap would show the text.
    let Some(user) = UserId::parse(uuid) else {
        eprintln!("this is no UUID of 36 characters");
        return USAGE;
    };
    match args.command {
        Some(UsersCommand::Kick { .. }) => kick(config, user, json).await,
        _ => check(config, user, node, json).await,
    }
}

async fn list(config: &Config, node: Option<u64>, verbose: bool, json: bool) -> u8 {
    let nodes = match users::list(config, node.map(NodeId)).await {
        Ok(nodes) => nodes,
        Err(error) => return cannot_look(error),
    };
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "nodes": nodes }));
    } else {
        users_print::list(&mut out, &nodes, verbose);
    }
    for line in users_print::unknown(&nodes) {
        eprintln!("{line}");
    }
    let inbounds = || nodes.iter().flat_map(|node| &node.inbounds);
    let failed = nodes.iter().any(|node| node.panel_error.is_some())
        || inbounds().any(|inbound| inbound.error.is_some());
    worse(ended(out), failed)
}

async fn check(config: &Config, user: UserId, node: Option<u64>, json: bool) -> u8 {
    let checked = match users::check(config, user, node.map(NodeId)).await {
        Ok(checked) => checked,
        Err(error) => return cannot_look(error),
    };
    let mut out = stream::stdout();
    if json {
        out.json(&checked);
    } else {
        users_print::checked(&mut out, &checked);
    }
    worse(ended(out), !checked.is_served())
}

async fn kick(config: &Config, user: UserId, json: bool) -> u8 {
    let inbounds = match users::kick(config, user).await {
        Ok(inbounds) => inbounds,
        Err(error) => return told(Err(error.into())),
    };
    let mut out = stream::stdout();
    if json {
        out.json(&json!({ "inbounds": inbounds }));
    } else {
        kicked(&mut out, &inbounds);
    }
    let failed = inbounds.iter().any(|inbound| inbound.error.is_some());
    worse(ended(out), failed)
}

fn cannot_look(error: LookError) -> u8 {
    let is_misuse = matches!(error, LookError::NoSuchNode(..));
    let code = told(Err(error.into()));
    if is_misuse { USAGE } else { code }
}

fn worse(code: u8, failed: bool) -> u8 {
    if failed { FAILED } else { code }
}

fn kicked<W: Write>(out: &mut Out<W>, inbounds: &[KickOutcome]) {
    for inbound in inbounds {
        let (xray, tag) = (&inbound.xray, &inbound.tag);
        let what = match (&inbound.error, inbound.was_online, inbound.sockets) {
            (Some(why), ..) => format!("may be connected still: {why}"),
            (None, true, sockets) => format!("cut off, {sockets} connections"),
            (None, false, _) => "not connected".to_owned(),
        };
        out.line(format_args!("{tag} in {xray}: {what}"));
    }
}
