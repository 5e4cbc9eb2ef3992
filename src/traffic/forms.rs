//! Whose a counter is: the e-mails of all managed inbounds of one Xray, as one table from e-mail to
//! inbound. A counter belongs to one inbound only, whatever the inbounds share. Pure.

use std::collections::HashSet;

use crate::model::desired::InboundKey;
use crate::model::email::{EmailForm, Emails};
use crate::model::ids::{NodeId, UserId};

/// The name of a counter as we write e-mails: the place of its prefix in [`Forms`], and the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsualName {
    prefix: u16,
    /// Whose it is.
    pub user: UserId,
}

/// Whose a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node that its bytes count for.
    pub node: NodeId,
    /// The inbound, by its place in [`Forms`]; `None` where it is not managed any more.
    pub inbound: Option<u16>,
    /// The user.
    pub user: UserId,
    /// Its name, where it is written just as we write it. Another case is another counter.
    pub usual: Option<UsualName>,
}

/// All forms of e-mails that are ours in one Xray.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    inbounds: Vec<InboundKey>,
    /// Prefixes with the places of the inbounds that they count for; the bare form is the empty one,
    /// in front.
    prefixes: Vec<(String, u16)>,
}

impl Forms {
    /// Of the inbounds of one Xray, in the order of the configuration. What a present kernel id
    /// says goes before what a former one did; the bare form is the first inbound's that writes it.
    pub fn of<'a>(inbounds: impl IntoIterator<Item = (InboundKey, &'a Emails)>) -> Self {
        let (inbounds, emails): (Vec<_>, Vec<_>) = inbounds.into_iter().unzip();
        let placed = || (0_u16..).zip(&emails);
        let bare = placed()
            .find(|(_, emails)| emails.form == EmailForm::Bare)
            .or(placed().next());
        let present = placed().map(|(place, e)| (&e.kernel_id, place));
        let former = placed().flat_map(|(place, e)| e.former_ids.iter().map(move |id| (id, place)));
        let mut seen = HashSet::new();
        let mut prefixes: Vec<_> = bare
            .map(|(place, _)| (String::new(), place))
            .into_iter()
            .collect();
        for (id, place) in present.chain(former) {
            if seen.insert(id.to_ascii_lowercase()) {
                prefixes.push((id.clone(), place));
            }
        }
        Self { inbounds, prefixes }
    }

    /// All inbounds, each at its place.
    pub fn inbounds(&self) -> &[InboundKey] {
        &self.inbounds
    }

    /// Whose this e-mail is, if it is ours.
    pub fn read(&self, email: &str) -> Option<Owner> {
        let (prefix, uuid) = email.rsplit_once('.').unwrap_or(("", email));
        if prefix.is_empty() && uuid.len() != email.len() {
            return None;
        }
        let user = UserId::parse(uuid)?;
        let place = self
            .prefixes
            .iter()
            .position(|(known, _)| known.eq_ignore_ascii_case(prefix))?;
        let (written, inbound) = &self.prefixes[place];
        let is_usual = written == prefix && !uuid.bytes().any(|b| b.is_ascii_uppercase());
        let usual = u16::try_from(place).ok().filter(|_| is_usual);
        Some(Owner {
            node: self.inbounds.get(usize::from(*inbound))?.node,
            inbound: Some(*inbound),
            user,
            usual: usual.map(|prefix| UsualName { prefix, user }),
        })
    }

    /// The e-mail of a usual name.
    pub fn write(&self, name: UsualName) -> String {
        match self.prefixes.get(usize::from(name.prefix)) {
            Some((prefix, _)) if !prefix.is_empty() => format!("{prefix}.{}", name.user.text()),
            _ => name.user.text(),
        }
    }

    /// The node that a usual name counts for.
    pub fn node(&self, name: UsualName) -> Option<NodeId> {
        let (_, inbound) = self.prefixes.get(usize::from(name.prefix))?;
        let inbound = self.inbounds.get(usize::from(*inbound));
        inbound.map(|inbound| inbound.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

    fn emails(form: EmailForm, id: &str, former: &[&str]) -> Emails {
        Emails {
            form,
            kernel_id: id.to_owned(),
            former_ids: former.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    #[test]
    fn every_form_counts_for_one_node_and_only_our_spelling_is_usual() {
        let (a, b) = (
            emails(EmailForm::Prefixed, "in-a", &["in-b", "old"]),
            emails(EmailForm::Bare, "in-b", &[]),
        );
        let inbound = |node, tag| InboundKey::of(NodeId(node), "main", tag);
        let forms = Forms::of([(inbound(1, "a"), &a), (inbound(2, "b"), &b)]);
        let upper = ID.to_uppercase();
        let table = [
            (
                ID.to_owned(),
                Some((2, true)),
                "bare: of the inbound that writes it",
            ),
            (upper.clone(), Some((2, false)), "bare, in upper case"),
            (format!("in-a.{ID}"), Some((1, true)), "prefixed"),
            (
                format!("IN-A.{ID}"),
                Some((1, false)),
                "prefix in upper case",
            ),
            (
                format!("in-b.{ID}"),
                Some((2, true)),
                "the present id goes before a former one",
            ),
            (format!("old.{ID}"), Some((1, true)), "a former id"),
            (format!(".{ID}"), None, "an empty prefix"),
            (format!("x.in-a.{ID}"), None, "a longer prefix"),
            (ID.replace('-', ""), None, "no dashes"),
            ("a@b".to_owned(), None, "foreign"),
        ];
        for (email, expected, what) in table {
            let owner = forms.read(&email);
            let said = owner.map(|owner| (owner.node.0, owner.usual.is_some()));
            assert_eq!(said, expected, "{what}: {email}");
            let place = owner.and_then(|owner| owner.inbound);
            let said = place.map(|place| forms.inbounds()[usize::from(place)].node.0);
            assert_eq!(said, expected.map(|(node, _)| node), "{what}");
            if let Some(usual) = owner.and_then(|owner| owner.usual) {
                assert_eq!(forms.write(usual), email);
                assert_eq!(forms.node(usual), owner.map(|owner| owner.node));
            }
        }
    }

    #[test]
    fn without_an_inbound_nothing_is_ours() {
        assert_eq!(Forms::of([]).read(ID), None);
    }
}
