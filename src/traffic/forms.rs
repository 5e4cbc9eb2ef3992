//! Whose a counter is: the e-mails of all managed inbounds of one Xray, as one table from e-mail to
//! node. A counter belongs to one node only, whatever the inbounds share. Pure.

use std::collections::HashSet;

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
    /// The user.
    pub user: UserId,
    /// Its name, where it is written just as we write it. Another case is another counter.
    pub usual: Option<UsualName>,
}

/// All forms of e-mails that are ours in one Xray.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// Prefixes with the nodes that they count for; the bare form is the empty one, in front.
    prefixes: Vec<(String, NodeId)>,
}

impl Forms {
    /// Of the inbounds of one Xray, in the order of the configuration. What a present kernel id
    /// says goes before what a former one did; the bare form is the first inbound's that writes it.
    pub fn of<'a>(inbounds: impl IntoIterator<Item = (NodeId, &'a Emails)>) -> Self {
        let inbounds: Vec<_> = inbounds.into_iter().collect();
        let bare = inbounds
            .iter()
            .find(|(_, emails)| emails.form == EmailForm::Bare)
            .or(inbounds.first());
        let present = inbounds.iter().map(|(node, e)| (&e.kernel_id, *node));
        let former = inbounds
            .iter()
            .flat_map(|(node, e)| e.former_ids.iter().map(|id| (id, *node)));
        let mut seen = HashSet::new();
        let mut prefixes: Vec<_> = bare
            .map(|(node, _)| (String::new(), *node))
            .into_iter()
            .collect();
        for (id, node) in present.chain(former) {
            if seen.insert(id.to_ascii_lowercase()) {
                prefixes.push((id.clone(), node));
            }
        }
        Self { prefixes }
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
        let (written, node) = &self.prefixes[place];
        let is_usual = written == prefix && !uuid.bytes().any(|b| b.is_ascii_uppercase());
        let usual = u16::try_from(place).ok().filter(|_| is_usual);
        Some(Owner {
            node: *node,
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
        let found = self.prefixes.get(usize::from(name.prefix));
        found.map(|(_, node)| *node)
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
        let forms = Forms::of([(NodeId(1), &a), (NodeId(2), &b)]);
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
