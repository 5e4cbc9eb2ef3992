//! A wrong call ends the whole Xray with everybody on it (`behaviour.md` §2.2). Whatever the
//! configuration, the panel or another hand does, no such call reaches it, and whoever is allowed
//! is served. In one file of some length: each test is one way to end an Xray, with its proof that it lives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::uri::PathAndQuery;
use prost::Message;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use xray_agent::xray::proto::xray::app::proxyman::command::{
    ListInboundsRequest, RemoveInboundRequest,
};

use super::life::{Stage, run, set, start, vless_entry};
use crate::lab::inbounds::STATIC_EMAIL;
use crate::lab::secrets::nth_uuid;
use crate::lab::{AgentCommand, Client, Origin, ServerConfig, Xray, eventually, uuid};
use crate::support::LONG;

/// For a user who is expected not to be served.
const REFUSED: Duration = Duration::from_millis(1_500);

/// That it is still the same process.
struct Unharmed(u32);

impl Unharmed {
    fn so_far(xray: &Xray) -> Self {
        Self(xray.pid())
    }

    fn check(&self, xray: &mut Xray) -> Result<()> {
        let unharmed = xray.is_alive() && xray.pid() == self.0;
        ensure!(unharmed, "Xray ended:\n{}", xray.log());
        Ok(())
    }
}

#[tokio::test]
async fn a_protocol_that_is_configured_wrongly_or_guessed_from_the_tag_is_not_believed()
-> Result<()> {
    // The tags lie.
    let config = ServerConfig::new()
        .vless("in-vmess")
        .vmess("in-vless")
        .trojan("in-trojan")
        .shadowsocks("in-ss")
        .shadowsocks2022("in-ss22")
        .hysteria("in-hysteria");
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let tags = [
        "in-vmess",
        "in-vless",
        "in-trojan",
        "in-ss",
        "in-ss22",
        "in-hysteria",
    ];
    let users = [uuid(), uuid(), uuid()];
    let origin = Origin::start().await?;
    // Everybody by every inbound.
    let routes = users.iter().flat_map(|user| {
        let config = &config;
        tags.iter().map(move |tag| config.route(tag, user))
    });
    let client = Client::start_many(&routes.collect::<Vec<_>>()).await?;
    let all_served = async |count: usize| {
        for which in 0..count * tags.len() {
            client
                .get(which, &origin)
                .await
                .with_context(|| tags[which % tags.len()])?;
        }
        anyhow::Ok(())
    };

    stage.allow(&users[..1]);
    run(&stage.agent_on(&tags.join("+")), &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    all_served(1).await?;

    // Each protocol is claimed of another's inbound.
    let protocols = [
        "vless",
        "vmess",
        "trojan",
        "shadowsocks",
        "shadowsocks-2022",
        "hysteria",
    ];
    for (shift, allowed) in [(1, 2), (3, 3)] {
        let claimed = protocols.iter().cycle().skip(shift);
        let inbounds = tags.iter().zip(claimed).map(|(tag, protocol)| {
            format!("{{ tag = '{tag}', protocol = '{protocol}', method = 'aes-128-gcm' }}")
        });
        let inbounds = inbounds.collect::<Vec<_>>().join(", ");
        let toml = format!("[[node]]\nid = 1\ninbounds = [{inbounds}]\n");
        stage.allow(&users[..allowed]);
        run(&stage.agent_with(&toml)?, &["--once"], 0).await?;
        unharmed.check(&mut stage.xray)?;
        all_served(allowed).await?;
    }
    Ok(())
}

#[tokio::test]
async fn hostile_entries_of_the_panels_list_never_reach_xray() -> Result<()> {
    let tags = ["in-vless", "in-vmess", "in-trojan", "in-hysteria"];
    let config = ServerConfig::new()
        .vless(tags[0])
        .vmess(tags[1])
        .trojan(tags[2])
        .hysteria(tags[3]);
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let (good, upper) = (uuid(), uuid());
    let plain = good.replace('-', "");
    let mut list: Vec<String> = (1..=30).map(|length| plain[..length].to_owned()).collect();
    list.extend([
        good.clone(),
        format!("\t{} \n", upper.to_uppercase()),
        good.to_uppercase(),
        String::new(),
        " ".to_owned(),
        plain[..31].to_owned(),
        plain.clone(),
        good[..35].to_owned(),
        format!("{good}0"),
        format!("{{{good}}}"),
        format!("urn:uuid:{good}"),
        format!("{good}\u{0}"),
        good.replace('-', "g"),
        "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz".to_owned(),
        format!("{}\u{e9}{}", &good[..17], &good[19..]),
        "user>>>a>>>traffic>>>uplink".to_owned(),
        "a>>>b".to_owned(),
        "\u{202e}".repeat(12),
        "x".repeat(100_000),
    ]);
    stage.allow(&list);
    let once = run(&stage.agent_on(&tags.join("+")), &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    // Of 49 entries two are blank and three are good, two of them the same user.
    ensure!(
        once.stdout.contains("node 1: 2 allowed, 44 malformed"),
        "{:?}",
        once.stdout
    );
    for tag in tags {
        let expected = [&good, &upper].map(|user| format!("{tag}.{user}"));
        ensure!(stage.emails(tag).await? == set(expected));
    }
    ensure!(!once.stderr.contains(&good), "a whole UUID in the log");
    let client = Client::start_many(&tags.map(|tag| config.route(tag, &upper))).await?;
    let origin = Origin::start().await?;
    for (which, tag) in tags.into_iter().enumerate() {
        client.get(which, &origin).await.context(tag)?;
    }
    Ok(())
}

#[tokio::test]
async fn one_bad_user_in_a_thousand_stops_none_of_the_others() -> Result<()> {
    let mut stage = Stage::set(ServerConfig::new().vless("in-vless").vmess("in-vmess")).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let mut list: Vec<String> = (0..1_000).map(nth_uuid).collect();
    list[500] = "hello".to_owned();
    stage.allow(&list);
    let command = stage.agent_on("in-vless+in-vmess").env("RUST_LOG", "trace");
    let once = run(&command, &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    for words in [
        "999 allowed, 1 malformed",
        "in-vless (vless): 999 live",
        "in-vmess (vmess): 999 live",
    ] {
        ensure!(once.stdout.contains(words), "{once:#?}");
    }
    for words in ["\"entries\":1", "no UUID", "entry 500", "hello"] {
        let warned = |line: &str| line.contains("WARN") && line.contains(words);
        ensure!(once.stderr.lines().any(warned), "{words}: {once:#?}");
    }
    list.remove(500);
    for tag in ["in-vless", "in-vmess"] {
        let expected = list.iter().map(|user| format!("{tag}.{user}"));
        ensure!(stage.emails(tag).await? == set(expected));
    }
    Ok(())
}

#[tokio::test]
async fn users_that_xray_cannot_tell_apart_are_served_one_at_a_time() -> Result<()> {
    let config = ServerConfig::new()
        .vless("in-vless")
        .vmess("in-vmess")
        .shadowsocks2022("in-ss22")
        .hysteria("in-hysteria");
    let tags = ["in-vless", "in-vmess", "in-ss22", "in-hysteria"];
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    // Equal but for bytes 6 and 7, which VLESS and Hysteria pass over; equal in the 16 characters
    // that make a key.
    let smaller = "c0111de0-0000-4000-8000-000000000001".to_owned();
    let other = "c0111de0-0000-40ff-8000-000000000001".to_owned();
    let (late, third) = ("c0111de0-0000-40ff-8000-000000000002".to_owned(), uuid());
    let command = stage.agent_on(&tags.join("+"));
    let expect = async |stage: &Stage, of: [&[&String]; 4]| {
        for (tag, users) in tags.into_iter().zip(of) {
            let ours = users.iter().map(|user| format!("{tag}.{user}"));
            let foreign = (tag == "in-ss22").then(|| STATIC_EMAIL.to_owned());
            stage.live(tag, ours.chain(foreign)).await?;
        }
        anyhow::Ok(())
    };

    stage.allow([&other, &late, &smaller, &third]);
    let once = run(&command, &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    let everybody: &[&String] = &[&smaller, &other, &late, &third];
    // Bytes 6 and 7 do not hide a difference further on; a key of 16 characters does.
    let by_id: &[&String] = &[&smaller, &late, &third];
    let by_key: &[&String] = &[&smaller, &third];
    expect(&stage, [by_id, everybody, by_key, by_id]).await?;
    for words in [
        "in-vless (vless): 3 live, 3 added, 0 removed, 1 in conflict",
        "in-vmess (vmess): 4 live, 4 added, 0 removed\n",
        "in-ss22 (shadowsocks-2022): 2 live, 2 added, 0 removed, 1 foreign, 2 in conflict",
    ] {
        ensure!(once.stdout.contains(words), "{once:#?}");
    }
    let again = run(&command, &["--once"], 0).await?;
    ensure!(!again.stderr.contains("users changed"), "{again:#?}");

    // The smaller one leaves: the secret goes with that entry, and the next one gets it.
    stage.allow([&other, &late, &third]);
    let _agent = start(&command).await?;
    expect(
        &stage,
        [
            &[&other, &late, &third],
            &[&other, &late, &third],
            &[&other, &third],
            &[&other, &late, &third],
        ],
    )
    .await?;
    let routes = [&other, &third].map(|user| tags.map(|tag| config.route(tag, user)));
    let (client, origin) = (
        Client::start_many(&routes.concat()).await?,
        Origin::start().await?,
    );
    for which in 0..routes.concat().len() {
        client.get(which, &origin).await.context(tags[which % 4])?;
    }
    // And back again: it is not both at any time.
    stage.allow([&other, &smaller, &late, &third]);
    expect(&stage, [by_id, everybody, by_key, by_id]).await?;
    client.get(0, &origin).await?;

    stage.allow([&third]);
    expect(&stage, [&[&third]; 4]).await?;
    ensure!(!client.is_served(0, &origin, REFUSED).await);
    unharmed.check(&mut stage.xray)
}

#[tokio::test]
async fn an_xray_that_comes_back_with_another_protocol_under_the_tag_is_told_apart() -> Result<()> {
    let api = ServerConfig::new().api_addr();
    let of = |protocol: &str| {
        let config = ServerConfig::new().api_on(&api);
        match protocol {
            "vmess" => config.vmess("in-a"),
            "trojan" => config.trojan("in-a"),
            "shadowsocks" => config.shadowsocks("in-a"),
            "shadowsocks-2022" => config.shadowsocks2022("in-a"),
            "hysteria" => config.hysteria("in-a"),
            _ => config.vless("in-a"),
        }
    };
    let (users, origin) = ([uuid(), uuid()], Origin::start().await?);
    let mut stage = Stage::set(of("vless")).await?;
    stage.allow(&users);
    let agent = start(&stage.agent_on("in-a")).await?;
    stage.live("in-a", &users).await?;
    for protocol in [
        "vmess",
        "trojan",
        "shadowsocks",
        "shadowsocks-2022",
        "hysteria",
        "vless",
    ] {
        let config = of(protocol);
        stage.xray.restart_with(&config).await?;
        let unharmed = Unharmed::so_far(&stage.xray);
        let foreign = protocol.starts_with("shadowsocks").then_some(STATIC_EMAIL);
        let ours = users.iter().map(String::as_str);
        let live = stage.live("in-a", ours.chain(foreign)).await;
        unharmed.check(&mut stage.xray)?;
        live.with_context(|| format!("{protocol}: {}", agent.log()))?;
        let client = Client::start_many(&[config.route("in-a", &users[0])]).await?;
        client.get(0, &origin).await.context(protocol)?;
    }
    Ok(())
}

/// An inbound as Xray tells it, with all that is in it.
#[derive(Clone, PartialEq, Message)]
struct WholeInbound {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(bytes = "vec", tag = "2")]
    receiver: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    proxy: Vec<u8>,
}

/// The answer of `ListInbounds`; one of them is the question of `AddInbound`.
#[derive(Clone, PartialEq, Message)]
struct WholeInbounds {
    #[prost(message, repeated, tag = "1")]
    inbounds: Vec<WholeInbound>,
}

/// Calls that the agent has no use for.
struct OtherHand(Channel);

impl OtherHand {
    async fn connect(xray: &Xray) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{}", xray.api_addr()))?;
        Ok(Self(endpoint.connect().await?))
    }

    async fn call<Q, A>(&self, method: &str, question: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/xray.app.proxyman.command.HandlerService/{method}");
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await?;
        let answer = client
            .unary(
                tonic::Request::new(question),
                PathAndQuery::try_from(path)?,
                codec,
            )
            .await?;
        Ok(answer.into_inner())
    }

    async fn remove(&self, tag: &str) -> Result<()> {
        let tag = tag.to_owned();
        self.call("RemoveInbound", RemoveInboundRequest { tag })
            .await
    }

    /// From now on the inbound `spare` is under the tag of another one, which is gone.
    async fn put_in_place(&self, tag: &str, spare: &str) -> Result<()> {
        let question = ListInboundsRequest {
            is_only_tags: false,
        };
        let all: WholeInbounds = self.call("ListInbounds", question).await?;
        let found = all.inbounds.iter().find(|one| one.tag == spare);
        let mut inbound = found.cloned().context("no such spare inbound")?;
        inbound.tag = tag.to_owned();
        for gone in [tag, spare] {
            let there = all.inbounds.iter().any(|one| one.tag == gone);
            if there {
                self.remove(gone).await?;
            }
        }
        let inbounds = vec![inbound];
        self.call("AddInbound", WholeInbounds { inbounds }).await
    }
}

#[tokio::test]
async fn inbounds_replaced_by_another_hand_between_two_polls_are_told_apart() -> Result<()> {
    let spares = ["vmess", "trojan", "ss", "ss22", "hysteria"];
    let managed = spares.map(|spare| format!("in-{spare}"));
    let config = managed
        .iter()
        .fold(ServerConfig::new(), |config, tag| config.vless(tag))
        .vmess("vmess")
        .with_client("vmess", json!({"id": uuid(), "email": STATIC_EMAIL}))
        .trojan("trojan")
        .with_client("trojan", json!({"password": uuid(), "email": STATIC_EMAIL}))
        .shadowsocks("ss")
        .shadowsocks2022("ss22")
        .hysteria("hysteria")
        .with_client("hysteria", json!({"auth": uuid(), "email": STATIC_EMAIL}));
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let (first, second) = (uuid(), uuid());
    // Only what it is asked for: that it polls is not the point here.
    let command = stage
        .agent_on(&managed.join("+"))
        .env("INTERVAL_SECONDS", "3600");
    stage.allow([&first]);
    let mut agent = start(&command).await?;
    for tag in &managed {
        stage.live(tag, [format!("{tag}.{first}")]).await?;
    }
    // After this one the agent trusts what it has read.
    run(&command, &["sync"], 0).await?;

    // Each has one user before and after, and Xray is the same process: nothing looks different.
    let hand = OtherHand::connect(&stage.xray).await?;
    for (tag, spare) in managed.iter().zip(spares) {
        hand.put_in_place(tag, spare).await.context(spare)?;
    }
    stage.allow([&first, &second]);
    let synced = command.clone().arg("sync").run_to_end(LONG).await?;
    unharmed.check(&mut stage.xray)?;
    ensure!(synced.code == Some(0), "{synced:#?}");
    for tag in &managed {
        let ours = [&first, &second].map(|user| format!("{tag}.{user}"));
        let expected = ours.into_iter().chain([STATIC_EMAIL.to_owned()]);
        stage.live(tag, expected).await?;
    }
    let (origin, routes) = (
        Origin::start().await?,
        spares.map(|spare| config.route(spare, &second)),
    );
    let client = Client::start_many(&routes).await?;
    for (which, spare) in spares.into_iter().enumerate() {
        client.get(which, &origin).await.context(spare)?;
    }
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

#[tokio::test]
async fn an_inbound_that_is_taken_away_and_put_back_is_filled_again() -> Result<()> {
    let config = ServerConfig::new()
        .vless("in-a")
        .vless("in-b")
        .trojan("spare");
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let users = [uuid(), uuid(), uuid()];
    let emails = |tag: &str, users: &[String]| set(users.iter().map(|u| format!("{tag}.{u}")));
    stage.allow(&users[..2]);
    let command = stage.agent_on("in-a+in-b");
    let _agent = start(&command).await?;
    stage.live("in-a", emails("in-a", &users[..2])).await?;

    let hand = OtherHand::connect(&stage.xray).await?;
    hand.remove("in-a").await?;
    stage.allow(&users);
    let without = run(&command, &["sync"], 1).await?;
    let why = "Xray has no inbound \"in-a\"; it has: in-b, spare";
    ensure!(without.stderr.contains(why), "{without:#?}");
    ensure!(stage.emails("in-b").await? == emails("in-b", &users));

    hand.put_in_place("in-a", "spare").await?;
    stage.live("in-a", emails("in-a", &users)).await?;
    let client = Client::start_many(&[config.route("spare", &users[2])]).await?;
    client.get(0, &Origin::start().await?).await?;
    unharmed.check(&mut stage.xray)
}

#[tokio::test]
async fn shadowsocks_whose_users_show_no_method_is_refused_until_it_is_configured() -> Result<()> {
    let config = ServerConfig::new()
        .vless("in-vless")
        .shadowsocks("in-ss")
        .shadowsocks2022("in-ss22");
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let mut api = stage.api().await?;
    for tag in ["in-ss", "in-ss22"] {
        api.remove(tag, STATIC_EMAIL).await?;
    }
    let user = uuid();
    stage.allow([&user]);
    let refused = run(&stage.agent_on("in-ss+in-vless+in-ss22"), &["--once"], 1).await?;
    for (tag, method) in [
        ("in-ss", "(aes-128-gcm,"),
        ("in-ss22", "(2022-blake3-aes-128-gcm,"),
    ] {
        let words = [
            &format!("inbound \"{tag}\""),
            "node.inbounds.method",
            method,
        ];
        let told = |line: &str| words.iter().all(|word| line.contains(*word));
        ensure!(refused.stderr.lines().any(told), "{refused:#?}");
        ensure!(stage.emails(tag).await?.is_empty());
    }
    ensure!(stage.emails("in-vless").await? == set([format!("in-vless.{user}")]));

    let toml = "[[node]]\nid = 1\ninbounds = ['in-vless', \
                { tag = 'in-ss', method = 'aes-256-gcm' }, \
                { tag = 'in-ss22', method = '2022-blake3-aes-128-gcm' }]\n";
    run(&stage.agent_with(toml)?, &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    let routes = ["in-ss", "in-ss22", "in-vless"].map(|tag| config.route(tag, &user));
    let client = Client::start_many(&routes).await?;
    let origin = Origin::start().await?;
    for which in 0..routes.len() {
        client.get(which, &origin).await?;
    }
    Ok(())
}

/// Xray says no to another protocol's account in a VMess inbound, keeps the entry all the same, and
/// ends when that is removed: what a connector that guessed the protocol leaves behind.
#[tokio::test]
async fn an_entry_whose_removal_would_end_xray_is_left_alone() -> Result<()> {
    let config = ServerConfig::new().vmess("in-vmess");
    let (wanted, unwanted, other) = (uuid(), uuid(), uuid());
    let route = config.route("in-vmess", &other);
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let mut api = stage.api().await?;
    for email in [&wanted, &unwanted, "guest@elsewhere"] {
        let refused = api.add("in-vmess", vless_entry(email, &uuid())).await;
        ensure!(refused.is_err());
    }
    let left = [&wanted, &unwanted, "guest@elsewhere"];
    ensure!(stage.emails("in-vmess").await? == set(left));
    stage.allow([&wanted, &other]);
    let toml = "[[node]]\nid = 1\ninbounds = [{ tag = 'in-vmess', exclusive = true }]\n";
    let commands: [AgentCommand; 2] = [stage.agent_on("in-vmess"), stage.agent_with(toml)?];
    for command in commands {
        let once = command.clone().arg("--once").run_to_end(LONG).await?;
        unharmed.check(&mut stage.xray)?;
        ensure!(once.stdout.contains("in-vmess (vmess)"), "{once:#?}");
        stage
            .live("in-vmess", left.into_iter().chain([other.as_str()]))
            .await?;
    }
    let client = Client::start_many(&[route]).await?;
    let origin = Origin::start().await?;
    eventually("the other one is served", LONG, async || {
        client.is_served(0, &origin, REFUSED).await
    })
    .await
}

#[tokio::test]
async fn entries_without_an_email_are_never_removed_by_one() -> Result<()> {
    let tags = ["in-vless", "in-vmess", "in-trojan", "in-hysteria"];
    let config = ServerConfig::new()
        .vless(tags[0])
        .with_client(tags[0], json!({"id": uuid()}))
        .vmess(tags[1])
        .with_client(tags[1], json!({"id": uuid()}))
        .trojan(tags[2])
        .with_client(tags[2], json!({"password": uuid()}))
        .hysteria(tags[3])
        .with_client(tags[3], json!({"auth": uuid()}));
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let user = uuid();
    stage.allow([&user]);
    let inbounds = tags.map(|tag| format!("{{ tag = '{tag}', exclusive = true }}"));
    let toml = format!("[[node]]\nid = 1\ninbounds = [{}]\n", inbounds.join(", "));
    let command = stage.agent_with(&toml)?;
    let nameless = |emails: &[String]| emails.iter().filter(|email| email.is_empty()).count();
    let mut api = stage.api().await?;
    let mut before = Vec::new();
    for tag in tags {
        before.push(nameless(&api.emails(tag).await?));
    }
    run(&command, &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    for (tag, before) in tags.into_iter().zip(before) {
        let emails = api.emails(tag).await?;
        ensure!(emails.contains(&format!("{tag}.{user}")), "{emails:?}");
        ensure!(nameless(&emails) == before, "{tag}: {emails:?}");
    }
    let again = run(&command, &["--once"], 0).await?;
    ensure!(!again.stderr.contains("users changed"), "{again:#?}");
    Ok(())
}

#[tokio::test]
async fn a_tag_that_would_spoil_emails_is_written_otherwise_and_a_bad_name_is_refused() -> Result<()>
{
    let odd = "In VLESS>>>traffic>>>\u{e9}";
    let config = ServerConfig::new().vless(odd).vmess("in-vmess");
    let mut stage = Stage::set(&config).await?;
    let unharmed = Unharmed::so_far(&stage.xray);
    let user = uuid();
    stage.allow([&user]);
    run(&stage.agent_on(&format!("{odd}+in-vmess")), &["--once"], 0).await?;
    unharmed.check(&mut stage.xray)?;
    let emails = stage.emails(odd).await?;
    let email = emails.first().context("nobody was added")?;
    let (prefix, uuid) = email.rsplit_once('.').context("the prefixed form")?;
    ensure!(uuid == user && emails.len() == 1, "{emails:?}");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(prefix.chars().all(plain), "{prefix}");

    for (inbound, key) in [
        ("{ tag = 'in-vmess', kernel_id = 'a>>>b' }", "kernel_id"),
        ("{ tag = '' }", "tag"),
        ("{ tag = 'in-vmess', protocol = 'vmes' }", "protocol"),
        ("{ tag = 'in-vmess', method = 'aes-256' }", "method"),
        ("{ tag = 'in-vmess', flow = 'a>>>b' }", "flow"),
    ] {
        let toml = format!("[[node]]\nid = 1\ninbounds = [{inbound}]\n");
        let refused = stage.agent_with(&toml)?;
        let refused = refused.arg("--once").run_to_end(LONG).await?;
        ensure!(refused.code == Some(2), "{inbound}: {refused:#?}");
        ensure!(refused.stderr.contains(key), "{inbound}: {refused:#?}");
    }
    unharmed.check(&mut stage.xray)
}
