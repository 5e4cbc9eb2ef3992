//! One Xray's API: whether it answers, what it offers, and whether it is one.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::finding::Finding;
use super::xray_file::{Concern, Lack, Needs, XrayFile, as_listen, to_paste};
use crate::base::clock::Clock;
use crate::config::{Xray, XrayAddress};
use crate::model::ports::PortRange;
use crate::sockets;
use crate::xray::abilities::{Abilities, Service};
use crate::xray::boot::Boot;
use crate::xray::client::XrayClient;
use crate::xray::error::XrayError;

const CHECK: &str = "xray";
/// The longest that a call is waited for here, whatever is configured: a person waits.
const CALL_MAX: Duration = Duration::from_secs(2);
/// Connections on which it is asked which run of Xray answers; each takes some milliseconds. The kernel
/// shares connections out evenly between listeners: that two Xrays do not answer in turn among so many
/// happens once in millions of times.
const LOOKS: usize = 32;
/// The longest that all those looks take.
const LOOKS_MAX: Duration = Duration::from_secs(5);

/// A client that nobody has to wait for long.
pub(super) fn client(xray: &Xray) -> XrayClient {
    XrayClient::new(Xray {
        rpc_timeout: xray.rpc_timeout.min(CALL_MAX),
        ..xray.clone()
    })
}

/// Why it cannot be asked.
pub(super) fn unreachable(
    error: &XrayError,
    xray: &Xray,
    file: Option<&XrayFile>,
    needs: &Needs,
) -> Finding {
    let address = &xray.address;
    let what = match error {
        XrayError::Unreachable(why) => format!("its API cannot be reached at {address}: {why}"),
        XrayError::Timeout(_) => {
            format!("{address} takes connections, but does not answer: Xray hangs, or is stopped")
        }
        _ => format!("what answers at {address} is not Xray's API"),
    };
    let finding = Finding::bad(CHECK, what);
    let lacks = file.map(|file| file.lacks(needs)).unwrap_or_default();
    let of_api = |lack: &Lack| matches!(lack.concern(), Concern::Reaching | Concern::Services);
    let lacks: Vec<_> = lacks.into_iter().filter(of_api).collect();
    if let Some(Lack::ListensAt(at)) = lacks.iter().find(|it| matches!(it, Lack::ListensAt(_))) {
        let mend = format!(
            "Xray's API listens at {at}: set address under [[xray]] (XRAY_API_ADDR) to that"
        );
        return finding.mend(mend);
    }
    if lacks.is_empty() {
        return without_file(finding, error, address);
    }
    let missing: Vec<_> = lacks.iter().map(Lack::what).collect();
    finding
        .mend(format!(
            "in Xray's configuration: {}; merge in, and restart Xray:",
            missing.join("; ")
        ))
        .mends(to_paste(&lacks, needs))
}

/// What mends it, where Xray's configuration was not shown or has all that it takes.
fn without_file(finding: Finding, error: &XrayError, address: &XrayAddress) -> Finding {
    match error {
        XrayError::Unreachable(_) => finding
            .mend(
                "start Xray, or set address under [[xray]] (XRAY_API_ADDR) to where its API \
                 listens; Xray's configuration needs",
            )
            .mend(format!(
                r#""api": {{"tag": "api", "listen": "{}", "services": [{}]}}"#,
                as_listen(address),
                r#""HandlerService", "StatsService""#
            )),
        XrayError::Timeout(_) => finding
            .mend("look at it, and restart it if it stays so:")
            .mend("systemctl status xray"),
        _ => finding
            .mend(
                "set address under [[xray]] (XRAY_API_ADDR) to where Xray's API listens (\"listen\" \
                 in its \"api\"); see what is there now:",
            )
            .mend(who_listens(port_of(address))),
    }
}

/// What it is, and what of its services lacks.
pub(super) fn of_abilities(abilities: &Abilities, xray: &Xray, needs: &Needs) -> Vec<Finding> {
    let address = &xray.address;
    let needed = [Service::Handler, Service::Stats];
    let lacking: Vec<_> = needed
        .into_iter()
        .filter(|it| !abilities.offers(*it))
        .collect();
    if lacking.len() == needed.len() {
        let what =
            format!("what answers at {address} offers neither HandlerService nor StatsService");
        let finding = Finding::bad(CHECK, what)
            .mend(
                "if that is Xray, merge into its configuration, and restart it; else name Xray's \
                 address (XRAY_API_ADDR)",
            )
            .mends(services(&lacking, needs));
        return vec![finding];
    }
    let good = Finding::good(
        CHECK,
        format!("{} answers at {address}", abilities.versions()),
    );
    let bad = lacking.first().map(|service| {
        let what = match service {
            Service::Handler => "its API does not offer HandlerService: no user can be changed",
            _ => "its API does not offer StatsService: no traffic can be read, and nobody cut off",
        };
        Finding::bad(CHECK, what)
            .mend("merge into Xray's configuration, keep what else stands there, and restart Xray:")
            .mends(services(&lacking, needs))
    });
    let offered = || {
        let what = "its API offers HandlerService and StatsService";
        Finding::good(CHECK, what)
    };
    vec![good, bad.unwrap_or_else(offered)]
}

fn services(lacking: &[Service], needs: &Needs) -> Vec<String> {
    let lacks: Vec<_> = lacking.iter().copied().map(Lack::Service).collect();
    to_paste(&lacks, needs)
}

/// Whether two Xrays share the API's address, or two programs one of `ports`, where its inbounds
/// listen on this host.
pub(super) async fn sharing(xray: &Xray, ports: Vec<PortRange>) -> Option<Finding> {
    let own = port_of(&xray.address);
    if alternate(&boots(xray).await) {
        let what = format!("two Xrays share {}: each call goes to either", xray.address);
        return Some(shared(what, own));
    }
    if client(xray).may_be_remote() {
        return None;
    }
    let all: Vec<_> = own
        .map(PortRange::single)
        .into_iter()
        .chain(ports)
        .collect();
    let listed = spawn_blocking(move || sockets::listeners(&all))
        .await
        .ok()?
        .ok()?;
    let twice = twice(listed.iter().map(|it| (it.local, it.interface)))?;
    let what = format!(
        "two programs share {}: each connection goes to either",
        twice.0
    );
    Some(shared(what, Some(twice.0.port())))
}

fn shared(what: String, port: Option<u16>) -> Finding {
    let finding = Finding::bad(CHECK, what).mend(
        "Xray shares its ports in silence: stop one of the two, or give it other ports; see \
             which they are:",
    );
    finding.mend(who_listens(port))
}

fn who_listens(port: Option<u16>) -> String {
    port.map_or("ss -lxp".to_owned(), |port| {
        format!("ss -ltnp 'sport = :{port}'")
    })
}

fn port_of(address: &XrayAddress) -> Option<u16> {
    match address {
        XrayAddress::Tcp(address) => address.rsplit_once(':')?.1.parse().ok(),
        XrayAddress::Unix(_) | XrayAddress::Abstract(_) => None,
    }
}

/// Which run of Xray answers on each of some connections, in turn.
async fn boots(xray: &Xray) -> Vec<Boot> {
    let mut boots = Vec::new();
    let clock = Clock::system();
    let looks = async {
        for _ in 0..LOOKS {
            let asked = clock.moment();
            if let Ok(stats) = client(xray).sys_stats().await {
                boots.extend(Boot::between(&stats, &asked, &clock.moment()));
            }
        }
    };
    // What came until then is judged.
    let _ = timeout(LOOKS_MAX, looks).await;
    boots
}

/// Whether a run is seen again after another: a restart in between is not.
fn alternate(boots: &[Boot]) -> bool {
    boots.iter().enumerate().any(|(at, first)| {
        let mut later = boots[at + 1..].iter();
        later.any(|other| !first.is_same(other)) && later.any(|again| first.is_same(again))
    })
}

/// The first of them that comes twice.
fn twice<T: PartialEq>(of: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = Vec::new();
    for one in of {
        if seen.contains(&one) {
            return Some(one);
        }
        seen.push(one);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(started_s: i64, total_alloc: u64) -> Boot {
        Boot {
            kernel_boot_id: "k".to_owned(),
            started_ms: started_s * 1_000,
            started_awake_ms: None,
            uptime_s: 1,
            total_alloc,
            mallocs: total_alloc,
        }
    }

    #[test]
    fn two_runs_are_two_xrays_only_when_they_answer_in_turn() {
        let table: [(&[(i64, u64)], bool); 6] = [
            (&[], false),
            (&[(0, 1), (0, 2), (0, 3)], false),
            (&[(0, 1), (60, 1), (0, 2)], true),
            // Restarted in between.
            (&[(0, 1), (60, 1), (60, 2)], false),
            // Started together, and told apart by their memory.
            (&[(0, 50), (0, 9), (0, 60)], true),
            (&[(60, 1), (0, 1), (0, 2), (60, 3)], true),
        ];
        for (runs, expected) in table {
            let boots: Vec<_> = runs.iter().map(|(at, alloc)| boot(*at, *alloc)).collect();
            assert_eq!(alternate(&boots), expected, "{runs:?}");
        }
    }

    #[test]
    fn the_first_that_comes_twice_is_found() {
        assert_eq!(twice([1, 2, 3, 2, 1].into_iter()), Some(2));
        assert_eq!(twice([1, 2, 3].into_iter()), None);
    }
}
