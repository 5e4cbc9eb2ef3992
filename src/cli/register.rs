//! `xray-agent register`: makes a node known to the panel, and says what to write into the
//! configuration for it. What the panel needs to write links is never shown: it may hold keys.

use std::fs;

use clap::Args;
use serde_json::{Value, json};

use super::USAGE;
use super::traffic::{ended, told};
use crate::app::register;
use crate::config::Config;
use crate::panel::Registration;

/// What can be said after `xray-agent register`.
#[derive(Args, Debug)]
pub struct RegisterArgs {
    /// What users see.
    #[arg(long)]
    name: String,
    /// The host that clients connect to.
    #[arg(long)]
    address: String,
    /// Its port.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// As the panel calls it, such as `vless`.
    #[arg(long)]
    protocol: String,
    /// What the panel needs to write links for it, as JSON, or from a file [default: {}].
    #[arg(long, value_name = "JSON|@FILE")]
    node_config: Option<String>,
    /// The panel's number or word for whether it is in use [default: the panel's].
    #[arg(long)]
    status: Option<String>,
    /// Its place in the panel's lists.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    sort_order: Option<i64>,
    /// A plan that it is part of; may be said several times.
    #[arg(long = "plan-id", value_name = "N")]
    plan_ids: Vec<u64>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Registers it; the exit code.
pub(super) async fn run(config: &Config, args: RegisterArgs) -> u8 {
    let json = args.json;
    let node = match registration(args) {
        Ok(node) => node,
        Err(why) => {
            eprintln!("{why}");
            return USAGE;
        }
    };
    let id = match register(config, &node).await {
        Ok(id) => id,
        Err(error) => return told(Err(error.into())),
    };
    let mut out = super::stream::stdout();
    if json {
        out.json(&json!({ "id": id }));
    } else {
        out.line(format_args!("the panel knows the node as {id}"));
        out.line("write it into the environment, beside the ids that are there:");
        out.line(format_args!("  NODE_IDS={id}"));
        out.line("or into the file:");
        out.line("  [[node]]");
        out.line(format_args!("  id = {id}"));
    }
    ended(out)
}

fn registration(args: RegisterArgs) -> Result<Registration, String> {
    for (name, text) in [
        ("--name", &args.name),
        ("--address", &args.address),
        ("--protocol", &args.protocol),
    ] {
        if text.trim().is_empty() {
            return Err(format!("{name} is empty"));
        }
    }
    Ok(Registration {
        config: match &args.node_config {
            Some(said) => node_config(said)?,
            None => json!({}),
        },
        name: args.name,
        address: args.address,
        port: args.port,
        protocol: args.protocol,
        status: args.status.map(number_or_word),
        sort_order: args.sort_order,
        plan_ids: args.plan_ids,
    })
}

/// Neither content nor serde's words about it are shown.
fn node_config(said: &str) -> Result<Value, String> {
    let text = match said.strip_prefix('@') {
        Some(file) => {
            fs::read_to_string(file).map_err(|e| format!("--node-config: {file}: {e}"))?
        }
        None => said.to_owned(),
    };
    let wrong = |what: String| format!("--node-config {what}; write {{\"sni\":\"…\"}}, or @FILE");
    let read = serde_json::from_str(&text).map_err(|e| {
        wrong(format!(
            "is no JSON (line {}, column {})",
            e.line(),
            e.column()
        ))
    })?;
    match read {
        Value::Object(_) => Ok(read),
        _ => Err(wrong("is no JSON object".to_owned())),
    }
}

fn number_or_word(text: String) -> Value {
    text.parse::<i64>().map_or(Value::String(text), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_panel_needs_is_an_object_and_an_error_does_not_show_it() {
        assert_eq!(node_config(r#"{"a": [1]}"#), Ok(json!({"a": [1]})));
        for wrong in ["", "[]", "1", "\"secret\"", "{\"secret\"", "@/nowhere"] {
            let told = node_config(wrong).unwrap_err();
            assert!(
                told.contains("--node-config") && !told.contains("secret"),
                "{told}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.json");
        std::fs::write(&file, "{\"b\": 2}\n").unwrap();
        assert_eq!(
            node_config(&format!("@{}", file.display())),
            Ok(json!({"b": 2}))
        );
    }

    #[test]
    fn a_status_is_a_number_where_it_is_one() {
        assert_eq!(number_or_word("1".to_owned()), json!(1));
        assert_eq!(number_or_word("active".to_owned()), json!("active"));
    }
}
