//! `xray-agent email`: shows or changes the form of users' e-mails. A change is carried out by the
//! next pass, which re-adds everybody of that inbound: their sessions go on, new counters begin.

use super::args::Form;
use super::{FAILED, USAGE};
use crate::base::clock::Clock;
use crate::config::Config;
use crate::model::around_removal::Nobody;
use crate::model::email::{EmailForm, Emails};
use crate::sync::engine::{Context, cores, inbound_parts, lock};
use crate::sync::inbound::Parts;
use crate::sync::pushed::quota::NobodyWatches;

pub(super) fn run(config: &Config, set: Option<Form>, inbound: Option<String>) -> u8 {
    let parts = match parts(config, inbound.as_deref()) {
        Ok(parts) if parts.is_empty() => {
            eprintln!("no managed inbound {:?}", inbound.unwrap_or_default());
            return USAGE;
        }
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("{error}");
            return FAILED;
        }
    };
    for parts in parts {
        let done = match set {
            None => show(&parts),
            Some(form) => change(&parts, form),
        };
        if let Err(error) = done {
            eprintln!("{error}");
            return FAILED;
        }
    }
    0
}

fn parts(config: &Config, only: Option<&str>) -> anyhow::Result<Vec<Parts>> {
    let context = Context {
        clock: Clock::system(),
        progress: std::sync::Arc::new(crate::model::progress::Silent),
        further_sources: Vec::new(),
        polls: false,
        around_removal: std::sync::Arc::new(Nobody),
        cutter: None,
        quota_watch: std::sync::Arc::new(NobodyWatches),
    };
    let cores = cores(config, &[]);
    let mut all = Vec::new();
    for node in &config.nodes {
        all.extend(inbound_parts(config, node, &cores, &[], &context)?);
    }
    all.retain(|parts| only.is_none_or(|tag| parts.key.tag.as_str() == tag));
    Ok(all)
}

fn show(parts: &Parts) -> anyhow::Result<()> {
    let emails = parts.observer.folder.state()?.emails;
    match emails {
        Some(emails) => say!("{}: {}", parts.key, example(&emails)),
        None => say!("{}: not managed yet", parts.key),
    }
    Ok(())
}

fn change(parts: &Parts, form: Form) -> anyhow::Result<()> {
    let _lock = lock(parts).map_err(|e| anyhow::anyhow!("{e}; stop it first"))?;
    let folder = &parts.observer.folder;
    let mut state = folder.state()?;
    let kernel_id = &parts.observer.inbound.kernel_id;
    let before = state
        .emails
        .take()
        .unwrap_or_else(|| Emails::first(kernel_id, parts.alone));
    let form = match form {
        Form::Bare => EmailForm::Bare,
        Form::Prefixed => EmailForm::Prefixed,
    };
    let emails = Emails {
        form,
        ..before.clone().renamed(kernel_id)
    };
    say!(
        "{}: {} -> {}",
        parts.key,
        example(&before),
        example(&emails)
    );
    if emails.form != before.form {
        say!(
            "  the next pass re-adds all {} users of this inbound; open sessions go on, counters \
             begin anew under the new e-mail",
            state.applied_count
        );
    }
    state.emails = Some(emails);
    Ok(folder.save_state(&state)?)
}

fn example(emails: &Emails) -> String {
    match emails.form {
        EmailForm::Bare => "<uuid>".to_owned(),
        EmailForm::Prefixed => format!("{}.<uuid>", emails.kernel_id),
    }
}
