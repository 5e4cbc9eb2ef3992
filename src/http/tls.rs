//! A certificate and its key, read from files and again when they are renewed.
//!
//! Kept here: what is served is always a pair that fits; a bad file is told, and the last good pair
//! stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tracing::info;
use zeroize::Zeroizing;

use crate::base::said::Said;
use crate::config::Tls;

/// Largest file, in bytes: a chain is some 10 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a pair cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot read {}: {error}", path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} is no PEM file of the right kind: {error}", path.display())]
    Pem { path: PathBuf, error: pem::Error },
    #[error("{} and its key do not go together: {error}", path.display())]
    Pair { path: PathBuf, error: rustls::Error },
}

/// The pair of a listener.
#[derive(Debug)]
pub(super) struct Certificate {
    files: Tls,
    /// How the files were when they were last read with success.
    stamp: Option<Stamp>,
    config: Option<Arc<ServerConfig>>,
    said: Said,
}

/// By what a file that was renewed is known: each of both files.
type Stamp = [(SystemTime, u64, u64); 2];

impl Certificate {
    pub(super) fn new(files: Tls) -> Self {
        Self {
            files,
            stamp: None,
            config: None,
            said: Said::default(),
        }
    }

    /// For new connections; `None` before the first good pair.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.config.clone().map(TlsAcceptor::from)
    }

    /// Reads the files if they are others than those that are served.
    pub(super) async fn refresh(&mut self) -> Result<(), TlsError> {
        // Before the reading: what changes meanwhile is read again next time.
        let stamp = stamp(&self.files).await;
        if stamp.is_some() && stamp == self.stamp {
            return Ok(());
        }
        let config = load(&self.files).await?;
        self.stamp = stamp;
        if self.config.replace(Arc::new(config)).is_some() {
            info!(file = %self.files.cert.display(), "the certificate was renewed");
        }
        Ok(())
    }

    /// [`refresh`](Self::refresh), with the trouble told once and the last good pair kept.
    pub(super) async fn renew(&mut self) {
        let trouble = self.refresh().await.err();
        let trouble = trouble.map(|why| format!("the last good certificate stays: {why}"));
        self.said.state("http tls", trouble.as_deref());
    }
}

async fn stamp(files: &Tls) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let mut stamp = [(SystemTime::UNIX_EPOCH, 0, 0); 2];
    for (path, stamp) in [&files.cert, &files.key].into_iter().zip(&mut stamp) {
        let metadata = tokio::fs::metadata(path).await.ok()?;
        *stamp = (metadata.modified().ok()?, metadata.len(), metadata.ino());
    }
    Some(stamp)
}

async fn load(files: &Tls) -> Result<ServerConfig, TlsError> {
    let (cert, key) = (read(&files.cert).await?, read(&files.key).await?);
    let no_pem = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::Pem { path, error }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<_, _>>()
        .map_err(no_pem(&files.cert))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(no_pem(&files.key))?;
    if chain.is_empty() {
        return Err(no_pem(&files.cert)(pem::Error::NoItemsFound));
    }
    pair(chain, key).map_err(|error| TlsError::Pair {
        path: files.cert.clone(),
        error,
    })
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let of = |error| TlsError::Read {
        path: path.to_owned(),
        error,
    };
    let length = tokio::fs::metadata(path).await.map_err(of)?.len();
    if length > FILE_BYTES_MAX {
        return Err(of(std::io::ErrorKind::FileTooLarge.into()));
    }
    tokio::fs::read(path).await.map(Zeroizing::new).map_err(of)
}
