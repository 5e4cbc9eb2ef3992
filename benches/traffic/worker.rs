//! What is compared runs in a process of its own each, asked over its standard input, a line for a
//! line: a bare client that reads the counters, one that posts reports, and what the agent does with
//! a read, with the ledger's part by itself.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, stream};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use xray_agent::base::clock::Clock;
use xray_agent::config::{Xray as XrayConfig, XrayAddress};
use xray_agent::model::desired::InboundKey;
use xray_agent::model::email::{EmailForm, Emails};
use xray_agent::model::ids::NodeId;
use xray_agent::traffic::forms::Forms;
use xray_agent::traffic::ledger::{Ledger, Reading};
use xray_agent::traffic::receivers::REPORT_TRAFFIC;
use xray_agent::xray::boot::Boot;
use xray_agent::xray::client::XrayClient;
use xray_agent::xray::proto::xray::app::stats::command::stats_service_client::StatsServiceClient;
use xray_agent::xray::proto::xray::app::stats::command::{QueryStatsRequest, SysStatsRequest};

use crate::figures::ms;
use crate::lab::secrets::nth_uuid;
use crate::setup::{LONG, TAG};

const ROLE: &str = "BENCH_TRAFFIC_ROLE";
/// The Xray's API, or the panel's base URL.
const ADDRESS: &str = "BENCH_TRAFFIC_ADDRESS";
/// As many at once as the agent sends.
const POSTS_AT_ONCE: usize = 16;
/// As the agent's client has it: the least that the bare one needs, too.
const WINDOW_BYTES: u32 = 16 << 20;
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// What a process is for.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Three calls and the decoding of their answers.
    Reader,
    /// The same calls by the agent's client, and the ledger.
    Ledger,
    /// Posts reports.
    Poster,
}

impl Role {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Reader, "reader"),
        (Self::Ledger, "ledger"),
        (Self::Poster, "poster"),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Ledger => "ledger",
            Self::Poster => "poster",
        }
    }

    /// Set in the environment where this process is a worker.
    pub fn of_process() -> Option<Self> {
        let asked = std::env::var(ROLE).ok()?;
        let found = Self::ALL.into_iter().find(|(_, name)| *name == asked);
        found.map(|(role, _)| role)
    }
}

/// A worker as its driver sees it. It ends when it is dropped.
pub struct Worker {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    pub fn start(role: Role, address: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(ROLE, role.name())
            .env(ADDRESS, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let answers = child.stdout.take().context("a pipe")?;
        Ok(Self {
            asks: child.stdin.take().context("a pipe")?,
            answers: BufReader::new(answers).lines(),
            child,
        })
    }

    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the worker has ended")
    }

    /// Asks, and gives the figures of the answer: first the CPU time, in milliseconds.
    pub async fn ask(&mut self, what: &str) -> Result<Vec<f64>> {
        self.asks.write_all(format!("{what}\n").as_bytes()).await?;
        let answer = tokio::time::timeout(LONG, self.answers.next_line()).await??;
        let answer = answer.context("the worker has ended")?;
        let figures = answer.split(' ').map(str::parse);
        figures
            .collect::<Result<_, _>>()
            .with_context(|| format!("{what}: {answer}"))
    }
}

/// Serves its driver until that ends.
pub async fn serve(role: Role) -> Result<()> {
    let address = std::env::var(ADDRESS)?;
    let mut ledger = match role {
        Role::Ledger => Some(Books::new(&address)?),
        Role::Reader | Role::Poster => None,
    };
    let mut reader = match role {
        Role::Reader => Some(reader(&address).await?),
        Role::Ledger | Role::Poster => None,
    };
    // Blocks the thread that does nothing else meanwhile: what runs in the background has others.
    for ask in std::io::stdin().lines() {
        let cpu = own_cpu_ms();
        let mut figures = match (ask?.as_str(), &mut ledger, &mut reader) {
            ("fresh", Some(books), _) => {
                *books = Books::new(&address)?;
                Vec::new()
            }
            ("collect", Some(books), _) => books.collect().await?,
            ("read", _, Some(reader)) => vec![read(reader).await?],
            (count, None, None) => vec![post(&address, count.parse()?).await?],
            (other, ..) => bail!("{role:?} was asked {other}"),
        };
        figures.insert(0, own_cpu_ms() - cpu);
        let figures: Vec<String> = figures.iter().map(ToString::to_string).collect();
        println!("{}", figures.join(" "));
    }
    Ok(())
}

/// Milliseconds of CPU that this process has used, by threads that have ended, too.
fn own_cpu_ms() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).map_or(0.0, |used| used.as_secs_f64() * 1_000.0)
}

type Stats = StatsServiceClient<tonic::transport::Channel>;

async fn reader(address: &str) -> Result<Stats> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    Ok(Stats::new(endpoint.connect().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

async fn read(client: &mut Stats) -> Result<f64> {
    let begun = Instant::now();
    let before = client.get_sys_stats(SysStatsRequest {}).await?;
    let request = QueryStatsRequest {
        pattern: "user>>>".to_owned(),
        reset: false,
    };
    let counters = client.query_stats(request).await?.into_inner().stat;
    let after = client.get_sys_stats(SysStatsRequest {}).await?;
    let took = ms(begun);
    ensure!(!counters.is_empty(), "no counters");
    ensure!(before.into_inner().mallocs <= after.into_inner().mallocs);
    Ok(took)
}

/// What the agent has.
struct Books {
    client: XrayClient,
    forms: Arc<Forms>,
    ledger: Ledger,
    _folder: TempDir,
}

impl Books {
    fn new(address: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let sinks = [REPORT_TRAFFIC];
        Ok(Self {
            client: XrayClient::new(XrayConfig {
                name: "bench".into(),
                address: XrayAddress::Tcp(address.to_owned()),
                rpc_timeout: LONG,
                in_flight: 1,
            }),
            forms: Arc::new(bare_forms()),
            ledger: Ledger::start(folder.path(), sinks, Clock::system())?,
            _folder: folder,
        })
    }

    /// Milliseconds of the three calls, and of the ledger.
    async fn collect(&self) -> Result<Vec<f64>> {
        let begun = Instant::now();
        self.client.sys_stats().await?;
        let counters = Arc::new(self.client.user_counters().await?);
        let stats = self.client.sys_stats().await?;
        let read = ms(begun);
        let begun = Instant::now();
        let reading = Reading {
            xray: "bench".into(),
            forms: self.forms.clone(),
            boot: Boot::of(&stats, &Clock::system().moment()),
            remote: false,
            same_connection: true,
            counters,
            adopts: false,
        };
        self.ledger.collect(reading).await?;
        Ok(vec![read, ms(begun)])
    }
}

/// E-mails of the only managed inbound.
pub fn bare_forms() -> Forms {
    let emails = Emails {
        form: EmailForm::Bare,
        kernel_id: TAG.to_owned(),
        former_ids: Vec::new(),
    };
    Forms::of([(InboundKey::of(NodeId(1), "main", "in-1"), &emails)])
}

/// Milliseconds in which so many reports were taken.
async fn post(panel: &str, count: u32) -> Result<f64> {
    let client = reqwest::Client::builder().http1_only().build()?;
    let url = format!("{panel}/api/internal/report-traffic");
    let begun = Instant::now();
    let refused = stream::iter(0..count)
        .map(|number| {
            let body = format!(
                r#"{{"uuid":"{}","node_id":1,"upload":1,"download":2}}"#,
                nth_uuid(number)
            );
            let request = client
                .post(&url)
                .header("x-internal-token", "token")
                .header("idempotency-key", nth_uuid(number))
                .header("content-type", "application/json")
                .body(body);
            async move {
                let answer = request.send().await?.error_for_status()?;
                answer.bytes().await
            }
        })
        .buffer_unordered(POSTS_AT_ONCE)
        .filter(|answer| std::future::ready(answer.is_err()))
        .count()
        .await;
    ensure!(refused == 0, "{refused} reports were refused");
    Ok(ms(begun))
}
