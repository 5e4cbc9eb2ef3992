//! The first minutes of an installation: `init`, the shells' completions, and whether the unit starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xray_agent::base::secret::Secret;
use xray_agent::config::{EXAMPLE, example_with};

use crate::lab::AgentCommand;
use crate::program::{PROGRAM, bare};
use crate::support::{LONG, folder};

/// A secret that an installation began with.
fn secret(file: &Path, key: &str) -> Result<Secret> {
    let text = fs::read_to_string(file)?;
    let token = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key} = \"")));
    let token = token.context("no token")?.trim_end_matches('"');
    ensure!(token.len() == 43, "{} characters", token.len());
    Ok(Secret::new(token))
}

#[tokio::test]
async fn init_writes_the_example_for_its_owner_and_never_over_a_file() -> Result<()> {
    let folder = folder()?;
    let file = folder.path().join("new/config.toml");
    let init = AgentCommand::new(PROGRAM)
        .args(["init", "--output"])
        .arg(&file);
    let first = init.run_to_end(LONG).await?;
    ensure!(first.code == Some(0), "{first:?}");
    let (token, password) = (secret(&file, "read_token")?, secret(&file, "#secret_key")?);
    ensure!(fs::read_to_string(&file)? == example_with(&token, &password));
    ensure!(token != password, "one secret opens two doors");
    let other = folder.path().join("other.toml");
    let again = AgentCommand::new(PROGRAM)
        .args(["init", "--output"])
        .arg(&other);
    ensure!(again.run_to_end(LONG).await?.code == Some(0));
    ensure!(
        secret(&other, "read_token")? != token,
        "two installations share a secret"
    );
    let mode = fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    for step in ["\n1. ", "\n2. ", "\n3. ", "check-config"] {
        ensure!(first.stdout.contains(step), "{step}: {first:?}");
    }
    fs::write(&file, "mine")?;
    let second = init.run_to_end(LONG).await?;
    ensure!(second.code == Some(1), "{second:?}");
    ensure!(second.stderr.contains("--output"), "{second:?}");
    ensure!(fs::read_to_string(&file)? == "mine");
    Ok(())
}

#[tokio::test]
async fn what_init_writes_lacks_the_key_alone() -> Result<()> {
    let folder = folder()?;
    let file = folder.path().join("config.toml");
    let init = AgentCommand::new(PROGRAM)
        .args(["init", "--output"])
        .arg(&file);
    init.run_to_end(LONG).await?;
    let check = AgentCommand::new(PROGRAM)
        .args(["check-config", "--config"])
        .arg(&file);
    let keyed = check.clone().env("INTERNAL_API_KEY", "key");
    let keyed = keyed.run_to_end(LONG).await?;
    ensure!(keyed.code == Some(0), "{keyed:?}");
    Ok(())
}

#[tokio::test]
async fn the_unit_starts_as_soon_as_anything_was_configured() -> Result<()> {
    let folder = folder()?;
    let file = folder.path().join("config.toml");
    fs::write(&file, EXAMPLE)?;
    let asked = AgentCommand::new(PROGRAM)
        // What the lab sets would be a configuration.
        .env("HTTP_LISTEN", "")
        .args(["is-configured", "--config"])
        .arg(&file);
    let untouched = asked.run_to_end(LONG).await?;
    ensure!(untouched.code == Some(1), "{untouched:?}");
    ensure!(untouched.stderr.contains("check-config"), "{untouched:?}");
    let keyed = asked.clone().env("INTERNAL_API_KEY", "key");
    ensure!(keyed.run_to_end(LONG).await?.code == Some(0));
    // Wrong is not untouched: the agent itself says what is wrong, and its unit fails.
    fs::write(&file, "[panel")?;
    ensure!(asked.run_to_end(LONG).await?.code == Some(0));
    Ok(())
}

#[tokio::test]
async fn each_shell_is_given_its_completions() -> Result<()> {
    for (shell, words) in [
        ("bash", "complete -F _xray__agent"),
        ("fish", "complete -c xray-agent"),
        ("zsh", "#compdef xray-agent"),
    ] {
        let script = bare(&["completions", shell]).await?;
        ensure!(script.code == Some(0), "{script:?}");
        ensure!(script.stdout.contains(words), "{shell}: {}", script.stdout);
        ensure!(script.stdout.contains("check-config"), "{shell}");
    }
    Ok(())
}
