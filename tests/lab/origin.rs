//! What users reach through the proxy: an HTTP origin, an echo port, a port for transfers of an
//! exact size and two for endless streams, plain and under TLS 1.3, on 127.0.0.1.
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{stream, tls, transfer};

/// Serves until dropped; `GET /` is [`Origin::HELLO`], `GET /bytes/N` is [`Origin::bytes`] of N,
/// and `POST /upload` is answered with how many bytes the body had.
pub struct Origin {
    addr: SocketAddr,
    echo_addr: SocketAddr,
    transfer_addr: SocketAddr,
    stream_addr: SocketAddr,
    tls_stream_addr: SocketAddr,
    tasks: JoinSet<()>,
}

impl Origin {
    pub const HELLO: &[u8] = b"hello";

    pub async fn start() -> Result<Self> {
        let mut tasks = JoinSet::new();
        let acceptor = tls::acceptor()?;
        let serve_tls = move |stream| {
            let accepting = acceptor.accept(stream);
            async move {
                if let Ok(stream) = accepting.await {
                    stream::serve(stream).await;
                }
            }
        };
        Ok(Self {
            addr: listen(&mut tasks, serve_http).await?,
            echo_addr: listen(&mut tasks, serve_echo).await?,
            transfer_addr: listen(&mut tasks, transfer::serve).await?,
            stream_addr: listen(&mut tasks, stream::serve).await?,
            tls_stream_addr: listen(&mut tasks, serve_tls).await?,
            tasks,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn echo_addr(&self) -> SocketAddr {
        self.echo_addr
    }

    /// Where [`transfer::Transfer`] goes.
    pub fn transfer_addr(&self) -> SocketAddr {
        self.transfer_addr
    }

    /// Where [`stream::Stream`] goes.
    pub fn stream_addr(&self) -> SocketAddr {
        self.stream_addr
    }

    /// The same under TLS 1.3.
    pub fn tls_stream_addr(&self) -> SocketAddr {
        self.tls_stream_addr
    }

    /// A pattern of that length in which no byte can go missing unseen.
    pub fn bytes(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }
}

/// Serves on a port of its own.
async fn listen<S, F>(tasks: &mut JoinSet<()>, serve: S) -> Result<SocketAddr>
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = listener.local_addr()?;
    tasks.spawn(accept(listener, serve));
    Ok(addr)
}

/// Accepts for ever; what `serve` does ends with the returned future.
pub async fn accept<S, F>(listener: TcpListener, serve: S)
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_http(stream: TcpStream) {
    let answer = service_fn(answer);
    // The other side may go away at any moment: no fault of the origin.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/upload" && head.method == Method::POST {
        return Ok(uploaded(body).await);
    }
    Ok(download(head.uri.path()))
}

fn download(path: &str) -> Response<Full<Bytes>> {
    let length = path
        .strip_prefix("/bytes/")
        .and_then(|length| length.parse().ok());
    match length {
        Some(length) => Response::new(Origin::bytes(length).into()),
        None if path == "/" => Response::new(Origin::HELLO.into()),
        None => refusal(StatusCode::NOT_FOUND),
    }
}

async fn uploaded(mut body: Incoming) -> Response<Full<Bytes>> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return refusal(StatusCode::BAD_REQUEST),
        }
    }
    Response::new(bytes.to_string().into())
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut refusal = Response::new(Full::default());
    *refusal.status_mut() = status;
    refusal
}

async fn serve_echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}
