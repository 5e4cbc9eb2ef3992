//! The connector of seed 001: what it does is done here too, word for word, and its faults that
//! concern users are not (`panel-internal.md`, end). 2, 3 and 5 of them concern traffic.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use xray_agent::xray::proto::xray::app::stats::command as stats;
use xray_agent::xray::proto::xray::app::stats::command::stats_service_client::StatsServiceClient;
use xray_agent::xray::proto::xray::common::serial::TypedMessage;

use self::generated::handler_service_server::{HandlerService, HandlerServiceServer};
use self::generated::stats_service_server::{StatsService, StatsServiceServer};

use crate::lab::agent::Signal;
use crate::lab::origin::accept;
use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Answer, Panel, ServerConfig, Xray, eventually, free_port};
use crate::support::{Api, LONG, TOKEN, agent, folder, grpc_agent};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_xray-agent");
/// Without polls of its own, so that the test says when there is one.
const NEVER: &str = "3600";

/// Section 2 of the seed.
const SEED_RUN: &str = r#"PANEL_BASE_URL="http://127.0.0.1:3000" \
INTERNAL_API_KEY="你的内部密钥" \
NODE_IDS="1,2,3" \
OUTPUT_DIR="./out" \
INTERVAL_SECONDS="10" \
./connector
"#;
const SEED_KEY: &str = "你的内部密钥";
const SEED_ONCE: &str = "./connector -once\n";

/// Section 5 of the seed.
const SEED_HOOK: &str = r#"#!/usr/bin/env bash
set -euo pipefail

NODE_ID="$1"
UUIDS_FILE="$2"

echo "[apply] node=$NODE_ID uuids_file=$UUIDS_FILE"

# TODO：把 UUID 列表应用到 Xray
# - 推荐：调用你自己的 gRPC 客户端进行 add/remove
# - 兜底：生成 clients.json 并重启 xray
"#;
const SEED_APPLY_CMD: &str = r#"APPLY_CMD="bash ./apply.sh {node_id} {uuids_file}""#;

fn users(count: u32) -> Vec<String> {
    (0..count).map(nth_uuid).collect()
}

/// A panel with that many users for node 1, and a folder that is also the working folder.
struct Hooked {
    panel: Panel,
    folder: TempDir,
}

impl Hooked {
    async fn new(count: u32) -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, users(count));
        Ok(Self {
            panel,
            folder: folder()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).context(name.to_owned())
    }

    /// In `cmd` mode, with that text as `apply.sh`.
    fn command(&self, hook: &str) -> Result<AgentCommand> {
        fs::write(self.path("apply.sh"), hook)?;
        let command = agent(&self.panel.base_url(), self.folder.path())
            .env("APPLY_CMD", "bash ./apply.sh {node_id} {uuids_file}")
            .env("INTERVAL_SECONDS", "0.2")
            .current_dir(self.folder.path());
        Ok(command)
    }

    /// Further polls, so many that each was carried out but for the last.
    async fn polls(&self, count: usize) -> Result<()> {
        let mut asked = self.panel.requests(1);
        for _ in 0..count {
            asked = self.panel.await_request_after(1, asked).await?;
        }
        Ok(())
    }
}

/// The seed's text, in bash, in a folder with `./connector`. The port alone is another one: 3000
/// may be taken by whoever else uses this machine.
fn seed(folder: &Path, panel: &Panel, text: &str) -> Result<AgentCommand> {
    let connector = folder.join("connector");
    if !connector.exists() {
        symlink(PROGRAM, connector)?;
    }
    let port = panel.addr().port().to_string();
    let text = text.replace("3000", &port);
    Ok(AgentCommand::new("/bin/bash")
        .args(["-c", &text])
        .env("RUST_LOG", "debug")
        .current_dir(folder))
}

/// A panel with three nodes that takes the seed's token, which is no ASCII text.
async fn seed_panel() -> Result<Panel> {
    let panel = Panel::start(TOKEN).await?;
    for node in 1..=3 {
        let list = json!([nth_uuid(node)]);
        let node = u64::from(node);
        panel.set_answer(node, Answer::users(node, &list));
    }
    Ok(panel)
}

#[tokio::test]
async fn the_seeds_own_example_keeps_the_files_of_three_nodes() -> Result<()> {
    let (panel, folder) = (seed_panel().await?, folder()?);
    let mut agent = seed(folder.path(), &panel, SEED_RUN)?.spawn()?;
    for node in 1..=3 {
        let file = folder
            .path()
            .join(format!("out/node-{node}/allowed-uuids.txt"));
        eventually("the node's file is there", LONG, async || file.is_file()).await?;
        ensure!(fs::read_to_string(&file)? == format!("{}\n", nth_uuid(node)));
        let asked = panel.headers(u64::from(node));
        let token = asked[0].get("x-internal-token").context("no token")?;
        ensure!(token.as_bytes() == SEED_KEY.as_bytes(), "{token:?}");
    }
    ensure!(agent.terminate(LONG).await?.success());
    ensure!(!agent.log().contains(SEED_KEY), "the token was logged");
    Ok(())
}

#[tokio::test]
async fn the_seeds_once_flag_makes_one_pass_and_ends() -> Result<()> {
    let (panel, folder) = (seed_panel().await?, folder()?);
    let mut once = seed(folder.path(), &panel, SEED_ONCE)?;
    for line in SEED_RUN.lines().filter(|line| line.contains('=')) {
        let (name, value) = line
            .trim_end_matches(" \\")
            .split_once('=')
            .context("no =")?;
        let value = value
            .trim_matches('"')
            .replace("3000", &panel.addr().port().to_string());
        once = once.env(name, value);
    }
    let once = once.run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:?}");
    for node in 1..=3 {
        ensure!(panel.requests(node) == 1);
        ensure!(
            folder
                .path()
                .join(format!("out/node-{node}/allowed-uuids.json"))
                .is_file()
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_seeds_own_hook_runs_after_each_change() -> Result<()> {
    let (panel, folder) = (seed_panel().await?, folder()?);
    fs::write(folder.path().join("apply.sh"), SEED_HOOK)?;
    let text = format!("{SEED_APPLY_CMD} \\\n{SEED_RUN}");
    let mut agent = seed(folder.path(), &panel, &text)?.spawn()?;
    let line = |node: u32| {
        let file = folder
            .path()
            .join(format!("out/node-{node}/allowed-uuids.txt"));
        format!("[apply] node={node} uuids_file={}", file.display())
    };
    for node in 1..=3 {
        agent.await_log(&[&line(node)], LONG).await?;
    }
    let times = |log: &str, node| log.matches(&line(node)).count();

    panel.set_answer(2, Answer::users(2, &json!([nth_uuid(2), nth_uuid(20)])));
    agent.signal(Signal::USR1)?;
    eventually("the hook of node 2 ran again", LONG, async || {
        times(&agent.log(), 2) == 2
    })
    .await?;
    ensure!(agent.terminate(LONG).await?.success());
    let log = agent.log();
    ensure!(
        [1, 2, 3].map(|node| times(&log, node)) == [1, 2, 1],
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn fault_1_users_that_xray_lost_are_put_back() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(30));
    let mut xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
        .env("INTERVAL_SECONDS", NEVER);
    // As the connector ran, pass by pass, with an `applied.json` that says everybody is there.
    for pass in ["on an empty Xray", "after a restart"] {
        let once = command.clone().arg("-once").run_to_end(LONG).await?;
        ensure!(once.code == Some(0), "{pass}: {once:?}");
        let live = Api::connect(&xray.api_addr()).await?.emails("in").await?;
        ensure!(live == users(30), "{pass}");
        xray.restart().await?;
    }
    // And as an agent that runs on: without waiting for the next poll.
    let _agent = command.spawn()?;
    for what in ["at the start", "after a restart"] {
        eventually(what, LONG, async || {
            let Ok(mut api) = Api::connect(&xray.api_addr()).await else {
                return false;
            };
            api.emails("in").await.is_ok_and(|live| live == users(30))
        })
        .await?;
        xray.restart().await?;
    }
    Ok(())
}

#[tokio::test]
async fn fault_1_what_other_hands_do_in_xray_is_seen() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(30));
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
        .env("INTERVAL_SECONDS", NEVER);
    let agent = command.spawn()?;
    agent.await_log(&["users changed"], LONG).await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    let all = api.users("in").await?;
    let one = all.values().next().context("nobody is live")?.clone();

    api.remove("in", &one.email).await?;
    let sync = command.clone().arg("sync").run_to_end(LONG).await?;
    ensure!(sync.code == Some(0), "{sync:?}");
    ensure!(api.emails("in").await? == users(30));

    // A user whom the panel took off, and who is put in again by hand.
    panel.set_users(1, users(30).split_off(1));
    command.clone().arg("sync").run_to_end(LONG).await?;
    api.add("in", one).await?;
    let sync = command.arg("sync").run_to_end(LONG).await?;
    ensure!(sync.code == Some(0), "{sync:?}");
    ensure!(api.emails("in").await? == users(30).split_off(1));
    Ok(())
}

/// Stands in front of an Xray's API and counts connections.
struct Doorkeeper {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Doorkeeper {
    async fn before(api: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?)).await?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, to) = (accepted.clone(), api.to_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, move |mut stream| {
            count.fetch_add(1, Ordering::Relaxed);
            let to = to.clone();
            async move {
                if let Ok(mut api) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut api).await;
                }
            }
        }));
        Ok(Self {
            address,
            accepted,
            _tasks: tasks,
        })
    }
}

#[tokio::test]
async fn fault_4_all_users_go_over_one_connection() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(500));
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let door = Doorkeeper::before(&xray.api_addr()).await?;
    let folder = folder()?;
    let command = grpc_agent(
        &panel.base_url(),
        folder.path(),
        &door.address.to_string(),
        "in",
    )
    .env("INTERVAL_SECONDS", NEVER);
    let agent = command.spawn()?;
    agent.await_log(&["started"], LONG).await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    for count in [500, 499, 300] {
        panel.set_users(1, users(count));
        let sync = command.clone().arg("sync").run_to_end(LONG).await?;
        ensure!(sync.code == Some(0), "{sync:?}");
        ensure!(api.emails("in").await?.len() == count as usize);
    }
    let accepted = door.accepted.load(Ordering::Relaxed);
    ensure!(accepted == 1, "{accepted} connections");
    Ok(())
}

#[tokio::test]
async fn fault_6_the_same_list_runs_no_hook_and_touches_no_file() -> Result<()> {
    let scene = Hooked::new(3).await?;
    // Whole answers at each poll.
    scene.panel.set_etags(false);
    let mut agent = scene.command("echo run >> runs\n")?.spawn()?;
    agent.await_log(&["hook done"], LONG).await?;
    let before = traces(&scene)?;

    // The same list in another order, case and spelling is the same list.
    let mut odd: Vec<String> = users(3).iter().map(|user| user.to_uppercase()).collect();
    odd.reverse();
    odd.extend([" ".to_owned(), format!(" {}\n", nth_uuid(1))]);
    for list in [users(3), odd] {
        scene.panel.set_users(1, list);
        scene.polls(4).await?;
        ensure!(traces(&scene)? == before, "something moved");
    }
    ensure!(scene.read("runs")? == "run\n");

    scene.panel.set_users(1, users(4));
    eventually("the hook ran for the change", LONG, async || {
        scene.read("runs").is_ok_and(|runs| runs == "run\nrun\n")
    })
    .await?;
    ensure!(traces(&scene)? != before);
    eventually("it was applied", LONG, async || {
        scene
            .read("node-1/applied.json")
            .is_ok_and(|json| json.contains(&nth_uuid(3)))
    })
    .await?;
    ensure!(agent.is_alive());

    // Nor does a restart run it.
    let runs = scene.read("runs")?;
    ensure!(agent.terminate(LONG).await?.success());
    let once = scene
        .command("echo run >> runs\n")?
        .arg("--once")
        .run_to_end(LONG)
        .await?;
    ensure!(once.code == Some(0), "{once:?}");
    ensure!(scene.read("runs")? == runs);
    Ok(())
}

/// Content, time and number of each file: a rewritten one has another number.
fn traces(scene: &Hooked) -> Result<Vec<(String, SystemTime, u64)>> {
    ["allowed-uuids.txt", "allowed-uuids.json"]
        .iter()
        .map(|name| {
            let name = format!("node-1/{name}");
            let about = fs::metadata(scene.path(&name))?;
            Ok((scene.read(&name)?, about.modified()?, about.ino()))
        })
        .collect()
}

#[tokio::test]
async fn a_hook_that_fails_is_run_until_it_succeeds() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let hook = "echo run >> runs\n\
        ls out/node-1 2>/dev/null >> seen\n\
        test \"$(wc -l < runs)\" -ge 3 || { echo not yet >&2; exit 7; }\n";
    let command = scene.command(hook)?.env("OUTPUT_DIR", scene.path("out"));
    let agent = command.spawn()?;
    let failed = agent.await_log(&["WARN", "exit code 7"], LONG).await?;
    ensure!(
        failed.contains("not yet") && failed.contains("by hand"),
        "{failed}"
    );
    agent.await_log(&["hook done"], LONG).await?;
    agent
        .await_log(&["recovered", "hook of node 1"], LONG)
        .await?;
    scene.polls(4).await?;
    ensure!(scene.read("runs")? == "run\nrun\nrun\n");
    // What was not applied was not said to be.
    ensure!(!scene.read("seen")?.contains("applied.json"));
    eventually("applied.json is there", LONG, async || {
        scene.path("out/node-1/applied.json").is_file()
    })
    .await
}

#[tokio::test]
async fn a_hook_that_failed_is_run_again_by_the_next_once_run() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let hook = "echo run >> runs\ntest \"$(wc -l < runs)\" -ge 2\n";
    let command = scene.command(hook)?.arg("--once");
    for (code, runs) in [(1, 1), (0, 2), (0, 2)] {
        let once = command.run_to_end(LONG).await?;
        ensure!(once.code == Some(code), "{once:?}");
        ensure!(
            code == 0
                || once
                    .stderr
                    .contains("hook: the hook ended with exit code 1")
        );
        ensure!(scene.read("runs")?.lines().count() == runs);
    }
    Ok(())
}

#[tokio::test]
async fn the_files_are_as_the_contract_says() -> Result<()> {
    let scene = Hooked::new(0).await?;
    let (first, second) = (nth_uuid(1), nth_uuid(0xabcd_ef01));
    let messy = [
        &second.to_uppercase(),
        "",
        " \t",
        &first,
        "not a uuid",
        &format!(" {second} "),
    ];
    scene.panel.set_users(1, messy.map(str::to_owned).to_vec());
    let once = scene
        .command("true\n")?
        .arg("--once")
        .run_to_end(LONG)
        .await?;
    ensure!(once.code == Some(0), "{once:?}");

    ensure!(scene.read("node-1/allowed-uuids.txt")? == format!("{first}\n{second}\n"));
    let json: Value = serde_json::from_str(&scene.read("node-1/allowed-uuids.json")?)?;
    let generated = json["generated"].as_str().context("no generated")?;
    generated.parse::<jiff::Timestamp>()?;
    let whole = json!({"node_id": 1, "generated": generated, "uuids": [first, second],
        "uuids_count": 2});
    ensure!(json == whole, "{json}");
    let json: Value = serde_json::from_str(&scene.read("node-1/applied.json")?)?;
    let updated = json["updated_at"].as_str().context("no updated_at")?;
    updated.parse::<jiff::Timestamp>()?;
    let whole = json!({"node_id": 1, "updated_at": updated, "uuids": [first, second]});
    ensure!(json == whole, "{json}");
    for name in ["allowed-uuids.txt", "allowed-uuids.json", "applied.json"] {
        let mode = fs::metadata(scene.path(&format!("node-1/{name}")))?
            .permissions()
            .mode();
        ensure!(mode & 0o777 == 0o640, "{name}: {mode:o}");
    }
    Ok(())
}

#[tokio::test]
async fn mode_none_only_writes_the_files() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let command = scene
        .command("echo run >> runs\n")?
        .env("APPLY_MODE", "none");
    let agent = command.spawn()?;
    agent.await_log(&["started", "none"], LONG).await?;
    let text = scene.path("node-1/allowed-uuids.txt");
    eventually("the file is there", LONG, async || text.is_file()).await?;
    scene.panel.set_users(1, users(2));
    eventually("the file follows", LONG, async || {
        fs::read_to_string(&text).is_ok_and(|text| text.lines().eq(users(2)))
    })
    .await?;
    scene.polls(2).await?;
    ensure!(!scene.path("runs").exists(), "the hook ran");
    ensure!(
        !scene.path("node-1/applied.json").exists(),
        "nothing was applied"
    );
    Ok(())
}

#[tokio::test]
async fn a_hook_gets_its_values_as_they_are_whatever_they_hold() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let odd = r#"it's "out" $(touch pwned) `touch pwned`; touch pwned & *"#;
    let out = scene.path(odd);
    let hook = "printf '%s\\n%s\\n' \"$@\" > got\ncat \"$2\" >> got\n";
    let command = scene.command(hook)?.env("OUTPUT_DIR", &out).arg("--once");
    let once = command.run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:?}");
    let file = out.join("node-1/allowed-uuids.txt");
    let whole = format!("1\n{}\n{}\n", file.display(), users(3).join("\n"));
    ensure!(scene.read("got")? == whole);
    ensure!(!scene.path("pwned").exists(), "a value was run");
    Ok(())
}

#[tokio::test]
async fn a_hook_finds_what_it_is_about_in_its_environment_and_no_secret() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let command = scene
        .command("env > environment\n")?
        .env("FAVOURITE", "kept")
        .env("NOTIFY_SOCKET", scene.path("notify"))
        .env("CREDENTIALS_DIRECTORY", scene.path("credentials"))
        .env("WATCHDOG_USEC", "30000000")
        .env("BOT_TOKEN", "another secret")
        .arg("--once");
    let once = command.run_to_end(LONG).await?;
    ensure!(once.code == Some(0), "{once:?}");
    let environment = scene.read("environment")?;
    let node = scene.path("node-1");
    for line in [
        "FAVOURITE=kept".to_owned(),
        "XRAY_AGENT_NODE_ID=1".to_owned(),
        format!("XRAY_AGENT_UUIDS_FILE={}/allowed-uuids.txt", node.display()),
        format!(
            "XRAY_AGENT_UUIDS_JSON={}/allowed-uuids.json",
            node.display()
        ),
    ] {
        ensure!(
            environment.lines().any(|it| it == line),
            "{line}: {environment}"
        );
    }
    for absent in [
        TOKEN,
        "INTERNAL_API_KEY",
        "NOTIFY_SOCKET",
        "CREDENTIALS_DIRECTORY",
        "WATCHDOG",
        "another secret",
    ] {
        ensure!(!environment.contains(absent), "{absent} was handed on");
    }
    Ok(())
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_ended_with_all_it_started() -> Result<()> {
    let scene = Hooked::new(3).await?;
    let hook = "sleep 1000 & echo $! >> pids\n\
        setsid sleep 1000 & echo $! >> pids\n\
        ( setsid bash -c 'echo $$ >> pids; exec sleep 1000' & )\n\
        echo $$ >> pids\n\
        while test \"$(wc -l < pids)\" -lt 4; do :; done\n\
        wait\n";
    let command = scene
        .command(hook)?
        .env("APPLY_TIMEOUT_SECONDS", "1")
        .arg("--once");
    let once = command.run_to_end(LONG).await?;
    ensure!(once.code == Some(1), "{once:?}");
    ensure!(once.stderr.contains("APPLY_TIMEOUT_SECONDS"), "{once:?}");
    let pids = scene.read("pids")?;
    ensure!(pids.lines().count() == 4, "{pids}");
    for pid in pids.lines() {
        ensure!(!is_running(pid), "process {pid} runs on");
    }
    ensure!(!scene.path("node-1/applied.json").exists());
    Ok(())
}

/// A zombie is not: it waits for whoever adopted it.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z" && state != "X")
}

#[tokio::test]
async fn apply_is_itself_a_fit_hook() -> Result<()> {
    let scene = Hooked::new(30).await?;
    let mut xray = Xray::start(ServerConfig::new().vless("in-a").vmess("in-b")).await?;
    let command = scene
        .command("")?
        .env(
            "APPLY_CMD",
            format!("{PROGRAM} apply --node {{node_id}} --uuids-file {{uuids_file}}"),
        )
        .env("XRAY_API_ADDR", xray.api_addr())
        .env("XRAY_TAG_MAP", "1:in-a+in-b");
    let agent = command.spawn()?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    for count in [30, 20, 25] {
        scene.panel.set_users(1, users(count));
        for tag in ["in-a", "in-b"] {
            let wanted: Vec<_> = users(count)
                .iter()
                .map(|id| format!("{tag}.{id}"))
                .collect();
            eventually("the hook has applied the list", LONG, async || {
                api.emails(tag).await.is_ok_and(|live| live == wanted)
            })
            .await?;
        }
    }
    agent.await_log(&["hook done"], LONG).await?;

    // Xray is away: the hook fails, is run again, and succeeds when it is back.
    xray.kill().await?;
    scene.panel.set_users(1, users(26));
    agent
        .await_log(&["WARN", "the hook ended with exit code 1"], LONG)
        .await?;
    xray.restart().await?;
    agent
        .await_log(&["recovered", "hook of node 1"], LONG)
        .await?;
    let live = Api::connect(&xray.api_addr()).await?.emails("in-b").await?;
    ensure!(live.len() == 26);
    let log = agent.log();
    ensure!(
        !log.contains(TOKEN) && !log.contains(&nth_uuid(3)),
        "a secret was logged"
    );
    Ok(())
}

/// Servers for the tests, generated beside the library's clients.
#[allow(clippy::pedantic, unreachable_pub, missing_docs, reason = "generated")]
mod generated {
    include!(concat!(
        env!("OUT_DIR"),
        "/servers/xray.app.proxyman.command.rs"
    ));
    include!(concat!(
        env!("OUT_DIR"),
        "/servers/xray.app.stats.command.rs"
    ));
}

/// A real Xray, but for what the real one cannot be made to do when a test wants it: it refuses
/// some users, well-formed as they are, and other hands add one just after a list was read.
#[derive(Clone)]
struct Choosy {
    xray: HandlerServiceClient<Channel>,
    stats: StatsServiceClient<Channel>,
    refused: Arc<Mutex<Vec<String>>>,
    meddler: Arc<Mutex<Option<handler::AlterInboundRequest>>>,
}

impl Choosy {
    async fn before(api: &str) -> Result<(Self, SocketAddr, JoinSet<()>)> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{api}"))?;
        let channel = endpoint.connect().await?;
        let choosy = Self {
            xray: HandlerServiceClient::new(channel.clone()),
            stats: StatsServiceClient::new(channel),
            refused: Arc::default(),
            meddler: Arc::default(),
        };
        let address = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let server = tonic::transport::Server::builder()
            .add_service(HandlerServiceServer::new(choosy.clone()))
            .add_service(StatsServiceServer::new(choosy.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = server.serve(address).await;
        });
        Ok((choosy, address, tasks))
    }

    fn refuse(&self, users: &[String]) {
        *locked(&self.refused) = users.to_vec();
    }

    fn refuses(&self, operation: &[u8]) -> bool {
        let text = String::from_utf8_lossy(operation);
        locked(&self.refused).iter().any(|user| text.contains(user))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl StatsService for Choosy {
    async fn get_sys_stats(
        &self,
        request: Request<stats::SysStatsRequest>,
    ) -> Result<Response<stats::SysStatsResponse>, Status> {
        self.stats.clone().get_sys_stats(request.into_inner()).await
    }

    async fn query_stats(
        &self,
        request: Request<stats::QueryStatsRequest>,
    ) -> Result<Response<stats::QueryStatsResponse>, Status> {
        self.stats.clone().query_stats(request.into_inner()).await
    }

    async fn get_stats_online_ip_list(
        &self,
        request: Request<stats::GetStatsRequest>,
    ) -> Result<Response<stats::GetStatsOnlineIpListResponse>, Status> {
        let request = request.into_inner();
        self.stats.clone().get_stats_online_ip_list(request).await
    }

    async fn get_all_online_users(
        &self,
        request: Request<stats::GetAllOnlineUsersRequest>,
    ) -> Result<Response<stats::GetAllOnlineUsersResponse>, Status> {
        let request = request.into_inner();
        self.stats.clone().get_all_online_users(request).await
    }

    async fn get_users_stats(
        &self,
        request: Request<stats::GetUsersStatsRequest>,
    ) -> Result<Response<stats::GetUsersStatsResponse>, Status> {
        let request = request.into_inner();
        self.stats.clone().get_users_stats(request).await
    }
}

#[tonic::async_trait]
impl HandlerService for Choosy {
    async fn alter_inbound(
        &self,
        request: Request<handler::AlterInboundRequest>,
    ) -> Result<Response<handler::AlterInboundResponse>, Status> {
        let request = request.into_inner();
        if self.refuses(&request.encode_to_vec()) {
            return Err(Status::unknown("proxy/vless: not this one"));
        }
        self.xray.clone().alter_inbound(request).await
    }

    async fn list_inbounds(
        &self,
        request: Request<handler::ListInboundsRequest>,
    ) -> Result<Response<handler::ListInboundsResponse>, Status> {
        self.xray.clone().list_inbounds(request.into_inner()).await
    }

    async fn get_inbound_users(
        &self,
        request: Request<handler::GetInboundUserRequest>,
    ) -> Result<Response<handler::GetInboundUserResponse>, Status> {
        let request = request.into_inner();
        let answer = self.xray.clone().get_inbound_users(request).await;
        let meddler = locked(&self.meddler).take();
        if let Some(adding) = meddler {
            self.xray.clone().alter_inbound(adding).await?;
        }
        answer
    }

    async fn get_inbound_users_count(
        &self,
        request: Request<handler::GetInboundUserRequest>,
    ) -> Result<Response<handler::GetInboundUsersCountResponse>, Status> {
        let request = request.into_inner();
        self.xray.clone().get_inbound_users_count(request).await
    }

    async fn remove_inbound(
        &self,
        _request: Request<handler::RemoveInboundRequest>,
    ) -> Result<Response<handler::RemoveInboundResponse>, Status> {
        Err(Status::permission_denied("nobody is to ask for this"))
    }
}

#[tokio::test]
async fn fault_7_one_failing_user_stops_no_other() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(200));
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let (choosy, address, _tasks) = Choosy::before(&xray.api_addr()).await?;
    let folder = folder()?;
    // One call at a time: whoever comes after a failure comes later, and nobody before it.
    let config = folder.path().join("config.toml");
    fs::write(&config, "[[xray]]\nin_flight = 1\n")?;
    let once = grpc_agent(&panel.base_url(), folder.path(), &address.to_string(), "in")
        .env("INTERVAL_SECONDS", NEVER)
        .arg("--config")
        .arg(config)
        .arg("--once");
    let mut api = Api::connect(&xray.api_addr()).await?;
    let bad = [nth_uuid(0), nth_uuid(77), nth_uuid(199)];

    choosy.refuse(&bad);
    let added = once.run_to_end(LONG).await?;
    ensure!(added.code == Some(1), "{added:?}");
    ensure!(
        added.stderr.contains("3 users could not be changed"),
        "{added:?}"
    );
    ensure!(added.stderr.contains("not this one"), "{added:?}");
    let good: Vec<String> = users(200)
        .into_iter()
        .filter(|user| !bad.contains(user))
        .collect();
    ensure!(api.emails("in").await? == good);
    ensure!(
        !folder.path().join("node-1/applied.json").exists(),
        "not all were applied"
    );

    choosy.refuse(&[]);
    let mended = once.run_to_end(LONG).await?;
    ensure!(mended.code == Some(0), "{mended:?}");
    ensure!(api.emails("in").await? == users(200));

    // Nor does one who cannot be removed.
    choosy.refuse(&bad);
    panel.set_users(1, users(200)[120..].to_vec());
    once.run_to_end(LONG).await?;
    let removed = once
        .env("INTERVAL_SECONDS", "0.001")
        .run_to_end(LONG)
        .await?;
    ensure!(removed.code == Some(1), "{removed:?}");
    let mut left = vec![nth_uuid(0), nth_uuid(77)];
    left.extend_from_slice(&users(200)[120..]);
    ensure!(api.emails("in").await? == left);
    Ok(())
}

#[tokio::test]
async fn fault_1_what_changes_while_a_list_is_read_is_seen() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users(30));
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let (choosy, address, _tasks) = Choosy::before(&xray.api_addr()).await?;
    let folder = folder()?;
    let command = grpc_agent(&panel.base_url(), folder.path(), &address.to_string(), "in")
        .env("INTERVAL_SECONDS", NEVER);
    let agent = command.spawn()?;
    agent.await_log(&["users changed"], LONG).await?;
    let sync = async || command.clone().arg("sync").run_to_end(LONG).await;
    sync().await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    let one = api
        .users("in")
        .await?
        .remove(&nth_uuid(0))
        .context("not live")?;

    // The panel takes a user off; once the agent has read the list after that, but not yet the
    // count, another hand puts the user in again.
    let operation = handler::AddUserOperation { user: Some(one) };
    *locked(&choosy.meddler) = Some(handler::AlterInboundRequest {
        tag: "in".to_owned(),
        operation: Some(TypedMessage {
            r#type: "xray.app.proxyman.command.AddUserOperation".to_owned(),
            value: operation.encode_to_vec().into(),
        }),
    });
    panel.set_users(1, users(30).split_off(1));
    sync().await?;
    eventually("the other hand was there", LONG, async || {
        locked(&choosy.meddler).is_none() && api.emails("in").await.is_ok_and(|all| all.len() == 30)
    })
    .await?;
    let seen = sync().await?;
    ensure!(seen.code == Some(0), "{seen:?}");
    ensure!(api.emails("in").await? == users(30).split_off(1));
    Ok(())
}
