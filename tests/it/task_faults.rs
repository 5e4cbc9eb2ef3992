//! A task that panics, returns, hangs or locks its thread cannot hide (L2): each task of the running
//! agent by its name, as the agent itself lists them, so that a new one is among them.

use anyhow::{Context, Result, bail, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::net::UnixDatagram;

use crate::connector::Hooked;
use crate::lab::{Agent, AgentCommand, eventually, free_port};
use crate::reporting::Desk;
use crate::stage::status;
use crate::support::LONG;

/// How a task can fail, and the beginning of what is said of it.
const FAULTS: [(&str, &str); 4] = [
    ("panic", "panicked: struck by a test"),
    ("return", "ended though nobody asked it to"),
    ("hang", "hung: no sign of life for "),
    ("deadlock", "hung: no sign of life for "),
];
/// Without these the agent is of no use; all others fail alone. By the beginnings of their names.
const ESSENTIAL: [&str; 4] = ["control socket", "inbound ", "node ", "service manager"];
/// Agents at once.
const AT_ONCE: usize = 8;
/// The exit code of a failure of the agent's own.
const INTERNAL: i32 = 70;
/// The service manager's limit, in µs.
const WATCHDOG: &str = "300000";

/// What an agent of a kind needs; it goes with the value.
enum Scene {
    /// Users and traffic by Xray's API.
    Grpc(Desk),
    /// A hook.
    Cmd(Hooked),
}

impl Scene {
    async fn new(has_xray: bool) -> Result<Self> {
        Ok(if has_xray {
            Self::Grpc(Desk::new().await?)
        } else {
            Self::Cmd(Hooked::new(1).await?)
        })
    }

    /// The agent with all that it can have, and the service manager that it tells.
    fn command(&self) -> Result<(AgentCommand, UnixDatagram)> {
        let (command, folder) = match self {
            Self::Grpc(desk) => (desk.command()?, desk.stage.state_dir()),
            Self::Cmd(hooked) => (hooked.command("true\n")?, hooked.path("state")),
        };
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("notify");
        let manager = UnixDatagram::bind(&path)?;
        let command = command
            .env("STATE_DIR", folder)
            .env("HTTP_LISTEN", format!("127.0.0.1:{}", free_port()?))
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG);
        Ok((command, manager))
    }
}

/// Hears all that the service manager is told.
async fn listen(manager: &UnixDatagram) -> Result<()> {
    let mut told = [0; 1024];
    loop {
        manager.recv(&mut told).await?;
    }
}

/// The tasks of an agent that is well.
async fn tasks(has_xray: bool) -> Result<Vec<String>> {
    let scene = Scene::new(has_xray).await?;
    let (command, manager) = scene.command()?;
    let _agent = command.spawn()?;
    let listed = eventually("all tasks", LONG, async || {
        let status = status(&command).await.ok()?;
        let tasks = status["tasks"].as_array()?.clone();
        let all_live = tasks.iter().all(|task| task["alive"] == true);
        (!tasks.is_empty() && all_live).then_some(tasks)
    });
    let names = tokio::select! {
        names = listed => names?,
        deaf = listen(&manager) => bail!("deaf: {deaf:?}"),
    };
    let names = names.iter().filter_map(|task| task["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn is_essential(task: &str) -> bool {
    ESSENTIAL.iter().any(|name| task.starts_with(name))
}

/// That fault in every life of that task, and what becomes of the agent.
async fn strike(has_xray: bool, task: &str, (fault, said): (&str, &str)) -> Result<()> {
    let scene = Scene::new(has_xray).await?;
    let (command, manager) = scene.command()?;
    let mut agent = command
        .clone()
        .env("XRAY_AGENT_TASK_FAULT", format!("{fault}:{task}"))
        .spawn()?;
    let seen = async {
        match (is_essential(task), fault) {
            (true, _) => ends_the_agent(&mut agent, task, said).await,
            (false, "deadlock") => keeps_its_thread(&mut agent, &command, task, said).await,
            (false, _) => fails_alone(&mut agent, &command, task, said).await,
        }
    };
    // A service manager that does not listen keeps who tells it something waiting.
    let seen = tokio::select! {
        seen = seen => seen,
        deaf = listen(&manager) => deaf,
    };
    seen.with_context(|| format!("{fault} of {task}\n{}", agent.log()))
}

async fn ends_the_agent(agent: &mut Agent, task: &str, said: &str) -> Result<()> {
    let ended = agent.wait_exit(LONG).await?;
    ensure!(ended.code() == Some(INTERNAL), "{ended}");
    let log = agent.log();
    let told = |words: &[&str]| {
        let mut lines = log.lines().filter(|line| line.contains("\"ERROR\""));
        lines.any(|line| words.iter().all(|word| line.contains(word)))
    };
    let by_itself = told(&[task, said]) && told(&[task, "an essential task is given up"]);
    ensure!(
        by_itself || told(&["ends itself: no sign of life", task]),
        "it is not told"
    );
    Ok(())
}

/// Whoever keeps his thread may keep that which looks at sockets and timers: then nothing in the agent
/// goes on, and a thread beside it all has to end it. Else it fails alone, and is never started beside
/// itself.
async fn keeps_its_thread(
    agent: &mut Agent,
    command: &AgentCommand,
    task: &str,
    said: &str,
) -> Result<()> {
    let shown = tokio::select! {
        ended = agent.wait_exit(LONG) => {
            let ended = ended?;
            ensure!(ended.code() == Some(INTERNAL), "{ended}");
            ensure!(agent.log().contains("the agent hangs as a whole and ends itself"));
            return Ok(());
        }
        shown = failure(command, task, said, 0) => shown?,
    };
    ensure!(shown["restarts"] == 0 && shown["alive"] == true, "{shown}");
    Ok(())
}

async fn fails_alone(
    agent: &mut Agent,
    command: &AgentCommand,
    task: &str,
    said: &str,
) -> Result<()> {
    failure(command, task, said, 2).await?;
    let status = status(command).await?;
    let others = status["tasks"].as_array().context("no tasks")?.iter();
    for other in others.filter(|it| it["name"] != task) {
        ensure!(
            other["last_error"].is_null() && other["alive"] == true,
            "{other}"
        );
    }
    ensure!(agent.is_alive(), "it ended the agent");
    Ok(())
}

/// The task's line in the status, once that is said of it and it was started again so often.
async fn failure(command: &AgentCommand, task: &str, said: &str, restarts: u64) -> Result<Value> {
    eventually("the failure in the status", LONG, async || {
        let status = status(command).await.ok()?;
        let mut tasks = status["tasks"].as_array()?.iter();
        let shown = tasks.rfind(|it| it["name"] == task)?;
        let is_told = shown["last_error"].as_str()?.starts_with(said);
        let is_mended = shown["restarts"].as_u64()? >= restarts;
        (is_told && is_mended).then(|| shown.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_fails_hangs_or_locks_unseen() -> Result<()> {
    let mut strikes = Vec::new();
    for has_xray in [true, false] {
        let tasks = tasks(has_xray).await?;
        ensure!(tasks.len() >= 5, "{tasks:?}");
        let each = tasks
            .into_iter()
            .flat_map(|task| FAULTS.map(|fault| (task.clone(), fault)));
        strikes.extend(each.map(|(task, fault)| (has_xray, task, fault)));
    }
    stream::iter(strikes)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, async |(has_xray, task, fault)| {
            strike(has_xray, &task, fault).await
        })
        .await
}
