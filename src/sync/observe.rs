//! What is live: read from the running Xray, or the set as we left it while nothing speaks against
//! it. Holds what is known of one inbound between two passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::facts::{Listing, decide, refuse_what_core_cannot};
use super::live::LiveSet;
use super::state::StateFolder;
use crate::base::clock::Clock;
use crate::config::Inbound;
use crate::model::credentials::DerivingKey;
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::xray::account::AccountSpec;
use crate::xray::boot::Boot;
use crate::xray::client::{RawUsers, XrayClient};
use crate::xray::dialect::Dialect;
use crate::xray::error::XrayError;
use crate::xray::inbound::InboundInfo;
use crate::xray::proto::xray::common::protocol::User;

/// How many users are looked at to learn how an inbound's users are written.
const SAMPLE_USERS: usize = 16;

/// Why an inbound could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A call failed.
    #[error(transparent)]
    Xray(#[from] XrayError),
    /// It cannot be managed as things are.
    #[error(transparent)]
    Refused(#[from] super::facts::Refusal),
    /// The state folder cannot be read.
    #[error(transparent)]
    State(#[from] crate::base::files::FileError),
}

impl ObserveError {
    /// Whether Xray is away, or does not answer.
    pub fn is_away(&self) -> bool {
        self.is_down() || matches!(self, Self::Xray(XrayError::Timeout(_)))
    }

    /// Whether Xray is away altogether.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Xray(error) if error.is_down())
    }
}

/// What is known of an inbound.
#[derive(Debug)]
pub struct Known {
    /// How its users are written.
    pub spec: AccountSpec,
    /// The inbound as Xray tells of it; `None` where it does not.
    pub info: Option<InboundInfo>,
    /// The kind of core it is on.
    pub core: Dialect,
    /// Who is live.
    pub live: LiveSet,
    /// Whether users can be read back from this core.
    pub read_back: bool,
    /// Where they cannot: who may be live or not. The wanted ones among them are not in `live`, so
    /// that they are added; the others are, so that they are removed.
    pub unsure: BTreeSet<UserId>,
    /// The run of Xray; `None` where it does not tell (no `StatsService`).
    pub boot: Option<Boot>,
    /// Xray's own count minus the entries it lists: those without an e-mail may count.
    unlisted: i64,
    read_at: Instant,
    /// The next pass has to read everything.
    stale: bool,
}

impl Known {
    /// The next pass reads the whole list.
    pub fn distrust(&mut self) {
        self.stale = true;
    }

    /// Whether the next pass reads the whole list.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Lays out who may be live for a plan towards `wanted` (ascending).
    pub fn assume(&mut self, wanted: &[UserId]) {
        if self.unsure.is_empty() {
            return;
        }
        let unsure = &self.unsure;
        self.live.fit.retain(|user| !unsure.contains(user));
        let unwanted = |user: &&UserId| wanted.binary_search(user).is_err();
        self.live.fit.extend(unsure.iter().filter(unwanted));
        self.live.fit.sort_unstable();
    }

    fn listed(&self) -> i64 {
        let odd: usize = self.live.odd.values().map(Vec::len).sum();
        i64::try_from(self.live.fit.len() + odd + self.live.foreign.len()).unwrap_or(i64::MAX)
    }
}

/// What became of the connection to Xray since it was last observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It was not observed before.
    New,
    /// The same all along: whoever answers is the same run of Xray.
    Unbroken,
    /// It was lost, perhaps with Xray.
    Broken,
}

/// Reads one inbound.
#[derive(Clone, Debug)]
pub struct Observer {
    /// The Xray.
    pub client: XrayClient,
    /// The inbound as configured.
    pub inbound: Inbound,
    /// Its state folder.
    pub folder: StateFolder,
    /// The clock.
    pub clock: Clock,
    /// At the latest after this the list is read anew.
    pub resync_interval: Duration,
    /// By what users are told whose ids are derived.
    pub key: DerivingKey,
}

impl Observer {
    /// An observer of `inbound` through `client`.
    pub fn new(
        client: XrayClient,
        inbound: Inbound,
        folder: StateFolder,
        clock: Clock,
        resync_interval: Duration,
        key: DerivingKey,
    ) -> Self {
        Self {
            client,
            inbound,
            folder,
            clock,
            resync_interval,
            key,
        }
    }

    /// What is known now: `before`, while the boot and Xray's count are what we left, else read
    /// anew. `connection` matters only where users cannot be read back.
    pub async fn observe(
        &self,
        before: Option<Known>,
        emails: &Emails,
        connection: Connection,
    ) -> Result<Known, ObserveError> {
        let boot = self.boot().await?;
        match before {
            Some(mut known) if self.holds(&known, boot.as_ref(), connection).await? => {
                known.boot = boot;
                Ok(known)
            }
            _ => self.read(boot, emails, connection).await,
        }
    }

    /// Which run of Xray answers; `None` where it does not say.
    pub async fn boot(&self) -> Result<Option<Boot>, XrayError> {
        match self.client.sys_stats().await {
            Ok(stats) => Ok(Some(Boot::of(&stats, &self.clock.moment()))),
            Err(XrayError::Unimplemented(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn holds(
        &self,
        known: &Known,
        boot: Option<&Boot>,
        connection: Connection,
    ) -> Result<bool, XrayError> {
        if !known.read_back {
            return Ok(is_same_run(known.boot.as_ref(), boot, connection));
        }
        let same_boot = match (&known.boot, boot) {
            (Some(before), Some(now)) => before.is_same(now),
            _ => false,
        };
        if known.stale || !same_boot || known.read_at.elapsed() >= self.resync_interval {
            return Ok(false);
        }
        match self.count_holds(known).await {
            // What became of the inbound is told by reading everything anew.
            Err(XrayError::InboundMissing | XrayError::NotUserManager) => Ok(false),
            told => told,
        }
    }

    /// Whether Xray counts as many users as we left.
    pub async fn count_holds(&self, known: &Known) -> Result<bool, XrayError> {
        let count = self.client.users_count(&self.inbound.tag).await?;
        Ok(count == known.listed() + known.unlisted)
    }

    /// Makes sure, before anything is added, that the inbound still is what `known` says: another
    /// hand may have put one of another protocol in its place.
    pub async fn still_is(&self, known: &mut Known) -> Result<bool, ObserveError> {
        let Some(all) = listing(&self.client).await? else {
            return Ok(true);
        };
        known.info = own(&self.inbound, all);
        let protocol = known.info.as_ref().map(|info| &info.protocol);
        Ok(protocol == Some(&Ok(known.spec.kind.protocol())))
    }

    async fn read(
        &self,
        boot: Option<Boot>,
        emails: &Emails,
        connection: Connection,
    ) -> Result<Known, ObserveError> {
        let Look {
            mut spec,
            info,
            core,
            users,
            count: before,
        } = look(&self.client, &self.inbound, emails).await?;
        spec.key = self.key.clone();
        let read_at = Instant::now();
        let Some(users) = users else {
            let (live, unsure) = self.assumed(boot.as_ref(), connection)?;
            return Ok(Known {
                spec,
                info,
                core,
                live,
                read_back: false,
                unsure,
                boot,
                unlisted: 0,
                read_at,
                stale: false,
            });
        };
        let live = sorted_out(&users, &spec, emails)?;
        let mut known = Known {
            spec,
            info,
            core,
            live,
            read_back: true,
            unsure: BTreeSet::new(),
            boot,
            unlisted: 0,
            read_at,
            stale: false,
        };
        let count = self.client.users_count(&self.inbound.tag).await?;
        known.unlisted = count - known.listed();
        // Changed while it was read: what is missing in the list may be anything.
        known.stale = before != Some(count);
        Ok(known)
    }

    /// Without a way to read users back: what we applied to this same run of Xray, and whoever may
    /// be live besides. Of another run nothing is known: whoever was applied to the last one may be
    /// live, so that the wanted ones are added once more and the others removed once more.
    fn assumed(
        &self,
        boot: Option<&Boot>,
        connection: Connection,
    ) -> Result<(LiveSet, BTreeSet<UserId>), ObserveError> {
        let mut live = LiveSet::default();
        let Some(applied) = self.folder.applied()? else {
            return Ok((live, BTreeSet::new()));
        };
        let mut unsure = applied.unsure;
        if is_same_run(applied.boot.as_ref(), boot, connection) {
            live.fit = applied.uuids;
        } else {
            unsure.extend(applied.uuids);
        }
        Ok((live, unsure))
    }
}

/// One inbound as Xray tells of it.
#[derive(Debug)]
pub struct Look {
    /// How its users are written.
    pub spec: AccountSpec,
    /// Xray's own description; `None` where this core has none.
    pub info: Option<InboundInfo>,
    /// The kind of core it is on.
    pub core: Dialect,
    /// Who is in it; `None` where this core does not list users.
    pub users: Option<RawUsers>,
    /// How many Xray had counted before it listed them, where it did.
    count: Option<i64>,
}

/// Asks Xray for everything of `inbound`, changing nothing. `emails`: those by which our users there
/// are told from others.
pub async fn look(
    client: &XrayClient,
    inbound: &Inbound,
    emails: &Emails,
) -> Result<Look, ObserveError> {
    let all = listing(client).await?;
    let listing = all.as_deref().map_or(Listing::Unavailable, Listing::Known);
    // What goes wrong here goes wrong with the list, too, and is told there.
    let count = client.users_count(&inbound.tag).await.ok();
    let users = match client.users(&inbound.tag).await {
        Ok(users) => Some(users),
        Err(XrayError::Unimplemented(_)) => None,
        // Say what exists, or why it cannot be managed, rather than Xray's bare word.
        Err(error @ (XrayError::InboundMissing | XrayError::NotUserManager)) => {
            decide(inbound, listing, &[])?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let sample = match &users {
        Some(users) => sample(users, emails)?,
        None => Vec::new(),
    };
    let spec = decide(inbound, listing, &sample)?;
    let info = all.and_then(|all| own(inbound, all));
    let core = client.dialect().await?;
    refuse_what_core_cannot(inbound, core, &spec)?;
    Ok(Look {
        spec,
        info,
        core,
        users,
        count,
    })
}

async fn listing(client: &XrayClient) -> Result<Option<Vec<InboundInfo>>, XrayError> {
    match client.list_inbounds().await {
        Ok(all) => Ok(Some(all)),
        Err(XrayError::Unimplemented(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn own(inbound: &Inbound, all: Vec<InboundInfo>) -> Option<InboundInfo> {
    all.into_iter().find(|info| info.tag == inbound.tag.0)
}

/// Where there is no count that would tell: a new run of Xray may look like the one before if both
/// had just started, but never over the same connection.
fn is_same_run(before: Option<&Boot>, now: Option<&Boot>, connection: Connection) -> bool {
    match (before, now) {
        _ if connection == Connection::Broken => false,
        (Some(before), Some(now)) => before.is_same(now),
        (None, None) => connection == Connection::Unbroken,
        _ => false,
    }
}

/// One user at a time: the list as a whole is never held decoded.
fn sorted_out(users: &RawUsers, spec: &AccountSpec, emails: &Emails) -> Result<LiveSet, XrayError> {
    let mut garbled = None;
    let readable = users.iter().filter_map(|user| match user {
        Ok(user) => Some(user),
        Err(error) => {
            garbled = Some(error);
            None
        }
    });
    let live = LiveSet::of(readable, spec, emails);
    garbled.map_or(Ok(live), Err)
}

/// Some of the users who are there, foreign ones first: those of Xray's own configuration show how the
/// inbound was meant, and an entry of ours may be what another hand made of it. In the order of their
/// e-mails, for Xray lists them in another order each time.
fn sample(users: &RawUsers, emails: &Emails) -> Result<Vec<User>, XrayError> {
    let (mut foreign, mut ours) = (BTreeMap::new(), BTreeMap::new());
    for user in users.iter() {
        let user = user?;
        let kind = match emails.read(&user.email) {
            Some(_) => &mut ours,
            None => &mut foreign,
        };
        kind.insert(user.email.clone(), user);
        if kind.len() > SAMPLE_USERS {
            kind.pop_last();
        }
    }
    Ok(foreign.into_values().chain(ours.into_values()).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::xray::account::{AccountKind, Cipher, KeyBytes};
    use crate::xray::proto::xray::common::serial::TypedMessage;

    fn specs() -> impl Iterator<Item = AccountSpec> {
        let kinds = [
            AccountKind::Vless {
                flow: String::new(),
            },
            AccountKind::Vmess,
            AccountKind::Trojan,
            AccountKind::Shadowsocks {
                cipher: Cipher::Aes128Gcm,
            },
            AccountKind::Shadowsocks2022 {
                key_bytes: KeyBytes::K16,
            },
            AccountKind::Shadowsocks2022 {
                key_bytes: KeyBytes::K32,
            },
            AccountKind::Hysteria,
        ];
        kinds.into_iter().map(|kind| AccountSpec::new(kind, 0))
    }

    /// A user whose account holds these bytes, under each protocol's name and none's.
    fn users_with(email: &str, value: &[u8]) -> Vec<User> {
        let user = UserId::from_bytes([0xab; 16]);
        let mut users: Vec<User> = specs()
            .filter_map(|spec| spec.user(user, email.to_owned()))
            .collect();
        for found in &mut users {
            if let Some(account) = &mut found.account {
                account.value = Bytes::copy_from_slice(value);
            }
        }
        users.push(User {
            account: Some(TypedMessage::default()),
            ..users[0].clone()
        });
        users
    }

    proptest! {
        #[test]
        fn no_bytes_from_xray_make_it_panic(entries in vec(vec(any::<u8>(), 0..40), 0..4)) {
            let raw: Vec<Bytes> = entries.into_iter().map(Bytes::from).collect();
            let garbled = raw.iter().any(|entry| User::decode(entry.clone()).is_err());
            let (emails, users) = (Emails::first("in", true), RawUsers::from(raw));
            for spec in specs() {
                // A list with one that cannot be read is no list: whoever that is must not be lost.
                prop_assert_eq!(sorted_out(&users, &spec, &emails).is_err(), garbled);
                prop_assert_eq!(sample(&users, &emails).is_err(), garbled);
            }
        }

        #[test]
        fn whatever_an_account_holds_no_entry_is_lost(
            ours in any::<bool>(), name in ".{0,12}", value in vec(any::<u8>(), 0..60)
        ) {
            let user = UserId::from_bytes([0xab; 16]);
            let email = if ours { user.text() } else { name };
            let listed = users_with(&email, &value);
            let raw: Vec<Bytes> = listed.iter().map(|u| u.encode_to_vec().into()).collect();
            let (emails, users) = (Emails::first("in", true), RawUsers::from(raw));
            for spec in specs() {
                let live = sorted_out(&users, &spec, &emails).unwrap();
                let odd: usize = live.odd.values().map(Vec::len).sum();
                let entries = live.fit.len() + odd + live.foreign.len();
                prop_assert_eq!(entries, listed.len());
                prop_assert_eq!(live.managed(), usize::from(ours));
            }
        }
    }
}
