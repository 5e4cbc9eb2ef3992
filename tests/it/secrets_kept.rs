//! That the search for secrets, which stands at the end of every agent of these tests, finds them (A4):
//! each kind is planted here, through the same agent's end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, ensure};

use crate::lab::AgentCommand;
use crate::lab::leaks::Uuids;
use crate::lab::secrets::{nth_uuid, shadowsocks_2022_key, uuid};
use crate::support::{LONG, folder};

/// A program that prints this in an agent's place, with an agent's secrets; what the end of it says.
async fn end_of_one_that_says(line: &str, stream: &str, args: &[&str]) -> Result<String> {
    let folder = folder()?;
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "[panel]\ntoken = \"canary-of-the-file\"\n")?;
    let key = folder.path().join("key.pem");
    std::fs::write(&key, include_str!("../lab/tls/origin.key"))?;
    let mut agent = AgentCommand::new("/bin/sh")
        .args([
            "-c",
            &format!("echo '{{\"message\":\"{line}\"}}' >&{stream}"),
        ])
        .args(["sh", "--config"])
        .arg(&file)
        .args(args)
        .env("INTERNAL_API_KEY", "canary-of-the-environment")
        .env(
            "PANEL_PROXY",
            "socks5://somebody:canary-of-the-proxy@127.0.0.1:1",
        )
        .env("HTTP_TLS_KEY", &key)
        .spawn()?;
    agent.wait_exit(LONG).await?;
    let end = catch_unwind(AssertUnwindSafe(|| drop(agent)));
    Ok(end.err().map_or_else(String::new, |panic| {
        let said = panic.downcast_ref::<String>();
        said.cloned().unwrap_or_else(|| "a panic".to_owned())
    }))
}

#[tokio::test]
async fn whoever_prints_a_secret_fails_his_test() -> Result<()> {
    let key = include_str!("../lab/tls/origin.key").lines().nth(1);
    let (a_user, bare) = (nth_uuid(7), uuid().replace('-', ""));
    let keys = [16, 32].map(|bytes| shadowsocks_2022_key(&a_user, bytes));
    let an_old_number = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
    for secret in [
        "canary-of-the-environment",
        "canary-of-the-file",
        "canary-of-the-proxy",
        "-----BEGIN PRIVATE KEY-----",
        key.context("no key")?,
        &a_user,
        &a_user.to_uppercase(),
        &bare,
        keys[0].trim_end_matches('='),
        keys[1].trim_end_matches('='),
        an_old_number,
    ] {
        let line = format!("user={secret}, and more");
        for stream in ["1", "2"] {
            let said = end_of_one_that_says(&line, stream, &["status"]).await?;
            ensure!(
                said.contains(secret) || said.contains("PRIVATE KEY"),
                "{secret}: {said:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn numbers_of_reports_and_what_a_user_asked_for_may_be_printed() -> Result<()> {
    let number = uuid::Uuid::now_v7().to_string();
    let user = nth_uuid(7);
    for (line, stream, args) in [
        (&number, "2", &["status"][..]),
        (&format!("{}…", &user[..8]), "2", &[]),
        (&user, "1", &["traffic"]),
    ] {
        let said = end_of_one_that_says(line, stream, args).await?;
        ensure!(said.is_empty(), "{said}");
    }
    let answer = AgentCommand::new("xray-agent").canaries();
    ensure!(answer.leak(&user, Uuids::Never).is_some());
    Ok(())
}
