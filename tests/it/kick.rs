//! Cut off at once: whoever the panel removes in mid-download gets not one byte more, the last ones are
//! billed to the byte, and everybody else downloads on.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cutting::{again, is_started_again};
use crate::kick_stage::{
    FLOWING_BYTES, GAP_MAX, Person, REFUSED, Stage, ensure_silent, may_cut_here,
};
use crate::lab::provision::xray_program;
use crate::lab::{ServerConfig, eventually};
use crate::life::run;
use crate::support::LONG;

/// Everything over TCP that has users.
const TAGS: [&str; 7] = [
    "in-vless",
    "in-vision",
    "in-vmess",
    "in-trojan",
    "in-ss",
    "in-ws",
    "in-grpc",
];
/// From the panel's answer to the last byte: a bound, not a figure.
const CUT_WITHIN: Duration = Duration::from_secs(10);
/// What a connection that is spliced has counted of its downlink: two handshakes.
const SPLICED_BYTES_MAX: u64 = 64 << 10;

fn all_over_tcp() -> ServerConfig {
    ServerConfig::new()
        .vless("in-vless")
        .vless_tls("in-vision")
        .vmess("in-vmess")
        .trojan("in-trojan")
        .shadowsocks("in-ss")
        .vless_ws("in-ws")
        .vless_grpc("in-grpc")
}

/// Two on each inbound, each from an address of their own: who will be removed, then who stays.
fn two_on_each() -> Vec<Person> {
    let of = |(n, tag): (usize, &'static str)| {
        let address = |last| format!("127.0.{}.{last}", n + 1);
        [Person::new(tag, address(2)), Person::new(tag, address(3))]
    };
    TAGS.into_iter().enumerate().flat_map(of).collect()
}

/// The places of those who are removed, and of those who stay.
fn sides(people: usize) -> (Vec<usize>, Vec<usize>) {
    (0..people).partition(|which| which % 2 == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_removed_in_mid_download_is_cut_and_billed_to_the_byte() -> Result<()> {
    if !may_cut_here("kick::whoever_is_removed_in_mid_download_is_cut_and_billed_to_the_byte")? {
        return Ok(());
    }
    let mut stage = Stage::new(all_over_tcp(), two_on_each()).await?;
    let command = stage.command();
    let mut agent = stage.agent(&command).await?;
    let streams = stage.downloads().await?;
    let (removed, stay) = sides(streams.len());
    let spliced = stage.counted(2).await?;
    ensure!(
        spliced.1 <= SPLICED_BYTES_MAX,
        "is not spliced: {spliced:?}"
    );

    let told = stage.allow_all_but(&removed);
    for which in &removed {
        stage.await_cut(*which, &agent).await?;
    }
    for which in &removed {
        let (one, stream) = (&stage.people[*which], &streams[*which]);
        let (up, down) = stage.await_billed(*which, &agent).await?;
        let seen = stream.seen();
        ensure!(
            up > 0 && down >= seen.bytes,
            "{one:?}: {up} {down} {seen:?}"
        );
        let within = seen.last_byte.saturating_duration_since(told);
        ensure!(within < CUT_WITHIN, "{one:?}: {within:?}");
        ensure!(!stage.client.is_served(*which, &stage.origin, REFUSED).await);
    }
    for which in &stay {
        let one = &stage.people[*which];
        let seen = streams[*which]
            .await_more(FLOWING_BYTES)
            .await
            .context(one.tag)?;
        ensure!(seen.gap_max < GAP_MAX, "{one:?}: {seen:?}");
        ensure_silent(&streams[which - 1], &streams[*which])
            .await
            .context(one.tag)?;
        ensure!(streams[*which].is_open(), "{one:?}");
    }
    told_of_cuts(&stage.kicks().await?)?;
    // Over gRPC a connection outlives its streams.
    stage.client.xray().kill().await?;
    for which in stay {
        stage.await_cut(which, &agent).await?;
    }
    let ended = agent.terminate(LONG).await?;
    ensure!(ended.success(), "{ended}");
    for which in 0..stage.people.len() {
        let (billed, counted) = (stage.billed(which), stage.counted(which).await?);
        ensure!(
            billed == counted,
            "{:?}: {billed:?} of {counted:?}",
            stage.people[which]
        );
    }
    Ok(())
}

/// One user of each inbound was cut, by what the agent says.
fn told_of_cuts(kicks: &[Value]) -> Result<()> {
    for (kick, tag) in kicks.iter().zip(TAGS) {
        ensure!(
            kick["enabled"] == true && kick["obstacle"].is_null(),
            "{tag}: {kick}"
        );
        ensure!(kick["users"] == 1 && kick["not_cut"] == 0, "{tag}: {kick}");
        ensure!(kick["sockets"].as_u64() >= Some(1), "{tag}: {kick}");
    }
    ensure!(kicks.len() == TAGS.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_kick_off_whoever_is_removed_downloads_on_and_cannot_come_back() -> Result<()> {
    let stage = Stage::new(all_over_tcp(), two_on_each()).await?;
    let command = stage.command().env("XRAY_KICK", "off");
    let _agent = stage.agent(&command).await?;
    let streams = stage.downloads().await?;
    let (removed, _) = sides(streams.len());
    stage.allow_all_but(&removed);
    for which in removed {
        let tag = stage.people[which].tag;
        stage.await_removed(which).await?;
        ensure!(
            !stage.client.is_served(which, &stage.origin, REFUSED).await,
            "{tag}"
        );
        streams[which]
            .await_more(4 * FLOWING_BYTES)
            .await
            .context(tag)?;
    }
    for kick in stage.kicks().await? {
        ensure!(kick["enabled"] == false && kick["users"] == 0, "{kick}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn last_bytes_that_the_panel_refuses_are_kept_as_rejected() -> Result<()> {
    if !may_cut_here("kick::last_bytes_that_the_panel_refuses_are_kept_as_rejected")? {
        return Ok(());
    }
    let people = vec![
        Person::new("in-vision", "127.0.0.2"),
        Person::new("in-vision", "127.0.0.3"),
    ];
    let stage = Stage::new(ServerConfig::new().vless_tls("in-vision"), people).await?;
    let user = stage.people[0].user.clone();
    stage
        .set
        .panel
        .refuse(&user, 403, "no_entitlement_for_node");
    let command = stage.command();
    let agent = stage.agent(&command).await?;
    let (stream, other) = (stage.download(0).await?, stage.download(1).await?);
    stage.allow_all_but(&[0]);
    stage.await_cut(0, &agent).await?;
    ensure_silent(&stream, &other).await?;
    let seen = stream.seen();
    let rejected = eventually("all bytes are kept", LONG, async || {
        let counted = stage.counted(0).await.ok()?;
        let listed = run(&command, &["traffic", "rejected", "--json"], 0)
            .await
            .ok()?;
        let listed: Vec<Value> = serde_json::from_str(&listed.stdout).ok()?;
        let own = listed
            .iter()
            .filter(|report| report["uuid"] == user.as_str());
        let bytes = |way: &'static str| own.clone().filter_map(move |it| it[way].as_u64()).sum();
        let sum: (u64, u64) = (bytes("up"), bytes("down"));
        (sum == counted).then_some(sum)
    })
    .await
    .with_context(|| agent.log())?;
    ensure!(rejected.1 >= seen.bytes, "{rejected:?} {seen:?}");
    ensure!(stage.billed(0) == (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bystander_behind_the_same_address_is_cut_too_and_reconnects_at_once() -> Result<()> {
    if !may_cut_here("kick::a_bystander_behind_the_same_address_is_cut_too_and_reconnects_at_once")?
    {
        return Ok(());
    }
    let people = ["127.0.0.2", "127.0.0.2", "127.0.0.3"].map(|from| Person::new("in", from));
    let stage = Stage::new(ServerConfig::new().vless("in"), people.into()).await?;
    let agent = stage.agent(&stage.command()).await?;
    let streams = stage.downloads().await?;
    stage.allow_all_but(&[0]);
    stage.await_cut(0, &agent).await?;
    // At once: no pass of the agent lies between.
    stage.client.get(1, &stage.origin).await?;
    let again = stage.download(1).await?;
    for cut in &streams[..2] {
        ensure_silent(cut, &streams[2]).await?;
    }
    again.await_more(FLOWING_BYTES).await?;
    ensure!(!stage.client.is_served(0, &stage.origin, REFUSED).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_many_streams_falls_with_its_connection() -> Result<()> {
    if !may_cut_here("kick::a_session_of_many_streams_falls_with_its_connection")? {
        return Ok(());
    }
    for (kick, ends) in [("auto", true), ("off", false)] {
        let people = vec![
            Person::new("in", "127.0.0.2").with_mux(),
            Person::new("in", "127.0.0.3").with_mux(),
        ];
        let stage = Stage::new(ServerConfig::new().vless("in"), people).await?;
        let command = stage.command().env("XRAY_KICK", kick);
        let agent = stage.agent(&command).await?;
        let (first, second) = (stage.download(0).await?, stage.download(0).await?);
        let other = stage.download(1).await?;
        ensure!(stage.sockets(0)? == 1, "is not one connection");
        stage.allow_all_but(&[0]);
        stage.await_removed(0).await?;
        if ends {
            stage.await_cut(0, &agent).await?;
            for stream in [&first, &second] {
                ensure_silent(stream, &other).await?;
            }
        } else {
            for stream in [&first, &second] {
                stream.await_more(4 * FLOWING_BYTES).await?;
            }
        }
        // Xray takes new streams of a session that is open, whoever was removed.
        let served = stage.client.is_served(0, &stage.origin, REFUSED).await;
        ensure!(served != ends, "{kick}");
        other.await_more(FLOWING_BYTES).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv4_peer_of_a_listener_for_both_families_is_cut() -> Result<()> {
    if !may_cut_here("kick::an_ipv4_peer_of_a_listener_for_both_families_is_cut")? {
        return Ok(());
    }
    let people = vec![
        Person::new("in", "127.0.0.2"),
        Person::new("in", "127.0.0.3"),
    ];
    let config = ServerConfig::new().vless("in").listening_on("in", "::");
    let stage = Stage::new(config, people).await?;
    let agent = stage.agent(&stage.command()).await?;
    let streams = stage.downloads().await?;
    stage.allow_all_but(&[0]);
    stage.await_cut(0, &agent).await?;
    ensure_silent(&streams[0], &streams[1]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_peer_is_cut() -> Result<()> {
    if !is_started_again() {
        // Xray never counts ::1, and only a network of its own can be given further addresses.
        xray_program()?;
        let script = "ip link set lo up && ip addr add fd00::2/128 dev lo \
            && ip addr add fd00::3/128 dev lo && exec \"$0\" \"$@\"";
        let of_its_own = ["-Urn", "sh", "-c", script];
        again(
            Command::new("unshare").args(of_its_own),
            "kick::an_ipv6_peer_is_cut",
        );
        return Ok(());
    }
    let people = ["fd00::2", "fd00::3"].map(|from| Person::new("in", from));
    let config = ServerConfig::new().vless("in").listening_on("in", "::");
    let stage = Stage::new(config, people.into()).await?;
    let agent = stage.agent(&stage.command()).await?;
    let streams = stage.downloads().await?;
    ensure!(stage.sockets(0)? > 0, "comes from elsewhere");
    stage.allow_all_but(&[0]);
    stage.await_cut(0, &agent).await?;
    ensure_silent(&streams[0], &streams[1]).await
}
