//! The Xrays on this host: those of the file, or the one that the environment's `XRAY_API_ADDR`
//! means. Names and addresses differ: two names for one Xray would let two nodes share an inbound.

use std::time::Duration;

use super::problems::{Complaint, Place};
use super::source::{Raw, Section, Source};
use super::unknown::nearest;
use super::{Xray, addresses, values};
use crate::model::ids::InboundTag;

/// The variable of the only Xray's address.
const ADDRESS: &str = "XRAY_API_ADDR";
/// Longest wait for one call.
const RPC_TIMEOUT_MAX: Duration = Duration::from_hours(1);
/// Most calls at once; Xray's HTTP/2 server takes no more streams on a connection usefully.
const IN_FLIGHT_MAX: usize = 1024;

/// Every Xray, at least one.
pub(super) fn read(source: &Source) -> Vec<Xray> {
    let sections = source.sections("xray");
    if sections.is_empty() {
        return vec![xray(&source.bare("xray"))];
    }
    let overriding = source.variable(ADDRESS);
    if let (Some(Raw { place, .. }), 2..) = (&overriding, sections.len()) {
        let what = format!("is set, but the file has {} of [[xray]]", sections.len());
        let mend = "unset it, and set address under each [[xray]]";
        source.found.report(place, Complaint::new(what, mend));
    }
    let xrays: Vec<Xray> = sections.iter().map(xray).collect();
    for (i, (this, section)) in xrays.iter().zip(&sections).enumerate() {
        report_name(this, &xrays[..i], section);
        if overriding.is_none() {
            report_address(this, &xrays[..i], section);
        }
    }
    xrays
}

fn xray(section: &Section<'_>) -> Xray {
    Xray {
        name: section.value("name", values::name),
        address: section.value("address", addresses::xray),
        rpc_timeout: section.value("rpc_timeout", values::duration(RPC_TIMEOUT_MAX)),
        in_flight: section.value("in_flight", values::integer(1..=IN_FLIGHT_MAX)),
    }
}

fn report_name(this: &Xray, before: &[Xray], section: &Section<'_>) {
    if before.iter().any(|other| other.name == this.name) {
        let what = format!("another [[xray]] is named {}, too", this.name);
        section.report("name", Complaint::new(what, "give each a name of its own"));
    }
}

fn report_address(this: &Xray, before: &[Xray], section: &Section<'_>) {
    if let Some(other) = before.iter().find(|other| other.address == this.address) {
        let what = format!("is the address of {}, too", other.name);
        section.report("address", Complaint::new(what, "give each its own address"));
    }
}

/// The name of the Xray that an inbound is in: it may be left out where there is only one.
pub(super) fn of_inbound(
    source: &Source,
    xrays: &[Xray],
    section: &Section<'_>,
    tag: &InboundTag,
    place: &Place,
) -> Option<String> {
    let names: Vec<&str> = xrays.iter().map(|xray| xray.name.as_str()).collect();
    let all = names.join(", ");
    let Some(raw) = section.raw("xray") else {
        if let [only] = names[..] {
            return Some(only.to_owned());
        }
        let what = format!("does not say which Xray the inbound {tag} is in");
        let mend =
            format!("write {{ tag = \"{tag}\", xray = \"…\" }} in the file, with one of {all}");
        source.found.report(place, Complaint::new(what, mend));
        return None;
    };
    if names.contains(&raw.text.as_str()) {
        return Some(raw.text);
    }
    let what = format!("there is no [[xray]] named {}", values::quoted(&raw.text));
    let mend = match nearest(&raw.text, names) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("name one of {all}"),
    };
    source.found.report(&raw.place, Complaint::new(what, mend));
    None
}
