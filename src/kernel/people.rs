//! Who should be on this node: those whom the polled panel allows, and those who were pushed. One whom
//! both want is one person. Passwords are never in here.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::Ports;
use super::ports::PushedView;
use super::wire::users::{Rate, Traffic, UserView};
use crate::base::redact;
use crate::model::ids::{NodeId, UserId};

/// Of a fact: where a person comes from.
const SOURCE: &str = "source";
/// Of a fact: that his quota keeps him out.
const EXHAUSTED: &str = "exhausted";

/// Everybody who should be here.
pub(super) struct People(Vec<Shown>);

/// One person.
pub(super) enum Shown {
    /// Whom the polled panel allows, and nobody pushed.
    Polled {
        /// Who.
        user: UserId,
        /// At which nodes.
        nodes: Vec<NodeId>,
        /// Bytes that he had.
        used: u64,
    },
    /// Who was pushed.
    Pushed {
        /// As he stands.
        user: PushedView,
        /// Whether the polled panel allows him, too.
        is_polled: bool,
    },
}

impl People {
    /// As it is now, with what of the polled ones the ledger counted.
    pub(super) async fn of(ports: &Ports) -> Self {
        let used = match &ports.totals {
            Some(totals) => totals.of_users().await.unwrap_or_default(),
            None => HashMap::new(),
        };
        Self::with_bytes(ports, &used).await
    }

    /// As it is now, for whoever only counts them.
    pub(super) async fn to_count(ports: &Ports) -> Self {
        Self::with_bytes(ports, &HashMap::new()).await
    }

    async fn with_bytes(ports: &Ports, used: &HashMap<UserId, u64>) -> Self {
        let pushed = match &ports.users {
            Some(users) => users.list().await,
            None => Vec::new(),
        };
        let mut polled: BTreeMap<UserId, Vec<NodeId>> = BTreeMap::new();
        for (node, users) in ports.agent.allowed() {
            for user in users.iter() {
                polled.entry(*user).or_default().push(node);
            }
        }
        let mut known: HashSet<UserId> = HashSet::new();
        let mut all: Vec<Shown> = Vec::with_capacity(pushed.len() + polled.len());
        for user in pushed {
            let is_polled = user.identities.iter().any(|it| polled.contains_key(it));
            known.extend(&user.identities);
            all.push(Shown::Pushed { user, is_polled });
        }
        let rest = polled.into_iter().filter(|(user, _)| !known.contains(user));
        all.extend(rest.map(|(user, nodes)| Shown::Polled {
            user,
            nodes,
            used: used.get(&user).copied().unwrap_or_default(),
        }));
        Self(all)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Shown> {
        self.0.iter()
    }

    /// The person of that id.
    pub(super) fn get(&self, id: &str) -> Option<&Shown> {
        self.iter().find(|shown| shown.id() == id)
    }
}

impl Shown {
    fn id(&self) -> String {
        match self {
            Self::Polled { user, .. } => user.text(),
            Self::Pushed { user, .. } => user.user.id.to_string(),
        }
    }

    /// Whether what comes from him, and what goes to him, has a limit.
    pub(super) fn is_limited(&self) -> (bool, bool) {
        match self {
            Self::Polled { .. } => (false, false),
            Self::Pushed { user, .. } => {
                let rate = user.user.rate;
                (rate.up.is_some(), rate.down.is_some())
            }
        }
    }

    /// Whether he may use the inbound of `node` with that kernel id; `all`: by what holds for every
    /// inbound, too.
    pub(super) fn is_at(&self, node: NodeId, inbound: &str, all: bool) -> bool {
        match self {
            Self::Polled { nodes, .. } => nodes.contains(&node),
            Self::Pushed { user, .. } => match &user.inbound {
                Some(own) => own == inbound,
                None => all,
            },
        }
    }

    /// As it is shown; `redact` hides name, tags, facts and quota, and of a credential all but its
    /// beginning.
    pub(super) fn view(&self, redact: bool) -> UserView {
        let view = self.whole();
        if !redact {
            return view;
        }
        let source = view.metadata.get(SOURCE).cloned();
        UserView {
            id: redact::uuids(&view.id),
            username: String::new(),
            tags: Vec::new(),
            metadata: source
                .map(|it| (SOURCE.to_owned(), it))
                .into_iter()
                .collect(),
            traffic: Traffic {
                allocated: 0,
                used: 0,
            },
            rate: Rate {
                up: None,
                down: None,
            },
        }
    }

    fn whole(&self) -> UserView {
        match self {
            Self::Polled { user, used, .. } => UserView {
                id: user.text(),
                username: user.text(),
                tags: Vec::new(),
                metadata: [(SOURCE.to_owned(), json!("polled"))].into(),
                traffic: Traffic {
                    allocated: 0,
                    used: *used,
                },
                rate: Rate {
                    up: None,
                    down: None,
                },
            },
            Self::Pushed { user, is_polled } => pushed(user, *is_polled),
        }
    }
}

fn pushed(view: &PushedView, is_polled: bool) -> UserView {
    let user = &view.user;
    let mut metadata: BTreeMap<String, Value> = user.metadata.clone();
    let source = if is_polled { "polled,pushed" } else { "pushed" };
    metadata.insert(SOURCE.to_owned(), json!(source));
    if view.exhausted {
        metadata.insert(EXHAUSTED.to_owned(), json!(true));
    }
    UserView {
        id: user.id.to_string(),
        username: user.username.clone(),
        tags: user.tags.clone(),
        metadata,
        traffic: Traffic {
            allocated: user.quota.allocated,
            used: view.used,
        },
        rate: Rate {
            up: user.rate.up,
            down: user.rate.down,
        },
    }
}
