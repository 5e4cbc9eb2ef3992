//! Looks at one inbound by itself, beside a running agent or without one: who is live, asked of Xray,
//! and who is wanted there. Changes nothing, in Xray or on the disk.

use super::desired::{Wanted, union};
use super::drift::Drift;
use super::managed::{is_alone, key};
use super::observe::{Connection, Known, ObserveError, Observer};
use super::pushed;
use super::state::StateFolder;
use crate::base::clock::Clock;
use crate::config::{Config, Inbound, Node};
use crate::model::desired::Desired;
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::xray::client::XrayClient;

/// One inbound, looked at.
#[derive(Debug)]
pub struct Seen {
    /// What Xray says.
    pub known: Known,
    /// Who is wanted there.
    pub wanted: Wanted,
    /// How many of those were pushed.
    pub pushed: usize,
    /// Of those who are live and not wanted: whose removal the brake holds, ascending.
    pub held: Vec<UserId>,
    emails: Emails,
}

/// Asks Xray through `client` for `inbound` of `node`, of which the panel says `polled`.
pub async fn look(
    config: &Config,
    node: &Node,
    inbound: &Inbound,
    client: &XrayClient,
    polled: Desired,
) -> Result<Seen, ObserveError> {
    let key = key(node, inbound);
    let folder = StateFolder::to_look_at(&config.state_dir, &key);
    let state = folder.state()?;
    let emails = state.emails_of(&inbound.kernel_id, is_alone(config, inbound));
    let ids = pushed::kept_key(&config.state_dir)?;
    let observer = Observer::new(
        client.clone(),
        inbound.clone(),
        folder,
        Clock::system(),
        config.sync.resync_interval,
        ids,
    );
    let mut known = observer.observe(None, &emails, Connection::New).await?;
    let form = known.spec.kind.form();
    let pushed = pushed::kept(&config.state_dir, &key, Some(form))?;
    let pushed_users = pushed.users().map_or(0, |users| users.len());
    let wanted = union(&[polled.into(), pushed]);
    known.assume(&wanted.users);
    let mut held = state.absences.held(&wanted.users);
    held.retain(|user| known.live.has(*user));
    Ok(Seen {
        known,
        wanted,
        pushed: pushed_users,
        held,
        emails,
    })
}

impl Seen {
    /// In what the live users differ from the wanted ones.
    pub fn drift(&self) -> Drift {
        let kind = &self.known.spec.kind;
        Drift::of(&self.known.live, &self.wanted.users, kind, &self.emails)
    }
}
