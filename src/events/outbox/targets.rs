//! Targets as rows. Secrets are written here and nowhere else: what is sent is signed with them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::time;
use crate::base::secret::Secret;
use crate::model::delivery::{Origin, Target, TargetId, Wanted};
use crate::model::event::EventName;
use crate::store::{Work, WorkError};

/// A target, and what became of what it was to be sent.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// The target.
    pub target: Target,
    /// Why nothing more is sent to it.
    pub disabled: Option<String>,
    /// Why the last try failed; `None` after one that did not.
    pub trouble: Option<String>,
    /// When it last took an event.
    pub delivered_at: Option<Timestamp>,
    /// Events that wait.
    pub queued: u64,
    /// Their bodies, in bytes.
    pub queued_bytes: u64,
    /// Events that were given up and can be sent again.
    pub kept: u64,
    /// Events that it took.
    pub delivered: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Events that were given up, and were not taken since.
    pub given_up: u64,
    /// Of those, the ones that can no longer be sent.
    pub forgotten: u64,
}

/// What [`target_of`] reads, in its order.
const COLUMNS: &str = "id, owner, form, url, events, by_api, secret, bearer, created_ms, disabled, trouble, \
     delivered_ms, queued, queued_bytes, kept, delivered, failed, given_up, forgotten";

/// Which targets that are not disabled want events of this name: each with its owner and form.
pub(super) fn wanting(
    work: &Work<'_>,
    name: EventName,
) -> Result<Vec<(TargetId, String, String)>, WorkError> {
    let mut query = work.prepare_cached(
        "SELECT id, owner, form, events FROM outbox_target WHERE disabled IS NULL ORDER BY id",
    )?;
    let mut rows = query.query([])?;
    let mut wanting = Vec::new();
    while let Some(row) = rows.next()? {
        let events: String = row.get(3)?;
        // A name that this program does not know is still a name: not all are wanted.
        if events.is_empty() || events.split(' ').any(|wanted| wanted == name.name()) {
            wanting.push((id_of(row)?, row.get(1)?, row.get(2)?));
        }
    }
    Ok(wanting)
}

/// Puts one in, or gives the one that is the same its secrets (and enables it, when somebody asks for
/// it over the API); `None` when there are
/// `most` already.
pub(super) fn put(
    work: &Work<'_>,
    wanted: &Wanted,
    now_ms: i64,
    most: Option<i64>,
) -> Result<Option<Target>, WorkError> {
    let events = events_text(wanted);
    let same = work
        .prepare_cached(
            "SELECT id FROM outbox_target
             WHERE owner = ?1 AND form = ?2 AND url = ?3 AND events = ?4",
        )?
        .query_row((&wanted.owner, &wanted.form, &wanted.url, &events), id_of)
        .optional()?;
    let there: i64 = work.query_row("SELECT count(*) FROM outbox_target", [], |row| row.get(0))?;
    if same.is_none() && most.is_some_and(|most| there >= most) {
        return Ok(None);
    }
    let id = same.unwrap_or_else(TargetId::generate);
    work.prepare_cached(
        "INSERT INTO outbox_target
            (id, owner, form, url, events, by_api, secret, bearer, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (id) DO UPDATE SET by_api = excluded.by_api, secret = excluded.secret,
            bearer = excluded.bearer,
            disabled = CASE WHEN excluded.by_api THEN NULL ELSE disabled END",
    )?
    .execute((
        id.0.as_bytes(),
        &wanted.owner,
        &wanted.form,
        &wanted.url,
        &events,
        wanted.origin == Origin::Api,
        wanted.secret.as_ref().map(Secret::expose),
        wanted.bearer.as_ref().map(Secret::expose),
        now_ms,
    ))?;
    Ok(one(work, id)?.map(|status| status.target))
}

/// Makes the configured targets of `owner` these; which ones are gone.
pub(super) fn configure(
    work: &Work<'_>,
    owner: &str,
    wanted: &[Wanted],
    now_ms: i64,
) -> Result<Vec<TargetId>, WorkError> {
    let mut stay = BTreeSet::new();
    for one_wanted in wanted {
        let put = put(work, one_wanted, now_ms, None)?;
        stay.extend(put.map(|target| target.id));
    }
    let mut query = work.prepare("SELECT id FROM outbox_target WHERE owner = ?1 AND by_api = 0")?;
    let there: Vec<TargetId> = query.query_map([owner], id_of)?.collect::<Result<_, _>>()?;
    let gone: Vec<_> = there.into_iter().filter(|id| !stay.contains(id)).collect();
    for id in &gone {
        remove(work, *id)?;
    }
    Ok(gone)
}

pub(super) fn remove(work: &Work<'_>, id: TargetId) -> Result<bool, WorkError> {
    let removed = work
        .prepare_cached("DELETE FROM outbox_target WHERE id = ?1")?
        .execute([id.0.as_bytes()])?;
    Ok(removed > 0)
}

pub(super) fn enable(work: &Work<'_>, id: TargetId) -> Result<bool, WorkError> {
    let enabled = work
        .prepare_cached(
            "UPDATE outbox_target SET disabled = NULL, trouble = NULL
             WHERE id = ?1 AND disabled IS NOT NULL",
        )?
        .execute([id.0.as_bytes()])?;
    Ok(enabled > 0)
}

pub(super) fn all(connection: &Connection) -> Result<Vec<TargetStatus>, WorkError> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_target ORDER BY created_ms, id");
    let mut query = connection.prepare_cached(&sql)?;
    let mut rows = query.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(target_of(row)?);
    }
    Ok(all)
}

pub(super) fn one(
    connection: &Connection,
    id: TargetId,
) -> Result<Option<TargetStatus>, WorkError> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_target WHERE id = ?1");
    let mut query = connection.prepare_cached(&sql)?;
    let mut rows = query.query([id.0.as_bytes()])?;
    rows.next()?.map(target_of).transpose()
}

fn target_of(row: &Row<'_>) -> Result<TargetStatus, WorkError> {
    let events: String = row.get(4)?;
    let secret = |at: usize| -> Result<_, WorkError> {
        Ok(row.get::<_, Option<String>>(at)?.map(Secret::new))
    };
    let amount = |at: usize| -> Result<u64, WorkError> {
        let negative = |_| WorkError::Damaged("a count of the outbox is below zero".to_owned());
        u64::try_from(row.get::<_, i64>(at)?).map_err(negative)
    };
    let wanted = Wanted {
        owner: row.get(1)?,
        form: row.get(2)?,
        url: row.get(3)?,
        events: events.split(' ').filter_map(EventName::parse).collect(),
        origin: if row.get(5)? {
            Origin::Api
        } else {
            Origin::Configuration
        },
        secret: secret(6)?,
        bearer: secret(7)?,
    };
    Ok(TargetStatus {
        target: Target {
            id: id_of(row)?,
            wanted,
            created: time(row.get(8)?)?,
        },
        disabled: row.get(9)?,
        trouble: row.get(10)?,
        delivered_at: row.get::<_, Option<i64>>(11)?.map(time).transpose()?,
        queued: amount(12)?,
        queued_bytes: amount(13)?,
        kept: amount(14)?,
        delivered: amount(15)?,
        failed: amount(16)?,
        given_up: amount(17)?,
        forgotten: amount(18)?,
    })
}

fn id_of(row: &Row<'_>) -> rusqlite::Result<TargetId> {
    Ok(TargetId(Uuid::from_bytes(row.get(0)?)))
}

/// The names in one order, so that the same ones are the same text.
fn events_text(wanted: &Wanted) -> String {
    let names: BTreeSet<_> = wanted.events.iter().map(|name| name.name()).collect();
    names.into_iter().collect::<Vec<_>>().join(" ")
}
