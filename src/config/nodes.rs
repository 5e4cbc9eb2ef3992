//! The panel's nodes and the inbounds that serve them. Which nodes: `NODE_IDS`, else the file's.
//! Which inbounds: `XRAY_TAG_MAP`, else the file's, else (over gRPC) the connector's default tag.

use std::collections::{BTreeMap, BTreeSet};

use super::problems::{Complaint, Place};
use super::source::{Section, Source};
use super::toml_file::{Item, Value};
use super::{ApplyMode, Inbound, Need, Node, Xray, clashes, values, xrays};
use crate::model::ids::{InboundTag, NodeId};

/// The tag that the connector took where none was named.
const DEFAULT_TAG: &str = "in-vless-reality";
/// The variable of the nodes.
const IDS: &str = "NODE_IDS";
/// The variable of the inbounds' tags.
const TAG_MAP: &str = "XRAY_TAG_MAP";

/// A node whose inbounds still know where they come from.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) id: NodeId,
    pub(super) inbounds: Vec<Placed>,
}

/// The file's nodes: `None` where one does not name its inbounds, so that the default holds; one
/// that names none that is right does not get the default on top.
type InFile = BTreeMap<NodeId, Option<Vec<Placed>>>;

/// An inbound, and where it is configured.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) place: Place,
    pub(super) inbound: Inbound,
}

/// The nodes that are needed.
pub(super) fn read(source: &Source, need: Need, mode: ApplyMode, xrays: &[Xray]) -> Vec<Node> {
    let reader = Reader { source, xrays };
    let mut in_file = reader.file_nodes();
    let mut in_map = reader.tag_map();
    let ids = match need {
        Need::Apply { node } => vec![node],
        Need::Panel => Vec::new(),
        Need::Run | Need::Check | Need::Cut => reader.ids(&in_file),
    };
    let draft = |id| {
        let inbounds = in_map.remove(&id).or_else(|| in_file.remove(&id).flatten());
        let default = || match mode {
            ApplyMode::XrayGrpc => reader.default_inbound().into_iter().collect(),
            ApplyMode::Cmd | ApplyMode::None => Vec::new(),
        };
        Draft {
            id,
            inbounds: inbounds.unwrap_or_else(default),
        }
    };
    let drafts: Vec<Draft> = ids.into_iter().map(draft).collect();
    clashes::report(&drafts, mode, &source.found);
    drafts.into_iter().map(Draft::settle).collect()
}

impl Draft {
    fn settle(self) -> Node {
        let inbounds = self
            .inbounds
            .into_iter()
            .map(|placed| placed.inbound)
            .collect();
        Node {
            id: self.id,
            inbounds,
        }
    }
}

struct Reader<'a> {
    source: &'a Source,
    xrays: &'a [Xray],
}

impl Reader<'_> {
    /// The ids of the variable, each once, else of the file.
    fn ids(&self, in_file: &InFile) -> Vec<NodeId> {
        let Some(raw) = self.source.variable(IDS) else {
            if self.source.sections("node").is_empty() {
                let mend = "set it to the panel's ids, such as 1,2, or write [[node]] in the file";
                self.report_ids(Complaint::new("is not set", mend));
            }
            return in_file.keys().copied().collect();
        };
        let entries: Vec<&str> = list(&raw.text, ',').collect();
        if entries.is_empty() {
            self.report_ids(Complaint::new(
                "names no node",
                "set it to the panel's ids: 1,2",
            ));
        }
        let id = |entry: &str| {
            let result = values::node_id(entry).map_err(|c| c.at(&raw.place));
            self.source.note(result)
        };
        let mut seen = BTreeSet::new();
        entries
            .into_iter()
            .filter_map(id)
            .filter(|id| seen.insert(*id))
            .collect()
    }

    fn report_ids(&self, complaint: Complaint) {
        self.source
            .found
            .report(&Place::Variable(IDS.to_owned()), complaint);
    }

    /// What `XRAY_TAG_MAP` says: `1:in-a+in-ws,2:in-b`.
    fn tag_map(&self) -> BTreeMap<NodeId, Vec<Placed>> {
        let mut map = BTreeMap::new();
        let Some(raw) = self.source.variable(TAG_MAP) else {
            return map;
        };
        for entry in list(&raw.text, ',') {
            let read = map_entry(entry).map_err(|complaint| complaint.at(&raw.place));
            let Some((id, tags)) = self.source.note(read) else {
                continue;
            };
            let inbound = |tag| self.bare_inbound(tag, &raw.place);
            if map
                .insert(id, tags.into_iter().filter_map(inbound).collect())
                .is_some()
            {
                let what = format!("names node {id} twice");
                let mend = format!("name it once, with all its inbounds: {id}:in-a+in-b");
                self.source
                    .found
                    .report(&raw.place, Complaint::new(what, mend));
            }
        }
        map
    }

    /// Each `[[node]]`.
    fn file_nodes(&self) -> InFile {
        let mut nodes = BTreeMap::new();
        for section in self.source.sections("node") {
            let inbounds = self.file_inbounds(&section);
            let Some(id) = self.required(&section, "id", values::node_id) else {
                continue;
            };
            if nodes.insert(id, inbounds).is_some() {
                let what = format!("another [[node]] has the id {id}, too");
                section.report(
                    "id",
                    Complaint::new(what, "keep one, with all its inbounds"),
                );
            }
        }
        nodes
    }

    fn file_inbounds(&self, section: &Section<'_>) -> Option<Vec<Placed>> {
        let items = section.list("inbounds")?;
        if items.is_empty() {
            let mend = "name one, or take the key out for the default";
            section.report("inbounds", Complaint::new("names no inbound", mend));
        }
        Some(
            items
                .iter()
                .filter_map(|item| self.file_inbound(item))
                .collect(),
        )
    }

    /// A tag alone, or a table.
    fn file_inbound(&self, item: &Item) -> Option<Placed> {
        let place = self.source.place(Some(item.line), "node.inbounds", "");
        if let Value::Text(text) = &item.value {
            let tag = values::tag(text).map_err(|complaint| complaint.at(&place));
            return self.bare_inbound(self.source.note(tag)?, &place);
        }
        let Some(section) = self.source.inner("node.inbounds", item) else {
            let what = format!("must hold tags or tables, not {}", item.value.kind());
            let mend = "write \"in-a\" or { tag = \"in-a\" }";
            self.source.found.report(&place, Complaint::new(what, mend));
            return None;
        };
        let tag = self.required(&section, "tag", values::tag)?;
        self.inbound(&section, tag, &section.place("tag"))
    }

    /// A key without which its table means nothing; variables have no part in it.
    fn required<T>(
        &self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&str) -> values::Read<T>,
    ) -> Option<T> {
        if !section.has(name) {
            section.report(name, Complaint::new("is missing", "add it here"));
        }
        self.source.note(section.in_file(name)?.read(parse))
    }

    fn default_inbound(&self) -> Option<Placed> {
        let place = Place::Variable(TAG_MAP.to_owned());
        self.bare_inbound(InboundTag(DEFAULT_TAG.to_owned()), &place)
    }

    /// An inbound of which only the tag is given.
    fn bare_inbound(&self, tag: InboundTag, place: &Place) -> Option<Placed> {
        self.inbound(&self.source.bare("node.inbounds"), tag, place)
    }

    fn inbound(&self, section: &Section<'_>, tag: InboundTag, place: &Place) -> Option<Placed> {
        let kernel_id = section.optional("kernel_id", values::kernel_id);
        let inbound = Inbound {
            kernel_id: kernel_id.unwrap_or_else(|| values::kernel_id_of(tag.as_str())),
            flow: section.value("flow", values::flow),
            protocol: section.optional("protocol", values::protocol),
            protocol_from_tag: self.source.file.is_none(),
            method: section.optional("method", values::method),
            level: section.value("level", values::integer(0..=u32::MAX)),
            exclusive: section.value("exclusive", values::boolean),
            xray: xrays::of_inbound(self.source, self.xrays, section, &tag, place)?,
            tag,
        };
        Some(Placed {
            place: place.clone(),
            inbound,
        })
    }
}

/// `1:in-a+in-ws`: the id ends at the first colon, as tags may hold some.
fn map_entry(entry: &str) -> values::Read<(NodeId, Vec<InboundTag>)> {
    let malformed = || {
        let what = format!(
            "{} does not name a node and its inbounds",
            values::quoted(entry)
        );
        Complaint::new(what, "write it as 1:in-a,2:in-b or 1:in-a+in-b")
    };
    let (id, tags) = entry.split_once(':').ok_or_else(malformed)?;
    let id = values::node_id(id.trim())?;
    let tags: Vec<InboundTag> = list(tags, '+').map(values::tag).collect::<Result<_, _>>()?;
    if tags.is_empty() {
        Err(malformed())
    } else {
        Ok((id, tags))
    }
}

/// The entries of a list in a variable, without the empty ones that a stray comma makes.
fn list(text: &str, separator: char) -> impl Iterator<Item = &str> {
    text.split(separator)
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}
