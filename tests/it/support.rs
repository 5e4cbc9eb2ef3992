//! What the tests share: an agent against a panel and an Xray, and a second opinion on who is live.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use prost::Message;
use tempfile::TempDir;
use xray_agent::xray::proto::xray::app::proxyman::command as handler;
use xray_agent::xray::proto::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use xray_agent::xray::proto::xray::common::protocol::User;
use xray_agent::xray::proto::xray::common::serial::TypedMessage;

use crate::lab::agent::AgentCommand;

/// Twenty times what anything here takes: a bound against hanging, not a figure.
pub const LONG: Duration = Duration::from_mins(1);
/// The token of every test's panel: nobody may ever print it.
pub const TOKEN: &str = "canary-token-5f1d0c";

/// The real program, with nothing but a panel's address and a folder of its own set.
pub fn agent(panel: &str, folder: &Path) -> AgentCommand {
    AgentCommand::new(env!("CARGO_BIN_EXE_xray-agent"))
        .env("PANEL_BASE_URL", panel)
        .env("INTERNAL_API_KEY", TOKEN)
        .env("NODE_IDS", "1")
        .env("OUTPUT_DIR", folder)
        .env("INTERVAL_SECONDS", "1")
        .env("RUST_LOG", "trace")
}

/// [`agent`] in `xray-grpc` mode on one inbound.
pub fn grpc_agent(panel: &str, folder: &Path, api: &str, tag: &str) -> AgentCommand {
    agent(panel, folder)
        .env("APPLY_MODE", "xray-grpc")
        .env("XRAY_API_ADDR", api)
        .env("XRAY_TAG_MAP", format!("1:{tag}"))
}

/// A folder that goes with the test.
pub fn folder() -> Result<TempDir> {
    Ok(tempfile::tempdir()?)
}

/// An Xray's API, called without any of the agent's own code but the generated messages.
pub struct Api(HandlerServiceClient<tonic::transport::Channel>);

impl Api {
    pub async fn connect(address: &str) -> Result<Self> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
        let client = HandlerServiceClient::new(endpoint.connect().await?);
        Ok(Self(client.max_decoding_message_size(512 << 20)))
    }

    /// Live users by e-mail.
    pub async fn users(&mut self, tag: &str) -> Result<BTreeMap<String, User>> {
        let request = handler::GetInboundUserRequest {
            tag: tag.to_owned(),
            email: String::new(),
        };
        let answer = self.0.get_inbound_users(request).await?.into_inner();
        answer
            .users
            .into_iter()
            .map(|raw| {
                let user = User::decode(raw)?;
                Ok((user.email.clone(), user))
            })
            .collect()
    }

    /// Live users' e-mails.
    pub async fn emails(&mut self, tag: &str) -> Result<Vec<String>> {
        Ok(self.users(tag).await?.into_keys().collect())
    }

    /// Adds a user as another hand would.
    pub async fn add(&mut self, tag: &str, user: User) -> Result<()> {
        let operation = handler::AddUserOperation { user: Some(user) };
        self.alter(tag, "AddUserOperation", operation.encode_to_vec())
            .await
    }

    /// Removes a user as another hand would.
    pub async fn remove(&mut self, tag: &str, email: &str) -> Result<()> {
        let operation = handler::RemoveUserOperation {
            email: email.to_owned(),
        };
        self.alter(tag, "RemoveUserOperation", operation.encode_to_vec())
            .await
    }

    async fn alter(&mut self, tag: &str, operation: &str, value: Vec<u8>) -> Result<()> {
        let operation = TypedMessage {
            r#type: format!("xray.app.proxyman.command.{operation}"),
            value: value.into(),
        };
        let request = handler::AlterInboundRequest {
            tag: tag.to_owned(),
            operation: Some(operation),
        };
        self.0.alter_inbound(request).await?;
        Ok(())
    }
}
