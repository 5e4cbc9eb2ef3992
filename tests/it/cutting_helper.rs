//! The privileged half as another process: the real `kick-helper` cuts for its owner, on the managed
//! inbounds' ports, and tells everybody else why not.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use xray_agent::model::cut::{Cut, Cutter};
use xray_agent::model::ports::PortRange;
use xray_agent::sockets::KernelCutter;

use crate::cutting::{
    Connection, again, any_port, held, is_started_again, listen, may_cut_here, v4,
    without_capabilities,
};
use crate::lab::{Agent, AgentCommand, ServerConfig, Xray, eventually, free_port};
use crate::support::{LONG, folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_xray-agent");
/// Tells a test that was started again where the helper listens, and on which port it cuts.
const SOCKET: &str = "XRAY_AGENT_TEST_SOCKET";
const PORT: &str = "XRAY_AGENT_TEST_PORT";

/// A folder with the helper's configuration and socket.
struct Stage(TempDir);

impl Stage {
    /// With these lines under `[apply]`.
    fn new(apply: &str) -> Result<Self> {
        let folder = folder()?;
        let toml = format!("[apply]\nmode = \"xray-grpc\"\n{apply}\n[[node]]\nid = 1\n");
        fs::write(folder.path().join("config.toml"), toml)?;
        Ok(Self(folder))
    }

    /// That cuts on one port, whatever Xray tells.
    fn on(port: u16) -> Result<Self> {
        Self::new(&format!("kick_ports = \"{port}\""))
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("kick.sock")
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config.toml")
    }

    /// Without the panel's token, which it has no use for.
    fn command(&self) -> AgentCommand {
        self.of(AgentCommand::new(PROGRAM))
    }

    fn of(&self, command: AgentCommand) -> AgentCommand {
        command
            .env("OUTPUT_DIR", self.0.path())
            .args(["kick-helper", "--socket"])
            .arg(self.socket())
            .arg("--config")
            .arg(self.config())
    }

    /// The helper, once it listens.
    async fn serving(&self, command: AgentCommand) -> Result<Agent> {
        let helper = command.spawn()?;
        eventually("the helper listens", LONG, async || {
            UnixStream::connect(self.socket()).is_ok()
        })
        .await
        .with_context(|| helper.log())?;
        Ok(helper)
    }

    fn asked(&self, question: &Value) -> Result<Value> {
        asked(&self.socket(), question)
    }

    fn cut_on(&self, port: u16, peer: &str) -> Result<Value> {
        self.asked(&cut_question(port, peer))
    }

    fn refusal(&self, port: u16) -> Result<String> {
        let answer = self.cut_on(port, "127.0.0.2")?;
        let why = answer["refused"].as_str();
        Ok(why.with_context(|| answer.to_string())?.to_owned())
    }
}

fn cut_question(port: u16, peer: &str) -> Value {
    json!({"cut": {"ports": [[port, port]], "addresses": [peer]}})
}

fn asked(socket: &Path, question: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LONG))?;
    // One who is refused may be so before it has asked.
    let _ = stream.write_all(format!("{question}\n").as_bytes());
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

#[tokio::test]
async fn another_process_cuts_on_the_allowed_port_and_on_no_other() -> Result<()> {
    if !may_cut_here("cutting_helper::another_process_cuts_on_the_allowed_port_and_on_no_other") {
        return Ok(());
    }
    let (listener, port) = listen(v4(1));
    let (elsewhere, other) = listen(v4(1));
    let mut named = Connection::open(&listener, any_port(v4(2)), v4(1));
    let mut unnamed = Connection::open(&listener, any_port(v4(3)), v4(1));
    let mut foreign = Connection::open(&elsewhere, any_port(v4(2)), v4(1));
    let (_held, silent) = held();
    let stage = Stage::new(&format!("kick_ports = \"{port},{silent}\""))?;
    let mut helper = stage.serving(stage.command()).await?;
    let mode = fs::metadata(stage.socket())?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");

    let both =
        json!({"cut": {"ports": [[port, port], [other, other]], "addresses": ["127.0.0.2"]}});
    let refused = stage.asked(&both)?;
    let why = format!("port {other} is not one of a managed inbound");
    ensure!(
        refused["refused"]
            .as_str()
            .is_some_and(|w| w.contains(&why)),
        "{refused}"
    );
    named.assert_lives();

    let answer = stage.cut_on(port, "127.0.0.2")?;
    ensure!(answer == json!({"destroyed": {"127.0.0.2": 1}}), "{answer}");
    named.assert_is_cut();
    unnamed.assert_lives();
    foreign.assert_lives();
    let known = stage.asked(&json!({"obstacle": {"ports": [[port, port]]}}))?;
    ensure!(known == json!({"obstacle": null}), "{known}");
    let known = stage.asked(&json!({"obstacle": {"ports": [[silent, silent]]}}))?;
    ensure!(
        known.to_string().contains("nothing listens on TCP port"),
        "{known}"
    );

    ensure!(
        helper.terminate(LONG).await?.code() == Some(0),
        "{}",
        helper.log()
    );
    ensure!(!stage.socket().exists());
    Ok(())
}

#[tokio::test]
async fn an_agent_without_the_capability_has_it_done_by_the_helper() -> Result<()> {
    const NAME: &str = "cutting_helper::an_agent_without_the_capability_has_it_done_by_the_helper";
    if let (true, Ok(socket), Ok(port)) = (
        is_started_again(),
        std::env::var(SOCKET),
        std::env::var(PORT),
    ) {
        return by_the_helper(socket.into(), port.parse()?).await;
    }
    if !may_cut_here(NAME) {
        return Ok(());
    }
    let (listener, port) = listen(v4(1));
    let mut connection = Connection::open(&listener, any_port(v4(2)), v4(1));
    let stage = Stage::on(port)?;
    let _helper = stage.serving(stage.command()).await?;
    let mut agent = without_capabilities();
    again(
        agent
            .env(SOCKET, stage.socket())
            .env(PORT, port.to_string()),
        NAME,
    );
    connection.assert_is_cut();
    Ok(())
}

/// What the agent's half does, where it may not cut itself.
async fn by_the_helper(socket: PathBuf, port: u16) -> Result<()> {
    let ports = [PortRange::single(port)];
    let wanted = Cut {
        ports: ports.to_vec(),
        addresses: [v4(2)].into(),
    };
    let nobody = KernelCutter::new(socket.with_extension("gone"));
    let why = nobody.cut(&wanted).await.unwrap_err().to_string();
    for word in [
        "no CAP_NET_ADMIN",
        "systemctl enable --now xray-agent-kick.socket",
    ] {
        ensure!(why.contains(word), "{why}");
    }
    let known = nobody.obstacle(&ports).await.map(|why| why.to_string());
    ensure!(known == Some(why), "{known:?}");
    let cutter = KernelCutter::new(socket);
    ensure!(cutter.obstacle(&ports).await.is_none());
    let counts = cutter.cut(&wanted).await?;
    ensure!(counts == [(v4(2), 1)].into(), "{counts:?}");
    let elsewhere = [PortRange::single(port), PortRange::single(1)];
    let known = cutter.obstacle(&elsewhere).await.map(|why| why.to_string());
    ensure!(
        known
            .as_ref()
            .is_some_and(|why| why.contains("port 1 is not")),
        "{known:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_helper_without_the_capability_says_so() -> Result<()> {
    let (listener, port) = listen(v4(1));
    let mut connection = Connection::open(&listener, any_port(v4(2)), v4(1));
    let stage = Stage::on(port)?;
    let without = without_capabilities();
    let command = AgentCommand::new(without.get_program())
        .args(without.get_args())
        .arg(PROGRAM);
    let _helper = stage.serving(stage.of(command)).await?;
    let why = stage.refusal(port)?;
    ensure!(why.contains("CAP_NET_ADMIN"), "{why}");
    let known = stage.asked(&json!({"obstacle": {"ports": [[port, port]]}}))?;
    ensure!(known.to_string().contains("CAP_NET_ADMIN"), "{known}");
    connection.assert_lives();
    Ok(())
}

#[tokio::test]
async fn a_process_of_another_user_is_refused() -> Result<()> {
    const NAME: &str = "cutting_helper::a_process_of_another_user_is_refused";
    const NOBODY: &str = "65534";
    if let (true, Ok(socket), Ok(port)) = (
        is_started_again(),
        std::env::var(SOCKET),
        std::env::var(PORT),
    ) {
        let question = cut_question(port.parse()?, "127.0.0.2");
        let answer = asked(Path::new(&socket), &question)?.to_string();
        ensure!(answer.contains("user 65534 may not ask"), "{answer}");
        return Ok(());
    }
    ensure!(geteuid().is_root(), "run this as root: it takes two users");
    let (listener, port) = listen(v4(1));
    let mut connection = Connection::open(&listener, any_port(v4(2)), v4(1));
    let stage = Stage::on(port)?;
    let _helper = stage.serving(stage.command()).await?;
    // As if the file's mode had been loosened by hand.
    fs::set_permissions(stage.0.path(), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(stage.socket(), fs::Permissions::from_mode(0o666))?;
    let mut nobody = without_capabilities();
    nobody.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    let nobody = nobody
        .env(SOCKET, stage.socket())
        .env(PORT, port.to_string());
    again(nobody, NAME);
    connection.assert_lives();
    Ok(())
}

#[tokio::test]
async fn the_ports_of_managed_inbounds_are_asked_of_xray() -> Result<()> {
    if !may_cut_here("cutting_helper::the_ports_of_managed_inbounds_are_asked_of_xray") {
        return Ok(());
    }
    let config = ServerConfig::new()
        .vless("in")
        .vless("in-other")
        .hysteria("in-udp");
    let xray = Xray::start(config.clone()).await?;
    let stage = Stage::new("")?;
    let command = stage
        .command()
        .env("XRAY_API_ADDR", xray.api_addr())
        .env("XRAY_TAG_MAP", "1:in+in-udp");
    let _helper = stage.serving(command).await?;
    let mut open = TcpStream::connect((Ipv4Addr::LOCALHOST, config.port("in")))?;
    let answer = stage.cut_on(config.port("in"), "127.0.0.1")?;
    ensure!(
        answer["destroyed"]["127.0.0.1"].as_u64() >= Some(1),
        "{answer}"
    );
    ensure!(std::io::Read::read(&mut open, &mut [0]).is_err());
    for tag in ["in-other", "in-udp"] {
        let why = stage.refusal(config.port(tag))?;
        ensure!(
            why.contains("is not one of a managed inbound over TCP"),
            "{why}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn it_refuses_with_the_reason_where_it_cannot_tell_what_is_allowed() -> Result<()> {
    let gone = free_port()?;
    let silent = format!("127.0.0.1:{gone}");
    for (apply, reason) in [
        ("", "cannot ask xray where its inbounds listen"),
        ("kick = \"off\"", "XRAY_KICK=off"),
        ("kick_ports = \"443,\"", "its configuration is wrong"),
    ] {
        let stage = Stage::new(apply)?;
        let command = stage.command().env("XRAY_API_ADDR", &silent);
        let _helper = stage.serving(command).await?;
        let why = stage.refusal(443)?;
        ensure!(why.contains(reason), "{apply}: {why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_socket_left_behind_is_taken_and_one_that_is_served_is_not() -> Result<()> {
    let stage = Stage::on(443)?;
    drop(UnixListener::bind(stage.socket())?);
    let mut helper = stage.serving(stage.command()).await?;
    let second = stage.command().run_to_end(LONG).await?;
    ensure!(
        second.code == Some(2) && second.stderr.contains("served already"),
        "{second:?}"
    );
    ensure!(helper.is_alive() && stage.refusal(1)?.contains("port 1 is not"));
    Ok(())
}

/// Killed when dropped.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn it_serves_the_listener_that_it_is_started_with() -> Result<()> {
    let stage = Stage::on(443)?;
    let listener: OwnedFd = UnixListener::bind(stage.socket())?.into();
    let mut command = Command::new(PROGRAM);
    command
        .arg("kick-helper")
        .arg("--config")
        .arg(stage.config());
    let started = command.stdin(Stdio::from(listener)).stderr(Stdio::null());
    let mut helper = Started(started.spawn()?);
    ensure!(stage.refusal(1)?.contains("port 1 is not"));
    let pid = Pid::from_raw(i32::try_from(helper.0.id())?).context("a process")?;
    kill_process(pid, Signal::TERM)?;
    ensure!(helper.0.wait()?.code() == Some(0));
    ensure!(stage.socket().exists(), "it is the service manager's");
    let mut bare = AgentCommand::new(PROGRAM).arg("kick-helper");
    bare = bare.arg("--config").arg(stage.config());
    let without = bare.run_to_end(LONG).await?;
    ensure!(
        without.code == Some(2) && without.stderr.contains("xray-agent-kick.socket"),
        "{without:?}"
    );
    Ok(())
}

#[test]
fn the_helpers_unit_is_shut_off_as_the_agents_is_but_for_the_one_capability() {
    let unit = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("systemd")
            .join(name);
        fs::read_to_string(path).unwrap()
    };
    let (agent, helper) = (unit("xray-agent.service"), unit("xray-agent-kick.service"));
    let (_, hardening) = agent.split_once("NoNewPrivileges").unwrap();
    let is_meant = |line: &&str| line.contains('=') && !line.starts_with(['#', '=']);
    let others = [
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "PrivateUsers=yes",
        "WantedBy=",
    ];
    let mut shared = hardening.lines().filter(is_meant);
    let missing = shared.find(|line| {
        !others.iter().any(|other| line.starts_with(other)) && !helper.lines().any(|l| l == *line)
    });
    assert_eq!(missing, None);
    let capabilities: Vec<&str> = helper
        .lines()
        .filter(|line| line.contains("Capabilit"))
        .collect();
    let only = [
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "AmbientCapabilities=CAP_NET_ADMIN",
    ];
    assert_eq!(capabilities, only);
    let reference = xray_agent::config::reference();
    let listens = unit("xray-agent-kick.socket");
    let path = listens
        .lines()
        .find_map(|line| line.strip_prefix("ListenStream="));
    assert!(
        reference.contains(path.unwrap()),
        "the configuration's default is another"
    );
}
