//! A stop is in order whatever is under way (L1): exit code 0 within 15 s, the last read of Xray's
//! counters committed, what can be finished finished, and not a byte lost or billed twice by fifty of
//! them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::chaos_campaign::books::Books;
use crate::connector::Hooked;
use crate::http_stage::{ask, status};
use crate::lab::agent::Signal;
use crate::lab::secrets::nth_uuid;
use crate::lab::stats::user_counters;
use crate::lab::{
    Agent, AgentCommand, Client, Origin, Panel, ServerConfig, Stream, Xray, eventually, free_port,
};
use crate::support::{LONG, TOKEN, folder, grpc_agent};

/// The service manager kills what takes longer.
const STOP_TAKES: Duration = Duration::from_secs(15);
/// Agents at once, each with an Xray of its own, and stops of each: 40.
const XRAYS: usize = 5;
const STOPS_OF_EACH: u32 = 8;
/// Agents with hooks at once, and stops of each: 10 more.
const HOOKED: usize = 2;
const STOPS_OF_HOOKED: u32 = 5;
/// Users who download all the while.
const BUSY: u32 = 4;
/// Users who come before each stop.
const NEWCOMERS: u32 = 100;
/// The panel takes so long to answer a report.
const REPORT_TAKES: Duration = Duration::from_millis(700);
const TAG: &str = "in-vless";

/// Bytes up and down by user.
type Counted = BTreeMap<String, (u64, u64)>;

/// An Xray under load, and the agent that is stopped beside it.
struct Lane {
    panel: Panel,
    xray: Xray,
    folder: TempDir,
    http: SocketAddr,
    users: u32,
    streams: Vec<Stream>,
    client: Client,
    origin: Origin,
}

impl Lane {
    async fn new() -> Result<Self> {
        let server = ServerConfig::new().vless(TAG);
        let xray = Xray::start(server.clone()).await?;
        let routes: Vec<_> = (0..BUSY).map(|n| server.route(TAG, &nth_uuid(n))).collect();
        let panel = Panel::start(TOKEN).await?;
        panel.set_dedupes(true);
        panel.set_report_delay(REPORT_TAKES);
        let mut lane = Self {
            panel,
            xray,
            folder: folder()?,
            http: ([127, 0, 0, 1], free_port()?).into(),
            users: BUSY,
            streams: Vec::new(),
            client: Client::start_many(&routes).await?,
            origin: Origin::start().await?,
        };
        lane.allow();
        // The ledger is there before the first byte: nothing is adopted.
        let once = lane.command().arg("--once").run_to_end(LONG).await?;
        ensure!(once.code == Some(0), "{}", once.stderr);
        for which in 0..routes.len() {
            let stream = lane.client.stream(which, &lane.origin).await?;
            lane.streams.push(stream);
        }
        Ok(lane)
    }

    fn allow(&self) {
        self.panel
            .set_users(1, (0..self.users).map(nth_uuid).collect());
    }

    fn command(&self) -> AgentCommand {
        let panel = self.panel.base_url();
        grpc_agent(&panel, self.folder.path(), &self.xray.api_addr(), TAG)
            .env("INTERVAL_SECONDS", "0.2")
            .env("HTTP_TIMEOUT_SECONDS", "10")
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.2")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.3")
            .env("HTTP_LISTEN", self.http.to_string())
    }

    async fn counted(&self) -> Result<Counted> {
        user_counters(&self.xray.api_addr()).await
    }

    fn books(&self) -> Result<Books> {
        let state: PathBuf = self.folder.path().join(".xray-agent");
        Books::open(&state)?.context("no ledger")
    }

    /// A request whose body is half there.
    async fn half_a_request(&self, agent: &Agent, id: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.http).await?;
        let head = format!(
            "POST /healthz HTTP/1.1\r\nhost: {}\r\nx-request-id: {id}\r\nconnection: close\r\n\
             content-length: 10\r\n\r\n12345",
            self.http
        );
        stream.write_all(head.as_bytes()).await?;
        agent.await_log(&["asked", id], LONG).await?;
        Ok(stream)
    }

    /// Starts the agent, has everything under way, and stops it.
    async fn stop(&mut self, round: u32) -> Result<()> {
        let reports = self.panel.report_requests();
        let mut agent = self.command().spawn()?;
        agent.await_log(&["http listens"], LONG).await?;
        let mut ends = self.half_a_request(&agent, "ends-in-time").await?;
        let never_ends = self.half_a_request(&agent, "never-ends").await?;
        let silent = TcpStream::connect(self.http).await?;
        self.panel.await_report_requests(reports + 1).await?;
        self.users += NEWCOMERS;
        self.allow();
        let polls = self.panel.requests(1);
        self.panel.await_request_after(1, polls).await?;
        // Every other time nothing but the limit ends a request.
        let (mut never_ends, mut silent) = (Some(never_ends), Some(silent));
        if round.is_multiple_of(2) {
            never_ends = None;
            silent = None;
        }
        let before = self.counted().await?;
        let asked = Instant::now();
        agent.signal(Signal::TERM)?;
        ends.write_all(b"67890").await?;
        let said = ask(ends, "").await?;
        let ended = agent.wait_exit(LONG).await?;
        let took = asked.elapsed();
        drop((never_ends, silent));
        ensure!(
            ended.code() == Some(0) && took < STOP_TAKES,
            "{ended} after {took:?}"
        );
        ensure!(
            status(&said) == 405,
            "a request under way was not answered: {said}"
        );
        let collected = self.collected(&before, &self.counted().await?);
        collected.with_context(|| format!("stop {round}\n{}", agent.log()))
    }

    /// What was counted before the stop was read by its end, and no report is left half way.
    fn collected(&self, before: &Counted, after: &Counted) -> Result<()> {
        let books = self.books()?;
        let boot = books.boots()?.pop().context("no boot")?;
        let collected = books.collected(boot)?;
        ensure!(before.len() == BUSY as usize, "{before:?}");
        for (user, least) in before {
            let read = collected.get(user).context("never read")?;
            let most = after.get(user).context("counted no more")?;
            let is_between =
                (least.0..=most.0).contains(&read.up) && (least.1..=most.1).contains(&read.down);
            ensure!(is_between, "{least:?} to {most:?}, and read {read:?}");
        }
        let totals = books.totals()?;
        ensure!(
            totals.sending.reports == 0 && totals.unknown.reports == 0,
            "{totals:#?}"
        );
        Ok(())
    }

    /// The users end their downloads: all that Xray counted is billed, each byte once.
    async fn is_billed_exactly(&mut self) -> Result<()> {
        for stream in &self.streams {
            ensure!(
                stream.is_open(),
                "a download did not outlive the agent's stops"
            );
        }
        self.streams.clear();
        self.panel.set_report_delay(Duration::ZERO);
        let _agent = self.command().spawn()?;
        let sum = |counted: &Counted| {
            let add = |sum: (u64, u64), it: &(u64, u64)| (sum.0 + it.0, sum.1 + it.1);
            counted.values().fold((0, 0), add)
        };
        let mut last = Default::default();
        let billed = eventually("all is billed", LONG, async || {
            let counted = sum(&self.counted().await.ok()?);
            last = (counted, self.panel.billed_total());
            (last.0 == last.1).then_some(())
        });
        billed.await.with_context(|| format!("{last:?}"))
    }
}

async fn stops_beside_xray() -> Result<()> {
    let mut lane = Lane::new().await?;
    for round in 0..STOPS_OF_EACH {
        lane.stop(round).await?;
    }
    lane.is_billed_exactly().await
}

/// Half of these hooks heed no TERM.
async fn stops_with_a_hook(which: usize) -> Result<()> {
    let scene = Hooked::new(3).await?;
    let trap = if which.is_multiple_of(2) {
        "trap '' TERM\n"
    } else {
        ""
    };
    let command = scene.command(&format!(
        "{trap}echo $$ >> begun\nsleep 600\necho done >> begun\n"
    ))?;
    for round in 0..STOPS_OF_HOOKED {
        let mut agent = command.clone().spawn()?;
        let begun = eventually("a hook", LONG, async || {
            let begun = scene.read("begun").unwrap_or_default();
            let last = begun.lines().last().map(str::to_owned);
            last.filter(|_| begun.lines().count() > round as usize)
        });
        let hook = begun.await?;
        let asked = Instant::now();
        let ended = agent.terminate(LONG).await?;
        let took = asked.elapsed();
        ensure!(
            ended.code() == Some(0) && took < STOP_TAKES,
            "{ended} after {took:?}"
        );
        ensure!(
            !PathBuf::from(format!("/proc/{hook}")).exists(),
            "the hook is left"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_stops_under_load_are_in_order_and_lose_no_byte() -> Result<()> {
    let beside_xrays = try_join_all((0..XRAYS).map(|_| stops_beside_xray()));
    let with_hooks = try_join_all((0..HOOKED).map(stops_with_a_hook));
    tokio::try_join!(beside_xrays, with_hooks)?;
    Ok(())
}
