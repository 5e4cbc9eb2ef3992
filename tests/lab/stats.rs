//! What Xray itself counted for each user, asked over its API with nothing of the agent's but the
//! generated messages: the figure that the panel's ledger must come to.
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use tonic::transport::{Channel, Endpoint};
use xray_agent::xray::proto::xray::app::stats::command::stats_service_client::StatsServiceClient;
use xray_agent::xray::proto::xray::app::stats::command::{QueryStatsRequest, SysStatsRequest};

/// Bytes: 200 000 counters take 9 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Bytes up and down by e-mail, of all users that ever had a connection since Xray started.
/// The API must listen on TCP.
pub async fn user_counters(api_addr: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    query(api_addr, false).await
}

/// The same, and sets all users' counters to 0, as another program that bills would.
pub async fn reset_user_counters(api_addr: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    query(api_addr, true).await
}

/// Whole seconds since that Xray started.
pub async fn uptime_s(api_addr: &str) -> Result<u32> {
    let mut client = connect(api_addr).await?;
    let stats = client.get_sys_stats(SysStatsRequest {}).await?;
    Ok(stats.into_inner().uptime)
}

async fn connect(api_addr: &str) -> Result<StatsServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{api_addr}"))?;
    let channel = endpoint.connect().await.context("reaching Xray's API")?;
    Ok(StatsServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

async fn query(api_addr: &str, reset: bool) -> Result<BTreeMap<String, (u64, u64)>> {
    let mut client = connect(api_addr).await?;
    let request = QueryStatsRequest {
        pattern: "user>>>".to_owned(),
        reset,
    };
    let mut counters: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for stat in client.query_stats(request).await?.into_inner().stat {
        let name = String::from_utf8_lossy(&stat.name);
        let counter = name
            .strip_prefix("user>>>")
            .and_then(|rest| rest.rsplit_once(">>>traffic>>>"));
        let Some((email, direction)) = counter else {
            continue;
        };
        let user = counters.entry(email.to_owned()).or_default();
        let bytes = u64::try_from(stat.value).context("a counter below 0")?;
        match direction {
            "uplink" => user.0 = bytes,
            "downlink" => user.1 = bytes,
            _ => bail!("an unknown counter: {name}"),
        }
    }
    Ok(counters)
}
