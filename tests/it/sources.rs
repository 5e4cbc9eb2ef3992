//! Several sources say who is allowed, through the library: the polled panel, the pushed file, and a
//! scripted source that stands in for later surfaces. While one of them is unknown, users of the others
//! are added and nobody is removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;
use xray_agent::base::clock::Clock;
use xray_agent::base::secret::Secret;
use xray_agent::base::supervise::Supervisor;
use xray_agent::config::{self, Environment, Need, Sources};
use xray_agent::model::around_removal::Nobody;
use xray_agent::model::credentials::CredentialForm;
use xray_agent::model::desired::{Claim, Desired, DesiredSource, InboundKey};
use xray_agent::model::ids::{InboundTag, NodeId, UserId};
use xray_agent::model::progress::Silent;
use xray_agent::model::pushed::{PushedId, PushedUser, Quota, Rate};
use xray_agent::sync::engine::{Context, Engine, Handle};
use xray_agent::sync::pushed::Pushed;
use xray_agent::sync::pushed::quota::NobodyWatches;
use xray_agent::sync::status::NodeStatus;

use crate::lab::secrets::nth_uuid;
use crate::lab::{Panel, ServerConfig, Xray, eventually};
use crate::scripted::Scripted;
use crate::stage::{Stage, await_inbound, email, vless};
use crate::support::{Api, LONG, TOKEN, folder};

/// A later surface: a test says what it says.
struct Later(Mutex<Desired>);

impl Later {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Desired::Known(Vec::new().into()))))
    }

    fn knows(&self, users: impl IntoIterator<Item = u32>) {
        let users = users
            .into_iter()
            .map(|n| UserId::parse(&nth_uuid(n)).unwrap());
        self.says(Desired::Known(users.collect()));
    }

    fn is_unknown(&self) {
        self.says(Desired::Unknown {
            last_good: None,
            why: "not asked yet".into(),
        });
    }

    fn says(&self, desired: Desired) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = desired;
    }
}

impl DesiredSource for Later {
    fn name(&self) -> &'static str {
        "later"
    }

    fn desired(&self, _inbound: &InboundKey, _form: Option<CredentialForm>) -> Claim {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone().into()
    }
}

struct Scene {
    panel: Panel,
    xray: Xray,
    api: Api,
    later: Arc<Later>,
    folder: TempDir,
}

impl Scene {
    /// A panel and an Xray with one inbound.
    async fn new() -> Result<Self> {
        let xray = Xray::start(ServerConfig::new().vless("in")).await?;
        Ok(Self {
            panel: Panel::start(TOKEN).await?,
            api: Api::connect(&xray.api_addr()).await?,
            xray,
            later: Later::new(),
            folder: folder()?,
        })
    }

    /// A panel pushes these users, while no engine runs.
    async fn push(&self, users: &[u32]) -> Result<()> {
        let key = InboundKey {
            node: NodeId(1),
            xray: "xray".into(),
            tag: InboundTag("in".into()),
        };
        let state_dir = self.folder.path().join(".xray-agent");
        let pushed = Pushed::open(&state_dir, [&key].into_iter(), Clock::system())?;
        let users = users.iter().map(|user| pushed_user(*user));
        Arc::new(pushed)
            .replace_inbound(&key, users.collect())
            .await?;
        Ok(())
    }

    fn pushed_file(&self) -> PathBuf {
        self.folder.path().join(".xray-agent/pushed/xray@in")
    }

    /// The engine between them makes one pass, as a person asks for it.
    async fn pass(&self) -> Result<NodeStatus> {
        let context = Context {
            further_sources: vec![self.later.clone()],
            ..context(Clock::system(), false)
        };
        let (panel, api) = (self.panel.base_url(), self.xray.api_addr());
        let config = configured(&panel, &api, &self.folder);
        let mut supervisor = Supervisor::new();
        let handle = Engine::build(&config, &context)?.start(supervisor.tasks());
        let mut nodes = Vec::new();
        let pass = async { nodes = handle.sync(true, false).await };
        supervisor.run(pass, LONG).await;
        Ok(nodes.remove(0))
    }

    fn allow(&self, users: impl IntoIterator<Item = u32>) {
        self.panel
            .set_users(1, users.into_iter().map(nth_uuid).collect());
    }

    async fn live(&mut self) -> Result<Vec<u32>> {
        let emails = self.api.emails("in").await?;
        let number = |email: &String| (0..100).find(|n| nth_uuid(*n) == *email).unwrap();
        Ok(emails.iter().map(number).collect())
    }
}

fn pushed_user(user: u32) -> PushedUser {
    PushedUser {
        id: PushedId(user.to_string().into()),
        username: nth_uuid(user),
        password: Secret::new("hunter2"),
        quota: Quota::default(),
        rate: Rate::default(),
        metadata: BTreeMap::new(),
        tags: Vec::new(),
    }
}

fn context(clock: Clock, polls: bool) -> Context {
    Context {
        clock,
        progress: Arc::new(Silent),
        further_sources: Vec::new(),
        polls,
        around_removal: Arc::new(Nobody),
        cutter: None,
        quota_watch: Arc::new(NobodyWatches),
    }
}

fn configured(panel: &str, api: &str, folder: &TempDir) -> config::Config {
    let output = folder.path().display().to_string();
    let environment = Environment::from_pairs([
        ("PANEL_BASE_URL", panel),
        ("INTERNAL_API_KEY", TOKEN),
        ("NODE_IDS", "1"),
        ("OUTPUT_DIR", &output),
        ("APPLY_MODE", "xray-grpc"),
        ("XRAY_API_ADDR", api),
        ("XRAY_TAG_MAP", "1:in"),
    ]);
    let sources = Sources {
        environment,
        file: None,
    };
    config::read(&sources, Need::Run).unwrap_or_else(|problems| panic!("{problems}"))
}

#[tokio::test]
async fn the_users_of_all_known_sources_are_live() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.allow([1, 2]);
    scene.later.knows([2, 3]);
    let node = scene.pass().await?;
    assert_eq!(node.problems(), [""; 0]);
    assert_eq!(scene.live().await?, [1, 2, 3]);
    // Whoever one source drops stays while the other wants him.
    scene.allow([1]);
    scene.pass().await?;
    assert_eq!(scene.live().await?, [1, 2, 3]);
    scene.later.knows([3]);
    scene.pass().await?;
    assert_eq!(scene.live().await?, [1, 3]);
    Ok(())
}

#[tokio::test]
async fn while_the_panel_is_unknown_pushed_users_are_added_and_nobody_is_removed() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.allow([1, 2]);
    scene.pass().await?;
    scene.panel.pause().await;
    scene.push(&[4]).await?;
    scene.later.knows([3]);
    // Also one whom nobody wants any more: who knows what the panel would say.
    scene.api.add("in", vless(9, &nth_uuid(9))).await?;
    let node = scene.pass().await?;
    assert_eq!(node.inbounds[0].unknown_sources.len(), 1);
    assert_eq!(scene.live().await?, [1, 2, 3, 4, 9]);

    scene.panel.resume().await?;
    scene.allow([1]);
    scene.pass().await?;
    assert_eq!(scene.live().await?, [1, 3, 4]);
    Ok(())
}

#[tokio::test]
async fn while_a_later_source_is_unknown_nobody_is_removed() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.allow([1, 2]);
    scene.later.knows([3]);
    scene.pass().await?;
    scene.allow([1, 5]);
    scene.later.is_unknown();
    let node = scene.pass().await?;
    assert_eq!(
        node.inbounds[0].unknown_sources,
        ["later: not asked yet".to_owned()]
    );
    assert_eq!(scene.live().await?, [1, 2, 3, 5]);
    scene.later.knows([]);
    scene.pass().await?;
    assert_eq!(scene.live().await?, [1, 5]);
    Ok(())
}

#[tokio::test]
async fn a_damaged_file_of_pushed_users_removes_nobody() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.allow([1, 2]);
    scene.pass().await?;
    scene.push(&[3, 4]).await?;
    scene.pass().await?;
    assert_eq!(scene.live().await?, [1, 2, 3, 4]);

    scene.allow([1]);
    let whole = std::fs::read_to_string(scene.pushed_file())?;
    let cut = &whole[..whole.len() - 10];
    for damaged in [cut, "\0\0\0\0", "{\"uuids\":[]}"] {
        std::fs::write(scene.pushed_file(), damaged)?;
        let node = scene.pass().await?;
        assert_eq!(node.inbounds[0].unknown_sources.len(), 1, "{damaged:?}");
        assert_eq!(scene.live().await?, [1, 2, 3, 4], "{damaged:?}");
    }
    scene.push(&[3]).await?;
    scene.pass().await?;
    assert_eq!(scene.live().await?, [1, 3]);
    Ok(())
}

#[tokio::test]
async fn a_failed_poll_takes_nothing_back_of_what_earlier_ones_confirmed() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    // Two runs are always further apart than half of this.
    let once = stage.agent("in").env("INTERVAL_SECONDS", "0.002");
    let once = once.arg("--once");
    stage.allow(0..60);
    assert_eq!(once.run_to_end(LONG).await?.code, Some(0));
    stage.allow(0..10);
    assert_eq!(once.run_to_end(LONG).await?.code, Some(1));
    assert_eq!(stage.xray.emails("in").len(), 60, "held");
    stage
        .panel
        .set_answer(1, crate::lab::Answer::error(500, "database"));
    assert_eq!(once.run_to_end(LONG).await?.code, Some(1));
    stage.panel.clear_answer(1);
    // The second good answer of the two that must agree.
    let said = once.run_to_end(LONG).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    stage.await_users("in", 0..10).await
}

#[tokio::test]
async fn a_bad_answer_beside_a_restart_of_xray_cuts_nobody() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.allow(0..100);
    let command = stage.agent("in").env("INTERVAL_SECONDS", "3600");
    let mut agent = command.spawn()?;
    stage.await_users("in", 0..100).await?;
    stage.allow([]);
    command.clone().arg("sync").run_to_end(LONG).await?;
    await_inbound(&command, 0, "held", |it| it["held"] == 100).await?;
    stage.xray.restart();
    stage.await_users("in", 0..100).await?;

    // And when all of the host starts anew, with the bad answer as the first one.
    stage.allow(0..100);
    command.clone().arg("sync").run_to_end(LONG).await?;
    await_inbound(&command, 0, "all is well", |it| {
        it["held"] == 0 && it["live"] == 100
    })
    .await?;
    agent.kill9().await?;
    stage.xray.restart();
    stage.allow([]);
    let _agent = command.spawn()?;
    stage.await_users("in", 0..100).await
}

#[tokio::test]
async fn held_users_who_came_back_go_once_enough_answers_agree() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.allow(0..10);
    // Two runs are always further apart than half of this.
    let once = stage.agent("in").env("INTERVAL_SECONDS", "0.002");
    let once = once.arg("--once");
    assert_eq!(once.run_to_end(LONG).await?.code, Some(0));
    stage.allow([]);
    for poll in 1..6 {
        stage.xray.restart();
        assert_eq!(once.run_to_end(LONG).await?.code, Some(1), "poll {poll}");
        assert_eq!(stage.xray.emails("in").len(), 10, "poll {poll}");
    }
    assert_eq!(once.run_to_end(LONG).await?.code, Some(0));
    assert_eq!(stage.xray.emails("in").len(), 0);
    stage.xray.restart();
    assert_eq!(once.run_to_end(LONG).await?.code, Some(0));
    assert_eq!(stage.xray.emails("in").len(), 0);
    Ok(())
}

const DAY: Duration = Duration::from_hours(24);

/// Waits on a clock that runs as fast as nothing happens.
async fn await_live(xray: &Scripted, users: u32) -> Result<()> {
    let mut expected: Vec<_> = (0..users).map(email).collect();
    expected.sort();
    eventually("the users are live", DAY, async || {
        xray.emails("in") == expected
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_week_without_the_panel_cuts_nobody_and_xrays_restarts_are_repaired() -> Result<()> {
    let xray = Scripted::start(&[("in", "vless")]).await?;
    let mut panel = Panel::start(TOKEN).await?;
    panel.set_users(1, (0..20).map(nth_uuid).collect());
    let folder = folder()?;
    let config = configured(&panel.base_url(), &xray.api(), &folder);
    let context = context(Clock::following("2026-01-01T00:00:00Z".parse()?), true);
    let mut supervisor = Supervisor::new();
    let handle: Handle = Engine::build(&config, &context)?.start(supervisor.tasks());
    let week = async {
        await_live(&xray, 20).await?;
        panel.pause().await;
        let changes = xray.changes_of(&email(0));
        for day in 0..7 {
            tokio::time::sleep(DAY).await;
            assert_eq!(xray.emails("in").len(), 20, "day {day}");
            if day == 3 {
                xray.restart();
                await_live(&xray, 20).await?;
            }
        }
        assert_eq!(xray.changes_of(&email(0)), changes + 1);
        assert!(handle.status()[0].panel_error.is_some());
        panel.set_users(1, (0..19).map(nth_uuid).collect());
        panel.resume().await?;
        await_live(&xray, 19).await
    };
    let mut outcome = Ok(());
    supervisor.run(async { outcome = week.await }, LONG).await;
    outcome
}
