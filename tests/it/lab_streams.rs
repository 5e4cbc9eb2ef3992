//! Endless streams, seen by the user and by Xray's own counters: what the tests of cutting stand on.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::net::TcpStream;

use crate::lab::stats::user_counters;
use crate::lab::stream::End;
use crate::lab::{Client, Origin, Pace, Route, ServerConfig, Stream, Xray, eventually, uuid};
use crate::support::LONG;

/// Enough that a connection is well under way.
const FLOWING_BYTES: u64 = 256 << 10;
/// What a connection that is spliced has counted of its downlink: two handshakes.
const SPLICED_BYTES_MAX: u64 = 64 << 10;

/// Every inbound over TCP, each with one user of its own, who comes from 127.0.0.2.
fn everything_over_tcp() -> (ServerConfig, Vec<(&'static str, Route)>) {
    let mut config = ServerConfig::new()
        .vless("in-vless")
        .vless_tls("in-vision")
        .vless_ws("in-ws")
        .vless_grpc("in-grpc")
        .vmess("in-vmess")
        .trojan("in-trojan")
        .shadowsocks("in-ss");
    let tags = [
        "in-vless",
        "in-vision",
        "in-ws",
        "in-grpc",
        "in-vmess",
        "in-trojan",
        "in-ss",
    ];
    let mut routes = Vec::new();
    for tag in tags {
        let user = uuid();
        // Each protocol takes what it knows of this.
        let mut entry =
            json!({"id": user, "password": user, "email": tag, "method": "aes-256-gcm"});
        if tag == "in-vision" {
            entry["flow"] = "xtls-rprx-vision".into();
        }
        config = config.with_client(tag, entry);
        routes.push((tag, config.route(tag, &user).sent_from("127.0.0.2")));
    }
    (config, routes)
}

async fn counters(xray: &Xray) -> Result<BTreeMap<String, (u64, u64)>> {
    user_counters(&xray.api_addr()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_flow_through_every_protocol_both_ways_until_xray_ends() -> Result<()> {
    let (config, routes) = everything_over_tcp();
    let mut xray = Xray::start(&config).await?;
    let ways: Vec<Route> = routes.iter().map(|(_, route)| route.clone()).collect();
    let (client, origin) = (Client::start_many(&ways).await?, Origin::start().await?);
    let mut streams = Vec::new();
    for which in 0..ways.len() {
        streams.push((which, client.stream(which, &origin).await?));
        streams.push((which, client.upload(which, &origin).await?));
        streams.push((which, client.tls_stream(which, &origin).await?));
    }
    for (which, stream) in &streams {
        let flows = stream.await_more(FLOWING_BYTES).await;
        flows.context(routes[*which].0)?;
    }
    xray.kill().await?;
    for (which, stream) in &streams {
        let seen = stream.await_end(LONG).await.context(routes[*which].0)?;
        ensure!(seen.bytes >= FLOWING_BYTES);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spliced_download_is_counted_at_its_end_only() -> Result<()> {
    let user = uuid();
    let entry = json!({"id": user, "email": "spliced", "flow": "xtls-rprx-vision"});
    let config = ServerConfig::new()
        .vless_tls("in-vision")
        .with_client("in-vision", entry);
    let xray = Xray::start(&config).await?;
    let client = Client::start_many(&[config.route("in-vision", &user)]).await?;
    let origin = Origin::start().await?;
    let stream = client.tls_stream(0, &origin).await?;
    let seen = stream.await_more(4 * FLOWING_BYTES).await?;
    let (_, down) = counters(&xray).await?["spliced"];
    ensure!(down <= SPLICED_BYTES_MAX, "{down} of {}", seen.bytes);
    drop(stream);
    eventually("what was spliced is counted", LONG, async || {
        let counted = counters(&xray).await.ok();
        counted.is_some_and(|counted| counted["spliced"].1 >= seen.bytes)
    })
    .await
}

#[tokio::test]
async fn other_bytes_than_were_sent_are_told() -> Result<()> {
    let origin = Origin::start().await?;
    // Its own head comes back.
    let echo = TcpStream::connect(origin.echo_addr()).await?;
    let stream = Stream::download(echo, Pace::default());
    ensure!(stream.await_end(LONG).await.is_err());
    ensure!(matches!(stream.seen().ended, Some((_, End::Corrupt))));
    Ok(())
}
