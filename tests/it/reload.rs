//! The configuration is read anew while the agent runs: what is right takes effect, what is wrong
//! changes nothing, and nobody notices but those whom it is about.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::net::UnixDatagram;

use crate::lab::reports::Fault;
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{
    Agent, Answer, Client, Origin, Panel, ServerConfig, Xray, agent::Signal, eventually,
};
use crate::reload_stage::{Reload, Settings, replace};
use crate::reporting::Dice;
use crate::service_manager::until_it_says;
use crate::stage::status;
use crate::support::{Api, LONG, TOKEN, agent, folder};

const TWO: [(&str, &str); 2] = [("in", "vless"), ("other", "vless")];

fn emails(users: impl IntoIterator<Item = u32>) -> Vec<String> {
    let mut emails: Vec<_> = users.into_iter().map(nth_uuid).collect();
    emails.sort();
    emails
}

async fn await_live(
    reload: &Reload,
    tag: &str,
    users: impl IntoIterator<Item = u32>,
) -> Result<()> {
    let expected = emails(users);
    eventually("the users are live", LONG, async || {
        reload.xray.emails(tag) == expected
    })
    .await
}

#[tokio::test]
async fn nodes_come_and_go_without_a_restart_and_without_a_cut() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    reload.panel.set_users(2, emails(5..7));
    let mut agent = reload.spawn().await?;
    await_live(&reload, "in", 0..3).await?;

    reload.settings.nodes.push((2, "other"));
    reload.write(&reload.settings)?;
    agent.signal(Signal::HUP)?;
    // Beside another managed inbound a user's e-mail names his inbound.
    let named: Vec<_> = emails(5..7)
        .iter()
        .map(|it| format!("other.{it}"))
        .collect();
    eventually("the second node is served", LONG, async || {
        reload.xray.emails("other") == named
    })
    .await?;
    ensure!(reload.xray.emails("in") == emails(0..3));

    reload.settings.nodes.remove(0);
    reload.write(&reload.settings)?;
    let said = reload.reload().await?;
    ensure!(
        said == "taken in: nodes\n" || said == "read: nothing has changed\n",
        "{said}"
    );
    reload
        .await_status("one node is left", |it| {
            it["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1)
        })
        .await?;
    // Whoever was served stays: no panel said that he has to go.
    ensure!(reload.xray.emails("in") == emails(0..3));
    reload.panel.set_users(2, emails(5..6));
    eventually("the second node is kept", LONG, async || {
        reload.xray.emails("other") == named[..1]
    })
    .await?;
    ensure!(agent.is_alive());
    Ok(())
}

#[tokio::test]
async fn the_panels_address_and_token_change_at_once() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let mut agent = reload.spawn().await?;
    await_live(&reload, "in", 0..3).await?;
    let other = Panel::start("another-canary-token").await?;
    other.set_users(1, emails(0..5));
    reload.settings.panel = other.base_url();
    reload.settings.token = "another-canary-token".to_owned();
    reload.write(&reload.settings)?;
    agent.signal(Signal::HUP)?;
    await_live(&reload, "in", 0..5).await?;
    let log = agent.log();
    ensure!(!log.contains(TOKEN) && !log.contains("another-canary-token"));
    Ok(())
}

#[tokio::test]
async fn the_logs_filter_changes_and_so_does_the_mode() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let mut agent = reload.spawn().await?;
    let loud = reload.settings.clone();
    reload.settings.further += "\n[log]\nfilter = \"warn\"";
    reload.write(&reload.settings)?;
    reload
        .await_status("it is quiet", |it| it["configuration"]["reloads"] == 1)
        .await?;
    let polls = reload.panel.requests(1);
    agent.signal(Signal::USR1)?;
    reload.panel.await_request_after(1, polls + 1).await?;
    ensure!(!agent.log().contains("asked by signal"), "{}", agent.log());
    reload.settings = loud;
    reload.write(&reload.settings)?;
    agent.await_log(&["taken in", "\"log\""], LONG).await?;
    agent.signal(Signal::USR1)?;
    agent.await_log(&["asked by signal"], LONG).await?;

    let ran = reload.path("ran");
    reload.settings.apply = format!("command = \"touch {}\"", ran.display());
    reload.write(&reload.settings)?;
    // The list as it was is applied already.
    reload.panel.set_users(1, emails(0..2));
    agent.signal(Signal::HUP)?;
    eventually("the hook ran", LONG, async || ran.exists()).await?;
    reload
        .await_status("users are the hook's, and traffic nobody's", |it| {
            it["mode"] == "cmd" && it["traffic"].is_null()
        })
        .await?;
    // Xray's users are nobody's business now, and stay.
    ensure!(reload.xray.emails("in") == emails(0..3));

    reload.settings.apply = "mode = \"xray-grpc\"".to_owned();
    reload.write(&reload.settings)?;
    reload.panel.set_users(1, emails(1..4));
    agent.signal(Signal::HUP)?;
    await_live(&reload, "in", 1..4).await?;
    reload
        .await_status("traffic is counted again", |it| !it["traffic"].is_null())
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_hook_under_way_is_not_broken_off_for_a_change_that_does_not_concern_it() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let (begun, go) = (reload.path("begun"), reload.path("go"));
    reload.settings.apply = format!(
        "command = \"echo run >> {}; while ! test -e {}; do sleep 0.05; done\"",
        begun.display(),
        go.display()
    );
    reload.write(&reload.settings)?;
    let mut agent = reload.spawn().await?;
    eventually("the hook runs", LONG, async || begun.exists()).await?;
    reload.settings.interval = "150ms".to_owned();
    reload.write(&reload.settings)?;
    agent.signal(Signal::HUP)?;
    reload
        .await_status("it is taken in", |it| it["configuration"]["reloads"] != 0)
        .await?;
    std::fs::write(&go, "")?;
    let status = reload
        .await_status("the hook has succeeded", |it| {
            !it["nodes"][0]["hook"]["last_success"].is_null()
        })
        .await?;
    let hook = &status["nodes"][0]["hook"];
    ensure!(hook["runs"] == 1 && hook["failures"] == 0, "{hook:#}");
    ensure!(std::fs::read_to_string(&begun)? == "run\n");
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_wrong_file_is_refused_and_the_old_one_stays() -> Result<()> {
    let reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let mut agent = reload.spawn().await?;
    let good = reload.text(&reload.settings);
    let wrong = [
        ("[panel", "agent.toml"),
        ("[panel]\nurl = \"nonsense\"", "panel.url"),
        ("", "NODE_IDS"),
        // Right as a text, but nothing that could be built: another program has this inbound.
        (&*good.replace("\"in\"", "\"other\""), "is being managed by"),
    ];
    let state = reload.path(".xray-agent/inbounds/xray@other");
    std::fs::create_dir_all(&state)?;
    let held = std::fs::File::create(state.join("lock"))?;
    held.lock()?;
    for (text, words) in wrong {
        replace(&reload.file(), text)?;
        agent.signal(Signal::HUP)?;
        agent
            .await_log(&["WARN", "refused, the old one stays", words], LONG)
            .await?;
    }
    drop(held);
    replace(&reload.file(), &good)?;
    // The status is read by the configuration, too, which has to be right for it.
    reload
        .await_status("it is right again", |it| {
            it["configuration"]["error"].is_null()
        })
        .await?;
    reload.panel.set_users(1, emails(0..4));
    await_live(&reload, "in", 0..4).await?;
    ensure!(agent.is_alive());
    Ok(())
}

#[tokio::test]
async fn what_only_a_restart_takes_in_is_told() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let agent = reload.spawn().await?;
    reload.settings.further += "\n[http]\nhosts = \"agent.example\"\n[log]\nformat = \"text\"";
    reload.settings.interval = "150ms".to_owned();
    reload.write(&reload.settings)?;
    let said = reload.reload().await?;
    let told = "changed too, but taken in by a restart only: http, log.format\n";
    ensure!(said.ends_with(told), "{said}");
    agent
        .await_log(&["WARN", "http, log.format", "only a restart"], LONG)
        .await?;
    let status = status(&reload.command()).await?;
    ensure!(
        status["configuration"]["after_restart"] == json!(["http", "log.format"]),
        "{status:#}"
    );
    Ok(())
}

/// Waits until what the file asks for, another interval between reports, is what the agent runs by.
async fn await_taken_in(agent: &Agent, times: usize) -> Result<()> {
    eventually("it is taken in", LONG, async || {
        agent.log().matches("read and taken in").count() >= times
    })
    .await
    .with_context(|| agent.log())
}

#[tokio::test]
async fn the_file_is_taken_in_in_whatever_way_it_changes() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let agent = reload.spawn().await?;
    let mut interval = 100;
    let mut next = || {
        interval += 1;
        reload.settings.interval = format!("{interval}ms");
        reload.text(&reload.settings)
    };
    let texts: Vec<_> = (0..7).map(|_| next()).collect();
    let file = reload.file();

    std::fs::write(&file, &texts[0])?;
    await_taken_in(&agent, 1)
        .await
        .context("written in place")?;
    replace(&file, &texts[1])?;
    await_taken_in(&agent, 2).await.context("renamed over")?;

    std::fs::remove_file(&file)?;
    agent.await_log(&["WARN", "the file is gone"], LONG).await?;
    std::fs::write(&file, &texts[2])?;
    await_taken_in(&agent, 3).await.context("put back")?;

    // As a cluster mounts a map: a link, through a link that is turned.
    for (folder, text) in [("..one", &texts[3]), ("..two", &texts[4])] {
        std::fs::create_dir(reload.path(folder))?;
        std::fs::write(reload.path(folder).join("agent.toml"), text)?;
    }
    symlink("..one", reload.path("..data"))?;
    symlink("..data/agent.toml", reload.path("link"))?;
    std::fs::rename(reload.path("link"), &file)?;
    await_taken_in(&agent, 4)
        .await
        .context("replaced by a link")?;
    symlink("..two", reload.path("turned"))?;
    std::fs::rename(reload.path("turned"), reload.path("..data"))?;
    await_taken_in(&agent, 5)
        .await
        .context("the link is turned")?;
    std::fs::write(reload.path("..two/agent.toml"), &texts[5])?;
    await_taken_in(&agent, 6).await.context("behind the link")?;
    Ok(())
}

#[tokio::test]
async fn a_hangup_without_a_file_changes_nothing_and_ends_nothing() -> Result<()> {
    let (panel, folder) = (Panel::start(TOKEN).await?, folder()?);
    panel.set_users(1, emails(0..3));
    let mut agent = agent(&panel.base_url(), folder.path())
        .env("APPLY_MODE", "none")
        .spawn()?;
    panel.await_request_after(1, 0).await?;
    agent.signal(Signal::HUP)?;
    agent.await_log(&["nothing has changed"], LONG).await?;
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

#[tokio::test]
async fn the_service_manager_sees_each_reload_begin_and_end() -> Result<()> {
    let reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    let path = reload.path("notify");
    let socket = UnixDatagram::bind(&path)?;
    let mut agent = reload.command().env("NOTIFY_SOCKET", &path).spawn()?;
    until_it_says(&socket, "READY=1").await?;
    for text in [reload.text(&reload.settings), "nonsense".to_owned()] {
        replace(&reload.file(), &text)?;
        agent.signal(Signal::HUP)?;
        let told = until_it_says(&socket, "RELOADING=1").await?;
        ensure!(told.contains("MONOTONIC_USEC="), "{told}");
        until_it_says(&socket, "READY=1").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_report_under_way_is_waited_for_and_never_in_doubt() -> Result<()> {
    let mut reload = Reload::new(&TWO).await?;
    reload.panel.set_users(1, emails(0..3));
    reload.panel.set_report_delay(Duration::from_millis(1500));
    let mut agent = reload.spawn().await?;
    reload.xray.set_counters([(nth_uuid(0), (1_000, 2_000))]);
    reload.panel.await_report_requests(1).await?;
    reload.settings.further = reload.settings.further.replace("200ms", "300ms");
    reload.write(&reload.settings)?;
    agent.signal(Signal::HUP)?;
    let status = reload
        .await_status("the report is settled", |it| {
            it["configuration"]["reloads"] != 0
                && !it["traffic"]["sinks"][0]["settled_at"].is_null()
        })
        .await?;
    ensure!(
        status["traffic"]["sinks"][0]["error"].is_null(),
        "{status:#}"
    );
    ensure!(reload.panel.report_requests() == 1 && reload.panel.billed_total() == (1_000, 2_000));
    let shown = reload.command().args(["traffic", "unknown"]);
    let shown = shown.run_to_end(LONG).await?;
    ensure!(
        shown.code == Some(0) && !shown.stdout.contains("1000"),
        "{shown:?}"
    );
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

/// How long the panel may go unasked while the agent is reloaded again and again at an interval of
/// 100 ms: twenty intervals, on a machine that does other things too.
const UNASKED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load_miss_no_tick_and_lose_no_byte() -> Result<()> {
    let server = ServerConfig::new().vless("in").vless("other");
    let xray = Xray::start(server.clone()).await?;
    let mut reload = Reload::new(&TWO).await?;
    reload.settings.api = xray.api_addr();
    reload.write(&reload.settings)?;
    reload.panel.set_users(1, emails(0..20));
    reload.panel.set_users(2, emails(20..40));
    let mut faults = Dice(11);
    reload.panel.set_report_delay(Duration::from_millis(20));
    reload
        .panel
        .script_report_faults(move |_| match faults.below(50) {
            0 => Some(Fault::Instead(Answer::error(503, "busy"))),
            _ => None,
        });
    let mut agent = reload.spawn().await?;
    let routes = [0, 1].map(|user| server.route("in", &nth_uuid(user)));
    let (client, origin) = (Client::start_many(&routes).await?, Origin::start().await?);
    let over = AtomicBool::new(false);
    // Nobody is refused, and no connection breaks.
    let downloads = |which| {
        let (client, origin, over) = (&client, &origin, &over);
        async move {
            while !over.load(Ordering::Relaxed) {
                client.transfer(which, origin, 1_000, 50_000).await?;
            }
            anyhow::Ok(())
        }
    };
    let reloads = async {
        let longest = reload_a_hundred_times(&reload, &mut agent).await;
        over.store(true, Ordering::Relaxed);
        longest
    };
    let (longest, ..) = tokio::try_join!(reloads, downloads(0), downloads(1))?;
    ensure!(longest < UNASKED, "{longest:?}");

    reload.write(&reload.settings)?;
    reload.panel.set_users(1, emails(2..20));
    let mut api = Api::connect(&xray.api_addr()).await?;
    eventually("the users are live", LONG, async || {
        api.emails("in")
            .await
            .is_ok_and(|live| live == emails(2..20))
    })
    .await?;
    let counted = user_counters(&xray.api_addr()).await?;
    let all = counted
        .values()
        .fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    ensure!(all.1 >= 2 * 50_000, "{all:?}");
    eventually("every byte is at the panel", LONG, async || {
        reload.panel.billed_total() == all
    })
    .await
    .with_context(|| format!("{:?} of {all:?}", reload.panel.billed_total()))?;
    let status = status(&reload.command()).await?;
    let reloads = status["configuration"]["reloads"].as_u64();
    // Several signals before the first is looked at are one.
    ensure!(reloads.is_some_and(|it| it >= 50), "{status:#}");
    ensure!(status["configuration"]["refused"] == 0, "{status:#}");
    ensure!(agent.terminate(LONG).await?.success());
    Ok(())
}

/// Each time with another configuration and other users; for how long the panel was unasked at most.
async fn reload_a_hundred_times(reload: &Reload, agent: &mut Agent) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for round in 0..100 {
        reload.write(&variant(&reload.settings, round))?;
        reload
            .panel
            .set_users(1, emails((0..2).chain(2 + round % 7..20 + round % 3)));
        let (before, asked) = (reload.panel.requests(1), Instant::now());
        agent.signal(Signal::HUP)?;
        reload.panel.await_request_after(1, before + 1).await?;
        longest = longest.max(asked.elapsed());
    }
    Ok(longest)
}

/// Each reload is about another thing.
fn variant(settings: &Settings, round: u32) -> Settings {
    let mut settings = settings.clone();
    match round % 5 {
        0 => {}
        1 => "120ms".clone_into(&mut settings.interval),
        2 => settings.nodes.push((2, "other")),
        3 => settings.further = settings.further.replace("200ms", "250ms"),
        _ => settings.apply += "\nkick = \"off\"",
    }
    settings
}
