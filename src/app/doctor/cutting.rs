//! What the cutting of open sessions can and cannot do here, said beforehand. Cuts nothing.

use super::finding::Finding;
use super::xray_file::{Concern, Lack, Needs, XrayFile, to_paste};
use crate::sync::kick::Foreseen;
use crate::xray::abilities::{Abilities, Service};

const CHECK: &str = "cutting";

/// Of one inbound.
pub(super) fn of_inbound(foreseen: &Foreseen) -> Finding {
    let why = foreseen.obstacle.as_ref();
    if let Some(why) = why {
        let what = format!("open sessions of removed users go on until they end: {why}");
        return Finding::note(CHECK, what)
            .mend("docs/sessions.md says what it takes, and who may have it");
    }
    if let Some(why) = &foreseen.doubt {
        return Finding::note(CHECK, format!("some may not be cut: {why}"));
    }
    Finding::good(CHECK, "open sessions of removed users can be cut")
}

/// Of the outbound for those who cannot be cut, on one Xray.
pub(super) fn of_blocking(
    tag: &str,
    file: Option<&XrayFile>,
    needs: &Needs,
    abilities: Option<&Abilities>,
) -> Finding {
    let lacks = file.map(|file| file.lacks(needs)).unwrap_or_default();
    let is_ours = |lack: &Lack| lack.concern() == Concern::Blocking;
    let mut lacks: Vec<_> = lacks.into_iter().filter(is_ours).collect();
    let service = Lack::Service(Service::Routing);
    let is_off = abilities.is_some_and(|it| !it.offers(Service::Routing));
    if is_off && !lacks.contains(&service) {
        lacks.insert(0, service);
    }
    if lacks.is_empty() {
        let what = format!(
            "who cannot be cut is sent to outbound {tag:?} by the last routing rule: it acts on what \
             no earlier rule takes"
        );
        return Finding::note(CHECK, what);
    }
    let missing: Vec<_> = lacks.iter().map(Lack::what).collect();
    let what = format!(
        "block_outbound = {tag:?} needs more of Xray's configuration: {}",
        missing.join("; ")
    );
    let finding = Finding::bad(CHECK, what);
    let lines = to_paste(&lacks, needs);
    if lines.is_empty() {
        return finding.mend("name a blackhole outbound, or take block_outbound out");
    }
    finding
        .mend(
            "merge into Xray's configuration, and restart Xray (--fix-xray-config FILE prints the \
             whole):",
        )
        .mends(lines)
}
