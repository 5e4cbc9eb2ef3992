//! What a user's URL may lead to: servers of bare TCP that say what they were asked, and names that
//! change their minds.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, ready};
use http::Method;
use xray_agent::egress::{Call, EgressClient, Names, Own, Policy};

use crate::support::LONG;

/// A server, and the requests that it has read.
pub struct Server {
    pub at: SocketAddr,
    requests: Receiver<String>,
}

impl Server {
    /// Answers each connection's one request with what `answer` makes of it; the connection ends
    /// when that has returned.
    pub fn start(answer: impl Fn(&str, &mut TcpStream) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (seen, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(LONG)).unwrap();
                let request = read(&mut stream);
                let _ = seen.send(request.clone());
                // The client may have hung up.
                let _ = answer(&request, &mut stream);
            }
        });
        Self { at, requests }
    }

    /// Answers everything with a status line, headers and a body.
    pub fn answering(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\
             {body}"
        );
        Self::start(move |_, stream| stream.write_all(answer.as_bytes()))
    }

    /// Redirects everything.
    pub fn redirecting(status: &str, to: &str) -> Self {
        Self::answering(status, &format!("Location: {to}\r\n"), "")
    }

    /// What it has been asked since it was last looked at. Ask only after the call has ended.
    pub fn asked(&self) -> Vec<String> {
        self.requests.try_iter().collect()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }
}

fn read(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !is_whole(&request) {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(read) => request.extend_from_slice(&part[..read]),
        }
    }
    String::from_utf8(request).unwrap()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

/// Names that are answered one answer after the other; whoever asks too often gets none.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>>);

impl Scripted {
    pub fn and(self, name: &str, answers: &[&str]) -> Self {
        let read = |it: &&str| vec![it.parse().unwrap()];
        let answers = answers.iter().map(read).collect();
        self.0.lock().unwrap().insert(name.to_owned(), answers);
        self
    }

    /// How many answers are left.
    pub fn left(&self, name: &str) -> usize {
        self.0.lock().unwrap()[name].len()
    }
}

impl Names for Scripted {
    fn look_up(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut names = self.0.lock().unwrap();
        let answer = names.get_mut(host).and_then(VecDeque::pop_front);
        Box::pin(ready(
            answer.ok_or_else(|| io::Error::other("asked too often")),
        ))
    }
}

/// A client for jobs.
pub fn client(own: Own, names: &Scripted) -> EgressClient {
    EgressClient::with_names(Policy::near(own), None, names.clone()).unwrap()
}

/// A client for jobs that meet no names.
pub fn plain_client() -> EgressClient {
    client(Own::default(), &Scripted::default())
}

/// A call with a generous limit.
pub fn call(method: Method, url: &str) -> Call {
    Call::new(method, url.parse().unwrap(), LONG)
}

/// A POST of a body that follows redirects as jobs do.
pub fn post(url: &str, body: &'static str) -> Call {
    let mut call = call(Method::POST, url);
    call.body = body.into();
    call.redirects = 10;
    call
}

/// A listener that nobody must connect to.
pub struct Forbidden(TcpListener);

impl Forbidden {
    pub fn bind(at: &str) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub fn at(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Whether nobody came. A connection stands here before its maker hears of it.
    pub fn is_untouched(&self) -> bool {
        matches!(self.0.accept(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
