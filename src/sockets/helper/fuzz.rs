//! The server against peers that are wrong, of another user, or out to break it: it answers each in
//! one line or not at all, and cuts nothing for them.

use std::future::Future;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::model::cut::Cutter;

/// Twenty times what anything here takes.
const LONG: Duration = Duration::from_mins(1);

/// Notes what it is told to cut.
#[derive(Default)]
struct Noted(Mutex<Vec<Cut>>);

impl Cutter for Noted {
    fn cut<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Result<Sockets, Obstacle>> {
        Box::pin(async move {
            self.0.lock().unwrap().push(cut.clone());
            Ok(cut.addresses.iter().map(|address| (*address, 1)).collect())
        })
    }

    fn obstacle<'a>(&'a self, _: &'a [PortRange]) -> BoxFuture<'a, Option<Obstacle>> {
        Box::pin(async { None })
    }
}

/// Allows this.
struct Only(Result<Vec<PortRange>, Obstacle>);

impl Allowed for Only {
    fn ports(&self) -> BoxFuture<'_, Result<Vec<PortRange>, Obstacle>> {
        Box::pin(async { self.0.clone() })
    }
}

/// A server in a folder of its own.
struct Stage {
    _folder: TempDir,
    path: PathBuf,
    server: Server,
    noted: Arc<Noted>,
}

impl Stage {
    /// For our own user and ports 440 to 450.
    fn new() -> Self {
        Self::of(
            rustix::process::geteuid().as_raw(),
            Ok(vec![PortRange { from: 440, to: 450 }]),
        )
    }

    fn of(user: u32, allowed: Result<Vec<PortRange>, Obstacle>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kick.sock");
        let noted = Arc::new(Noted::default());
        let server = Server {
            listener: UnixListener::bind(&path).unwrap(),
            users: [user].into(),
            allowed: Arc::new(Only(allowed)),
            cutter: noted.clone(),
        };
        Self {
            _folder: folder,
            path,
            server,
            noted,
        }
    }

    /// Serves while `peer` speaks with it.
    async fn during<T>(&self, peer: impl Future<Output = T>) -> T {
        tokio::select! {
            done = tokio::time::timeout(LONG, peer) => done.unwrap(),
            () = self.server.serve(None) => unreachable!("it has no bound"),
        }
    }

    /// What is answered to these bytes when nothing follows them.
    async fn told(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        // It may be refused before everything is written, and then end in a reset.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    fn cuts(&self) -> Vec<Cut> {
        self.noted.0.lock().unwrap().clone()
    }
}

fn refusal(answer: &[u8]) -> String {
    match serde_json::from_slice(answer) {
        Ok(Answer::Refused(Obstacle(why))) => why,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(answer)),
    }
}

fn wanted(ports: &[(u16, u16)], addresses: usize) -> Cut {
    let address = |n: usize| std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap());
    Cut {
        ports: ports
            .iter()
            .map(|p| PortRange::try_from(*p).unwrap())
            .collect(),
        addresses: (0..addresses).map(|n| address(n).into()).collect(),
    }
}

#[tokio::test]
async fn what_is_allowed_is_done_and_counted_however_much_it_is() {
    let stage = Stage::new();
    let wanted = wanted(&[(443, 443), (440, 450)], 2_500);
    let counts = stage.during(cut(&stage.path, &wanted)).await.unwrap();
    assert!(counts.keys().eq(&wanted.addresses));
    let cuts = stage.cuts();
    assert_eq!(cuts.len(), 3);
    assert!(cuts.iter().all(|cut| cut.ports == wanted.ports));
    let known = stage.during(obstacle(&stage.path, &wanted.ports)).await;
    assert_eq!(known, Ok(None));
}

#[tokio::test]
async fn a_question_with_one_port_outside_is_refused_as_a_whole_and_told_which() {
    let stage = Stage::new();
    for ports in [&[(443, 443), (22, 22)][..], &[(440, 451)], &[(0, 65_535)]] {
        let why = stage.during(cut(&stage.path, &wanted(ports, 1))).await;
        let why = why.unwrap_err().to_string();
        let port = match ports {
            [_, (port, _)] => *port,
            [(440, _)] => 451,
            _ => 0,
        };
        assert!(why.contains(&format!("port {port} ")), "{why}");
        let ports = &wanted(ports, 0).ports;
        assert!(stage.during(obstacle(&stage.path, ports)).await.is_err());
    }
    assert!(stage.cuts().is_empty());
}

#[tokio::test]
async fn where_it_cannot_be_told_what_is_allowed_the_reason_is() {
    let why = Obstacle("no Xray answers".into());
    let stage = Stage::of(rustix::process::geteuid().as_raw(), Err(why));
    let answer = stage
        .during(cut(&stage.path, &wanted(&[(443, 443)], 1)))
        .await;
    assert!(answer.unwrap_err().0.ends_with("refused: no Xray answers"));
    assert!(stage.cuts().is_empty());
}

#[tokio::test]
async fn another_user_is_refused_before_it_is_heard() {
    let other = rustix::process::geteuid().as_raw() + 1;
    let stage = Stage::of(other, Ok(vec![PortRange { from: 0, to: 9_999 }]));
    let why = stage
        .during(cut(&stage.path, &wanted(&[(443, 443)], 1)))
        .await;
    assert!(why.unwrap_err().0.contains("may not ask"));
    let silent = async {
        let mut stream = UnixStream::connect(&stage.path).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    assert!(refusal(&stage.during(silent).await).contains("may not ask"));
    assert!(stage.cuts().is_empty());
}

#[tokio::test]
async fn what_is_truncated_too_long_or_too_deep_is_refused_and_the_next_is_served() {
    let stage = Stage::new();
    let whole = line(&Question::Cut(wanted(&[(443, 443)], 3)));
    let mut wrong: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
    wrong.push([&b" ".repeat(LINE_BYTES_MAX)[..], &whole].concat());
    wrong.push([&b"[".repeat(60_000)[..], b"\n"].concat());
    wrong.push([&b"{\"cut\":".repeat(9_000)[..], b"\n"].concat());
    wrong.push(b"x".repeat(3 << 20));
    for bytes in wrong {
        refusal(&stage.during(stage.told(&bytes)).await);
    }
    assert!(stage.cuts().is_empty());
    stage.during(stage.told(&whole)).await;
    assert_eq!(stage.cuts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn silent_peers_are_given_up_and_those_who_wait_behind_them_are_served() {
    let stage = Stage::new();
    let silent: Vec<StdStream> = (0..40)
        .map(|_| StdStream::connect(&stage.path).unwrap())
        .collect();
    let wanted = wanted(&[(443, 443)], 1);
    // By the client's own bound it would give up: by hand it waits.
    let answer = stage
        .during(stage.told(&line(&Question::Cut(wanted))))
        .await;
    assert!(answer.starts_with(b"{\"destroyed\""));
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_has_asked_for_as_long_as_was_said() {
    let stage = Stage::new();
    let begun = tokio::time::Instant::now();
    let idle = Duration::from_mins(1);
    stage.server.serve(Some(idle)).await;
    assert!(begun.elapsed() >= idle);
}

#[tokio::test]
async fn what_is_in_the_way_of_asking_is_told_with_its_mend() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kick.sock");
    let asked = async || {
        let answer = cut(&path, &wanted(&[(443, 443)], 1)).await;
        answer.unwrap_err().to_string()
    };
    let nowhere = asked().await;
    assert!(nowhere.contains("systemctl enable --now xray-agent-kick.socket"));
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(asked().await, nowhere);
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let deaf = async { drop(listener.accept().await.unwrap()) };
    let (why, ()) = tokio::join!(asked(), deaf);
    assert!(why.contains("journalctl -u xray-agent-kick"), "{why}");
}

/// Lines that are nearly right.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let port = prop_oneof![Just(443u32), 0u32..70_000];
    let range = (port.clone(), port).prop_map(|(from, to)| format!("[{from},{to}]"));
    let ports = prop::collection::vec(range, 0..4).prop_map(|ranges| ranges.join(","));
    let address = prop_oneof!["[0-9a-f:.]{0,12}", Just("192.0.2.1".to_owned())];
    let word = prop_oneof![
        Just("cut".to_owned()),
        Just("obstacle".to_owned()),
        "[a-z]{1,5}"
    ];
    let end = prop_oneof![Just("\n"), Just(""), Just(",\"all\":true}\n")];
    (word, ports, address, end).prop_map(|(word, ports, address, end)| {
        let body = format!("{{\"ports\":[{ports}],\"addresses\":[\"{address}\"]}}");
        format!("{{\"{word}\":{body}}}{end}").into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_bytes_break_it_or_have_anything_cut_that_is_not_allowed(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            nearly(),
        ],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let stage = Stage::new();
            let answer = stage.during(stage.told(&bytes)).await;
            assert_eq!(answer.last(), Some(&b'\n'));
            serde_json::from_slice::<Answer>(&answer).unwrap();
            for cut in stage.cuts() {
                assert_eq!(outside(&cut.ports, &[PortRange { from: 440, to: 450 }]), None);
                assert!(bytes.ends_with(b"}\n"));
            }
        });
    }
}
