//! No bad answer of a panel empties or shrinks an inbound or the files (R3), none is told without
//! its address and its status, and no secret is told at all (A4).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::secrets::nth_uuid;
use crate::lab::{Agent, AgentCommand, Answer, Panel, ServerConfig, Xray, eventually};
use crate::support::{Api, LONG, TOKEN, folder, grpc_agent};

/// Users who are live all the while.
const USERS: u32 = 30;
/// Small limits, so that what is too large is small; no polls of its own, so that each answer is
/// met by one question exactly and the brake never confirms.
const LIMITS: &str = "panel.body_bytes_max = 1048576\npanel.users_max = 100\n";
const INTERVAL_SECONDS: &str = "3600";
/// Longer than any answer of a panel on this host takes, shorter than a test.
const HTTP_TIMEOUT_SECONDS: &str = "2";

/// One hostile answer, and what the log has to say of it.
struct Case {
    name: &'static str,
    answer: Answer,
    says: &'static [&'static str],
}

fn case(name: &'static str, answer: Answer, says: &'static [&'static str]) -> Case {
    Case { name, answer, says }
}

fn users() -> Vec<String> {
    (0..USERS).map(nth_uuid).collect()
}

/// A panel's success, as the text that a case spoils.
fn good() -> String {
    list(&json!(users()))
}

fn list(uuids: &Value) -> String {
    json!({"code": 200, "message": "success", "data": {"node_id": 1, "uuids": uuids}}).to_string()
}

fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Answer::bytes(200, "application/json; charset=utf-8", body.into())
}

fn envelope(code: &str, data: &str) -> Answer {
    ok(format!(
        r#"{{"code":{code},"message":"success","data":{data}}}"#
    ))
}

/// An agent that has given its users to an Xray, and the panel that is about to go bad.
struct Scene {
    panel: Panel,
    xray: Xray,
    api: Api,
    agent: Agent,
    command: AgentCommand,
    folder: TempDir,
}

impl Scene {
    async fn start() -> Result<Self> {
        let panel = Panel::start(TOKEN).await?;
        // Without an ETag every answer is taken as if it were the first.
        panel.set_etags(false);
        panel.set_users(1, users());
        let xray = Xray::start(ServerConfig::new().vless("in")).await?;
        let folder = folder()?;
        let limits = folder.path().join("limits.toml");
        std::fs::write(&limits, LIMITS)?;
        let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
            .env("INTERVAL_SECONDS", INTERVAL_SECONDS)
            .env("HTTP_TIMEOUT_SECONDS", HTTP_TIMEOUT_SECONDS)
            .arg("--config")
            .arg(limits);
        let agent = command.spawn()?;
        let mut api = Api::connect(&xray.api_addr()).await?;
        eventually("all users are live", LONG, async || {
            api.emails("in").await.is_ok_and(|live| live == users())
        })
        .await?;
        let listed = folder.path().join("node-1/applied.json");
        eventually("all users are in the files", LONG, async || {
            listed.is_file()
        })
        .await?;
        Ok(Self {
            panel,
            xray,
            api,
            agent,
            command,
            folder,
        })
    }

    fn files(&self) -> Result<Vec<Vec<u8>>> {
        files(self.folder.path())
    }

    /// One question to the panel, by the running agent; what `sync` came to.
    async fn sync(&self) -> Result<(Option<i32>, String)> {
        let sync = self.command.clone().arg("sync").run_to_end(LONG).await?;
        Ok((sync.code, sync.stdout + &sync.stderr))
    }

    async fn check(&mut self, case: Case) -> Result<()> {
        let (before, logged) = (self.files()?, self.agent.log().len());
        self.panel.set_answer(1, case.answer);
        let asked = self.panel.requests(1);
        let (code, said) = self.sync().await?;
        ensure!(code == Some(1), "exit code {code:?}: {said}");
        ensure!(self.panel.requests(1) == asked + 1, "asked more than once");
        ensure!(self.agent.is_alive(), "the agent has ended");
        ensure!(self.xray.is_alive(), "Xray has ended");
        let live = self.api.emails("in").await?;
        ensure!(live == users(), "{} of {USERS} are live", live.len());
        ensure!(self.files()? == before, "the files were changed");
        let log = self.agent.log();
        let told = |text: &str| case.says.iter().all(|words| text.contains(words));
        ensure!(told(&said), "{:?} is not said by sync: {said}", case.says);
        ensure!(
            log[logged..].lines().any(told),
            "{:?} is not in one line of the log:\n{}",
            case.says,
            &log[logged..]
        );
        secret_is_kept(&log[logged..])?;
        secret_is_kept(&said)
    }

    async fn check_all(&mut self, cases: impl Iterator<Item = Case>) -> Result<()> {
        let mut failed = Vec::new();
        for case in cases {
            let name = case.name;
            if let Err(error) = self.check(case).await {
                failed.push(format!("{name}: {error:#}"));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

/// `allowed-uuids.txt`, `allowed-uuids.json` (with its `generated`), and the last good answer.
fn files(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let names = [
        "node-1/allowed-uuids.txt",
        "node-1/allowed-uuids.json",
        "node-1/applied.json",
    ];
    let read = |name: &str| std::fs::read(folder.join(name)).context(name.to_owned());
    names.into_iter().map(read).collect()
}

/// Neither the token nor a user in full, nor most of one: all but the last characters are enough.
fn secret_is_kept(text: &str) -> Result<()> {
    ensure!(!text.contains(TOKEN), "the token was told");
    let text = text.to_lowercase();
    for uuid in users() {
        ensure!(
            !text.contains(&uuid[..20]),
            "a user was told: {}",
            &uuid[..8]
        );
    }
    Ok(())
}

fn cut_short() -> Vec<Case> {
    let good = good();
    let cut = |length: usize| ok(&good.as_bytes()[..length]);
    let not_json: &[&str] = &[
        "allowed-uuids: answered 200 OK",
        "not with the panel's JSON",
    ];
    vec![
        case("cut after one byte", cut(1), not_json),
        case("cut in the envelope", cut(25), not_json),
        case("cut in a user", cut(good.len() / 2), not_json),
        case("cut before the end", cut(good.len() - 1), not_json),
        case("a page", Answer::html(200), not_json),
        case("blanks", ok("  \n"), not_json),
        case("nothing", ok(""), &["answered 200 OK", "with no body"]),
        case(
            "204",
            Answer::bytes(204, "text/plain", ""),
            &["answered 204 No Content", "with no body"],
        ),
        case(
            "a body without its end",
            ok(good.clone()).truncated(500),
            &["answered 200 OK"],
        ),
        case(
            "closed without an answer",
            Answer::close(),
            &["allowed-uuids: "],
        ),
        case(
            "1 GiB promised",
            ok(good.clone()).truncated(1 << 30),
            &["answered 200 OK"],
        ),
        case(
            "a body that stalls",
            ok(good).stalled(500),
            &["answered 200 OK", "HTTP_TIMEOUT_SECONDS"],
        ),
        case(
            "an answer that never comes",
            Answer::html(200).after(Duration::from_mins(10)),
            &["allowed-uuids: ", "HTTP_TIMEOUT_SECONDS"],
        ),
    ]
}

fn not_json() -> Vec<Case> {
    let good = good();
    let bad_utf8 = good.replacen("5eed", "5\u{0}ed", 1).replace('\u{0}', "@");
    let bad_utf8: Vec<u8> = bad_utf8
        .bytes()
        .map(|byte| if byte == b'@' { 0xff } else { byte })
        .collect();
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let says: &[&str] = &["allowed-uuids: answered 200 OK"];
    let spoiled = [
        ("invalid UTF-8", bad_utf8),
        ("UTF-16", utf16),
        ("a byte order mark", format!("\u{feff}{good}").into()),
        (
            "a code twice",
            good.replacen('{', r#"{"code":200,"#, 1).into(),
        ),
        (
            "data twice",
            good.replacen('{', r#"{"data":null,"#, 1).into(),
        ),
        (
            "users twice",
            good.replacen("\"uuids\"", "\"uuids\":[],\"uuids\"", 1)
                .into(),
        ),
        ("NaN", good.replacen("200", "NaN", 1).into()),
        ("garbage after it", format!("{good}garbage").into()),
        ("two documents", format!("{good}\n{good}").into()),
        ("NUL bytes after it", format!("{good}\0\0\0\0").into()),
        (
            "a NUL byte in a user",
            good.replacen("5eed", "5\0ed", 1).into(),
        ),
        ("nothing but depth", "[".repeat(10_000).into_bytes()),
        (
            "a list in place of the envelope",
            format!("[200,\"success\",{}]", one_user()).into(),
        ),
        ("null", b"null".to_vec()),
        ("a number", b"200".to_vec()),
    ];
    let cases = spoiled.into_iter();
    cases
        .map(|(name, body)| case(name, ok(body), says))
        .collect()
}

/// The `data` of a good answer that would leave one user only.
fn one_user() -> String {
    json!({"node_id": 1, "uuids": [nth_uuid(0)]}).to_string()
}

fn wrong_envelopes() -> Vec<Case> {
    let one = one_user();
    let of = |code: &str| envelope(code, &one);
    let text = nth_uuid(1);
    let says: &[&str] = &["allowed-uuids: answered 200 OK"];
    vec![
        case("code 500", of("500"), &["answered 200 OK", "code 500"]),
        case("code 403", of("403"), &["answered 200 OK", "code 403"]),
        case(
            "code 404",
            of("404"),
            &["answered 200 OK", "code 404", "NODE_IDS"],
        ),
        case("code 0", of("0"), &["answered 200 OK", "code 0"]),
        case("code as text", of(r#""200""#), says),
        case("code as a fraction", of("200.5"), says),
        case("code as true", of("true"), says),
        case("code as a user", of(&format!(r#""{text}""#)), says),
        case("no code", ok(format!(r#"{{"data":{one}}}"#)), says),
        case("no data", ok(r#"{"code":200,"message":"success"}"#), says),
        case("data null", envelope("200", "null"), says),
        case("data an empty list", envelope("200", "[]"), says),
        case(
            "data the list",
            envelope("200", &format!(r#"["{text}"]"#)),
            says,
        ),
        case(
            "data a text",
            envelope("200", &format!(r#""{text}""#)),
            says,
        ),
        case("data empty", envelope("200", "{}"), says),
    ]
}

fn wrong_lists() -> Vec<Case> {
    let user = nth_uuid(2);
    let data = |node: &str| {
        let data = format!(r#"{{"node_id":{node},"uuids":["{user}"]}}"#);
        envelope("200", &data)
    };
    let uuids = |uuids: &str| envelope("200", &format!(r#"{{"node_id":1,"uuids":{uuids}}}"#));
    let says: &[&str] = &["allowed-uuids: answered 200 OK"];
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let many: Vec<String> = (0..101).map(nth_uuid).collect();
    vec![
        case(
            "another node's list",
            data("2"),
            &["answered 200 OK", "asked for node 1"],
        ),
        case("a node as text", data(r#""1""#), says),
        case("a node as a user", data(&format!(r#""{user}""#)), says),
        case("a negative node", data("-1"), says),
        case("a node as a fraction", data("1.0"), says),
        case("no node", envelope("200", r#"{"uuids":[]}"#), says),
        case("no list", envelope("200", r#"{"node_id":1}"#), says),
        case("a list of null", uuids("null"), says),
        case(
            "a list that is an object",
            uuids(&format!(r#"{{"{user}":true}}"#)),
            says,
        ),
        case(
            "a list that is a user",
            uuids(&format!(r#""{user}""#)),
            says,
        ),
        case("a list of numbers", uuids("[1,2,3]"), says),
        case(
            "a user and a number",
            uuids(&format!(r#"["{user}",7]"#)),
            says,
        ),
        case(
            "a user and null",
            uuids(&format!(r#"["{user}",null]"#)),
            says,
        ),
        case(
            "a user in a list in a list",
            uuids(&format!(r#"[["{user}"]]"#)),
            says,
        ),
        case("a list 10 000 deep", uuids(&deep), says),
        case("no user among the users", uuids(r#"["x","y","z"]"#), says),
        case(
            "more users than may be",
            Answer::users(1, &json!(many)),
            &["answered 200 OK", "panel.users_max"],
        ),
    ]
}

fn too_large() -> Vec<Case> {
    let says: &[&str] = &["answered 200 OK", "panel.body_bytes_max"];
    let gzipped = |body: Vec<u8>| ok(body).header("content-encoding", "gzip");
    vec![
        case(
            "100 MB, announced",
            Answer::endless_zeros().header("content-length", "100000000"),
            says,
        ),
        case("zeros for ever", Answer::endless_zeros(), says),
        case("users for ever", Answer::endless_list(1), says),
        case("100 MB of zeros as gzip", gzipped(bomb(100 << 20)), says),
        case(
            "plain under the name of gzip",
            gzipped(good().into_bytes()),
            &["answered 200 OK"],
        ),
        case(
            "half a gzip",
            gzipped(stored_gzip(good().as_bytes())[..600].to_vec()),
            &["answered 200 OK"],
        ),
    ]
}

fn wrong_statuses() -> Vec<Case> {
    let late = Answer::html(429).header("retry-after", "3600");
    let whole = |status| Answer::bytes(status, "application/json", good());
    vec![
        case(
            "a wrong token",
            Answer::error(403, "forbidden"),
            &["403", "INTERNAL_API_KEY"],
        ),
        case(
            "no such node",
            Answer::error(404, "node not found"),
            &["404", "NODE_IDS"],
        ),
        case(
            "a broken database",
            Answer::error(500, "ER_LOCK"),
            &["500", "ER_LOCK"],
        ),
        case("too many questions", late, &["answered 429"]),
        case(
            "a proxy's 502",
            Answer::html(502),
            &["answered 502", "nginx"],
        ),
        case(
            "a proxy's 503",
            Answer::bytes(503, "text/plain", ""),
            &["answered 503"],
        ),
        case(
            "a proxy's 504",
            Answer::html(504),
            &["answered 504", "nginx"],
        ),
        case("a list with 201", whole(201), &["answered 201"]),
        case("a list with 206", whole(206), &["answered 206"]),
        case("a list with 500", whole(500), &["answered 500"]),
        case(
            "304 to a question without an ETag",
            Answer::not_modified("W/\"1\""),
            &["answered 304", "ETag"],
        ),
    ]
}

/// Answers that hold what must not be told, where a careless message would tell it.
fn leaking() -> Vec<Case> {
    let (token, user) = (TOKEN, nth_uuid(3));
    // Shown are the first 200 characters: a user or token that begins before them ends after them.
    let at_the_edge = |what: &str| format!("{}{what}", "x".repeat(200 - what.len() + 1));
    let of = |text: &str| Answer::error(500, text);
    let page = |text: &str| Answer::bytes(502, "text/html", text.to_owned());
    let says_500: &[&str] = &["answered 500"];
    let says_502: &[&str] = &["answered 502"];
    vec![
        case(
            "SQL with a user",
            of(&format!("WHERE uuid='{user}'")),
            says_500,
        ),
        case(
            "a user at the edge of what is shown",
            page(&at_the_edge(&user)),
            says_502,
        ),
        case(
            "a user at the edge of a message",
            of(&at_the_edge(&user)),
            says_500,
        ),
        case(
            "the token in a message",
            of(&format!("bad key {token}")),
            says_500,
        ),
        case(
            "the token in a page",
            page(&format!("x-internal-token: {token}")),
            says_502,
        ),
        case("the token at the edge", page(&at_the_edge(token)), says_502),
        case(
            "the token as a redirect's host",
            Answer::html(302).header("location", format!("http://{token}/")),
            &["answered 302"],
        ),
        case(
            "the token as the list",
            envelope("200", &format!(r#"{{"node_id":1,"uuids":"{token}"}}"#)),
            &["answered 200 OK"],
        ),
    ]
}

/// Well-formed lists that would cost nearly everybody the access.
fn braked() -> Vec<Case> {
    let mut mixed: Vec<String> = (1..USERS).map(|n| format!("malformed {n}")).collect();
    mixed.push(nth_uuid(0));
    let says: &[&str] = &["removals are held"];
    vec![
        case("an empty list", Answer::users(1, &json!([])), says),
        case(
            "a list of blanks",
            Answer::users(1, &json!(["", " "])),
            says,
        ),
        case("one of all", Answer::users(1, &json!([nth_uuid(0)])), says),
        case("others", Answer::users(1, &json!([nth_uuid(0), " "])), says),
        case(
            "one that is no nonsense",
            Answer::users(1, &json!(mixed)),
            says,
        ),
    ]
}

#[tokio::test]
async fn no_hostile_answer_takes_a_user_from_an_inbound_or_a_file() -> Result<()> {
    let mut scene = Scene::start().await?;
    let tables = [
        cut_short(),
        not_json(),
        wrong_envelopes(),
        wrong_lists(),
        too_large(),
        wrong_statuses(),
        leaking(),
        braked(),
    ];
    ensure!(tables.iter().map(Vec::len).sum::<usize>() >= 40);
    scene.check_all(tables.into_iter().flatten()).await?;

    let user = nth_uuid(USERS);
    let mut more = users();
    more.push(user.clone());
    scene.panel.set_users(1, more.clone());
    scene.panel.clear_answer(1);
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "a good answer: {said}");
    ensure!(scene.api.emails("in").await? == more);
    let text = std::fs::read_to_string(scene.folder.path().join("node-1/allowed-uuids.txt"))?;
    ensure!(text.ends_with(&format!("{user}\n")), "the files are stuck");
    secret_is_kept(&scene.agent.log())
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays_here() -> Result<()> {
    let mut scene = Scene::start().await?;
    let elsewhere = Panel::start(TOKEN).await?;
    elsewhere.set_users(1, vec![nth_uuid(0)]);
    let there = format!(
        "{}/api/internal/nodes/1/allowed-uuids",
        elsewhere.base_url()
    );
    let here = "/api/internal/nodes/1/allowed-uuids?again";
    for (status, to) in [
        (301, there.as_str()),
        (302, &there),
        (303, &there),
        (307, &there),
        (308, &there),
        (302, here),
    ] {
        let answer = Answer::html(status).header("location", to);
        let says = &["a redirect to", "not followed"];
        scene
            .check(case("a redirect", answer, says))
            .await
            .with_context(|| format!("{status} to {to}"))?;
        ensure!(elsewhere.requests(1) == 0, "{status} was followed");
    }
    Ok(())
}

#[tokio::test]
async fn an_endless_answer_ends_at_64_mib_and_is_not_kept_in_memory() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users());
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let command = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
        .env("INTERVAL_SECONDS", INTERVAL_SECONDS)
        .env("HTTP_TIMEOUT_SECONDS", "60");
    let agent = command.spawn()?;
    agent.await_log(&["users changed"], LONG).await?;
    for answer in [
        Answer::endless_zeros(),
        ok(bomb(100 << 20)).header("content-encoding", "gzip"),
    ] {
        panel.set_answer(1, answer);
        let sync = command.clone().arg("sync").run_to_end(LONG).await?;
        ensure!(sync.code == Some(1) && sync.stderr.contains("67108864"));
    }
    // The body once while it grows and once while it is moved to a larger place.
    let peak_kib = peak_memory_kib(agent.pid())?;
    ensure!(peak_kib < 300 * 1024, "{peak_kib} KiB at the peak");
    let live = Api::connect(&xray.api_addr()).await?.emails("in").await?;
    ensure!(live == users());
    Ok(())
}

fn peak_memory_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.context("no VmHWM")?.parse()?)
}

#[tokio::test]
async fn a_compressed_list_is_read() -> Result<()> {
    let scene = Scene::start().await?;
    let mut fewer = users();
    fewer.pop();
    let body = stored_gzip(list(&json!(fewer)).as_bytes());
    scene
        .panel
        .set_answer(1, ok(body).header("content-encoding", "gzip"));
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "{said}");
    let live = Api::connect(&scene.xray.api_addr())
        .await?
        .emails("in")
        .await?;
    ensure!(live == fewer);
    Ok(())
}

#[tokio::test]
async fn a_list_that_did_not_change_is_not_sent_again() -> Result<()> {
    let scene = Scene::start().await?;
    scene.panel.set_etags(true);
    scene.sync().await?;
    scene.sync().await?;
    let asked = scene.panel.headers(1);
    let last = asked.last().context("no question")?;
    ensure!(
        last.get("x-internal-token")
            .is_some_and(|token| token == TOKEN)
    );
    let etag = last.get("if-none-match").context("no If-None-Match")?;
    ensure!(etag.to_str()?.starts_with("W/\""), "{etag:?}");
    ensure!(scene.agent.log().matches("users changed").count() == 1);

    // Users lost in Xray are put back by a 304 as well.
    let mut api = Api::connect(&scene.xray.api_addr()).await?;
    api.remove("in", &nth_uuid(5)).await?;
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "{said}");
    ensure!(api.emails("in").await? == users());

    // And a list that did change is taken.
    let fewer: Vec<String> = users().split_off(1);
    scene.panel.set_users(1, fewer.clone());
    let (code, said) = scene.sync().await?;
    ensure!(code == Some(0), "{said}");
    ensure!(api.emails("in").await? == fewer);
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_told_with_what_to_mend() -> Result<()> {
    let panel = Panel::start("another-token").await?;
    panel.set_users(1, users());
    let folder = folder()?;
    let agent = crate::support::agent(&panel.base_url(), folder.path());
    let once = agent.arg("--once").run_to_end(LONG).await?;
    ensure!(once.code == Some(1), "{once:?}");
    for words in [
        "answered 403",
        "forbidden",
        "INTERNAL_API_KEY",
        &panel.base_url(),
    ] {
        ensure!(once.stderr.contains(words), "{words}: {}", once.stderr);
    }
    ensure!(!once.stderr.contains(TOKEN) && !once.stderr.contains("another-token"));
    ensure!(!folder.path().join("node-1").exists(), "files were made");
    Ok(())
}

#[tokio::test]
async fn a_panel_that_was_away_is_used_again() -> Result<()> {
    let mut panel = Panel::start(TOKEN).await?;
    panel.set_users(1, users());
    let xray = Xray::start(ServerConfig::new().vless("in")).await?;
    let folder = folder()?;
    let mut agent = grpc_agent(&panel.base_url(), folder.path(), &xray.api_addr(), "in")
        .env("INTERVAL_SECONDS", "0.2")
        .spawn()?;
    agent.await_log(&["users changed"], LONG).await?;
    panel.pause().await;
    agent.await_log(&["WARN", &panel.base_url()], LONG).await?;
    let mut api = Api::connect(&xray.api_addr()).await?;
    ensure!(api.emails("in").await? == users());

    let fewer: Vec<String> = users().split_off(1);
    panel.set_users(1, fewer.clone());
    panel.resume().await?;
    eventually("the new list is live", LONG, async || {
        api.emails("in").await.is_ok_and(|live| live == fewer)
    })
    .await?;
    agent
        .await_log(&["recovered", "panel, node 1"], LONG)
        .await?;
    ensure!(agent.is_alive());
    Ok(())
}

#[tokio::test]
async fn a_failing_panel_is_asked_no_more_often_than_every_interval() -> Result<()> {
    let panel = Panel::start(TOKEN).await?;
    panel.set_answer(1, Answer::html(502));
    let folder = folder()?;
    let begun = Instant::now();
    let agent =
        crate::support::agent(&panel.base_url(), folder.path()).env("INTERVAL_SECONDS", "0.5");
    let _agent = agent.spawn()?;
    eventually("a few questions", LONG, async || panel.requests(1) >= 3).await?;
    ensure!(begun.elapsed() >= Duration::from_secs(1), "asked too often");
    Ok(())
}

/// That many zeros, as gzip packs them: 158 times smaller. Without the end, which nobody reaches.
fn bomb(zeros: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.push(&[1, 1, 0]); // last block, fixed codes
    bits.push(&[0, 0, 1, 1, 0, 0, 0, 0]); // a zero
    for _ in 0..zeros / 258 {
        bits.push(&[1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]); // 258 times the byte before
    }
    [&GZIP_HEAD[..], &bits.bytes].concat()
}

const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn push(&mut self, bits: &[u8]) {
        for bit in bits {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= bit << (self.used % 8);
            self.used += 1;
        }
    }
}

/// A small text as gzip, not packed at all.
fn stored_gzip(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a small text");
    let mut gzip = GZIP_HEAD.to_vec();
    gzip.push(1);
    gzip.extend(length.to_le_bytes());
    gzip.extend((!length).to_le_bytes());
    gzip.extend(text);
    gzip.extend(crc32(text).to_le_bytes());
    gzip.extend(u32::from(length).to_le_bytes());
    gzip
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}
