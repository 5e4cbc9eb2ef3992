//! Transfers of an exact size, seen by Xray's own counters: what the tests of traffic stand on.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::lab::{Client, Origin, ServerConfig, Transfer, Xray, eventually, stats, uuid};
use crate::support::LONG;

#[tokio::test]
async fn an_upload_is_answered_with_its_size() -> Result<()> {
    let origin = Origin::start().await?;
    let url = format!("http://{}/upload", origin.addr());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.post(url).body(vec![7; 300_000]).send().await?;
    assert_eq!(answer.text().await?, "300000");
    Ok(())
}

/// A server with that many VLESS users, by the e-mails `user-0`, `user-1`, …, and their client.
async fn start(config: ServerConfig, count: usize) -> Result<(Xray, Client)> {
    let mut config = config.vless("in-vless");
    let mut routes = Vec::new();
    for n in 0..count {
        let user = uuid();
        let entry = json!({"id": user, "email": format!("user-{n}")});
        config = config.with_client("in-vless", entry);
        routes.push(config.route("in-vless", &user));
    }
    let client = Client::start_many(&routes);
    Ok((Xray::start(&config).await?, client.await?))
}

#[tokio::test]
async fn xray_counts_a_transfer_to_the_byte() -> Result<()> {
    let origin = Origin::start().await?;
    let (xray, client) = start(ServerConfig::new(), 4).await?;
    let api = xray.api_addr();
    client.transfer(0, &origin, 0, 3_000_000).await?;
    client.transfer(1, &origin, 1_234_567, 0).await?;
    let both = Transfer::at_once(100_000, 400_001).paced(50_000, Duration::from_millis(10));
    client.transfer_at(2, &origin, both).await?;

    let expected = [
        ("user-0".to_owned(), (16, 3_000_000)),
        ("user-1".to_owned(), (16 + 1_234_567, 0)),
        ("user-2".to_owned(), (16 + 100_000, 400_001)),
    ];
    // Who never connected, the fourth, has no counter.
    let counted = stats::user_counters(&api).await?;
    assert_eq!(counted, expected.into());

    assert_eq!(stats::reset_user_counters(&api).await?, counted);
    let after = stats::user_counters(&api).await?;
    assert!(after.values().all(|bytes| *bytes == (0, 0)), "{after:?}");
    Ok(())
}

#[tokio::test]
async fn every_protocol_over_tcp_counts_a_large_transfer_to_the_byte() -> Result<()> {
    let origin = Origin::start().await?;
    let mut config = ServerConfig::new()
        .vless("in-vless")
        .vless_tls("in-tls")
        .vless_ws("in-ws")
        .vmess("in-vmess")
        .trojan("in-trojan")
        .shadowsocks("in-ss");
    let tags = [
        "in-vless",
        "in-tls",
        "in-ws",
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
        if tag == "in-tls" {
            entry["flow"] = "xtls-rprx-vision".into();
        }
        config = config.with_client(tag, entry);
        routes.push(config.route(tag, &user));
    }
    let xray = Xray::start(&config).await?;
    let client = Client::start_many(&routes).await?;
    for (which, tag) in tags.into_iter().enumerate() {
        client
            .transfer(which, &origin, 2_000_003, 9_000_001)
            .await?;
        let counted = stats::user_counters(&xray.api_addr()).await?;
        assert_eq!(
            counted.get(tag),
            Some(&(16 + 2_000_003, 9_000_001)),
            "{tag}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_paced_transfer_flows_both_ways_until_xray_is_killed_and_then_fails() -> Result<()> {
    let origin = Origin::start().await?;
    let (mut xray, client) = start(ServerConfig::new(), 1).await?;
    let api = xray.api_addr();
    // Would take an hour.
    let slow = Transfer::at_once(360_000, 3_600_000).paced(1000, Duration::from_secs(1));
    let (moved, killed) = tokio::join!(client.transfer_at(0, &origin, slow), async {
        eventually("bytes flow both ways", LONG, async || {
            let counted = stats::user_counters(&api).await.ok()?;
            let (up, down) = *counted.get("user-0")?;
            (up > 16 && down > 0).then_some(())
        })
        .await?;
        xray.kill().await
    });
    killed?;
    assert!(moved.is_err());
    Ok(())
}

#[tokio::test]
async fn a_server_without_statistics_or_policy_serves_but_counts_nobody() -> Result<()> {
    let origin = Origin::start().await?;
    for config in [
        ServerConfig::new().without_stats(),
        ServerConfig::new().without_policy(),
    ] {
        let (xray, client) = start(config, 1).await?;
        client.transfer(0, &origin, 10, 10).await?;
        let counted = stats::user_counters(&xray.api_addr()).await?;
        assert!(counted.is_empty(), "{counted:?}");
    }
    Ok(())
}
