//! Users whom a panel pushes, through the library and on a real Xray: with passwords and keys of their
//! own, at once, without any poll, and until their quotas are used up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use xray_agent::base::clock::Clock;
use xray_agent::base::secret::Secret;
use xray_agent::base::supervise::Supervisor;
use xray_agent::config::{self, Config, Environment, Need, Sources};
use xray_agent::model::around_removal::Nobody;
use xray_agent::model::desired::InboundKey;
use xray_agent::model::ids::{InboundTag, NodeId};
use xray_agent::model::progress::Silent;
use xray_agent::model::pushed::{PushedBytes, PushedId, PushedPatch, PushedUser, Quota, Rate};
use xray_agent::sync::engine::{Context, Engine, Handle};
use xray_agent::sync::pushed::PushError;
use xray_agent::sync::pushed::quota::{QuotaChanged, QuotaWatch};

use crate::lab::secrets::{base64, nth_uuid};
use crate::lab::{Client, Origin, Panel, ServerConfig, Xray, eventually};
use crate::support::{Api, LONG, TOKEN, folder};

/// Who is let in is so within milliseconds; Shadowsocks refuses by silence.
const REFUSED: Duration = Duration::from_millis(1_500);

/// Hears of quotas.
#[derive(Default)]
struct Heard(Mutex<Vec<QuotaChanged>>);

impl Heard {
    fn all(&self) -> Vec<QuotaChanged> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }
}

impl QuotaWatch for Heard {
    fn changed(&self, change: QuotaChanged) -> BoxFuture<'_, bool> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(change);
        Box::pin(std::future::ready(true))
    }
}

struct Scene {
    xray: Xray,
    folder: TempDir,
    heard: Arc<Heard>,
    /// A panel to be polled, if there is one.
    panel: Option<String>,
    tags: String,
}

impl Scene {
    async fn new(server: &ServerConfig, tags: &str) -> Result<Self> {
        Ok(Self {
            xray: Xray::start(server).await?,
            folder: folder()?,
            heard: Arc::default(),
            panel: None,
            tags: tags.to_owned(),
        })
    }

    fn config(&self) -> Config {
        let output = self.folder.path().display().to_string();
        let panel = self.panel.as_deref().unwrap_or("http://127.0.0.1:1");
        let environment = Environment::from_pairs([
            ("PANEL_BASE_URL", panel),
            ("INTERNAL_API_KEY", TOKEN),
            ("NODE_IDS", "1"),
            ("OUTPUT_DIR", &output),
            ("APPLY_MODE", "xray-grpc"),
            ("XRAY_API_ADDR", &self.xray.api_addr()),
            ("XRAY_TAG_MAP", &format!("1:{}", self.tags)),
        ]);
        let sources = Sources {
            environment,
            file: None,
        };
        let mut config =
            config::read(&sources, Need::Run).unwrap_or_else(|problems| panic!("{problems}"));
        if self.panel.is_none() {
            config.panel = None;
        }
        config
    }

    /// Runs the engine for as long as `work` takes.
    async fn run(&self, work: impl AsyncFnOnce(&Handle) -> Result<()>) -> Result<()> {
        let context = Context {
            clock: Clock::system(),
            progress: Arc::new(Silent),
            further_sources: Vec::new(),
            polls: true,
            around_removal: Arc::new(Nobody),
            cutter: None,
            quota_watch: self.heard.clone(),
        };
        let mut supervisor = Supervisor::new();
        let handle = Engine::build(&self.config(), &context)?.start(supervisor.tasks());
        let mut outcome = Ok(());
        let all = async {
            handle.attempted().await;
            outcome = work(&handle).await;
        };
        supervisor.run(all, LONG).await;
        outcome
    }

    async fn emails(&self, tag: &str) -> Result<Vec<String>> {
        let api = Api::connect(&self.xray.api_addr()).await?;
        let mut api = api;
        let all = api.emails(tag).await?;
        Ok(all
            .into_iter()
            .filter(|email| !email.contains('@'))
            .collect())
    }
}

fn inbound(tag: &str) -> InboundKey {
    InboundKey {
        node: NodeId(1),
        xray: "xray".into(),
        tag: InboundTag(tag.into()),
    }
}

fn user(id: u32, password: &str) -> PushedUser {
    PushedUser {
        id: PushedId(id.to_string().into()),
        username: format!("user {id}"),
        password: Secret::new(password),
        quota: Quota::default(),
        rate: Rate::default(),
        metadata: BTreeMap::new(),
        tags: Vec::new(),
    }
}

fn password(password: &str) -> PushedPatch {
    PushedPatch {
        password: Some(Secret::new(password)),
        ..PushedPatch::default()
    }
}

#[tokio::test]
async fn a_pushed_user_comes_in_by_his_password_until_he_is_deleted() -> Result<()> {
    let server = ServerConfig::new().trojan("in-trojan").shadowsocks("in-ss");
    let scene = Scene::new(&server, "in-trojan+in-ss").await?;
    let origin = Origin::start().await?;
    let routes = ["first pässword", "second"]
        .map(|text| [server.route("in-trojan", text), server.route("in-ss", text)]);
    let client = Client::start_many(&routes.concat()).await?;
    let is_refused = async |which| !client.is_served(which, &origin, REFUSED).await;
    let id = PushedId("7".into());
    scene
        .run(async |handle| {
            handle.pushed().create(user(7, "first pässword")).await?;
            handle.reconcile().await;
            client.get(0, &origin).await?;
            client.get(1, &origin).await?;
            for tag in ["in-trojan", "in-ss"] {
                let emails = scene.emails(tag).await?;
                ensure!(
                    emails.len() == 1 && !emails[0].contains("first"),
                    "{emails:?}"
                );
            }
            handle.pushed().patch(&id, password("second")).await?;
            handle.reconcile().await;
            client.get(2, &origin).await?;
            client.get(3, &origin).await?;
            ensure!(is_refused(0).await && is_refused(1).await);
            Ok(())
        })
        .await?;
    // Another process knows him again, and deletes him.
    scene
        .run(async |handle| {
            let nodes = handle.sync(false, false).await;
            let changes = nodes[0].inbounds.iter().map(|it| it.added + it.removed);
            ensure!(changes.sum::<usize>() == 0, "{nodes:?}");
            client.get(2, &origin).await?;
            handle.pushed().delete(&id).await?;
            handle.reconcile().await;
            ensure!(is_refused(2).await && is_refused(3).await);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_key_of_shadowsocks_2022_is_let_in_and_one_of_another_length_refused() -> Result<()> {
    let server = ServerConfig::new().shadowsocks2022("in-ss22");
    let scene = Scene::new(&server, "in-ss22").await?;
    let origin = Origin::start().await?;
    // The lab makes a key of the first 16 characters.
    let client = Client::start_many(&[server.route("in-ss22", "sixteen letters!")]).await?;
    scene
        .run(async |handle| {
            let pushed = handle.pushed();
            for wrong in [
                "sixteen letters!".to_owned(),
                base64(&[1; 32]),
                base64(&[1; 15]),
            ] {
                let refused = pushed
                    .replace_inbound(&inbound("in-ss22"), vec![user(7, &wrong)])
                    .await;
                ensure!(
                    matches!(refused, Err(PushError::NoCredential { .. })),
                    "{wrong}"
                );
            }
            let right = vec![user(7, &base64(b"sixteen letters!"))];
            pushed.replace_inbound(&inbound("in-ss22"), right).await?;
            handle.reconcile().await;
            client.get(0, &origin).await?;
            pushed.drop_inbound(&inbound("in-ss22")).await?;
            handle.reconcile().await;
            ensure!(!client.is_served(0, &origin, REFUSED).await);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn fifty_thousand_pushed_users_are_live_and_outlive_the_agent() -> Result<()> {
    const MANY: u32 = 50_000;
    let server = ServerConfig::new().trojan("in");
    let mut scene = Scene::new(&server, "in").await?;
    scene
        .run(async |handle| {
            let many = (0..MANY)
                .map(|n| user(n, &format!("password {n}")))
                .collect();
            ensure!(handle.pushed().import(many, false).await? == MANY as usize);
            handle.reconcile().await;
            ensure!(scene.emails("in").await?.len() == MANY as usize);
            Ok(())
        })
        .await?;
    scene.xray.restart().await?;
    scene
        .run(async |handle| {
            eventually("all are live again", LONG, async || {
                scene
                    .emails("in")
                    .await
                    .is_ok_and(|emails| emails.len() == MANY as usize)
            })
            .await?;
            // What is pushed away goes at once, also all of it: no poll could confirm it.
            handle.pushed().import(Vec::new(), true).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await?.is_empty());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_push_is_live_without_a_poll_and_removes_nobody_while_the_panel_is_unknown() -> Result<()>
{
    let server = ServerConfig::new().vless("in");
    let mut scene = Scene::new(&server, "in").await?;
    let mut panel = Panel::start(TOKEN).await?;
    scene.panel = Some(panel.base_url());
    let pushed_user = |n: u32| PushedUser {
        username: nth_uuid(n),
        ..user(n, "x")
    };
    panel.set_users(1, vec![nth_uuid(1)]);
    scene
        .run(async |handle| {
            handle.sync(false, false).await;
            let polls = panel.requests(1);
            handle.pushed().create(pushed_user(2)).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await? == [nth_uuid(1), nth_uuid(2)]);
            ensure!(panel.requests(1) == polls, "the panel was asked");
            handle.pushed().delete(&PushedId("2".into())).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await? == [nth_uuid(1)]);
            Ok(())
        })
        .await?;
    panel.pause().await;
    scene
        .run(async |handle| {
            handle.pushed().create(pushed_user(3)).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await? == [nth_uuid(1), nth_uuid(3)]);
            handle.pushed().delete(&PushedId("3".into())).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await? == [nth_uuid(1), nth_uuid(3)]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn who_has_used_up_his_quota_is_taken_off_at_once_and_told_once() -> Result<()> {
    let server = ServerConfig::new().vless("in");
    let scene = Scene::new(&server, "in").await?;
    let limited = PushedUser {
        username: nth_uuid(1),
        quota: Quota {
            allocated: 100,
            used: 40,
        },
        ..user(1, "x")
    };
    let first = xray_agent::model::ids::UserId::parse(&nth_uuid(1)).unwrap();
    scene
        .run(async |handle| {
            handle.pushed().settled(&[]);
            handle.pushed().create(limited).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await? == [nth_uuid(1)]);
            handle.pushed().counted(&[(first, 59)]);
            handle.pushed().counted(&[(first, 60)]);
            eventually("he is taken off", LONG, async || {
                scene
                    .emails("in")
                    .await
                    .is_ok_and(|emails| emails.is_empty())
            })
            .await?;
            eventually("it is told", LONG, async || scene.heard.all().len() == 1).await
        })
        .await?;
    ensure!(scene.heard.all()[0].exhausted);
    scene
        .run(async |handle| {
            handle.pushed().counted(&[(first, 61)]);
            let more = PushedPatch {
                allocated: Some(1000),
                ..PushedPatch::default()
            };
            handle.pushed().patch(&PushedId("1".into()), more).await?;
            handle.reconcile().await;
            ensure!(scene.emails("in").await? == [nth_uuid(1)]);
            eventually("that is told", LONG, async || scene.heard.all().len() == 2).await
        })
        .await?;
    let heard = scene.heard.all();
    ensure!(
        !heard[1].exhausted && heard[1].current.remaining == Some(899),
        "{heard:?}"
    );
    Ok(())
}
