//! Everything that is to be seen of each Xray, in order: its API, its inbounds, what it counts, and
//! what can be cut.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::counting::Shown;
use super::finding::{Finding, Verdict};
use super::inbounds::Seen;
use super::xray_file::{Needs, XrayFile};
use super::{counting, cutting, inbounds, xray};
use crate::config::{ApplyMode, Config, Inbound, Xray};
use crate::sync::kick::foresee;
use crate::traffic::status::TrafficStatus;
use crate::xray::abilities::{Abilities, Service};
use crate::xray::client::XrayClient;
use crate::xray::inbound::over_tcp;

use crate::app::cutting::cutter;

const CHECK: &str = "xray";
const FILE: &str = "xray-config";
/// The longest that one Xray is looked at, all in all.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// Checks each; nothing in the modes that have none. `shown`: the text of Xray's configuration.
pub(super) async fn check_all(
    config: &Config,
    shown: Option<&str>,
    running: Option<&TrafficStatus>,
) -> Vec<Finding> {
    if config.mode != ApplyMode::XrayGrpc {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let file = match shown.map(XrayFile::read) {
        Some(Ok(file)) => Some(file),
        Some(Err(why)) => {
            findings.push(unread(&why));
            None
        }
        None => None,
    };
    let own = file.as_ref().and_then(|file| the_files_own(config, file));
    if let (Some(_), None) = (&file, own) {
        let what = "the file that was shown tells of no API where the agent asks one of its Xrays";
        findings.push(Finding::note(FILE, what).mend("show another file, or one Xray's at a time"));
    }
    let looks = config.xrays.iter().map(|xray| {
        let file = file.as_ref().filter(|_| own == Some(xray));
        let told = running.and_then(|it| it.xrays.iter().find(|one| one.xray == xray.name));
        let not_counting = told.and_then(|told| told.not_counting.clone());
        let look = Looking {
            config,
            xray,
            file,
            not_counting,
        };
        look.done()
    });
    for (xray, of_one) in config.xrays.iter().zip(join_all(looks).await) {
        let alone = config.xrays.len() == 1;
        findings.extend(of_one.into_iter().map(|finding| {
            let about = finding.about.clone();
            match (alone, about) {
                (true, _) => finding,
                (false, None) => finding.about(xray.name.clone()),
                (false, Some(tag)) => finding.about(format!("{tag} in {}", xray.name)),
            }
        }));
    }
    findings
}

fn unread(why: &super::NotJson) -> Finding {
    let finding = match why {
        super::NotJson::Other => Finding::note(FILE, why.to_string()),
        super::NotJson::Broken(_) => Finding::bad(FILE, why.to_string()),
    };
    finding
        .mend("let Xray write it as JSON, all its files together, and show that:")
        .mend("xray run -dump -c FILE > whole.json")
}

/// The Xray that the file is of: the only one, or the one where its API listens.
pub(super) fn the_files_own<'a>(config: &'a Config, file: &XrayFile) -> Option<&'a Xray> {
    match &config.xrays[..] {
        [only] => Some(only),
        all => all.iter().find(|xray| file.listens_at(&xray.address)),
    }
}

/// What is needed of one Xray.
pub(super) fn needs(config: &Config, xray: &Xray) -> Needs {
    let managed = inbounds_in(config, xray);
    Needs {
        address: xray.address.clone(),
        levels: managed.iter().map(|inbound| inbound.level).collect(),
        counts: config.traffic.enabled,
        cuts: config.kick.enabled,
        block_outbound: config
            .kick
            .block_outbound
            .clone()
            .filter(|_| config.kick.enabled),
    }
}

fn inbounds_in<'a>(config: &'a Config, xray: &Xray) -> Vec<&'a Inbound> {
    let all = config.nodes.iter().flat_map(|node| &node.inbounds);
    all.filter(|inbound| inbound.xray == xray.name).collect()
}

/// One Xray that is looked at.
struct Looking<'a> {
    config: &'a Config,
    xray: &'a Xray,
    /// Its configuration, where it was shown.
    file: Option<&'a XrayFile>,
    /// What a running agent has found to lack.
    not_counting: Option<String>,
}

impl Looking<'_> {
    async fn done(self) -> Vec<Finding> {
        timeout(LOOK_MAX, self.findings())
            .await
            .unwrap_or_else(|_| {
                let what = format!(
                    "{} did not answer everything within {LOOK_MAX:?}",
                    self.xray.address
                );
                vec![Finding::bad(CHECK, what).mend("see what keeps Xray busy: top; its log")]
            })
    }

    async fn findings(&self) -> Vec<Finding> {
        let needs = needs(self.config, self.xray);
        let client = xray::client(self.xray);
        let abilities = match client.abilities().await {
            Ok(abilities) => abilities,
            Err(error) => {
                let mut findings = vec![xray::unreachable(&error, self.xray, self.file, &needs)];
                findings.extend(self.without_api(&needs));
                return findings;
            }
        };
        let mut findings = xray::of_abilities(&abilities, self.xray, &needs);
        let is_at = |file: &XrayFile| file.listens_at(&self.xray.address);
        if self.file.is_some_and(|file| !is_at(file)) {
            let what =
                "by the file that was shown this API listens elsewhere: it is another Xray's";
            findings.push(Finding::note(FILE, what));
        }
        let is_xray = abilities.offers(Service::Handler) || abilities.offers(Service::Stats);
        if !is_xray {
            findings.extend(self.without_api(&needs));
            return findings;
        }
        let (of_inbounds, seen) = self.inbounds(&client, &abilities).await;
        let infos: Vec<_> = seen
            .iter()
            .filter_map(|(_, it)| it.look.info.clone())
            .collect();
        let tags: Vec<_> = infos
            .iter()
            .map(|info| crate::model::ids::InboundTag(info.tag.clone()))
            .collect();
        findings.extend(xray::sharing(self.xray, over_tcp(&infos, &tags)).await);
        findings.extend(of_inbounds);
        self.counted_and_cut(&client, &abilities, &needs, &seen, &mut findings)
            .await;
        findings
    }

    /// What can be said of an Xray that does not answer.
    fn without_api(&self, needs: &Needs) -> Vec<Finding> {
        let mut findings = vec![Finding::note(
            "inbound",
            "cannot tell, nor what is counted and what can be cut: Xray does not answer",
        )];
        if self.file.is_some() {
            let counted = counting::judge(self.file, needs, None);
            findings.extend(Some(counted).filter(|it| it.verdict == Verdict::Bad));
        }
        findings
    }

    async fn inbounds(
        &self,
        client: &XrayClient,
        abilities: &Abilities,
    ) -> (Vec<Finding>, Vec<(&Inbound, Seen)>) {
        if !abilities.offers(Service::Handler) {
            let what = "cannot tell: Xray's API has no HandlerService";
            return (vec![Finding::note("inbound", what)], Vec::new());
        }
        let (mut findings, mut all) = (Vec::new(), Vec::new());
        for inbound in inbounds_in(self.config, self.xray) {
            let (finding, seen) = inbounds::check(client, inbound, self.file).await;
            findings.push(finding);
            all.extend(seen.map(|seen| (inbound, seen)));
        }
        (findings, all)
    }

    async fn counted_and_cut(
        &self,
        client: &XrayClient,
        abilities: &Abilities,
        needs: &Needs,
        seen: &[(&Inbound, Seen)],
        findings: &mut Vec<Finding>,
    ) {
        let can_count = abilities.offers(Service::Stats);
        let (mut of_cutting, mut lists_kept) = (Vec::new(), None);
        if let Some(cutter) = cutter(self.config).filter(|_| can_count) {
            for (inbound, seen) in seen {
                let info = seen.look.info.as_ref();
                let foreseen = foresee(client, &*cutter, inbound.level, info, &seen.ours).await;
                lists_kept = lists_kept.or(foreseen.lists_kept);
                // That is told with what is counted.
                if foreseen.lists_kept != Some(false) {
                    of_cutting.push(cutting::of_inbound(&foreseen).about(inbound.tag.0.clone()));
                }
            }
        }
        let shown = if can_count {
            let managed = inbounds_in(self.config, self.xray);
            let emails: Vec<_> = managed.into_iter().map(inbounds::emails).collect();
            let mut shown = Shown::by(client, &emails).await;
            shown.lists_kept = lists_kept;
            shown.not_counting.clone_from(&self.not_counting);
            Some(shown)
        } else {
            None
        };
        findings.push(counting::judge(self.file, needs, shown.as_ref()));
        findings.extend(of_cutting);
        if !self.config.kick.enabled {
            let what = "open sessions of removed users go on until they end: kick is off";
            findings.push(Finding::good("cutting", what));
        }
        if let Some(tag) = &needs.block_outbound {
            findings.push(cutting::of_blocking(tag, self.file, needs, Some(abilities)));
        }
    }
}
