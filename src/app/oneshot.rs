//! What is done without the loops: what a pass would do (`sync --dry-run`), and one node brought to
//! a list from a file (`apply`).

use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::files::{FileError, read_if_there};
use crate::config::Config;
use crate::model::around_removal::Nobody;
use crate::model::desired::{Desired, DesiredSource, Fixed};
use crate::model::ids::NodeId;
use crate::model::progress::{Progress, Silent};
use crate::model::user_list::{self, UserList};
use crate::panel::{Allowed, PanelClient};
use crate::sync::engine::{BuildError, Context, cores, inbound_parts, lock};
use crate::sync::inbound::{InboundSync, Pass};
use crate::sync::plan::Plan;
use crate::sync::pushed::Pushed;
use crate::sync::pushed::quota::NobodyWatches;
use crate::sync::status::InboundStatus;

/// What a pass would do in one inbound.
#[derive(Debug)]
pub struct Preview {
    /// Its node.
    pub node: NodeId,
    /// How it stands, and what it would be.
    pub status: InboundStatus,
    /// The plan, or why there is none.
    pub plan: Result<Plan, String>,
}

/// Why a list could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The file of UUIDs cannot be taken.
    #[error("{0}")]
    List(String),
    /// The state folder cannot be used, or somebody else manages the inbound.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl From<FileError> for ApplyError {
    fn from(error: FileError) -> Self {
        Self::Build(error.into())
    }
}

pub(super) fn context(config: &Config, progress: Arc<dyn Progress>) -> Context {
    Context {
        clock: Clock::system(),
        progress,
        further_sources: Vec::new(),
        polls: false,
        around_removal: Arc::new(Nobody),
        cutter: super::cutting::cutter(config),
        quota_watch: Arc::new(NobodyWatches),
    }
}

/// Asks the panel and Xray, and plans, changing nothing in either.
pub async fn preview(config: &Config) -> Result<Vec<Preview>, BuildError> {
    let panel = config.panel.clone().map(PanelClient::new).transpose();
    let panel = panel.map_err(BuildError::Panel)?;
    let (cores, context) = (cores(config, &[]), context(config, Arc::new(Silent)));
    let mut previews = Vec::new();
    for node in &config.nodes {
        let polled = match &panel {
            Some(panel) => Some(polled(panel, node.id).await),
            None => None,
        };
        let parts = inbound_parts(config, node, &cores, &[], &context)?;
        let pushed: Arc<dyn DesiredSource> = Arc::new(Pushed::open(
            &config.state_dir,
            parts.iter().map(|parts| &parts.key),
            context.clock,
        )?);
        for mut parts in parts {
            parts.sources = polled.iter().chain([&pushed]).cloned().collect();
            let mut inbound = InboundSync::open(parts)?;
            let plan = inbound.preview(Pass::default()).await.map(|(plan, _)| plan);
            let status = inbound.status().clone();
            previews.push(Preview {
                node: node.id,
                status,
                plan: plan.map_err(|e| e.to_string()),
            });
        }
    }
    Ok(previews)
}

/// What the panel says of `node` now.
async fn polled(panel: &PanelClient, node: NodeId) -> Arc<dyn DesiredSource> {
    let desired = match panel.allowed(node, None).await {
        Ok(Allowed::List { list, .. }) => Desired::Known(list.users),
        Ok(Allowed::Unchanged) => unknown("the panel says «unchanged» to a first question"),
        Err(error) => unknown(&error.to_string()),
    };
    Arc::new(Fixed {
        name: "panel",
        desired,
    })
}

fn unknown(why: &str) -> Desired {
    Desired::Unknown {
        last_good: None,
        why: why.into(),
    }
}

/// Makes the inbounds of the configuration's node have the users in `uuids_file` (one UUID a line).
/// Each call counts as a poll for the brake.
pub async fn apply(
    config: &Config,
    uuids_file: &Path,
    force: bool,
    progress: Arc<dyn Progress>,
) -> Result<(UserList, Vec<InboundStatus>), ApplyError> {
    let list = read_uuids(uuids_file)?;
    let source: Arc<dyn DesiredSource> = Arc::new(Fixed {
        name: "file",
        desired: Desired::Known(list.users.clone()),
    });
    let (cores, context) = (cores(config, &[]), context(config, progress));
    let mut all = Vec::new();
    for node in &config.nodes {
        for parts in inbound_parts(
            config,
            node,
            &cores,
            std::slice::from_ref(&source),
            &context,
        )? {
            let _lock = lock(&parts)?;
            let mut inbound = InboundSync::open(parts)?;
            all.push(
                inbound
                    .pass(Pass {
                        is_poll: true,
                        force,
                        ..Pass::default()
                    })
                    .await
                    .clone(),
            );
        }
    }
    Ok((list, all))
}

fn read_uuids(path: &Path) -> Result<UserList, ApplyError> {
    let bytes = read_if_there(path)?.ok_or_else(|| {
        ApplyError::List(format!(
            "there is no file {}: --uuids-file names one",
            path.display()
        ))
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| ApplyError::List(format!("{} is not text", path.display())))?;
    user_list::read(text.lines())
        .map_err(|e| ApplyError::List(format!("{}: {e}; one UUID a line", path.display())))
}
