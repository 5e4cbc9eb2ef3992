//! The routes over an agent that is played: what is pushed, what is refused, and what is kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::ports::*;
use super::*;
use crate::base::clock::Clock;
use crate::config::{Config, Environment, Need, Sources, read};
use crate::events::outbox::{Limits, Outbox};
use crate::host::geo::Providers;
use crate::model::health::Thresholds;
use crate::model::ids::{InboundTag, NodeId, UserId};
use crate::model::pushed::{PushedPatch, PushedUser};
use crate::model::user_list::Users;
use crate::registry::lives::{Lease, Lives, Node, Registered, Said};
use crate::store::agent;
use crate::sync::status::NodeStatus;
use crate::xray::inbound::InboundInfo;

/// Whom the polled panel allows.
const POLLED: &str = "7a1c3c3e-6f0e-4a53-8d0b-1b1f7c3a9d10";
/// The promises are about answers, not about the disk.
const IN_MEMORY: &str = "/dev/shm";

/// An agent with two inbounds, whose Xray never answers.
struct Played {
    config: Arc<Config>,
    reconciled: AtomicUsize,
}

impl Agent for Played {
    fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        vec![NodeStatus::new(NodeId(1))]
    }

    fn listing<'a>(&'a self, _xray: &'a str) -> BoxFuture<'a, Option<Vec<InboundInfo>>> {
        ready(None).boxed()
    }

    fn remove_inbound<'a>(
        &'a self,
        _xray: &'a str,
        _tag: &'a InboundTag,
    ) -> BoxFuture<'a, Result<(), String>> {
        ready(Err("it does not answer".to_owned())).boxed()
    }

    fn allowed(&self) -> Vec<(NodeId, Users)> {
        let users = [UserId::parse(POLLED).unwrap()];
        vec![(NodeId(1), Users::from(users))]
    }

    fn reconcile(&self) -> BoxFuture<'_, ()> {
        self.reconciled.fetch_add(1, SeqCst);
        ready(()).boxed()
    }
}

/// Pushed users by where they were pushed to, and their ids.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<(Option<String>, String), PushedUser>>);

impl Memory {
    /// Makes these the users of that place.
    fn set(&self, place: Option<&str>, users: Vec<PushedUser>) -> Result<usize, PushError> {
        let mut new = BTreeMap::new();
        for user in users {
            let id = user.id.to_string();
            let key = (place.map(str::to_owned), id.clone());
            if new.insert(key, user).is_some() {
                return Err(PushError::Twice(id));
            }
        }
        let count = new.len();
        let mut all = self.0.lock().unwrap();
        all.retain(|(it, _), _| it.as_deref() != place);
        all.extend(new);
        Ok(count)
    }

    fn change<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut BTreeMap<(Option<String>, String), PushedUser>) -> T,
    ) -> Result<T, PushError> {
        let mut all = self.0.lock().unwrap();
        if all.contains_key(&(None, id.to_owned())) {
            Ok(change(&mut all))
        } else {
            Err(PushError::Unknown(id.to_owned()))
        }
    }
}

impl PushedUsers for Memory {
    fn list(&self) -> BoxFuture<'_, Vec<PushedView>> {
        let all = self.0.lock().unwrap();
        let views = all.iter().map(|((inbound, _), user)| PushedView {
            user: user.clone(),
            inbound: inbound.clone(),
            identities: UserId::parse(&user.username).into_iter().collect(),
            used: user.quota.used,
            exhausted: user.quota.allocated > 0 && user.quota.used >= user.quota.allocated,
        });
        ready(views.collect()).boxed()
    }

    fn replace<'a>(
        &'a self,
        inbound: &'a str,
        users: Vec<PushedUser>,
    ) -> BoxFuture<'a, Result<(), PushError>> {
        ready(self.set(Some(inbound), users).map(drop)).boxed()
    }

    fn import(
        &self,
        users: Vec<PushedUser>,
        force: bool,
    ) -> BoxFuture<'_, Result<usize, PushError>> {
        let of = self.0.lock().unwrap().len();
        if users.is_empty() && of > 0 && !force {
            return ready(Err(PushError::TooManyGone { gone: of, of })).boxed();
        }
        ready(self.set(None, users)).boxed()
    }

    fn create(&self, user: PushedUser) -> BoxFuture<'_, Result<(), PushError>> {
        let id = user.id.to_string();
        let mut all = self.0.lock().unwrap();
        if all.contains_key(&(None, id.clone())) {
            return ready(Err(PushError::Exists(id))).boxed();
        }
        all.insert((None, id), user);
        ready(Ok(())).boxed()
    }

    fn patch<'a>(
        &'a self,
        id: &'a str,
        patch: PushedPatch,
    ) -> BoxFuture<'a, Result<(), PushError>> {
        let changed = self.change(id, |all| {
            let user = all.get_mut(&(None, id.to_owned())).unwrap();
            let quota = &mut user.quota;
            quota.used = patch.used.unwrap_or(quota.used);
            user.rate.up = patch.up.on(user.rate.up);
            user.rate.down = patch.down.on(user.rate.down);
        });
        ready(changed).boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PushError>> {
        let gone = self.change(id, |all| drop(all.remove(&(None, id.to_owned()))));
        ready(gone).boxed()
    }
}

struct Counted;

impl Totals for Counted {
    fn of_inbounds(&self) -> BoxFuture<'_, Result<Vec<InboundBytes>, String>> {
        let row = |tag: &str, up| InboundBytes {
            xray: "xray".to_owned(),
            tag: tag.to_owned(),
            bytes: Bytes { up, down: 2 * up },
        };
        ready(Ok(vec![row("in-a", 1), row("In B", 10), row("gone", 100)])).boxed()
    }

    fn of_users(&self) -> BoxFuture<'_, Result<HashMap<UserId, u64>, String>> {
        let polled = UserId::parse(POLLED).unwrap();
        ready(Ok(HashMap::from([(polled, 77)]))).boxed()
    }
}

struct Registry(Mutex<Lives>);

impl Registrations for Registry {
    fn list(&self) -> Vec<Arc<Registered>> {
        let lives = self.0.lock().unwrap();
        lives.nodes().cloned().map(Arc::new).collect()
    }

    fn health_of(&self, _inbound: &str) -> Option<crate::model::health::Health> {
        None
    }

    fn register(&self, node: Node) -> BoxFuture<'_, Result<Lease, RegistrationError>> {
        if node.id == "in-a" {
            return ready(Err(RegistrationError::Managed(node.id))).boxed();
        }
        let taken = self.0.lock().unwrap().register(node, Timestamp::now());
        ready(taken.map(|it| it.0).map_err(Into::into)).boxed()
    }

    fn heartbeat<'a>(
        &'a self,
        id: &'a str,
        said: Said,
        message: Option<String>,
    ) -> BoxFuture<'a, Result<Lease, RegistrationError>> {
        let mut lives = self.0.lock().unwrap();
        let heard = lives.heartbeat(id, said, message, Timestamp::now());
        ready(heard.map(|it| it.0).map_err(Into::into)).boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RegistrationError>> {
        let gone = self.0.lock().unwrap().remove(id);
        ready(gone.map(drop).map_err(Into::into)).boxed()
    }
}

/// Nobody may be called on this host.
struct NotHere;

impl Callbacks for NotHere {
    fn check<'a>(&'a self, url: &'a url::Url) -> BoxFuture<'a, Result<(), String>> {
        let is_here = url.host_str() == Some("127.0.0.1");
        let refused = "this host is not allowed; name it in kernel.callbacks_allow".to_owned();
        ready(if is_here { Err(refused) } else { Ok(()) }).boxed()
    }
}

struct Stage {
    agent: Arc<Played>,
    router: Router,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(IN_MEMORY).unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "").unwrap();
        let environment = Environment::from_pairs([
            ("HTTP_ALLOW_INSECURE", "true"),
            ("INTERNAL_API_KEY", "k"),
            ("NODE_IDS", "1"),
            ("APPLY_MODE", "xray-grpc"),
            ("XRAY_TAG_MAP", "1:in-a+In B"),
        ]);
        let file = Some(file);
        let config = read(&Sources { environment, file }, Need::Run).unwrap();
        let agent = Arc::new(Played {
            config: Arc::new(config),
            reconciled: AtomicUsize::new(0),
        });
        let store = agent::start(folder.path(), Clock::system()).unwrap();
        let lives = Lives::new([], Thresholds::default());
        let state = State::new(Ports {
            agent: agent.clone(),
            totals: Some(Arc::new(Counted)),
            users: Some(Arc::new(Memory::default())),
            nodes: Some(Arc::new(Registry(Mutex::new(lives)))),
            outbox: Some(Outbox::new(store, Limits::default(), Clock::system())),
            callbacks: Some(Arc::new(NotHere)),
            providers: Providers::new(Some(folder.path().to_owned()), Clock::system()),
        });
        let (router, _) = routes(&state, OpenApiRouter::default(), |all| all).split_for_parts();
        Self {
            agent,
            router,
            folder,
        }
    }

    async fn call(&self, method: Method, path: &str, sent: &Value) -> (u16, Value) {
        let body = if sent.is_null() {
            Body::empty()
        } else {
            Body::from(sent.to_string())
        };
        let request = Request::builder().method(method).uri(path).body(body);
        let answer = self.router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, said) = self.call(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {said}");
        said
    }

    async fn refused(&self, method: Method, path: &str, sent: &Value) -> (u16, String) {
        let (status, said) = self.call(method, path, sent).await;
        let message = said["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{path}: {said}");
        (status, said["code"].as_str().unwrap_or_default().to_owned())
    }

    fn reconciled(&self) -> usize {
        self.agent.reconciled.load(SeqCst)
    }
}

fn user(id: &str) -> Value {
    json!({"id": id, "username": "name", "password": "canary", "tags": ["t"]})
}

fn upsert(id: &str, users: &[Value]) -> Value {
    json!({
        "users": users,
        "profile": {"id": id, "role": "listener", "protocol": "vless", "profile": {}},
    })
}

fn ids(list: &Value) -> Vec<&str> {
    let all = list.as_array().unwrap().iter();
    all.map(|it| it["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_user_comes_is_changed_and_goes() {
    let stage = Stage::new();
    let (code, said) = stage.call(Method::POST, "/v1/users", &user("17")).await;
    assert_eq!((code, &said), (200, &json!({"id": "17"})));
    assert_eq!(stage.reconciled(), 1);
    let again = stage.refused(Method::POST, "/v1/users", &user("17")).await;
    assert_eq!(again, (409, "CONFLICT".to_owned()));
    let patch = json!({"traffic": {"used": 5}, "rate": {"up": 9}});
    for method in [Method::PUT, Method::PATCH] {
        let (code, said) = stage.call(method, "/v1/users/17", &patch).await;
        assert_eq!((code, said), (200, json!({"id": "17"})));
    }
    let shown = stage.get("/v1/users/17").await;
    assert_eq!(shown["traffic"]["used"], 5);
    assert_eq!(shown["rate"], json!({"up": 9, "down": null}));
    assert_eq!(shown["metadata"]["source"], "pushed");
    let limits = stage.get("/v1/status?rate_limit_summary=1").await;
    assert_eq!(limits["rate_limit_summary"]["limited_up_only"], 1);
    assert_eq!(limits["rate_limit_summary"]["total_users"], 2);
    let all = stage.get("/v1/users").await;
    assert!(!all.to_string().contains("canary"), "{all}");
    let (code, _) = stage
        .call(Method::DELETE, "/v1/users/17", &Value::Null)
        .await;
    assert_eq!((code, stage.reconciled()), (204, 4));
    let gone = stage
        .refused(Method::DELETE, "/v1/users/17", &Value::Null)
        .await;
    assert_eq!(gone, (404, "NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn whom_the_polled_panel_allows_is_shown_and_left_to_it() {
    let stage = Stage::new();
    let path = format!("/v1/users/{POLLED}");
    let shown = stage.get(&path).await;
    assert_eq!(shown["traffic"]["used"], 77);
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        let said = stage.refused(method, &path, &json!({})).await;
        assert_eq!(said, (409, "MANAGED_BY_PANEL".to_owned()));
    }
    let both = json!({"id": "1", "username": POLLED, "password": "p"});
    stage.call(Method::POST, "/v1/users", &both).await;
    let all = stage.get("/v1/users").await;
    assert_eq!(ids(&all), ["1"]);
    assert_eq!(all[0]["metadata"]["source"], "polled,pushed");
    let hidden = stage.get("/v1/users?redact=true").await;
    assert!(!hidden.to_string().contains(POLLED), "{hidden}");
}

#[tokio::test]
async fn an_import_is_whole_or_nothing_and_does_not_empty_by_mistake() {
    let stage = Stage::new();
    let import = "/v1/users/import";
    let two = json!([user("1"), user("2")]);
    let (code, said) = stage.call(Method::POST, import, &two).await;
    assert_eq!((code, said), (200, json!({"imported": 2})));
    let bad = json!([user("3"), {"id": "4"}]);
    let said = stage.refused(Method::POST, import, &bad).await;
    assert_eq!(said, (400, "BAD_REQUEST".to_owned()));
    let twice = json!([user("3"), user("3")]);
    assert_eq!(stage.refused(Method::POST, import, &twice).await.0, 400);
    let said = stage.refused(Method::POST, import, &json!([])).await;
    assert_eq!(said, (409, "CONFLICT".to_owned()));
    assert_eq!(ids(&stage.get("/v1/users").await), ["1", "2", POLLED]);
    let (code, said) = stage
        .call(Method::POST, "/v1/users/import?force=true", &json!([]))
        .await;
    assert_eq!((code, said), (200, json!({"imported": 0})));
}

#[tokio::test]
async fn users_are_pushed_to_an_inbound_that_is_there() {
    let stage = Stage::new();
    let sent = upsert("in-b", &[user("1")]);
    let (code, said) = stage.call(Method::POST, "/v1/protocols", &sent).await;
    assert_eq!((code, &said["id"]), (200, &json!("in-b")), "{said}");
    stage.call(Method::POST, "/v1/users", &user("9")).await;
    let of = async |path: &str| {
        let said = stage.get(path).await;
        ids(&said)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("/v1/protocols/in-b/users").await, ["1", POLLED]);
    assert_eq!(of("/v1/protocols/in-a/users?all=1").await, ["9", POLLED]);
    let other = upsert("in-c", &[]);
    let (code, said) = stage.call(Method::POST, "/v1/protocols", &other).await;
    assert_eq!((code, &said["code"]), (404, &json!("NOT_FOUND")));
    assert!(
        said["message"].as_str().unwrap().contains("in-a, in-b"),
        "{said}"
    );
    let drop = "/v1/protocols/in-b";
    let for_good = "/v1/protocols/in-b?remove_inbound=true";
    let kept = stage.refused(Method::DELETE, for_good, &Value::Null).await;
    assert_eq!(kept, (503, "UNAVAILABLE".to_owned()));
    assert_eq!(stage.call(Method::DELETE, drop, &Value::Null).await.0, 204);
    assert_eq!(of("/v1/protocols/in-b/users").await, [POLLED]);
}

#[tokio::test]
async fn traffic_is_cut_to_the_nodes_and_protocols_asked_for() {
    let stage = Stage::new();
    let all = stage.get("/v1/traffic").await;
    assert_eq!(
        (&all["bytes_up"], &all["bytes_down"]),
        (&json!(111), &json!(222))
    );
    let some = stage.get("/v1/traffic?node=in-b&node=gone").await;
    assert_eq!(some["bytes_up"], 110);
    assert_eq!(some["by_node_protocol"][0]["node_id"], "in-b");
    let none = stage.get("/v1/traffic?protocol=vless").await;
    assert_eq!(none["by_node_protocol"], json!([]));
}

#[tokio::test]
async fn a_callback_is_registered_once_and_where_it_may_lead() {
    let stage = Stage::new();
    let path = "/v1/events/registrations";
    let asked = |url: &str| json!({"event": "node.healthy", "callback": url, "secret": "canary"});
    let good = asked("https://ops.example/hook");
    let (code, first) = stage.call(Method::POST, path, &good).await;
    assert_eq!(
        (code, &first["event"]),
        (200, &json!("node_healthy")),
        "{first}"
    );
    let (_, again) = stage.call(Method::POST, path, &good).await;
    assert_eq!(again, first);
    let here = asked("http://127.0.0.1:1/hook");
    assert_eq!(stage.refused(Method::POST, path, &here).await.0, 400);
    let other = json!({"event": "user_traffic_reported", "callback": "https://ops.example/t"});
    assert_eq!(stage.refused(Method::POST, path, &other).await.0, 400);
    let users = "/v1/service-events/registrations";
    let (code, of_users) = stage.call(Method::POST, users, &other).await;
    assert_eq!(
        (code, &of_users["event"]),
        (200, &json!("user.traffic.reported"))
    );
    let listed = stage.get(path).await;
    assert_eq!(listed, json!([first]));
    assert!(!listed.to_string().contains("canary"));
    let id = first["id"].as_str().unwrap();
    let elsewhere = format!("{users}/{id}");
    let said = stage
        .refused(Method::DELETE, &elsewhere, &Value::Null)
        .await;
    assert_eq!(said, (404, "NOT_FOUND".to_owned()));
    let own = format!("{path}/{id}");
    assert_eq!(stage.call(Method::DELETE, &own, &Value::Null).await.0, 204);
    assert_eq!(
        stage.refused(Method::DELETE, &own, &Value::Null).await.0,
        404
    );
    assert_eq!(stage.get(path).await, json!([]));
}

#[tokio::test]
async fn a_node_registers_lives_and_is_taken_out() {
    let stage = Stage::new();
    let path = "/v1/protocols/registrations";
    let node = json!({"id": "edge-1", "role": "connector", "protocol": "socks"});
    let (code, said) = stage.call(Method::POST, path, &node).await;
    assert_eq!(
        (code, &said["heartbeat_interval_seconds"]),
        (200, &json!(30)),
        "{said}"
    );
    let beat = "/v1/protocols/registrations/edge-1/heartbeat";
    assert_eq!(stage.call(Method::POST, beat, &Value::Null).await.0, 200);
    let ill = json!({"status": "unhealthy", "message": "no route"});
    assert_eq!(stage.call(Method::POST, beat, &ill).await.0, 200);
    let listed = stage.get(path).await;
    assert_eq!(listed[0]["message"], "no route");
    let status = stage.get("/v1/status?include=nodes").await;
    let nodes = &status["snapshot"]["nodes"];
    assert_eq!(ids(nodes), ["in-a", "in-b", "edge-1"]);
    assert!(
        nodes[2]["health"]["status"]["Unhealthy"].is_object(),
        "{nodes}"
    );
    let protocols = stage.get("/v1/protocols").await;
    assert_eq!(protocols[2]["role"], "connector");
    let managed = json!({"id": "in-a", "role": "listener", "protocol": "vless"});
    assert_eq!(stage.refused(Method::POST, path, &managed).await.0, 409);
    let short = json!({"id": "x", "role": "listener", "protocol": "vless", "ttl_seconds": 1});
    assert_eq!(stage.refused(Method::POST, path, &short).await.0, 400);
    let unknown = "/v1/protocols/registrations/x/heartbeat";
    assert_eq!(
        stage.refused(Method::POST, unknown, &json!({})).await.0,
        404
    );
    let gone = "/v1/protocols/registrations/edge-1";
    assert_eq!(stage.call(Method::DELETE, gone, &Value::Null).await.0, 204);
    assert_eq!(stage.get(path).await, json!([]));
}

#[tokio::test]
async fn the_status_shows_the_geo_data_files() {
    let stage = Stage::new();
    let file = stage.folder.path().join("geoip.dat");
    std::fs::write(file, "of some kind").unwrap();
    let status = stage.get("/v1/status?include=providers").await;
    let providers = status["snapshot"]["providers"].as_array().unwrap();
    assert_eq!(providers[0]["name"], "geoip.dat", "{status}");
    let status = stage.get("/v1/status?include=nodes").await;
    assert!(status["snapshot"].get("providers").is_none());
}
