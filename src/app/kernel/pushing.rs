//! The pushed users, as the kernel surface asks for them: inbounds by their kernel ids.

use futures_util::future::BoxFuture;

use super::super::running::{Engines, Running};
use crate::kernel::ports::{PushError, PushedUsers, PushedView};
use crate::model::desired::InboundKey;
use crate::model::ids::InboundTag;
use crate::model::pushed::{PushedId, PushedPatch, PushedUser};
use crate::sync::pushed::{self, Scope};

/// Over what runs now.
pub(super) struct Pushing(pub(super) Running);

impl Pushing {
    fn view(engines: &Engines, view: pushed::PushedView) -> PushedView {
        PushedView {
            inbound: match &view.scope {
                Scope::Everywhere => None,
                Scope::Inbound(key) => Some(kernel_id(engines, key)),
            },
            user: view.user,
            identities: view.identities,
            used: view.room.used,
            exhausted: view.exhausted,
        }
    }
}

/// Its tag, where it is configured no more.
fn kernel_id(engines: &Engines, key: &InboundKey) -> String {
    let inbounds = engines.config.nodes.iter().flat_map(|node| &node.inbounds);
    let mut same = inbounds.filter(|it| it.xray == key.xray && it.tag == key.tag);
    same.next()
        .map_or_else(|| key.tag.0.clone(), |it| it.kernel_id.clone())
}

fn key(engines: &Engines, kernel_id: &str) -> Result<InboundKey, PushError> {
    let inbounds = engines.config.nodes.iter().flat_map(|node| {
        let of_node = node.inbounds.iter();
        of_node.map(move |inbound| (node.id, inbound))
    });
    let mut found = inbounds.filter(|(_, inbound)| inbound.kernel_id == kernel_id);
    let (node, inbound) = found
        .next()
        .ok_or_else(|| PushError::Unknown(kernel_id.to_owned()))?;
    Ok(InboundKey {
        node,
        xray: inbound.xray.clone(),
        tag: InboundTag(inbound.tag.0.clone()),
    })
}

impl PushedUsers for Pushing {
    fn list(&self) -> BoxFuture<'_, Vec<PushedView>> {
        let engines = self.0.now();
        Box::pin(async move {
            let mut all = engines.sync.pushed().list(None);
            all.sort_by(|a, b| a.user.id.cmp(&b.user.id));
            let views = all.into_iter();
            views.map(|view| Self::view(&engines, view)).collect()
        })
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Vec<PushedView>> {
        let engines = self.0.now();
        Box::pin(async move {
            let found = engines.sync.pushed().get(&PushedId(id.into()));
            let views = found.into_iter();
            views.map(|view| Self::view(&engines, view)).collect()
        })
    }

    fn replace<'a>(
        &'a self,
        inbound: &'a str,
        users: Vec<PushedUser>,
    ) -> BoxFuture<'a, Result<(), PushError>> {
        let engines = self.0.now();
        Box::pin(async move {
            let key = key(&engines, inbound)?;
            let pushed = engines.sync.pushed();
            if users.is_empty() {
                return pushed.drop_inbound(&key).await.map_err(refused);
            }
            let replaced = pushed.replace_inbound(&key, users).await;
            replaced.map(drop).map_err(refused)
        })
    }

    fn import(
        &self,
        users: Vec<PushedUser>,
        force: bool,
    ) -> BoxFuture<'_, Result<usize, PushError>> {
        let pushed = self.0.now().sync.pushed().clone();
        Box::pin(async move { pushed.import(users, force).await.map_err(refused) })
    }

    fn create(&self, user: PushedUser) -> BoxFuture<'_, Result<(), PushError>> {
        let pushed = self.0.now().sync.pushed().clone();
        Box::pin(async move { pushed.create(user).await.map_err(refused) })
    }

    fn patch<'a>(
        &'a self,
        id: &'a str,
        patch: PushedPatch,
    ) -> BoxFuture<'a, Result<(), PushError>> {
        let pushed = self.0.now().sync.pushed().clone();
        Box::pin(async move {
            let patched = pushed.patch(&PushedId(id.into()), patch).await;
            patched.map_err(refused)
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PushError>> {
        let pushed = self.0.now().sync.pushed().clone();
        Box::pin(async move { pushed.delete(&PushedId(id.into())).await.map_err(refused) })
    }
}

/// Why it was not taken, as the surface says it.
fn refused(error: pushed::PushError) -> PushError {
    use pushed::PushError as E;
    match error {
        E::Exists(id) => PushError::Exists(id.to_string()),
        E::Unknown(id) => PushError::Unknown(id.to_string()),
        E::NoCredential { id, why } => PushError::Unfit(id.to_string(), why.to_owned()),
        E::Duplicate(id) => PushError::Twice(id.to_string()),
        E::TooManyRemoved { removed, of } => PushError::TooManyGone { gone: removed, of },
        E::Unmanaged(key) => PushError::Unknown(key.tag.0),
        E::Unreadable(why) => PushError::Store(why),
        E::File(error) => PushError::Store(error.to_string()),
    }
}
