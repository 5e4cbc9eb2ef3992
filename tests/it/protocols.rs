//! Each protocol with a real client: whoever is allowed gets through, whoever is not does not, and
//! an entry that another hand spoiled is written anew. And who is not touched: foreign users, and
//! inbounds without users of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use prost::Message;
use serde_json::json;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::proxy::shadowsocks::CipherType;
use xray_agent::xray::proto::xray::proxy::{
    hysteria, shadowsocks, shadowsocks_2022, trojan, vless, vmess,
};

use super::life::{Stage, entry, run, set, start, vless_entry};
use crate::lab::inbounds::STATIC_EMAIL;
use crate::lab::secrets::random_key;
use crate::lab::{AgentCommand, Answer, Client, Origin, Route, ServerConfig, eventually, uuid};
use crate::support::{Api, LONG};

const VISION: &str = "xtls-rprx-vision";
/// A user who is served is so within milliseconds; VMess and Shadowsocks refuse by silence.
const REFUSED: Duration = Duration::from_millis(1_500);

/// Tags, the one whose client keeps its connection last.
const TAGS: [&str; 9] = [
    "in-vless",
    "in-tls",
    "in-ws",
    "in-vmess",
    "in-trojan",
    "in-ss",
    "in-ss22",
    "in-ss22-256",
    "in-hysteria",
];

fn all_protocols() -> ServerConfig {
    ServerConfig::new()
        .vless("in-vless")
        .vless_tls("in-tls")
        .vless_ws("in-ws")
        .vmess("in-vmess")
        .trojan("in-trojan")
        .shadowsocks("in-ss")
        .shadowsocks2022("in-ss22")
        .shadowsocks2022_256("in-ss22-256")
        .hysteria("in-hysteria")
}

/// What stands in an inbound besides our users.
fn static_email(tag: &str) -> Option<&'static str> {
    tag.starts_with("in-ss").then_some(STATIC_EMAIL)
}

/// The users of an inbound, by e-mails as an Xray with several managed inbounds has them.
fn emails(tag: &str, users: &[&str]) -> Vec<String> {
    let ours = users.iter().map(|user| format!("{tag}.{user}"));
    ours.chain(static_email(tag).map(str::to_owned)).collect()
}

/// The same user with another secret, or what else a client cannot get through with.
fn spoiled(tag: &str, user: &str) -> User {
    let email = format!("{tag}.{user}");
    let other = uuid();
    match tag {
        "in-tls" => vless_entry(&email, user),
        "in-vless" | "in-ws" => vless_entry(&email, &other),
        "in-vmess" => entry(&email, &vmess::Account { id: other }),
        "in-trojan" => entry(&email, &trojan::Account { password: other }),
        "in-ss" => {
            let account = shadowsocks::Account {
                password: user.to_owned(),
                cipher_type: CipherType::Aes128Gcm.into(),
            };
            entry(&email, &account)
        }
        "in-ss22" | "in-ss22-256" => {
            let key = random_key(if tag == "in-ss22" { 16 } else { 32 });
            entry(&email, &shadowsocks_2022::Account { key })
        }
        _ => entry(&email, &hysteria::account::Account { auth: other }),
    }
}

/// A user's way in by each inbound.
fn routes(config: &ServerConfig, user: &str) -> Vec<Route> {
    TAGS.iter().map(|tag| config.route(tag, user)).collect()
}

/// By which inbounds is whoever has these routes served?
async fn served(client: &Client, origin: &Origin, first: usize) -> Vec<&'static str> {
    let asked = (0..TAGS.len()).map(|n| client.is_served(first + n, origin, REFUSED));
    let answers = join_all(asked).await;
    let served = TAGS.into_iter().zip(answers).filter(|(_, yes)| *yes);
    served.map(|(tag, _)| tag).collect()
}

async fn served_everywhere(client: &Client, origin: &Origin, first: usize) -> Result<()> {
    let mut by = Vec::new();
    eventually("the user is served by all inbounds", LONG, async || {
        by = served(client, origin, first).await;
        by == TAGS
    })
    .await
    .with_context(|| format!("served by {by:?}"))
}

/// A Hysteria client keeps the connection on which it was let in: only a new one shows who is
/// still let in.
async fn hysteria_serves(config: &ServerConfig, origin: &Origin, user: &str) -> Result<bool> {
    let client = Client::start_many(&[config.route("in-hysteria", user)]).await?;
    Ok(client.is_served(0, origin, REFUSED).await)
}

#[tokio::test]
async fn users_are_added_removed_and_replaced_in_every_protocol() -> Result<()> {
    let config = all_protocols();
    let (kept, leaving) = (uuid(), uuid());
    let stage = Stage::set(&config).await?;
    let origin = Origin::start().await?;
    let both = [routes(&config, &kept), routes(&config, &leaving)].concat();
    let client = Client::start_many(&both).await?;
    let (first, second) = (0, TAGS.len());
    let command = stage.agent_on(&TAGS.join("+"));

    stage.allow([&kept, &leaving]);
    let mut agent = start(&command).await?;
    served_everywhere(&client, &origin, first).await?;
    served_everywhere(&client, &origin, second).await?;

    stage.allow([&kept]);
    for tag in TAGS {
        stage.live(tag, emails(tag, &[&kept])).await?;
    }
    let still = served(&client, &origin, second).await;
    ensure!(still == ["in-hysteria"], "still served by {still:?}");
    ensure!(!hysteria_serves(&config, &origin, &leaving).await?);
    served_everywhere(&client, &origin, first).await?;

    // Another hand spoils everybody while the agent is away; no count changes.
    agent.terminate(LONG).await?;
    let mut api = stage.api().await?;
    for tag in TAGS {
        api.remove(tag, &format!("{tag}.{kept}")).await?;
        api.add(tag, spoiled(tag, &kept)).await?;
    }
    let still = served(&client, &origin, first).await;
    ensure!(still == ["in-hysteria"], "served by spoiled {still:?}");
    ensure!(!hysteria_serves(&config, &origin, &kept).await?);

    let mended = run(&command, &["--once"], 0).await?;
    served_everywhere(&client, &origin, first).await?;
    ensure!(hysteria_serves(&config, &origin, &kept).await?);
    for tag in TAGS {
        let now = stage.emails(tag).await?;
        ensure!(now == set(emails(tag, &[&kept])), "{tag}: {now:?}");
    }
    let nothing = run(&command, &["sync", "--dry-run"], 0).await?;
    let lines = nothing
        .stdout
        .matches("would add 0, remove 0, rewrite 0, hold 0");
    ensure!(lines.count() == TAGS.len(), "{mended:#?}\n{nothing:#?}");
    Ok(())
}

/// The flows that users of an inbound have.
async fn flows(api: &mut Api, tag: &str) -> Result<BTreeMap<String, String>> {
    let users = api.users(tag).await?.into_iter();
    let flows = users.map(|(email, user)| {
        let account = user.account.context("an entry without an account")?;
        let account = vless::Account::decode(account.value)?;
        Ok((email, account.flow))
    });
    flows.collect()
}

#[tokio::test]
async fn vision_goes_where_the_inbound_carries_it_unless_a_flow_is_given() -> Result<()> {
    let config = ServerConfig::new()
        .vless("in-vless")
        .vless_tls("in-tls")
        .vless_ws("in-ws");
    let user = uuid();
    let stage = Stage::set(&config).await?;
    stage.allow([&user]);
    let mut api = stage.api().await?;
    let mut expect = async |command: AgentCommand, expected: [&str; 3]| {
        run(&command, &["--once"], 0).await?;
        for (tag, flow) in ["in-vless", "in-tls", "in-ws"].into_iter().zip(expected) {
            let flows = flows(&mut api, tag).await?;
            ensure!(
                flows == BTreeMap::from([(format!("{tag}.{user}"), flow.to_owned())]),
                "{tag}: {flows:?}"
            );
        }
        Ok(())
    };
    let command = stage.agent_on("in-vless+in-tls+in-ws");
    expect(command.clone(), ["", VISION, ""]).await?;
    let with_flow = |flow: &str| command.clone().env("XRAY_VLESS_FLOW", flow);
    expect(with_flow("none"), ["", "", ""]).await?;
    expect(with_flow(VISION), [VISION, VISION, VISION]).await?;
    expect(with_flow("auto"), ["", VISION, ""]).await?;
    // Each inbound its own.
    let toml = "[[node]]\nid = 1\ninbounds = [{ tag = 'in-tls', flow = '' }, \
                { tag = 'in-vless', flow = 'none' }, 'in-ws']\n";
    expect(stage.agent_with(toml)?, ["", "", ""]).await
}

#[tokio::test]
async fn one_inbound_has_bare_emails_and_email_set_changes_them() -> Result<()> {
    let tag = "in-vless";
    let [a, b, c] = [uuid(), uuid(), uuid()];
    let config = ServerConfig::new()
        .vless(tag)
        .with_client(tag, json!({"id": uuid(), "email": "boss@static"}))
        .with_client(tag, json!({"id": c, "email": "twin@static"}));
    let stage = Stage::set(&config).await?;
    let (client, origin) = (
        Client::start_many(&[config.route(tag, &a), config.route(tag, &c)]).await?,
        Origin::start().await?,
    );
    stage.allow([&a, &b, &c]);
    // Another hand's spelling of one of ours: counters and rules would know it by that only.
    stage
        .api()
        .await?
        .add(tag, vless_entry(&a.to_uppercase(), &a))
        .await?;

    let command = stage.agent_on(tag);
    let first = run(&command, &["--once"], 0).await?;
    ensure!(
        first.stdout.contains("2 foreign, 1 in conflict"),
        "{first:#?}"
    );
    let foreign = ["boss@static", "twin@static"];
    let live = |ours: [&str; 2]| set(ours.into_iter().chain(foreign));
    let now = stage.emails(tag).await?;
    ensure!(now == live([&a, &b]), "{now:?}");

    let email = run(&command, &["email"], 0).await?;
    ensure!(email.stdout.contains("<uuid>"), "{email:#?}");
    let email = run(&command, &["email", "--set", "prefixed"], 0).await?;
    let said = email.stdout;
    ensure!(said.contains("<uuid> -> in-vless.<uuid>"), "{said}");
    ensure!(said.contains("re-adds all 2 users"), "{said}");
    let now = stage.emails(tag).await?;
    ensure!(now == live([&a, &b]), "the next pass does it: {now:?}");

    let mut agent = start(&command).await?;
    let prefixed = |user: &str| format!("{tag}.{user}");
    stage
        .live(tag, live([&prefixed(&a), &prefixed(&b)]))
        .await?;
    client.get(0, &origin).await?;
    client.get(1, &origin).await?;
    // The running agent holds the form: it is not changed under its feet.
    let refused = run(&command, &["email", "--set", "bare"], 1).await?;
    ensure!(refused.stderr.contains("stop it first"), "{refused:#?}");
    agent.terminate(LONG).await?;

    // Ours alone: then the third one's secret is free for them.
    let toml = format!("[[node]]\nid = 1\ninbounds = [{{ tag = '{tag}', exclusive = true }}]\n");
    let exclusive = stage.agent_with(&toml)?;
    run(&exclusive, &["--once"], 0).await?;
    let now = stage.emails(tag).await?;
    ensure!(now == set([&a, &b, &c].map(|user| prefixed(user))));
    client.get(0, &origin).await?;
    client.get(1, &origin).await.map(drop)
}

#[tokio::test]
async fn an_entry_that_is_there_twice_becomes_one_and_a_removal_takes_all_of_them() -> Result<()> {
    let config = ServerConfig::new()
        .shadowsocks("in-ss")
        .hysteria("in-hysteria");
    let (kept, leaving) = (uuid(), uuid());
    let stage = Stage::set(&config).await?;
    let origin = Origin::start().await?;
    let command = stage.agent_on("in-ss+in-hysteria");
    stage.allow([&kept, &leaving]);
    run(&command, &["--once"], 0).await?;
    // These two protocols never say that somebody is there already.
    let mut api = stage.api().await?;
    for user in [&kept, &leaving] {
        for _ in 0..2 {
            let account = shadowsocks::Account {
                password: user.clone(),
                cipher_type: CipherType::Aes256Gcm.into(),
            };
            api.add("in-ss", entry(&format!("in-ss.{user}"), &account))
                .await?;
            let email = format!("in-hysteria.{user}");
            let account = hysteria::account::Account { auth: uuid() };
            api.add("in-hysteria", entry(&email, &account)).await?;
        }
    }
    stage.allow([&kept]);
    run(&command, &["--once"], 0).await?;
    let plan = run(&command, &["sync", "--dry-run"], 0).await?;
    for line in [
        "in-ss: 1 desired, 1 live, 1 foreign; would add 0, remove 0, rewrite 0",
        "in-hysteria: 1 desired, 1 live, 0 foreign; would add 0, remove 0, rewrite 0",
    ] {
        ensure!(plan.stdout.contains(line), "{plan:#?}");
    }
    let ways = [&kept, &leaving].map(|user| {
        let route = |tag| config.route(tag, user);
        [route("in-ss"), route("in-hysteria")]
    });
    let client = Client::start_many(&ways.concat()).await?;
    client.get(0, &origin).await?;
    client.get(1, &origin).await?;
    ensure!(!client.is_served(2, &origin, REFUSED).await);
    ensure!(!client.is_served(3, &origin, REFUSED).await);
    Ok(())
}

#[tokio::test]
async fn an_api_on_a_unix_socket_is_reached_by_path_and_by_abstract_name() -> Result<()> {
    let sockets = tempfile::tempdir()?;
    let path = sockets.path().join("api.sock");
    let path = path.to_str().context("a path of text")?;
    let user = uuid();
    let origin = Origin::start().await?;
    for listen in [path, &format!("@xray-agent-{}", uuid())] {
        let config = ServerConfig::new().api_on(listen).vless("in-vless");
        let mut stage = Stage::set(&config).await?;
        let client = Client::start_many(&[config.route("in-vless", &user)]).await?;
        stage.allow([&user]);
        let served = async |stage: &Stage| {
            eventually("the user is served", LONG, async || {
                client.is_served(0, &origin, REFUSED).await
            })
            .await
            .with_context(|| stage.xray.api_addr())
        };
        let _agent = start(&stage.agent_on("in-vless")).await?;
        served(&stage).await?;
        stage.xray.restart().await?;
        served(&stage).await?;
    }
    Ok(())
}

#[tokio::test]
async fn inbounds_without_users_of_their_own_are_refused_and_the_others_served() -> Result<()> {
    let peers = json!([{"publicKey": random_key(32), "allowedIPs": ["10.0.0.2/32"]}]);
    let wireguard = json!({"secretKey": random_key(32), "peers": peers, "noKernelTun": true});
    let config = ServerConfig::new()
        .vless("in-vless")
        .trojan("in-trojan")
        .socks("in-socks")
        .http("in-http")
        .ss22_single("in-single")
        .inbound("in-wg", "wireguard", wireguard)
        .inbound(
            "in-door",
            "dokodemo-door",
            json!({"address": "127.0.0.1", "port": 9}),
        );
    let mut stage = Stage::set(&config).await?;
    let (kept, leaving) = (uuid(), uuid());
    stage.allow([&kept, &leaving]);
    let refused = [
        ("in-socks", "SOCKS accounts are fixed when Xray starts"),
        ("in-http", "HTTP accounts are fixed when Xray starts"),
        ("in-single", "add one static client to its settings"),
        ("in-wg", "WireGuard peers need keys and addresses"),
        ("in-door", "dokodemo-door has no users"),
        ("in-nope", "Xray has no inbound \"in-nope\"; it has: in-"),
    ];
    let tags = refused.map(|(tag, _)| tag).join("+");
    let command = stage.agent_on(&format!("in-vless+{tags}+in-trojan"));

    let once = run(&command, &["--once"], 1).await?;
    for (tag, why) in refused {
        let told = |line: &str| line.contains(tag) && line.contains(why);
        ensure!(once.stderr.lines().any(told), "{tag}: {once:#?}");
    }
    for tag in ["in-vless", "in-trojan"] {
        ensure!(stage.emails(tag).await? == set(emails(tag, &[&kept, &leaving])));
    }
    let _agent = start(&command).await?;
    stage.allow([&kept]);
    for tag in ["in-vless", "in-trojan"] {
        stage.live(tag, emails(tag, &[&kept])).await?;
    }
    ensure!(stage.xray.is_alive());
    Ok(())
}

#[tokio::test]
async fn a_refused_inbound_is_looked_at_again_at_each_poll_and_no_oftener() -> Result<()> {
    let stage = Stage::set(ServerConfig::new().vless("in-vless").socks("in-socks")).await?;
    stage.allow([uuid()]);
    let command = stage
        .agent_on("in-vless+in-socks")
        .env("INTERVAL_SECONDS", "3600");
    let agent = start(&command).await?;
    agent.await_log(&["WARN", "in-socks"], LONG).await?;
    // The panel takes its time over one poll: time enough for one that hammers.
    let answer = Answer::users(1, &json!([uuid()])).after(Duration::from_secs(2));
    stage.panel.set_answer(1, answer);
    run(&command, &["sync"], 1).await?;
    let log = agent.log();
    let passes = log
        .lines()
        .filter(|line| line.contains("in-socks") && line.contains("still: "));
    ensure!(passes.count() == 1, "{log}");
    Ok(())
}
