//! The promises, shown on a real Xray through the real program. One binary; a module for each
//! promise; every name is a sentence.

#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::unwrap_used, reason = "a panic is a test's verdict")]

#[path = "../lab/mod.rs"]
mod lab;

#[path = "../chaos/mod.rs"]
mod chaos_campaign;

mod access;
mod architecture;
mod audit;
mod backlog;
mod brake;
mod chaos;
mod choosy;
mod configuration;
mod connector;
mod crash;
mod cutting;
mod cutting_helper;
mod doctor;
mod doctor_fix;
mod doctor_stage;
mod egress;
mod egress_stage;
mod failpoint_bench;
mod failpoints;
mod faults;
mod hooks;
mod hostile;
mod hostile_answers;
mod http;
mod http_stage;
mod installing;
mod kernel;
mod kernel_callbacks;
mod kernel_only;
mod kernel_sinks;
mod kernel_sinks_office;
mod kernel_sinks_run;
mod kernel_stage;
mod kick;
mod kick_limits;
mod kick_rare;
mod kick_stage;
mod lab_reports;
mod lab_streams;
mod lab_transfers;
mod ledger_damage;
mod ledger_file;
mod ledger_stage;
mod life;
mod metrics;
mod metrics_examples;
mod metrics_page;
mod node_events;
mod old_core;
mod panel_day;
mod program;
mod protocols;
mod pushed;
mod register;
mod reload;
mod reload_stage;
mod report_answers;
mod report_ends;
mod report_pace;
mod reporting;
mod scripted;
mod secrets_kept;
mod service_manager;
mod sockets;
mod sources;
mod stage;
mod status;
mod stops;
mod streams;
mod streams_stage;
mod support;
mod task_faults;
mod traffic;
mod traffic_commands;
mod traffic_export;
mod traffic_world;
mod uncounted;
mod users;
mod v2ray;
