//! What the agent needs of this host: files that only it can read, folders that it can write to, room
//! on the disk, and its HTTP ports. Writes nothing; a port is tried by taking it for a moment.

use std::fs::Metadata;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access, statvfs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::finding::Finding;
use crate::config::Config;

pub(super) const FILES: &str = "files";
const DISK: &str = "disk";
const PORTS: &str = "ports";
/// Less room than this is refused: it holds about a week of 10 000 users' reports that a panel does
/// not take (`docs/promises.md`: under 2 GiB for a month of 50 000), in which somebody looks.
const FREE_BYTES_MIN: u64 = 100 << 20;
/// Most files of the state folder that are looked at.
const ENTRIES_MAX: usize = 1_000;
/// Whoever listens at our port on this host answers within this time, if it is an agent.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Files and folders, then the disk.
pub(super) fn check_files(config: &Config, secrets: &[PathBuf]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = secrets.iter().filter_map(|it| of_secret(it)).collect();
    let dirs = [("state", &config.state_dir), ("output", &config.output.dir)];
    findings.extend(
        dirs.into_iter()
            .filter_map(|(what, dir)| of_folder(what, dir)),
    );
    if findings.is_empty() {
        findings.extend(of_private(&config.state_dir));
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            FILES,
            "secrets are readable by their owner and group only, and the folders can be written to",
        ));
    }
    findings.push(of_disk(&config.state_dir));
    findings
}

/// What is wrong with a file that holds a secret.
fn of_secret(path: &Path) -> Option<Finding> {
    let mode = path.metadata().ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        let what = "it holds a secret, and every user of this host can read or change it";
        Finding::bad(FILES, what)
            .about(path.display().to_string())
            .mend(format!("chmod o= {}", path.display()))
    })
}

/// Why nothing could be written to a folder, which need not be there yet.
fn of_folder(what: &str, dir: &Path) -> Option<Finding> {
    let there = nearest(dir);
    let why = match there.metadata() {
        Err(error) => error.to_string(),
        Ok(found) if !found.is_dir() => format!("{} is no folder", there.display()),
        Ok(_) => match access(&there, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => return None,
            Err(errno) => return Some(not_writable(what, dir, &there, &io::Error::from(errno))),
        },
    };
    let variable = what.to_uppercase();
    Some(
        Finding::bad(FILES, format!("the {what} folder cannot be there: {why}"))
            .about(dir.display().to_string())
            .mend(format!(
                "set dir under [{what}] ({variable}_DIR) to a folder that the agent may write to"
            )),
    )
}

fn not_writable(what: &str, dir: &Path, there: &Path, why: &io::Error) -> Finding {
    let at = there.display();
    let said = format!("the {what} folder: this user cannot write to {at}: {why}");
    let owner = there.metadata().map_or(0, |found| found.uid());
    let finding = if why.kind() == io::ErrorKind::ReadOnlyFilesystem {
        Finding::bad(FILES, said).mend("mount it for writing, or name another folder")
    } else if there == dir && owner != 0 {
        // As it has to be, if it is the agent's and we are somebody else.
        Finding::note(FILES, said).mend(format!(
            "if it is the agent's own, ask as root, or as its user: setpriv --reuid {owner} \
             --clear-groups xray-agent doctor"
        ))
    } else {
        Finding::bad(FILES, said)
            .mend("give the agent's user a folder of its own:")
            .mend(format!(
                "install -d -m 0700 -o xray-agent -g xray-agent {}",
                dir.display()
            ))
    };
    finding.about(dir.display().to_string())
}

/// Whether the state folder is the agent's alone, and everything in it its owner's.
fn of_private(dir: &Path) -> Option<Finding> {
    let folder = dir.metadata().ok()?;
    let shown = dir.display();
    if folder.permissions().mode() & 0o077 != 0 {
        let what = "the state folder is open to others";
        let finding = Finding::note(FILES, what).about(shown.to_string());
        return Some(finding.mend(format!("chmod 0700 {shown}")));
    }
    let foreign = foreign_entry(dir, &folder)?;
    let what = format!(
        "{} belongs to another user than its folder: the agent cannot use it (was it run as another \
         user?)",
        foreign.display()
    );
    let finding = Finding::bad(FILES, what).about(shown.to_string());
    Some(finding.mend(format!("chown -R --reference={shown} {shown}")))
}

fn foreign_entry(dir: &Path, folder: &Metadata) -> Option<PathBuf> {
    let entries = dir.read_dir().ok()?.take(ENTRIES_MAX);
    let mut found = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        (entry.metadata().ok()?.uid() != folder.uid()).then(|| entry.path())
    });
    found.next()
}

/// The folder itself, or what of it is there.
fn nearest(dir: &Path) -> PathBuf {
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let there = dir.ancestors().find(is_there);
    there.unwrap_or(Path::new("/")).to_owned()
}

fn of_disk(dir: &Path) -> Finding {
    match statvfs(nearest(dir).as_path()) {
        Ok(disk) => of_room(
            dir,
            disk.f_bavail.saturating_mul(disk.f_frsize),
            (disk.f_files, disk.f_favail),
        ),
        Err(errno) => Finding::note(DISK, format!("cannot tell: {}", io::Error::from(errno))),
    }
}

/// `files`: how many the disk can hold, and how many of them are free; 0 of 0 where it has no limit.
fn of_room(dir: &Path, free_bytes: u64, files: (u64, u64)) -> Finding {
    let shown = dir.display();
    let free = free_bytes >> 20;
    let mend = |finding: Finding| finding.mend(format!("make room: df -h {shown}; df -i {shown}"));
    if free_bytes < FREE_BYTES_MIN {
        let least = FREE_BYTES_MIN >> 20;
        let what = format!("{free} MiB are free for {shown}; the ledger needs {least} MiB");
        return mend(Finding::bad(DISK, what));
    }
    if files.0 > 0 && files.1 == 0 {
        return mend(Finding::bad(
            DISK,
            format!("no further file can be made in {shown}"),
        ));
    }
    Finding::good(DISK, format!("{free} MiB free"))
}

/// The HTTP server's address: free, or an agent's.
pub(super) async fn check_port(config: &Config, agent_runs: bool) -> Finding {
    let Some(address) = config.http.listen else {
        return Finding::good(PORTS, "no HTTP server is configured");
    };
    match TcpListener::bind(address).await {
        Ok(_) if agent_runs => {
            let what = format!(
                "{address} is free, though an agent runs: it was started with another address"
            );
            Finding::note(PORTS, what)
                .mend("restart the agent, or give doctor the same environment")
        }
        Ok(_) => Finding::good(PORTS, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            taken(config, address, agent_runs).await
        }
        Err(error) => Finding::bad(PORTS, format!("nobody can listen on {address}: {error}")).mend(
            "set listen under [http] (HTTP_LISTEN) to an address of this host, or to \"off\"",
        ),
    }
}

async fn taken(config: &Config, address: SocketAddr, agent_runs: bool) -> Finding {
    // Under TLS a plain question is not answered.
    let is_ours = match &config.http.tls {
        Some(_) => agent_runs,
        None => timeout(ANSWER_MAX, lives(address))
            .await
            .is_ok_and(|it| it.unwrap_or(false)),
    };
    if is_ours {
        return Finding::good(PORTS, format!("{address} is an agent's"));
    }
    Finding::bad(PORTS, format!("another program listens on {address}"))
        .mend(
            "see which, and stop it; or set listen under [http] (HTTP_LISTEN) to another address:",
        )
        .mend(format!("ss -ltnp 'sport = :{}'", address.port()))
}

/// Whether an agent answers there.
async fn lives(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let question = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).contains("\"alive\""))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn put(path: &Path, mode: u32) {
        std::fs::write(path, "").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_that_others_can_read_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (mode, is_bad) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            put(&path, mode);
            assert_eq!(of_secret(&path).is_some(), is_bad, "{mode:o}");
        }
        assert_eq!(of_secret(&folder.path().join("none")), None);
    }

    #[test]
    fn a_folder_need_not_be_there_but_what_is_above_it_must_do() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        assert_eq!(of_folder("state", &deep), None);
        assert!(!folder.path().join("a").exists());
        put(&folder.path().join("a"), 0o600);
        let found = of_folder("state", &deep).unwrap();
        assert!(found.what.ends_with("/a is no folder"), "{found:?}");
        assert!(found.mend[0].contains("STATE_DIR"), "{found:?}");
    }

    #[test]
    fn a_state_folder_that_others_can_open_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode));
        mode(0o700).unwrap();
        put(&folder.path().join("ledger.db"), 0o600);
        assert_eq!(of_private(folder.path()), None);
        mode(0o750).unwrap();
        let found = of_private(folder.path()).unwrap();
        assert_eq!(found.verdict, Verdict::Note);
        assert!(found.mend[0].starts_with("chmod 0700 /"), "{found:?}");
    }

    #[test]
    fn little_room_is_refused_and_so_is_a_disk_without_a_free_file() {
        let verdict =
            |free_mib: u64, files| of_room(Path::new("/x"), free_mib << 20, files).verdict;
        assert_eq!(verdict(99, (10, 10)), Verdict::Bad);
        assert_eq!(verdict(100, (10, 10)), Verdict::Good);
        assert_eq!(verdict(100, (10, 0)), Verdict::Bad);
        assert_eq!(verdict(100, (0, 0)), Verdict::Good);
    }
}
