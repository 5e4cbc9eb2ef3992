//! What tests of panels that push users share: such a panel, scripted and with a memory of every byte that
//! it took, and traffic between it, a panel that is polled and a real Xray.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use xray_agent::base::clock::Clock;
use xray_agent::base::secret::Secret;
use xray_agent::base::supervise::Supervisor;
use xray_agent::config::{self, Config, Environment, Need, Sources};
use xray_agent::model::batch::{Binding, Bindings};
use xray_agent::model::desired::InboundKey;
use xray_agent::model::email::Emails;
use xray_agent::model::ids::{NodeId, UserId};
use xray_agent::model::pushed::{Owner, Owners, Wants};
use xray_agent::panel::PanelClient;
use xray_agent::panel::kernel::{KernelClient, KernelPanel};
use xray_agent::traffic::engine::{Context, Engine, Handle};
use xray_agent::traffic::kernel_sink::{KernelPanelSink, Numbers};
use xray_agent::traffic::ledger::Around;
use xray_agent::traffic::ledger::views::NodeTotals;
use xray_agent::traffic::sink::Sink;

use crate::lab::secrets::nth_uuid;
use crate::lab::{Client, Origin, Panel, ServerConfig, Xray};
use crate::support::{LONG, TOKEN, folder};

pub const TAGS: [&str; 2] = ["in-a", "in-b"];
/// Of these the first is polled, the second pushed, the third both; the fourth is pushed, and the panel
/// has no number for him.
pub const USERS: u32 = 4;

/// What the panel does with one request.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    Take,
    TakeSome,
    Refuse,
    /// Takes nothing and answers so.
    Say(u16, &'static str),
    /// Takes all and answers so.
    TakeAndSay(u16, &'static str),
    TakeAndHangUp,
    HangUp,
    /// Takes all and does not answer for as long as the test lasts.
    TakeAndHang,
}

#[derive(Default)]
struct Books {
    deeds: VecDeque<Deed>,
    batches: Vec<usize>,
    /// By user and binding.
    taken: BTreeMap<(u64, u64), u64>,
    /// Of that, what it did not say that it took.
    in_doubt: u64,
    wrong: Vec<String>,
    hanging: Vec<TcpStream>,
}

/// The panel that pushes users.
pub struct Kernel {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
}

impl Kernel {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, books) = (
            listener.local_addr()?,
            Arc::new(Mutex::new(Books::default())),
        );
        let of_thread = books.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answered = Self::answer(&of_thread, stream);
                if let Err(why) = answered {
                    of_thread.lock().unwrap().wrong.push(why.to_string());
                }
            }
        });
        Ok(Self { address, books })
    }

    pub fn url(&self) -> String {
        format!("http://{}/base", self.address)
    }

    /// What it does with the next requests; after these it takes all.
    pub fn script(&self, deeds: impl IntoIterator<Item = Deed>) {
        self.books.lock().unwrap().deeds.extend(deeds);
    }

    /// Whether it has done all of that.
    pub fn has_done_all(&self) -> bool {
        self.books.lock().unwrap().deeds.is_empty()
    }

    /// How many records each request had so far.
    pub fn batches(&self) -> Vec<usize> {
        self.books.lock().unwrap().batches.clone()
    }

    /// Bytes down that it took, and how much of that it did not say it had.
    pub fn taken(&self) -> (u64, u64) {
        let books = self.books.lock().unwrap();
        assert!(books.wrong.is_empty(), "{:?}", books.wrong);
        (books.taken.values().sum(), books.in_doubt)
    }

    /// For which users and bindings.
    pub fn known(&self) -> BTreeSet<(u64, u64)> {
        self.books.lock().unwrap().taken.keys().copied().collect()
    }

    fn answer(books: &Mutex<Books>, mut stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(LONG))?;
        let Some((head, body)) = request(&mut stream)? else {
            return Ok(());
        };
        ensure!(
            head.starts_with("POST /base/api/v1/kernel/traffic HTTP/1.1"),
            "{head}"
        );
        let token = format!("x-znp-webhook-token: {TOKEN}");
        ensure!(head.to_lowercase().contains(&token), "{head}");
        let body: Value = serde_json::from_str(&body)?;
        let records = body["records"].as_array().context("no records")?;
        ensure!((1..=500).contains(&records.len()), "{}", records.len());
        let mut books = books.lock().unwrap();
        books.batches.push(records.len());
        let deed = books.deeds.pop_front().unwrap_or(Deed::Take);
        let some = match deed {
            Deed::Take | Deed::TakeAndHangUp | Deed::TakeAndSay(..) | Deed::TakeAndHang => {
                records.len()
            }
            Deed::TakeSome => records.len().div_ceil(2),
            Deed::Refuse | Deed::Say(..) | Deed::HangUp => 0,
        };
        for record in &records[..some] {
            books.take(record, !matches!(deed, Deed::Take))?;
        }
        let failed = records.len() - some;
        let (status, said) = match deed {
            Deed::HangUp | Deed::TakeAndHangUp => return Ok(()),
            Deed::TakeAndHang => {
                books.hanging.push(stream);
                return Ok(());
            }
            Deed::Say(status, said) | Deed::TakeAndSay(status, said) => (status, said.to_owned()),
            Deed::Take | Deed::TakeSome | Deed::Refuse => {
                (200, json!({"accepted": some, "failed": failed}).to_string())
            }
        };
        let length = said.len();
        let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}");
        // Who has read enough may have gone.
        let _ = stream.write_all(format!("{head}\r\n\r\n{said}").as_bytes());
        Ok(())
    }
}

impl Books {
    fn take(&mut self, record: &Value, in_doubt: bool) -> Result<()> {
        let number = |name: &str| {
            record[name]
                .as_u64()
                .with_context(|| format!("{name}: {record}"))
        };
        let (user, binding) = (number("user_id")?, number("binding_id")?);
        ensure!(
            number("node_id")? == 10 && record["protocol"] == "vless",
            "{record}"
        );
        ensure!(number("subscription_id")? == 100 + user, "{record}");
        ensure!(number("observed_at")? > 1_600_000_000, "{record}");
        let down = number("bytes_down")?;
        *self.taken.entry((user, binding)).or_default() += down;
        self.in_doubt += if in_doubt { down } else { 0 };
        Ok(())
    }
}

/// Head and body; nothing where the connection ended before them.
fn request(stream: &mut TcpStream) -> Result<Option<(String, String)>> {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        text += std::str::from_utf8(&buffer[..read])?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let lower = head.to_lowercase();
        let length = lower
            .split("content-length: ")
            .nth(1)
            .context("no length")?;
        let length: usize = length.lines().next().unwrap_or_default().trim().parse()?;
        if body.len() >= length {
            return Ok(Some((head.to_owned(), body.to_owned())));
        }
    }
}

/// What the pushing panel knows.
struct Numbered;

fn user(number: u32) -> UserId {
    UserId::parse(&nth_uuid(number)).unwrap()
}

impl Owners for Numbered {
    fn wants(&self, _inbound: &InboundKey, of: UserId) -> Wants {
        Wants {
            polled: of == user(0) || of == user(2),
            pushed: of != user(0),
        }
    }

    fn owner(&self, of: UserId) -> Option<Owner> {
        let number = (1..3).find(|number| of == user(*number)).map(u64::from)?;
        Some(Owner {
            user_id: number,
            subscription_id: Some(100 + number),
        })
    }
}

impl Bindings for Numbered {
    fn binding(&self, inbound: &InboundKey) -> Option<Binding> {
        let place = TAGS.iter().position(|tag| *tag == inbound.tag.as_str())?;
        Some(Binding {
            node_id: 10,
            binding_id: place as u64,
        })
    }

    fn protocol(&self, _inbound: &InboundKey) -> Option<String> {
        Some("vless".to_owned())
    }
}

/// A real Xray with two inbounds of one node, both panels, and a state folder.
pub struct Desk {
    pub polled: Panel,
    pub kernel: Kernel,
    _folder: TempDir,
    pub client: Client,
    pub origin: Origin,
    /// Bytes down that Xray counted, by user.
    pub moved: [u64; USERS as usize],
    config: Config,
    _xray: Xray,
}

/// Traffic that runs on threads of its own.
pub struct Running {
    pub handle: Handle,
    ends: oneshot::Sender<End>,
    thread: JoinHandle<()>,
}

enum End {
    Asked,
    InTheMidst,
}

impl Desk {
    pub async fn new() -> Result<Self> {
        let mut server = ServerConfig::new();
        for tag in TAGS {
            server = server.vless(tag);
            for number in 0..USERS {
                let email = Emails::first(tag, false).write(user(number));
                server = server.with_client(tag, json!({"id": nth_uuid(number), "email": email}));
            }
        }
        let xray = Xray::start(server.clone()).await?;
        let users = (0..USERS).map(nth_uuid);
        let routes = users.flat_map(|user| TAGS.map(|tag| server.route(tag, &user)));
        let client = Client::start_many(&routes.collect::<Vec<_>>()).await?;
        let (polled, kernel, folder) = (Panel::start(TOKEN).await?, Kernel::start()?, folder()?);
        polled.set_users(1, vec![nth_uuid(0), nth_uuid(2)]);
        let config = configured(&polled.base_url(), &xray.api_addr(), &folder)?;
        Ok(Self {
            polled,
            kernel,
            _folder: folder,
            client,
            origin: Origin::start().await?,
            moved: [0; USERS as usize],
            config,
            _xray: xray,
        })
    }

    /// Every user moves so many bytes down in both inbounds.
    pub async fn transfer(&mut self, down: u64) -> Result<()> {
        for number in 0..USERS as usize {
            for inbound in 0..TAGS.len() {
                let route = number * TAGS.len() + inbound;
                self.client.transfer(route, &self.origin, 1, down).await?;
                self.moved[number] += down;
            }
        }
        Ok(())
    }

    pub fn kernel_sink(&self, within: Duration) -> Result<Arc<dyn Sink>> {
        let panel = KernelPanel {
            url: self.kernel.url().parse()?,
            token: Secret::new(TOKEN),
            timeout: within,
            proxy: None,
        };
        let client = KernelClient::new(panel).map_err(anyhow::Error::msg)?;
        Ok(Arc::new(KernelPanelSink::new(client, numbers())))
    }

    pub fn run(&self, kernel_sinks: Vec<Arc<dyn Sink>>, on_stop: bool) -> Result<Running> {
        let panel = self.config.panel.clone().context("no panel")?;
        let polled = PanelClient::for_reports(panel).map_err(anyhow::Error::msg)?;
        let inbounds = TAGS.map(|tag| {
            let key = InboundKey::of(NodeId(1), &self.config.xrays[0].name, tag);
            (key, Emails::first(tag, false))
        });
        let context = Context {
            inbounds: &inbounds,
            sinks: vec![Arc::new(polled)],
            kernel_sinks,
            around: Around {
                owners: Arc::new(Numbered),
                ..Around::default()
            },
            clock: Clock::system(),
            on_stop,
        };
        std::fs::create_dir_all(&self.config.state_dir)?;
        let engine = Engine::build(&self.config, &context)?;
        let (handle, (ends, end)) = (engine.handle(), oneshot::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(live(engine, end));
            runtime.shutdown_background();
        });
        Ok(Running {
            handle,
            ends,
            thread,
        })
    }
}

/// Runs until the end, which comes as it is asked for.
async fn live(engine: Engine, end: oneshot::Receiver<End>) {
    let (mut supervisor, (stop, stops)) = (Supervisor::new(), oneshot::channel::<()>());
    engine.start(supervisor.tasks());
    let run = supervisor.run(async { drop(stops.await) }, LONG);
    let mut run = std::pin::pin!(run);
    tokio::select! {
        _ = &mut run => {}
        end = end => if matches!(end, Ok(End::Asked)) {
            let _ = stop.send(());
            run.await;
        }
    }
}

impl Running {
    /// As a process ends that is killed: nothing is finished that waits for anything.
    pub fn kill(self) {
        self.end(End::InTheMidst);
    }

    /// As one that is asked to end.
    pub fn stop(self) {
        self.end(End::Asked);
    }

    fn end(self, end: End) {
        let _ = self.ends.send(end);
        drop(self.handle);
        self.thread.join().unwrap();
    }

    /// What is in the ledger for a sink, both inbounds together.
    pub async fn totals(&self, sink: &str) -> Result<NodeTotals> {
        let nodes = self.handle.summary().await?.nodes;
        let found = nodes.into_iter().find(|totals| totals.sink == sink);
        Ok(found.unwrap_or_default())
    }
}

pub fn numbers() -> Numbers {
    Numbers {
        owners: Arc::new(Numbered),
        bindings: Arc::new(Numbered),
    }
}

fn configured(panel: &str, api: &str, folder: &TempDir) -> Result<Config> {
    let file = folder.path().join("agent.toml");
    let inbounds = TAGS.map(|tag| format!("{{ tag = \"{tag}\" }}")).join(", ");
    let toml = format!(
        "[apply]\nmode = \"xray-grpc\"\n[traffic]\nfirst_read = \"count\"\n[[xray]]\n\
         address = \"{api}\"\n[[node]]\nid = 1\ninbounds = [{inbounds}]\n"
    );
    std::fs::write(&file, toml)?;
    let output = folder.path().display().to_string();
    let environment = Environment::from_pairs([
        ("PANEL_BASE_URL", panel),
        ("INTERNAL_API_KEY", TOKEN),
        ("OUTPUT_DIR", &output),
        // A test says when something is to be done.
        ("TRAFFIC_COLLECT_INTERVAL_SECONDS", "3600"),
        ("TRAFFIC_REPORT_INTERVAL_SECONDS", "3600"),
    ]);
    let sources = Sources {
        environment,
        file: Some(file),
    };
    config::read(&sources, Need::Run).map_err(|problems| anyhow::anyhow!("{problems}"))
}
