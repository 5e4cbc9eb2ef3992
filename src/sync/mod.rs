//! The main job: make live users equal to allowed users. Pure files decide (`plan`, `brake`,
//! `desired`, `live`, `facts`); `observe`, `apply` and the loops carry it out.

pub mod apply;
pub mod brake;
mod carried;
pub mod desired;
pub mod drift;
pub mod engine;
pub mod facts;
mod hook_loop;
pub mod inbound;
mod inbound_loop;
pub mod kept;
pub mod kick;
mod link;
pub mod live;
pub mod look;
mod managed;
mod node;
pub mod observe;
pub mod outputs;
mod patience;
pub mod plan;
pub mod polled;
pub mod pushed;
pub mod state;
pub mod status;
