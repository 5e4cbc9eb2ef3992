//! The whole story on one machine, live: a real Xray, a demo panel with 1 000 users, a real Xray
//! client, and the agent between them. `cargo run --release --example demo`; needs Python 3 with
//! pip (or `XRAY_BIN`), nothing else. Every step is proved, not assumed; the first that fails
//! ends the demo with exit code 1.
//!
//! The agent is this program itself, started again as `demo agent` and driven by its environment
//! as in production.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demo is there to be watched on a terminal"
)]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::provision::xray_program;
use lab::{Agent, AgentCommand, Client, Origin, Panel, ServerConfig, Xray, eventually};
use tempfile::TempDir;
use xray_agent::xray::proto::xray::app::proxyman::command as handler;

const HELP: &str = "\
A real Xray, a demo panel with 1 000 users, a real client, and xray-agent between them.

Usage: cargo run --release --example demo [-- --stay]

  --stay      leave everything running at the end, to try by hand, until Ctrl-C
  -h, --help  this text

Needs Python 3.9-3.14 with pip, which fetches Xray from PyPI at the first run,
or XRAY_BIN=/path/to/xray. Takes some ten seconds.";

const USERS: u32 = 1000;
const NODE: u64 = 1;
const TAG: &str = "in-vless";
const TOKEN: &str = "demo-token";
/// Bytes of the download through the proxy.
const DOWNLOAD: usize = 1 << 20;
/// Each step takes a second or two; this is against hanging.
const STEP_BOUND: Duration = Duration::from_secs(30);
/// For one connection attempt of a user; VLESS serves or refuses in milliseconds.
const TRY_BOUND: Duration = Duration::from_secs(2);
/// How often `--stay` looks at Xray.
const WATCH: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    match args[..] {
        ["agent"] => xray_agent::cli::run([OsString::from("xray-agent")]),
        [] => run(false),
        ["--stay"] => run(true),
        ["-h" | "--help"] => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{HELP}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn run(stay: bool) -> ExitCode {
    let mut show = Show::new();
    match demo(&mut show, stay).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(show: &mut Show, stay: bool) -> Result<()> {
    println!("\n{}\n", show.bold("xray-agent, live against a real Xray"));
    let provision = async { tokio::task::spawn_blocking(xray_program).await? };
    show.step("Xray is at hand (fetched at the first run)", provision)
        .await?;
    let mut stage = show
        .step("Xray, a panel and a user's Xray client run", Stage::set())
        .await?;
    let mut agent = stage.start_agent()?;
    let outcome = match play(show, &mut stage).await {
        Ok(()) if stay => stay_until_ctrl_c(&mut stage, &agent).await,
        outcome => outcome,
    };
    outcome.with_context(|| format!("the agent's log:\n{}", agent.log()))?;
    show.step("the agent ends cleanly at SIGTERM", async {
        let ended = agent.terminate(STEP_BOUND).await?;
        ensure!(ended.success(), "it ended with {ended}:\n{}", agent.log());
        Ok(())
    })
    .await?;
    if !stay {
        println!("\nTo try it by hand: cargo run --release --example demo -- --stay\n");
    }
    Ok(())
}

async fn play(show: &mut Show, stage: &mut Stage) -> Result<()> {
    show.step("1 000 users of the panel appear in Xray", stage.live(USERS))
        .await?;
    show.step(
        "one of them downloads 1 MiB through the proxy, every byte checked",
        async { stage.client.download(0, &stage.origin, DOWNLOAD).await },
    )
    .await?;
    stage.panel.set_users(NODE, users(1));
    show.step(
        "the panel takes that user off: the next connection is refused",
        stage.served(false),
    )
    .await?;
    stage.live(USERS - 1).await?;
    stage.panel.set_users(NODE, users(0));
    show.step(
        "the panel allows that user again: served",
        stage.served(true),
    )
    .await?;
    show.step(
        "Xray is killed (SIGKILL) and starts again",
        stage.xray.restart(),
    )
    .await?;
    show.step("all 1 000 users are back", stage.live(USERS))
        .await?;
    show.step("and the user is served again", stage.served(true))
        .await
}

/// The series of users from the `first` on: from 0 it is all of them, from 1 all but ours.
fn users(first: u32) -> Vec<String> {
    (first..USERS).map(lab::secrets::nth_uuid).collect()
}

/// How many users a running Xray has on the inbound, asked of Xray itself.
async fn live_users(api_addr: &str) -> Result<usize> {
    use handler::handler_service_client::HandlerServiceClient;

    let mut client = HandlerServiceClient::connect(format!("http://{api_addr}")).await?;
    let request = handler::GetInboundUserRequest {
        tag: TAG.into(),
        ..Default::default()
    };
    let answer = client.get_inbound_users_count(request).await?;
    Ok(usize::try_from(answer.into_inner().count)?)
}

/// Everything but the agent.
struct Stage {
    xray: Xray,
    panel: Panel,
    client: Client,
    origin: Origin,
    output: TempDir,
}

impl Stage {
    async fn set() -> Result<Self> {
        let server = ServerConfig::new().vless(TAG);
        let route = server.route(TAG, &lab::secrets::nth_uuid(0));
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(NODE, users(0));
        Ok(Self {
            xray: Xray::start(server).await?,
            panel,
            client: Client::start_many(&[route]).await?,
            origin: Origin::start().await?,
            output: tempfile::tempdir()?,
        })
    }

    fn start_agent(&self) -> Result<Agent> {
        AgentCommand::new(env::current_exe()?)
            .arg("agent")
            .env("PANEL_BASE_URL", self.panel.base_url())
            .env("INTERNAL_API_KEY", TOKEN)
            .env("NODE_IDS", NODE.to_string())
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", self.xray.api_addr())
            .env("XRAY_TAG_MAP", format!("{NODE}:{TAG}"))
            .env("INTERVAL_SECONDS", "1")
            .env("OUTPUT_DIR", self.output.path())
            .spawn()
    }

    /// Waits until Xray has that many users.
    async fn live(&self, users: u32) -> Result<()> {
        let api = self.xray.api_addr();
        eventually(
            &format!("{users} users live in Xray"),
            STEP_BOUND,
            async || {
                live_users(&api)
                    .await
                    .is_ok_and(|live| live == users as usize)
            },
        )
        .await
    }

    /// Waits until our user's new connections are served, or refused.
    async fn served(&self, wanted: bool) -> Result<()> {
        let what = if wanted {
            "the user is served"
        } else {
            "the user is refused"
        };
        eventually(what, STEP_BOUND, async || {
            self.client.is_served(0, &self.origin, TRY_BOUND).await == wanted
        })
        .await
    }
}

/// Leaves the stage to its spectators. A killed Xray is started again.
async fn stay_until_ctrl_c(stage: &mut Stage, agent: &Agent) -> Result<()> {
    print_addresses(stage, agent);
    let mut shown = None;
    let watch = async {
        loop {
            if !stage.xray.is_alive() {
                println!("Xray is gone; starting it again");
                stage.xray.restart().await?;
            }
            let live = live_users(&stage.xray.api_addr()).await.ok();
            if live.is_some() && live != shown {
                println!("users live in Xray: {}", live.unwrap_or_default());
                shown = live;
            }
            tokio::time::sleep(WATCH).await;
        }
    };
    tokio::select! {
        failed = watch => failed,
        // Cancels the watch at any of its awaits: nothing is left half done but the end.
        pressed = tokio::signal::ctrl_c() => pressed.context("waiting for Ctrl-C"),
    }
}

fn print_addresses(stage: &Stage, agent: &Agent) {
    let (panel, user) = (stage.panel.base_url(), lab::secrets::nth_uuid(0));
    let (socks, origin) = (stage.client.socks_port(0), stage.origin.addr());
    println!(
        "
  panel     {panel}, token {TOKEN}
  Xray API  {api}
  proxy     SOCKS 127.0.0.1:{socks}, as the user {user}
  agent     pid {agent_pid}, its log: {log}

Try, in another terminal:
  curl --socks5-hostname 127.0.0.1:{socks} http://{origin}/      # hello
  curl -X DELETE {panel}/demo/users/{user}      # a second later: refused
  curl -X PUT {panel}/demo/users/{user}         # served again
  curl -H 'x-internal-token: {TOKEN}' {panel}/api/internal/nodes/{NODE}/allowed-uuids
  kill -9 {xray_pid}      # Xray; it is started again, and the users come back

Ctrl-C ends it all.
",
        api = stage.xray.api_addr(),
        agent_pid = agent.pid(),
        xray_pid = stage.xray.pid(),
        log = agent.log_path().display(),
    );
}

/// Numbered steps with their times; colours only on a terminal.
struct Show {
    colours: bool,
    number: usize,
}

impl Show {
    fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { colours, number: 0 }
    }

    /// Runs one step and says how long it took.
    async fn step<T>(&mut self, title: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.number += 1;
        if self.colours {
            print!("{:>3}  … {title}", self.number);
            std::io::stdout().flush()?;
        }
        let start = Instant::now();
        let done = work.await;
        let took = start.elapsed();
        let line = format!("{title:<66}{:>7.2} s", took.as_secs_f64());
        let again = if self.colours { "\r" } else { "" };
        let mark = if done.is_ok() {
            self.paint("32", "✓")
        } else {
            self.paint("31", "✗")
        };
        println!("{again}{:>3}  {mark} {line}", self.number);
        done
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
