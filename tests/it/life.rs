//! Whatever ends, starts anew or is changed by another hand, the users who are allowed are live and
//! nobody is cut: Xray, the agent, the panel, the agent's own folder.
//! The stage on which `crash` plays too is set here: in one file of some length, with the plays that it
//! was made for.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::{Message, Name};
use tempfile::TempDir;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::common::serial::TypedMessage;
use xray_agent::xray::proto::xray::proxy::vless;

use crate::lab::agent::Signal;
use crate::lab::secrets::nth_uuid;
use crate::lab::{Agent, AgentCommand, Answer, Client, Origin, Output, Panel, ServerConfig, Xray};
use crate::lab::{eventually, uuid};
use crate::support::{Api, LONG, TOKEN, agent, folder};

const TAG: &str = "in-vless";
/// What a stop may take (promise L1).
const STOP: Duration = Duration::from_secs(15);

/// An Xray, a panel that speaks for node 1, and a folder for one agent.
pub(crate) struct Stage {
    pub(crate) xray: Xray,
    pub(crate) panel: Panel,
    pub(crate) folder: TempDir,
}

impl Stage {
    pub(crate) async fn set(config: impl Into<serde_json::Value>) -> Result<Self> {
        Ok(Self {
            xray: Xray::start(config).await?,
            panel: Panel::start(TOKEN).await?,
            folder: folder()?,
        })
    }

    pub(crate) fn allow<T: AsRef<str>>(&self, users: impl IntoIterator<Item = T>) {
        let users = users.into_iter().map(|user| user.as_ref().to_owned());
        self.panel.set_users(1, users.collect());
    }

    /// The agent, of which only the inbounds are not said yet.
    pub(crate) fn agent(&self) -> AgentCommand {
        agent(&self.panel.base_url(), self.folder.path())
            .env("APPLY_MODE", "xray-grpc")
            .env("XRAY_API_ADDR", self.xray.api_addr())
    }

    /// The agent with the inbounds of node 1: `in-a` or `in-a+in-b`.
    pub(crate) fn agent_on(&self, tags: &str) -> AgentCommand {
        self.agent().env("XRAY_TAG_MAP", format!("1:{tags}"))
    }

    /// The agent with the inbounds of node 1, and anything else, as a configuration file says.
    pub(crate) fn agent_with(&self, toml: &str) -> Result<AgentCommand> {
        let file = self.folder.path().join("agent.toml");
        std::fs::write(&file, toml)?;
        Ok(self.agent().arg("--config").arg(file))
    }

    pub(crate) async fn api(&self) -> Result<Api> {
        Api::connect(&self.xray.api_addr()).await
    }

    /// Waits until just these e-mails are live.
    pub(crate) async fn live<T: AsRef<str>>(
        &self,
        tag: &str,
        emails: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let expected = set(emails);
        let mut seen = None;
        eventually("those users are live", LONG, async || {
            seen = self.emails(tag).await.ok();
            seen.as_ref() == Some(&expected)
        })
        .await
        .with_context(|| format!("{tag} should have {expected:?} and has {seen:?}"))
    }

    /// Who is live now.
    pub(crate) async fn emails(&self, tag: &str) -> Result<BTreeSet<String>> {
        Ok(set(self.api().await?.emails(tag).await?))
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join(".xray-agent")
    }
}

pub(crate) fn set<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    texts
        .into_iter()
        .map(|text| text.as_ref().to_owned())
        .collect()
}

/// Runs a command that ends by itself, and wants this exit code of it.
pub(crate) async fn run(command: &AgentCommand, args: &[&str], code: i32) -> Result<Output> {
    let output = command.clone().args(args).run_to_end(LONG).await?;
    ensure!(output.code == Some(code), "{args:?}: {output:#?}");
    Ok(output)
}

/// Starts an agent and waits until the state folder is its own, so that commands find it.
pub(crate) async fn start(command: &AgentCommand) -> Result<Agent> {
    let agent = command.spawn()?;
    agent.await_log(&["started"], LONG).await?;
    Ok(agent)
}

/// An entry as another hand may put it.
pub(crate) fn entry<M: Message + Name>(email: &str, account: &M) -> User {
    let account = TypedMessage {
        r#type: M::full_name(),
        value: account.encode_to_vec().into(),
    };
    User {
        level: 0,
        email: email.to_owned(),
        account: Some(account),
    }
}

pub(crate) fn vless_entry(email: &str, id: &str) -> User {
    let id = id.to_owned();
    entry(
        email,
        &vless::Account {
            id,
            ..Default::default()
        },
    )
}

#[tokio::test]
async fn users_come_back_after_xray_was_killed_and_restarted() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let users = [uuid(), uuid(), uuid()];
    stage.allow(&users);
    let mut agent = start(&stage.agent_on(TAG)).await?;
    stage.live(TAG, &users).await?;
    for _ in 0..2 {
        stage.xray.restart().await?;
        stage.live(TAG, &users).await?;
    }
    ensure!(agent.terminate(STOP).await?.success(), agent.log());
    Ok(())
}

#[tokio::test]
async fn changes_by_another_hand_are_mended_at_the_next_tick_and_foreign_users_stay() -> Result<()>
{
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let (users, stranger) = ([uuid(), uuid(), uuid()], uuid());
    stage.allow(&users);
    let _agent = start(&stage.agent_on(TAG)).await?;
    stage.live(TAG, &users).await?;
    let mut api = stage.api().await?;

    for user in &users {
        api.remove(TAG, user).await?;
    }
    stage.live(TAG, &users).await?;

    api.add(TAG, vless_entry("guest@elsewhere", &uuid()))
        .await?;
    api.add(TAG, vless_entry(&stranger, &stranger)).await?;
    let with_guest = users.iter().map(String::as_str).chain(["guest@elsewhere"]);
    stage.live(TAG, with_guest.clone()).await?;
    run(&stage.agent_on(TAG), &["sync"], 0).await?;
    stage.live(TAG, with_guest).await
}

/// The list and the count that belongs to it are two calls: what changes between them must not be
/// taken for an entry that Xray counts and never lists.
#[tokio::test]
async fn a_user_added_by_another_hand_while_the_list_is_read_is_seen_all_the_same() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let (users, stranger) = ([uuid(), uuid()], uuid());
    stage.allow(&users);
    let command = stage.agent_on(TAG).env("INTERVAL_SECONDS", "0.05");
    let _agent = start(&command).await?;
    let mut api = stage.api().await?;
    for _ in 0..20 {
        stage.live(TAG, &users).await?;
        // At once after its change the agent reads the list once more.
        api.remove(TAG, &users[0]).await?;
        stage.live(TAG, &users).await?;
        api.add(TAG, vless_entry(&stranger, &stranger)).await?;
    }
    stage.live(TAG, &users).await
}

#[tokio::test]
async fn a_swap_that_leaves_the_count_is_found_at_the_resync_interval() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let (users, stranger) = ([uuid(), uuid()], uuid());
    stage.allow(&users);
    let toml = format!("[sync]\nresync_interval = '1s'\n[[node]]\nid = 1\ninbounds = ['{TAG}']\n");
    let _agent = start(&stage.agent_with(&toml)?).await?;
    stage.live(TAG, &users).await?;
    let mut api = stage.api().await?;
    api.remove(TAG, &users[0]).await?;
    api.add(TAG, vless_entry(&stranger, &stranger)).await?;
    stage.live(TAG, &users).await
}

#[tokio::test]
async fn an_agent_that_ends_and_starts_leaves_xray_and_open_sessions_alone() -> Result<()> {
    let config = ServerConfig::new().vless_tls(TAG);
    let (user, other) = (uuid(), uuid());
    let route = config.route(TAG, &user);
    let mut stage = Stage::set(&config).await?;
    let (client, origin) = (Client::start_many(&[route]).await?, Origin::start().await?);
    let pid = stage.xray.pid();
    stage.allow([&user, &other]);

    let command = stage.agent_on(TAG);
    let mut agent = start(&command).await?;
    stage.live(TAG, [&user, &other]).await?;
    let mut session = client.session(0, &origin).await?;

    ensure!(agent.terminate(STOP).await?.success(), agent.log());
    ensure!(session.is_alive().await, "cut by the agent's stop");
    for _ in 0..2 {
        let mut agent = start(&command).await?;
        run(&command, &["sync"], 0).await?;
        ensure!(session.is_alive().await, "cut by the agent's start");
        agent.kill9().await?;
        ensure!(session.is_alive().await, "cut by the agent's death");
    }
    // Not even a change of somebody else touches it.
    stage.allow([&user]);
    run(&command, &["--once"], 0).await?;
    stage.live(TAG, [&user]).await?;
    ensure!(session.is_alive().await, "cut by another user's removal");
    ensure!(stage.xray.is_alive() && stage.xray.pid() == pid);
    client.get(0, &origin).await.map(drop)
}

#[tokio::test]
async fn xray_is_repaired_from_the_last_good_answer_while_the_panel_is_down() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let (users, stranger) = ([uuid(), uuid()], uuid());
    stage.allow(&users);
    let command = stage.agent_on(TAG);
    run(&command, &["--once"], 0).await?;
    stage.live(TAG, &users).await?;

    // Down at the start, and Xray has lost everybody meanwhile.
    stage.panel.pause().await;
    stage.xray.restart().await?;
    let _agent = start(&command).await?;
    stage.live(TAG, &users).await?;
    // Down later.
    stage.xray.restart().await?;
    stage.live(TAG, &users).await?;

    // In doubt nobody goes, not even one that the last answer did not name.
    let mut api = stage.api().await?;
    api.add(TAG, vless_entry(&stranger, &stranger)).await?;
    let refused = run(&command, &["sync"], 1).await?;
    ensure!(refused.stderr.contains("panel"), "{refused:#?}");
    stage.live(TAG, users.iter().chain([&stranger])).await?;

    stage.panel.resume().await?;
    stage.live(TAG, &users).await
}

#[tokio::test]
async fn a_lost_state_folder_cuts_nobody_and_changes_no_email() -> Result<()> {
    let config = ServerConfig::new().vless(TAG);
    let users = [uuid(), uuid(), uuid()];
    let route = config.route(TAG, &users[0]);
    let mut stage = Stage::set(&config).await?;
    let (client, origin) = (Client::start_many(&[route]).await?, Origin::start().await?);
    stage.allow(&users);
    let command = stage.agent_on(TAG);
    run(&command, &["--once"], 0).await?;
    stage.live(TAG, &users).await?;
    let mut session = client.session(0, &origin).await?;

    std::fs::remove_dir_all(stage.state())?;
    stage.panel.pause().await;
    let mut agent = start(&command).await?;
    run(&command, &["sync"], 1).await?;
    stage.live(TAG, &users).await?;
    stage.panel.resume().await?;
    run(&command, &["sync"], 0).await?;
    stage.live(TAG, &users).await?;
    ensure!(session.is_alive().await);
    ensure!(agent.terminate(STOP).await?.success());
    ensure!(!agent.log().contains("users changed"), agent.log());
    Ok(())
}

#[tokio::test]
async fn an_apply_that_was_cut_short_is_finished_by_the_next_one() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let users: Vec<String> = (0..3_000).map(nth_uuid).collect();
    let begun = async |stage: &Stage| {
        eventually("some users are live", LONG, async || {
            let live = stage.emails(TAG).await.map_or(0, |emails| emails.len());
            Some(live).filter(|live| *live > 0)
        })
        .await
    };
    stage.allow(&users);
    // One call at a time, so that there is time to come in between.
    let slowly = format!(
        "[[xray]]\naddress = '{}'\nin_flight = 1\n[[node]]\nid = 1\ninbounds = ['{TAG}']\n",
        stage.xray.api_addr()
    );
    let slowly = stage.agent_with(&slowly)?.env("RUST_LOG", "trace");
    let mut agent = start(&slowly).await?;
    let live = begun(&stage).await?;
    agent.kill9().await?;
    ensure!(live < users.len(), "{live} were live already");

    // The next one has an Xray that dies under its calls: none of those users is to blame.
    let agent = start(&slowly).await?;
    stage.xray.restart().await?;
    let live = begun(&stage).await?;
    ensure!(live < users.len(), "{live} were live already");
    stage.xray.restart().await?;
    stage.live(TAG, &users).await.with_context(|| agent.log())
}

#[tokio::test]
async fn ten_thousand_users_are_applied_and_then_nothing_is_left_to_do() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let users: Vec<String> = (0..10_000).map(nth_uuid).collect();
    stage.allow(&users);
    let command = stage.agent_on(TAG).env("RUST_LOG", "info");
    let first = run(&command, &["--once"], 0).await?;
    ensure!(
        first
            .stdout
            .contains("10000 live, 10000 added, 0 removed\n"),
        "{first:#?}"
    );
    ensure!(stage.emails(TAG).await? == set(&users));

    let plan = run(&command, &["sync", "--dry-run"], 0).await?;
    let nothing = "10000 desired, 10000 live, 0 foreign; would add 0, remove 0, rewrite 0, hold 0";
    ensure!(plan.stdout.contains(nothing), "{plan:#?}");
    let again = run(&command, &["sync"], 0).await?;
    ensure!(
        again.stdout.contains("10000 live, 0 added, 0 removed\n"),
        "{again:#?}"
    );
    ensure!(again.stderr.is_empty(), "{again:#?}");
    Ok(())
}

#[tokio::test]
async fn beside_a_running_agent_once_and_sync_ask_it_and_so_does_usr1() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let users = [uuid(), uuid(), uuid(), uuid()];
    stage.allow(&users[..1]);
    // By itself it would not look again within the hour.
    let command = stage.agent_on(TAG).env("INTERVAL_SECONDS", "3600");
    let mut agent = start(&command).await?;
    stage.live(TAG, &users[..1]).await?;

    stage.allow(&users[..2]);
    let once = run(&command, &["--once"], 0).await?;
    ensure!(once.stdout.contains("1 added"), "{once:#?}");
    ensure!(stage.emails(TAG).await? == set(&users[..2]));
    stage.allow(&users[1..3]);
    let sync = run(&command, &["sync"], 0).await?;
    ensure!(sync.stdout.contains("1 added, 1 removed"), "{sync:#?}");
    ensure!(stage.emails(TAG).await? == set(&users[1..3]));

    stage.allow(&users[1..]);
    agent.signal(Signal::USR1)?;
    stage.live(TAG, &users[1..]).await?;
    stage.allow(&users[2..]);
    agent.signal(Signal::USR1)?;
    stage.live(TAG, &users[2..]).await?;
    ensure!(agent.is_alive());
    Ok(())
}

#[tokio::test]
async fn the_state_folder_is_private_and_has_one_agent() -> Result<()> {
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, vec![uuid()]);
    let command = agent(&panel.base_url(), folder.path());
    let mut first = start(&command).await?;
    run(&command, &["sync"], 0).await?;

    let second = run(&command, &[], 1).await?;
    let pid = first.pid().to_string();
    for words in ["another xray-agent", &pid, "STATE_DIR"] {
        ensure!(second.stderr.contains(words), "{second:#?}");
    }
    ensure!(first.is_alive());

    let state = folder.path().join(".xray-agent");
    ensure!(mode(&state)? == 0o700, "{:o}", mode(&state)?);
    ensure!(mode(&state.join("control.sock"))? == 0o600);
    for file in files(&state)? {
        let mode = mode(&file)?;
        ensure!(mode == 0o600, "{}: {mode:o}", file.display());
    }
    ensure!(first.terminate(STOP).await?.success());
    ensure!(!state.join("control.sock").exists());
    Ok(())
}

#[tokio::test]
async fn a_second_single_pass_gives_way_to_the_first() -> Result<()> {
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_answer(1, Answer::users(1, &serde_json::json!([uuid()])).stalled(1));
    let command = agent(&panel.base_url(), folder.path()).env("HTTP_TIMEOUT_SECONDS", "3600");
    let mut first = command.clone().arg("--once").spawn()?;
    panel.await_request_after(1, 0).await?;

    let second = run(&command, &["--once"], 0).await?;
    let pid = first.pid().to_string();
    for words in ["another pass is being made", &pid] {
        ensure!(second.stdout.contains(words), "{second:#?}");
    }
    ensure!(panel.requests(1) == 1, "the second asked the panel, too");
    ensure!(first.is_alive());
    first.terminate(STOP).await.map(drop)
}

#[tokio::test]
async fn a_silent_panel_and_a_hanging_xray_do_not_hold_up_the_end() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let (users, slow) = ([uuid(), uuid()], "3600");
    stage.allow(&users[..1]);
    let command = stage
        .agent_on(TAG)
        .env("HTTP_TIMEOUT_SECONDS", slow)
        .env("XRAY_RPC_TIMEOUT_SECONDS", slow);
    let mut agent = start(&command).await?;
    stage.live(TAG, &users[..1]).await?;
    stage.xray.freeze()?;
    stage.allow(&users);
    let seen = stage.panel.requests(1);
    stage.panel.await_request_after(1, seen).await?;
    let ended = agent.terminate(STOP).await;
    stage.xray.thaw()?;
    ensure!(ended?.success(), agent.log());

    stage
        .panel
        .set_answer(1, Answer::users(1, &serde_json::json!([])).stalled(1));
    let seen = stage.panel.requests(1);
    let mut agent = start(&command).await?;
    stage.panel.await_request_after(1, seen).await?;
    ensure!(agent.terminate(STOP).await?.success(), agent.log());

    stage.panel.clear_answer(1);
    let _agent = start(&command).await?;
    stage.live(TAG, &users).await
}

#[tokio::test]
async fn an_xray_that_hung_for_a_while_is_brought_up_to_date() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless(TAG)).await?;
    let users = [uuid(), uuid(), uuid()];
    stage.allow(&users[..2]);
    let command = stage.agent_on(TAG).env("XRAY_RPC_TIMEOUT_SECONDS", "1");
    let agent = start(&command).await?;
    stage.live(TAG, &users[..2]).await?;
    stage.xray.freeze()?;
    stage.allow(&users[1..]);
    let silent = agent
        .await_log(&["WARN", "no answer from Xray"], LONG)
        .await;
    stage.xray.thaw()?;
    silent?;
    stage.live(TAG, &users[1..]).await
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}
