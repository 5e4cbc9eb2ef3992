//! From a push of one user, over HTTP, until Xray has him.

use std::time::Instant;

use anyhow::{Context, Result};
use xray_agent::model::ids::InboundTag;

use crate::figures::{most, percentile};
use crate::lab::secrets::nth_uuid;
use crate::lab::wait::eventually;
use crate::stage::{LONG, Stage, TAG, user};

pub async fn measure(stage: &Stage, users: u32, pushes: u32) -> Result<()> {
    let (client, tag) = (stage.client(), InboundTag(TAG.into()));
    let mut took = Vec::new();
    for number in users..users + pushes {
        let begun = Instant::now();
        let push = stage.post("/v1/users", user(number).to_string());
        let email = nth_uuid(number);
        let seen = async {
            loop {
                if let Ok(Some(_)) = client.user(&tag, &email).await {
                    return begun.elapsed();
                }
            }
        };
        let (answer, seen) = tokio::join!(push, tokio::time::timeout(LONG, seen));
        answer?;
        took.push(seen.context("he does not come")?.as_secs_f64() * 1e3);
    }
    println!("| pushes of one user | p50 | p99 | longest |");
    println!("|---|---|---|---|");
    println!(
        "| {pushes}, live in Xray after | {:.1} ms | {:.1} ms | {:.1} ms |\n",
        percentile(&took, 50),
        percentile(&took, 99),
        most(&took)
    );
    eventually("all are there", LONG, async || {
        client.users_count(&tag).await.ok() == Some(i64::from(users + pushes))
    })
    .await
}
