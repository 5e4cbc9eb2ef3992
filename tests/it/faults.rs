//! Faults of Xray's API that the real one cannot be made to show, on a scripted one: silence, late and
//! false answers, an Xray that ends under a call. One user or inbound in trouble holds up no other,
//! and no call is repeated in a loop.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use xray_agent::config::{self, XrayAddress};
use xray_agent::model::ids::InboundTag;
use xray_agent::xray::client::XrayClient;
use xray_agent::xray::error::XrayError;
use xray_agent::xray::proto::xray::common::protocol::User;

use crate::lab::secrets::nth_uuid;
use crate::lab::{Panel, ServerConfig, Xray, eventually};
use crate::scripted::Fault;
use crate::scripted::Method::{Add, Count, Remove, SysStats, User as OneUser, Users};
use crate::stage::{Stage, await_inbound, email, vless};
use crate::support::{LONG, TOKEN};

#[tokio::test]
async fn never_are_two_calls_under_way_for_one_user_nor_more_than_64_for_an_inbound() -> Result<()>
{
    let stage = Stage::new(&[("in", "vless")]).await?;
    // Entries that have to be rewritten, removed and added, all at once.
    for user in 0..150 {
        stage.xray.put("in", vless(user, &nth_uuid(user + 1_000)));
    }
    stage
        .xray
        .script(|call| matches!(call.method, Add | Remove).then_some(LATE));
    stage.allow(50..300);
    let command = stage.agent("in").env("XRAY_RPC_TIMEOUT_SECONDS", "20");
    let _agent = command.spawn()?;
    stage.await_users("in", 50..300).await?;
    assert_eq!(stage.xray.overlapping(), BTreeSet::new());
    assert_eq!(stage.xray.most_at_once("in"), 64);
    Ok(())
}

/// Long enough for as many calls as may be to be under way together.
const LATE: Fault = Fault::Late(Duration::from_millis(20));

#[tokio::test]
async fn how_many_calls_are_under_way_for_an_inbound_can_be_set() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage
        .xray
        .script(|call| (call.method == Add).then_some(LATE));
    stage.allow(0..40);
    let command = stage.agent_with("in_flight = 3", r#""in""#, "")?;
    let _agent = command.env("XRAY_RPC_TIMEOUT_SECONDS", "20").spawn()?;
    stage.await_users("in", 0..40).await?;
    assert_eq!(stage.xray.most_at_once("in"), 3);
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_never_answered_is_read_back_and_stops_nobody_else() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    let silent = email(7);
    stage
        .xray
        .script(move |call| (call.method == Add && call.email == silent).then_some(Fault::Silence));
    stage.allow(0..100);
    let command = stage.agent("in");
    let _agent = command.spawn()?;
    stage
        .await_users("in", (0..100).filter(|user| *user != 7))
        .await?;
    let inbound = await_inbound(&command, 0, "a failure", |it| it["failed"] == 1).await?;
    let error = inbound["error"].as_str().unwrap_or_default();
    assert!(error.contains("1 users could not be changed"), "{error}");
    let read_back = |call: &crate::scripted::Call| call.method == OneUser && call.email == email(7);
    assert!(stage.xray.calls().iter().any(read_back));
    stage.xray.behave();
    stage.await_users("in", 0..100).await?;
    await_inbound(&command, 0, "no failure", |it| it["error"].is_null()).await?;
    Ok(())
}

#[tokio::test]
async fn a_call_that_was_carried_out_without_an_answer_is_no_failure() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.allow(0..20);
    stage.xray.script(|call| {
        let silent = call.method == Add && call.email == email(3)
            || call.method == Remove && call.email == email(4);
        silent.then_some(Fault::SilenceAfterwards)
    });
    let command = stage.agent("in");
    let _agent = command.spawn()?;
    stage.await_users("in", 0..20).await?;
    stage.allow((0..20).filter(|user| *user != 4));
    let all_but_one = (0..20).filter(|user| *user != 4);
    stage.await_users("in", all_but_one).await?;
    await_inbound(&command, 0, "no failure", |it| {
        it["error"].is_null() && it["live"] == 19
    })
    .await?;
    assert_eq!(stage.xray.changes_of(&email(3)), 1);
    Ok(())
}

#[tokio::test]
async fn a_user_whose_call_ends_xray_is_tried_alone_and_last_and_then_no_more() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    let deadly = email(50);
    stage
        .xray
        .script(move |call| (call.method == Add && call.email == deadly).then_some(Fault::Crash));
    stage.allow(0..100);
    let command = stage.agent("in");
    let agent = command.spawn()?;
    let others = || (0..100).filter(|user| *user != 50);
    // The second death takes everybody once more.
    eventually("it ended twice", LONG, async || stage.xray.deaths() == 2).await?;
    stage.await_users("in", others()).await?;
    let calls = stage.xray.calls();
    let last = calls.iter().rposition(|call| call.email == email(50));
    let of_him = &calls[last.unwrap_or_default()];
    assert_eq!(of_him.others, 0, "he was tried alone");

    stage.await_polls(10).await?;
    stage.await_users("in", others()).await?;
    assert_eq!(stage.xray.changes_of(&email(50)), 2, "{}", agent.log());
    assert_eq!(stage.xray.deaths(), 2);
    // Nor does he keep changes of others from being made.
    stage.allow((0..100).chain([200]));
    stage.await_users("in", others().chain([200])).await?;
    assert_eq!(stage.xray.deaths(), 2);
    Ok(())
}

#[tokio::test]
async fn a_removal_that_ends_xray_is_not_repeated_in_a_loop() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    // Of Xray's own configuration, so that he is there again after each start.
    let fixed = vless(3, &nth_uuid(3));
    stage.xray.configure("in", "vless", vec![fixed]);
    stage.allow(0..10);
    let command = stage.agent("in");
    let _agent = command.spawn()?;
    stage.await_users("in", 0..10).await?;
    let deadly = email(3);
    stage.xray.script(move |call| {
        (call.method == Remove && call.email == deadly).then_some(Fault::Crash)
    });
    stage.allow((0..10).filter(|user| *user != 3));
    eventually("it ended twice", LONG, async || stage.xray.deaths() == 2).await?;
    stage.await_users("in", 0..10).await?;
    stage.await_polls(10).await?;
    assert_eq!(stage.xray.deaths(), 2);
    assert_eq!(stage.xray.changes_of(&email(3)), 2);
    let inbound = await_inbound(&command, 0, "a failure", |it| it["failed"] == 1).await?;
    assert!(inbound["error"].is_string());
    Ok(())
}

#[tokio::test]
async fn an_entry_that_was_there_already_and_differs_is_replaced() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.allow(0..10);
    let other = stage.xray.other_hand();
    // Put in between the agent's look and its call.
    stage.xray.script(move |call| {
        if call.method == Add && call.before == 4 {
            let user = User {
                email: call.email.clone(),
                ..vless(0, &nth_uuid(77))
            };
            other.put("in", user);
        }
        None
    });
    let _agent = stage.agent("in").spawn()?;
    stage.await_users("in", 0..10).await?;
    eventually("everybody has his own secret", LONG, async || {
        (0..10).all(|user| stage.xray.entries("in", &email(user)) == [vless(user, &nth_uuid(user))])
    })
    .await
}

#[tokio::test]
async fn somebody_who_is_gone_already_counts_as_removed() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.allow(0..10);
    let command = stage.agent("in");
    let _agent = command.spawn()?;
    stage.await_users("in", 0..10).await?;
    stage.xray.script(|call| {
        (call.method == Remove).then_some(Fault::Refuse("proxy/vless: User x not found."))
    });
    stage.xray.take("in", &email(9));
    stage.allow(0..9);
    await_inbound(&command, 0, "nothing wrong", |it| {
        it["error"].is_null() && it["live"] == 9
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_user_who_is_always_refused_stops_nobody_and_is_tried_ever_more_seldom() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    let bad = email(5);
    stage.xray.script(move |call| {
        (call.method == Add && call.email == bad).then_some(Fault::Refuse("proxy: bad key"))
    });
    stage.allow(0..50);
    let command = stage.agent("in");
    let agent = command.spawn()?;
    stage
        .await_users("in", (0..50).filter(|user| *user != 5))
        .await?;
    let tried = stage.xray.changes_of(&email(5));
    stage.await_polls(10).await?;
    assert!(stage.xray.changes_of(&email(5)) <= tried + 1);
    let inbound = await_inbound(&command, 0, "a failure", |it| it["failed"] == 1).await?;
    assert!(inbound["error"].is_string());
    let told = agent
        .log()
        .lines()
        .filter(|line| line.contains("bad key") && line.contains("WARN"))
        .count();
    assert_eq!(told, 1, "{}", agent.log());
    Ok(())
}

#[tokio::test]
async fn a_count_that_changes_under_us_makes_the_whole_list_be_read() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.allow(0..10);
    let command = stage.agent("in");
    let _agent = command.spawn()?;
    stage.await_users("in", 0..10).await?;
    await_inbound(&command, 0, "all is well", |it| it["live"] == 10).await?;
    stage.await_polls(3).await?;
    let lists = stage.xray.called(&[Users]);
    stage.await_polls(3).await?;
    assert_eq!(stage.xray.called(&[Users]), lists, "nothing had changed");
    stage.xray.take("in", &email(4));
    stage.await_users("in", 0..10).await?;
    assert!(stage.xray.called(&[Users]) > lists);

    // Entries that are counted and not listed are no news once they are known.
    stage.xray.miscounts("in", 3);
    stage.await_polls(4).await?;
    let (lists, counts) = (stage.xray.called(&[Users]), stage.xray.called(&[Count]));
    stage.await_polls(4).await?;
    assert_eq!(stage.xray.called(&[Users]), lists);
    assert!(stage.xray.called(&[Count]) > counts);
    Ok(())
}

#[tokio::test]
async fn an_xray_of_another_protocol_behind_the_same_address_is_not_fed_the_old_accounts()
-> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    let other = stage.xray.other_hand();
    // It restarts between two calls, with another configuration, and nobody meets a closed door.
    stage.xray.script(move |call| {
        if call.method == Add && call.before == 20 {
            other.restart_as("in", "vmess");
            return Some(Fault::Refuse("never arrives"));
        }
        None
    });
    stage.allow(0..40);
    let command = stage.agent_with("in_flight = 1", r#""in""#, "")?;
    let _agent = command.spawn()?;
    let inbound = await_inbound(&command, 0, "the new protocol", |it| {
        it["protocol"] == "vmess" && it["live"] == 40
    })
    .await?;
    assert!(inbound["error"].is_null());
    assert_eq!(stage.xray.wrong_accounts(), 0);
    Ok(())
}

#[tokio::test]
async fn a_silent_start_is_no_end() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage
        .xray
        .script(|call| (call.method == SysStats && call.before < 3).then_some(Fault::Silence));
    stage.allow(0..5);
    let _agent = stage.agent("in").spawn()?;
    stage.await_users("in", 0..5).await
}

#[tokio::test]
async fn an_inbound_that_never_answers_holds_up_no_other_and_no_poll() -> Result<()> {
    let stage = Stage::new(&[("dead", "vless"), ("in", "vless")]).await?;
    stage
        .xray
        .script(|call| (call.tag == "dead").then_some(Fault::Silence));
    stage.allow(0..10);
    // A pass over the dead one takes longer than several polls.
    let command = stage
        .agent("dead+in")
        .env("XRAY_RPC_TIMEOUT_SECONDS", "0.5");
    let _agent = command.spawn()?;
    let prefixed = |user: u32| format!("in.{}", email(user));
    let await_prefixed = async |users: std::ops::Range<u32>| {
        let expected: Vec<_> = users.map(prefixed).collect();
        eventually("the other inbound has its users", LONG, async || {
            stage.xray.emails("in") == expected
        })
        .await
    };
    await_prefixed(0..10).await?;
    stage.await_polls(5).await?;
    stage.allow(0..12);
    await_prefixed(0..12).await?;
    // Whoever asks for a pass hears of it, however many polls come meanwhile.
    let asked = command.clone().arg("sync").run_to_end(LONG).await?;
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(asked.stderr.contains("no answer from Xray"), "{asked:?}");
    Ok(())
}

#[tokio::test]
async fn a_dead_inbound_does_not_keep_the_service_manager_waiting() -> Result<()> {
    let stage = Stage::new(&[("dead", "vless"), ("in", "vless")]).await?;
    stage
        .xray
        .script(|call| (call.tag == "dead").then_some(Fault::Silence));
    stage.allow(0..10);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path)?;
    let command = stage
        .agent("dead+in")
        .env("XRAY_RPC_TIMEOUT_SECONDS", "0.5")
        .env("NOTIFY_SOCKET", &path);
    let _agent = command.spawn()?;
    let mut told = [0; 256];
    let ready = async {
        socket.recv(&mut told).await?;
        while !told.starts_with(b"READY=1\n") {
            socket.recv(&mut told).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LONG, ready).await?
}

#[tokio::test]
async fn foreign_users_with_several_ciphers_do_not_make_ours_change_theirs() -> Result<()> {
    use xray_agent::xray::account::typed;
    use xray_agent::xray::proto::xray::proxy::shadowsocks::{Account, CipherType};
    let stage = Stage::new(&[]).await?;
    let foreign = |name: &str, cipher: CipherType| User {
        email: format!("{name}@static"),
        account: Some(typed(&Account {
            password: name.to_owned(),
            cipher_type: cipher.into(),
        })),
        ..User::default()
    };
    let fixed = vec![
        foreign("a", CipherType::Aes128Gcm),
        foreign("b", CipherType::Chacha20Poly1305),
        foreign("c", CipherType::Aes256Gcm),
    ];
    stage.xray.configure("in", "shadowsocks", fixed);
    stage.allow(0..5);
    // Every pass reads the whole list, each time in another order.
    let command = stage.agent_with("", r#""in""#, "[sync]\nresync_interval = \"100ms\"")?;
    let _agent = command.spawn()?;
    await_inbound(&command, 0, "all is well", |it| {
        it["live"] == 5 && it["error"].is_null()
    })
    .await?;
    let changes = stage.changes();
    stage.await_polls(12).await?;
    assert_eq!(stage.changes(), changes);
    Ok(())
}

#[tokio::test]
async fn an_xray_that_keeps_users_otherwise_than_written_is_not_rewritten_for_ever() -> Result<()> {
    let stage = Stage::new(&[("in", "vless")]).await?;
    stage.xray.keeps(|user| User { level: 7, ..user });
    stage.allow(0..20);
    let command = stage.agent("in");
    let agent = command.spawn()?;
    stage.await_users("in", 0..20).await?;
    await_inbound(&command, 0, "a failure", |it| it["failed"] == 20).await?;
    let changes = stage.changes();
    stage.await_polls(10).await?;
    assert!(stage.changes() <= changes + 40, "{}", agent.log());
    stage.await_users("in", 0..20).await
}

/// A client of the library's own for a real Xray.
fn client_of(address: &str, rpc_timeout: Duration) -> XrayClient {
    XrayClient::new(config::Xray {
        name: "xray".into(),
        address: XrayAddress::Tcp(address.to_owned()),
        rpc_timeout,
        in_flight: 64,
    })
}

#[tokio::test]
async fn a_door_that_is_closed_is_told_from_a_call_that_broke_and_from_silence() -> Result<()> {
    let tag = InboundTag("in".into());
    let mut xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let client = client_of(&xray.api_addr(), LONG);
    let lost = client.lost_connections();
    assert_eq!(client.users_count(&tag).await, Ok(0));

    let hasty = client_of(&xray.api_addr(), Duration::from_millis(50));
    let falls_silent = async || {
        eventually("silence", LONG, async || {
            matches!(hasty.users_count(&tag).await, Err(XrayError::Timeout(_)))
        })
        .await
    };

    // It takes the call, and ends before it answers.
    xray.freeze()?;
    falls_silent().await?;
    let kill = async {
        // All of this runs on one thread: after these the call is on the wire.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        xray.kill().await
    };
    let (broken, killed) = tokio::join!(client.users_count(&tag), kill);
    killed?;
    assert!(matches!(broken, Err(XrayError::Broken(_))), "{broken:?}");
    eventually("the loss is noticed", LONG, async || *lost.borrow() == 1).await?;
    let refused = client.users_count(&tag).await;
    assert!(
        matches!(refused, Err(XrayError::Unreachable(_))),
        "{refused:?}"
    );
    assert_eq!(*lost.borrow(), 1, "none was made that could be lost");

    xray.restart().await?;
    assert_eq!(client.users_count(&tag).await, Ok(0), "by itself");
    xray.freeze()?;
    falls_silent().await?;
    xray.thaw()?;
    eventually("another answer", LONG, async || {
        hasty.users_count(&tag).await == Ok(0)
    })
    .await
}

#[tokio::test]
async fn somebody_else_behind_the_address_is_an_error_and_never_an_answer() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    let client = client_of(&panel.addr().to_string(), LONG);
    let told = client.users_count(&InboundTag("in".into())).await;
    assert!(matches!(told, Err(XrayError::Broken(_))), "{told:?}");
    Ok(())
}
