//! Free ports that stay ours. Xray sets `SO_REUSEPORT`, so two of them on one port share it
//! without any error; and a restarted Xray must find its own port free again.
//!
//! Invariant: no port is handed out twice, neither within a process nor to two that run at the
//! same time (each locks blocks of ports in a folder of lock files). The blocks lie below the
//! kernel's usual range for outgoing connections, which therefore cannot take a port in between.
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// First port of the first block.
const FIRST: u16 = 10_240;
/// Ports in a block: a whole test run needs a few.
const BLOCK: u16 = 200;
/// Blocks up to 32 640, just below the outgoing range (from 32 768).
const BLOCKS: u16 = 112;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    next: 0,
    end: 0,
    locks: Vec::new(),
});

/// The ports of this process: those from `next` to `end` are not handed out yet.
struct Pool {
    next: u16,
    end: u16,
    /// Held open until the process ends.
    locks: Vec<File>,
}

/// A port on 127.0.0.1 on which nobody listens (TCP and UDP) and that nobody else is given.
pub fn free_port() -> Result<u16> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if pool.next == pool.end {
            pool.claim_block()?;
        }
        let port = pool.next;
        pool.next += 1;
        if is_free(port) {
            return Ok(port);
        }
    }
}

impl Pool {
    fn claim_block(&mut self) -> Result<()> {
        let folder = lock_folder();
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let start = std::process::id() % u32::from(BLOCKS);
        for step in 0..u32::from(BLOCKS) {
            let block = (start + step) % u32::from(BLOCKS);
            let block = u16::try_from(block).expect("invariant: below BLOCKS");
            let path = folder.join(block.to_string());
            let file = File::options().create(true).append(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    self.next = FIRST + block * BLOCK;
                    self.end = self.next + BLOCK;
                    self.locks.push(file);
                    return Ok(());
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).context("locking ports"),
            }
        }
        bail!(
            "all {BLOCKS} blocks of ports are taken (locks in {})",
            folder.display()
        )
    }
}

/// One folder a user: another user's lock files could not be opened.
fn lock_folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("xray-agent-lab-ports-{user}"))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
