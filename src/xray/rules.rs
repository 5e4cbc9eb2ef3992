//! One routing rule of ours in a running Xray (`RoutingService`, since 1.8.10): it sends users to an
//! outbound. It stands last, so that it acts on what no earlier rule takes, and it is gone when Xray
//! starts anew.

use super::client::XrayClient;
use super::error::XrayError;
use super::proto::xray::app::router;
use super::proto::xray::app::router::command;

impl XrayClient {
    /// Puts a rule of that name in the place of the one that there was: these e-mails, in exact case,
    /// go to `outbound`. Xray needs a `routing` section, be it empty, in its configuration.
    pub async fn replace_rule(
        &self,
        rule: &str,
        outbound: &str,
        emails: Vec<String>,
    ) -> Result<(), XrayError> {
        self.remove_rule(rule).await?;
        let config = router::Config {
            rule: vec![router::RoutingRule {
                tag: outbound.to_owned(),
                user_email: emails,
                rule_tag: rule.to_owned(),
                ..router::RoutingRule::default()
            }],
        };
        let request = command::AddRuleRequest {
            config: Some(super::account::typed(&config)),
            // Without it every other rule would go.
            should_append: true,
        };
        let mut client = self.routing.clone();
        self.within("AddRule", 1, client.add_rule(request))
            .await
            .map(drop)
    }

    /// Removes the rule of that name, if there is one.
    pub async fn remove_rule(&self, rule: &str) -> Result<(), XrayError> {
        let mut client = self.routing.clone();
        let request = command::RemoveRuleRequest {
            rule_tag: rule.to_owned(),
        };
        self.within("RemoveRule", 1, client.remove_rule(request))
            .await
            .map(drop)
    }
}
