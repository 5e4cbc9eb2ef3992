//! The bare client: a process that has its calls ready, pushes them with 64 under way, and ends.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use prost::Message;
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::common::serial::TypedMessage;
use xray_agent::xray::proto::xray::proxy::vless::Account;

use crate::lab::secrets::nth_uuid;
use crate::setup::TAG;

/// As many calls under way as the agent has by default.
const IN_FLIGHT: usize = 64;
const API: &str = "BENCH_BARE_API";
const USERS: &str = "BENCH_BARE_USERS";

/// What this process is to push.
pub struct Order {
    api: String,
    users: u32,
}

impl Order {
    /// Set in the environment where this process is a bare client.
    pub fn of_process() -> Result<Option<Self>> {
        let (Ok(api), Ok(users)) = (std::env::var(API), std::env::var(USERS)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            api,
            users: users.parse().context("a number of users")?,
        }))
    }

    /// The environment that makes a process such a client.
    pub fn environment(api: &str, users: u32) -> [(&'static str, String); 2] {
        [(API, api.to_owned()), (USERS, users.to_string())]
    }
}

/// Pushes, and prints how many milliseconds the pushing alone took.
pub async fn push(order: &Order) -> Result<()> {
    let calls: Vec<_> = (0..order.users).map(call).collect();
    let begun = Instant::now();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", order.api))?;
    let client = HandlerServiceClient::new(endpoint.tcp_nodelay(true).connect().await?);
    let failed = stream::iter(calls)
        .map(|call| {
            let mut client = client.clone();
            async move { client.alter_inbound(call).await.is_err() }
        })
        .buffer_unordered(IN_FLIGHT)
        .filter(|failed| std::future::ready(*failed))
        .count()
        .await;
    ensure!(failed == 0, "{failed} calls failed");
    println!("{}", begun.elapsed().as_millis());
    Ok(())
}

fn call(number: u32) -> handler::AlterInboundRequest {
    let typed = |name: &str, value: Vec<u8>| TypedMessage {
        r#type: name.to_owned(),
        value: value.into(),
    };
    let id = nth_uuid(number);
    let account = Account {
        id: id.clone(),
        ..Account::default()
    }
    .encode_to_vec();
    let user = User {
        level: 0,
        email: id,
        account: Some(typed("xray.proxy.vless.Account", account)),
    };
    let operation = handler::AddUserOperation { user: Some(user) }.encode_to_vec();
    handler::AlterInboundRequest {
        tag: TAG.to_owned(),
        operation: Some(typed(
            "xray.app.proxyman.command.AddUserOperation",
            operation,
        )),
    }
}
