//! An agent with the kernel API on, beside a real Xray and two panels that answer whatever comes, until
//! standard input ends: for clients that look at that API from outside, as `contract/fuzz` does. Prints
//! one line when it is ready: the address of the API. Fails, and says why, where the agent or Xray did
//! not live to see the end, or the agent's log tells of an error.
#![allow(clippy::print_stdout, reason = "its line is what it is there for")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::secrets::nth_uuid;
use lab::{Agent, AgentCommand, KernelPanel, Panel, ServerConfig, Xray, eventually, free_port};
use tokio::net::TcpStream;

/// By which the API is called.
const ACCESS_KEY: &str = "fuzz";
const SECRET_KEY: &str = "fuzz-secret-key-0123456789";
const TOKEN: &str = "stand-token-0123456789";
/// Users whom the polled panel allows.
const POLLED: u32 = 100;
/// Against hanging.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Against hanging.
const ENDS_WITHIN: Duration = Duration::from_mins(1);
/// By these words a line of the agent's log tells that something went wrong with the agent itself.
const FAILED: [&str; 2] = [" ERROR ", "panicked"];

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "agent") {
        return xray_agent::cli::run(args);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> Result<()> {
    // Trojan takes any password; under TLS there is something to see at `/v1/tls/nodes`.
    let tls = serde_json::json!({"network": "tcp", "security": "tls"});
    let server = ServerConfig::new()
        .trojan("in-trojan")
        .stream("in-trojan", tls);
    let mut xray = Xray::start(server).await?;
    let (polled, pushing) = (Panel::start(TOKEN).await?, KernelPanel::start(TOKEN).await?);
    polled.set_users(1, (0..POLLED).map(nth_uuid).collect());
    let folder = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let (exports, geo) = (folder.path().join("export"), folder.path().join("geo"));
    fs::create_dir(&exports)?;
    fs::create_dir(&geo)?;
    fs::write(geo.join("geoip.dat"), "looked at from outside only")?;
    let file = folder.path().join("agent.toml");
    fs::write(&file, configuration(&xray, &pushing, &exports, &geo))?;
    let mut agent = AgentCommand::new(std::env::current_exe()?)
        .arg("agent")
        .arg("--config")
        .arg(&file)
        .env("PANEL_BASE_URL", polled.base_url())
        .env("INTERNAL_API_KEY", TOKEN)
        .env("OUTPUT_DIR", folder.path())
        .env("HTTP_LISTEN", &address)
        .env("RUST_LOG", "info")
        .spawn()?;
    let ready = eventually("the agent listens", STARTS_WITHIN, async || {
        TcpStream::connect(&address).await.is_ok()
    });
    ready.await.with_context(|| agent.log())?;
    println!("http://{address}");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;
    judge(&mut agent, &mut xray).await
}

/// Whether all went well.
async fn judge(agent: &mut Agent, xray: &mut Xray) -> Result<()> {
    ensure!(xray.is_alive(), "Xray is dead:\n{}", xray.log());
    ensure!(agent.is_alive(), "the agent is dead:\n{}", agent.log());
    let log = agent.log();
    let wrong = log
        .lines()
        .filter(|line| FAILED.iter().any(|it| line.contains(it)));
    let wrong: Vec<_> = wrong.collect();
    ensure!(
        wrong.is_empty(),
        "in the agent's log:\n{}",
        wrong.join("\n")
    );
    let ended = agent.terminate(ENDS_WITHIN).await?;
    ensure!(
        ended.success(),
        "the agent ended with {ended}:\n{}",
        agent.log()
    );
    Ok(())
}

fn configuration(xray: &Xray, pushing: &KernelPanel, exports: &Path, geo: &Path) -> String {
    format!(
        "[apply]\nmode = \"xray-grpc\"\n[[xray]]\naddress = \"{}\"\n\
         [[node]]\nid = 1\ninbounds = [{{ tag = \"in-trojan\" }}]\n\
         [kernel]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n\
         export_dir = \"{}\"\ngeo_dir = \"{}\"\n\
         callbacks_allow = \"127.0.0.1:9\"\n\
         [kernel.panel]\nurl = \"{}\"\ntoken = \"{TOKEN}\"\n",
        xray.api_addr(),
        exports.display(),
        geo.display(),
        pushing.url("")
    )
}
