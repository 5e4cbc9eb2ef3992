//! The commands, each as a function from what was said to an exit code.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::args::{Cli, Command, Operation, RunArgs};
use super::{
    FAILED, INTERNAL, USAGE, doctor, email, init, kick_helper, outbox, print, progress, register,
    status, stream, traffic, users,
};
use crate::app::{self, Beside, Origin, Outcome, RunError, Stamp, Style};
use crate::config::{self, Config, Environment, Need, Sources};
use crate::model::ids::NodeId;

pub(super) async fn run(cli: Cli) -> u8 {
    let file = cli.config;
    match cli.command {
        None => agent(file, cli.run).await,
        Some(Command::Run(args)) => {
            let once = args.once || cli.run.once;
            let fail_fast = args.fail_fast || cli.run.fail_fast;
            agent(file, RunArgs { once, fail_fast }).await
        }
        Some(Command::Sync {
            dry_run: true,
            verbose,
            ..
        }) => dry_run(file, verbose).await,
        Some(Command::Sync { force, .. }) => {
            with_origin(file, Need::Run, async |config, origin| {
                pass(&config, origin, Style::Now { force }).await
            })
            .await
        }
        Some(Command::Apply {
            node,
            uuids_file,
            force,
        }) => {
            with_config(file, Need::Apply { node: NodeId(node) }, async |config| {
                apply(&config, &uuids_file, force).await
            })
            .await
        }
        Some(Command::CheckConfig) => check_config(file),
        Some(Command::Doctor(args)) => doctor::run(file, args).await,
        Some(Command::Init { output }) => init::write(&output),
        Some(Command::IsConfigured) => init::is_configured(file),
        Some(Command::Completions { shell }) => completions(shell),
        Some(Command::Register(args)) => {
            with_config(file, Need::Panel, async |config| {
                register::run(&config, args).await
            })
            .await
        }
        Some(Command::KickHelper { socket }) => kick_helper::run(file, socket.as_deref()).await,
        Some(Command::Operation(what)) => {
            with_config(file, Need::Run, async |config| operate(&config, what).await).await
        }
    }
}

/// What is asked beside an agent that may be running.
async fn operate(config: &Config, operation: Operation) -> u8 {
    let state_dir = &config.state_dir;
    match operation {
        Operation::Status(args) => status::run(config, args).await,
        Operation::Reload => reload(state_dir).await,
        Operation::Metrics { openmetrics } => metrics(state_dir, openmetrics).await,
        Operation::Email { set, inbound } => email::run(config, set, inbound),
        Operation::Users(args) => users::run(config, args).await,
        Operation::Outbox(args) => outbox::run(config, args).await,
        Operation::Traffic(args) => traffic::run(config, args).await,
    }
}

/// Reads the configuration, sets the log up, and goes on with `then`.
async fn with_config(
    file: Option<PathBuf>,
    need: Need,
    then: impl AsyncFnOnce(Config) -> u8,
) -> u8 {
    Box::pin(with_origin(file, need, async |config, _| {
        then(config).await
    }))
    .await
}

/// The same for what reads the configuration again.
async fn with_origin(
    file: Option<PathBuf>,
    need: Need,
    then: impl AsyncFnOnce(Config, Origin) -> u8,
) -> u8 {
    let sources = Sources {
        environment: Environment::of_process(),
        file,
    };
    // Before it is read: a change in between is seen as one.
    let stamp = Stamp::of(&sources);
    let config = match config::read(&sources, need) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return USAGE;
        }
    };
    match app::init_logging(&config.log) {
        Ok(log) => {
            let origin = Origin {
                sources,
                stamp,
                log,
            };
            then(config, origin).await
        }
        Err(why) => {
            eprintln!("{why}");
            USAGE
        }
    }
}

async fn agent(file: Option<PathBuf>, args: RunArgs) -> u8 {
    let style = if args.once {
        Style::Once
    } else {
        Style::Daemon {
            fail_fast: args.fail_fast,
        }
    };
    with_origin(file, Need::Run, async |config, origin| {
        pass(&config, origin, style).await
    })
    .await
}

async fn pass(config: &Config, origin: Origin, style: Style) -> u8 {
    let run = app::run(config, origin, style, progress::for_stderr());
    match Box::pin(run).await {
        Ok(Outcome::Stopped) => 0,
        Ok(Outcome::Passed(nodes, traffic)) => {
            let code = print::outcome(&nodes);
            traffic.map_or(code, |traffic| code.max(print::traffic(&traffic)))
        }
        Ok(Outcome::Failed(problems)) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            FAILED
        }
        Ok(Outcome::Occupied(beside)) => occupied(config, style, beside).await,
        Err(error @ (RunError::Task { .. } | RunError::Disk(_))) => {
            eprintln!("{error}");
            INTERNAL
        }
        Err(error) => {
            eprintln!("{error}");
            USAGE
        }
    }
}

/// Somebody else is on the state folder.
async fn occupied(config: &Config, style: Style, beside: Beside) -> u8 {
    let force = match style {
        Style::Daemon { .. } => {
            eprintln!(
                "another xray-agent is on {} ({beside}): stop it first, or give this one a \
                 STATE_DIR of its own",
                config.state_dir.display()
            );
            return FAILED;
        }
        Style::Once => false,
        Style::Now { force } => force,
    };
    match beside {
        Beside::SinglePass(who) if force => {
            eprintln!("another pass is being made ({who}), without --force: try again");
            FAILED
        }
        Beside::SinglePass(who) => {
            say!("another pass is being made ({who}): nothing to do");
            0
        }
        _ => match app::ask_the_running_agent(&config.state_dir, force).await {
            Ok(nodes) => print::outcome(&nodes),
            Err(error) => {
                eprintln!("{error}");
                FAILED
            }
        },
    }
}

async fn dry_run(file: Option<PathBuf>, verbose: bool) -> u8 {
    with_config(file, Need::Run, async |config| {
        match app::preview(&config).await {
            Ok(previews) => print::previews(&previews, verbose),
            Err(error) => {
                eprintln!("{error}");
                FAILED
            }
        }
    })
    .await
}

async fn apply(config: &Config, uuids_file: &Path, force: bool) -> u8 {
    match app::apply(config, uuids_file, force, progress::for_stderr()).await {
        Ok((list, inbounds)) => print::applied(&list, &inbounds),
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}

fn completions(shell: clap_complete::Shell) -> u8 {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let mut out = stream::stdout();
    out.line(String::from_utf8_lossy(&script).trim_end());
    match out.finish() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}

fn check_config(file: Option<PathBuf>) -> u8 {
    let sources = Sources {
        environment: Environment::of_process(),
        file,
    };
    match config::read(&sources, Need::Check) {
        Ok(config) => {
            print::configuration(&config);
            0
        }
        Err(problems) => {
            eprintln!("{problems}");
            USAGE
        }
    }
}

async fn metrics(state_dir: &Path, openmetrics: bool) -> u8 {
    match app::metrics_of(state_dir, openmetrics).await {
        Ok(text) => {
            say!("{}", text.trim_end());
            0
        }
        Err(error) => {
            eprintln!("{}: {error}", state_dir.display());
            FAILED
        }
    }
}

async fn reload(state_dir: &Path) -> u8 {
    match app::reload(state_dir).await {
        Ok(reloaded) => print::reloaded(&reloaded),
        Err(error) => {
            eprintln!("{}: {error}", state_dir.display());
            FAILED
        }
    }
}
