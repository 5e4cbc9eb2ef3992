//! Which sinks counted bytes go to: those of the panel that is polled, and those of panels that push.
//! Pure. A sink's name, under which the ledger keeps what is for it, tells of which kind it is.

use std::sync::Arc;

use crate::model::pushed::Wants;

/// A sink's name in the ledger; it never changes.
pub type SinkName = Arc<str>;

/// The panel's `report-traffic`.
pub const REPORT_TRAFFIC: &str = "report-traffic";
/// The configured panel that pushes users.
pub const KERNEL: &str = "kernel";
/// Before the id of a registration for `user.traffic.reported`.
const OF_REGISTRATION: &str = "kernel:";

/// The sink of a registration.
pub fn of_registration(id: impl std::fmt::Display) -> SinkName {
    format!("{OF_REGISTRATION}{id}").into()
}

/// Whether a sink is for a panel that pushes. For these the ledger keeps bytes by inbound, by its
/// number in the table `inbound`; for others by the panel's node.
pub fn is_kernel(sink: &str) -> bool {
    sink == KERNEL || sink.starts_with(OF_REGISTRATION)
}

/// All sinks there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receivers {
    polled: Vec<SinkName>,
    kernel: Vec<SinkName>,
}

impl Receivers {
    /// These sinks.
    pub fn of(names: impl IntoIterator<Item = SinkName>) -> Self {
        let (kernel, polled) = names.into_iter().partition(|name| is_kernel(name));
        Self { polled, kernel }
    }

    /// The same with these for panels that push.
    #[must_use]
    pub fn with_kernel(self, kernel: Vec<SinkName>) -> Self {
        Self { kernel, ..self }
    }

    /// All of the polled panel.
    pub fn polled(&self) -> &[SinkName] {
        &self.polled
    }

    /// All of panels that push.
    pub fn kernel(&self) -> &[SinkName] {
        &self.kernel
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &SinkName> {
        self.polled.iter().chain(&self.kernel)
    }
}

impl<const N: usize> From<[&str; N]> for Receivers {
    fn from(names: [&str; N]) -> Self {
        Self::of(names.map(SinkName::from))
    }
}

/// Nobody's bytes are passed over: what no panel wants is for the one that is polled.
pub fn effective(wants: Wants) -> Wants {
    if wants.polled || wants.pushed {
        wants
    } else {
        Wants::POLLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_for_whom_its_sink_is() {
        let all = Receivers::from([REPORT_TRAFFIC, KERNEL, "kernel:1", "kernels"]);
        let names = |names: &[SinkName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(all.polled()), [REPORT_TRAFFIC, "kernels"]);
        assert_eq!(names(all.kernel()), [KERNEL, "kernel:1"]);
        assert_eq!(&*of_registration(7), "kernel:7");
    }

    #[test]
    fn what_nobody_wants_is_for_the_polled_panel() {
        for polled in [true, false] {
            for pushed in [true, false] {
                let wants = effective(Wants { polled, pushed });
                assert_eq!(wants.pushed, pushed);
                assert_eq!(wants.polled, polled || !pushed);
            }
        }
    }
}
