//! The e-mails under which our users stand in Xray. An inbound has one form, chosen once; an e-mail
//! in any form of ours is ours, whatever its case, and everyone else is foreign. Pure.

use serde::{Deserialize, Serialize};

use super::ids::UserId;

/// How a user's e-mail is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailForm {
    /// The lower-case UUID alone, as the connector of seed 001 wrote it.
    Bare,
    /// `<kernel id>.<uuid>`: traffic is then known for each inbound.
    Prefixed,
}

/// The e-mails of one inbound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emails {
    /// The form that is written.
    pub form: EmailForm,
    /// The inbound's kernel id, which is the prefix.
    pub kernel_id: String,
    /// Kernel ids that it had before; e-mails with them are ours too.
    #[serde(default)]
    pub former_ids: Vec<String>,
}

impl Emails {
    /// The form of an inbound that is managed for the first time: bare when no other inbound of its
    /// Xray is managed then.
    pub fn first(kernel_id: &str, alone: bool) -> Self {
        let form = if alone {
            EmailForm::Bare
        } else {
            EmailForm::Prefixed
        };
        Self {
            form,
            kernel_id: kernel_id.to_owned(),
            former_ids: Vec::new(),
        }
    }

    /// The same inbound under the kernel id that is configured now.
    #[must_use]
    pub fn renamed(mut self, kernel_id: &str) -> Self {
        if self.kernel_id != kernel_id {
            let former = std::mem::replace(&mut self.kernel_id, kernel_id.to_owned());
            self.former_ids
                .retain(|id| id != kernel_id && *id != former);
            self.former_ids.push(former);
        }
        self
    }

    /// The e-mail of `user`: lower-case, for counters and rules know exact case only.
    pub fn write(&self, user: UserId) -> String {
        match self.form {
            EmailForm::Bare => user.text(),
            EmailForm::Prefixed => format!("{}.{}", self.kernel_id, user.text()),
        }
    }

    /// Whose e-mail it is, if it is one of ours.
    pub fn read(&self, email: &str) -> Option<UserId> {
        let Some((prefix, uuid)) = email.rsplit_once('.') else {
            return UserId::parse(email);
        };
        std::iter::once(&self.kernel_id)
            .chain(&self.former_ids)
            .any(|id| id.eq_ignore_ascii_case(prefix))
            .then(|| UserId::parse(uuid))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

    #[test]
    fn both_forms_are_ours_in_any_case_and_only_one_is_written() {
        let user = UserId::parse(ID).unwrap();
        let upper = ID.to_uppercase();
        for alone in [true, false] {
            let emails = Emails::first("in-a", alone);
            for ours in [ID, &upper, &format!("in-a.{ID}"), &format!("IN-A.{upper}")] {
                assert_eq!(emails.read(ours), Some(user), "{ours}");
            }
            assert_eq!(emails.read(&emails.write(user)), Some(user));
        }
        assert_eq!(Emails::first("in-a", true).write(user), ID);
        assert_eq!(
            Emails::first("in-a", false).write(user),
            format!("in-a.{ID}")
        );
    }

    #[test]
    fn everyone_else_is_foreign() {
        let emails = Emails::first("in-a", false);
        let bare = ID.replace('-', "");
        let foreign = [
            "",
            "a@b",
            &bare,
            &format!("in-b.{ID}"),
            &format!("x.in-a.{ID}"),
            &format!("{ID}.x"),
        ];
        for email in foreign {
            assert_eq!(emails.read(email), None, "{email}");
        }
    }

    #[test]
    fn a_former_kernel_id_stays_ours() {
        let emails = Emails::first("old", false).renamed("new").renamed("new");
        assert_eq!(emails.former_ids, ["old"]);
        assert!(emails.read(&format!("old.{ID}")).is_some());
        assert_eq!(emails.renamed("old").former_ids, ["new"]);
    }
}
