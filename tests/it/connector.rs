//! The connector of seed 001: what it does is done here too, word for word, and its faults that
//! concern users are not (`panel-internal.md`, end). 2, 3 and 5 of them concern traffic.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use prost::Message;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::common::serial::TypedMessage;

use super::choosy::{Choosy, locked};
use crate::lab::agent::Signal;
use crate::lab::origin::accept;
use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Answer, Panel, ServerConfig, Xray, eventually, free_port};
use crate::support::{Api, LONG, TOKEN, agent, folder, grpc_agent};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_xray-agent");
/// Without polls of its own, so that the test says when there is one.
pub const NEVER: &str = "3600";

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

pub fn users(count: u32) -> Vec<String> {
    (0..count).map(nth_uuid).collect()
}

/// A panel with that many users for node 1, and a folder that is also the working folder.
pub struct Hooked {
    pub panel: Panel,
    pub folder: TempDir,
}

impl Hooked {
    pub async fn new(count: u32) -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        panel.set_users(1, users(count));
        Ok(Self {
            panel,
            folder: folder()?,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).context(name.to_owned())
    }

    /// In `cmd` mode, with that text as `apply.sh`.
    pub fn command(&self, hook: &str) -> Result<AgentCommand> {
        fs::write(self.path("apply.sh"), hook)?;
        let command = agent(&self.panel.base_url(), self.folder.path())
            .env("APPLY_CMD", "bash ./apply.sh {node_id} {uuids_file}")
            .env("INTERVAL_SECONDS", "0.2")
            .current_dir(self.folder.path());
        Ok(command)
    }

    /// Further polls, so many that each was carried out but for the last.
    pub async fn polls(&self, count: usize) -> Result<()> {
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
        .env("RUST_LOG", "trace")
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
    // One for all users, and one for their counters.
    ensure!(accepted == 2, "{accepted} connections");
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
