//! The promise on money: in a million random histories, whatever happens to hosts, clocks, Xray, its
//! counters and the ledger, nobody is billed for more than Xray truly counted; and where nothing was
//! in doubt, for exactly that. A history is its seed: `XRAY_AGENT_HISTORY_SEED=<seed> cargo test
//! --lib <test>` runs one alone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use super::account::{Books, Entry, Read, account};
use super::baselines::Baselines;
use super::forms::Forms;
use super::history_world::{Dice, PerUser, World, wire};
use super::identity::{Birth, born_after, is_older_than};
use crate::model::desired::InboundKey;
use crate::model::email::{EmailForm, Emails};
use crate::model::ids::NodeId;
use crate::xray::boot::Boot;

/// Histories of each of the four kinds.
const HISTORIES: u64 = 250_000;

/// What may happen in histories of one kind.
#[derive(Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that happens or not"
)]
struct Kind {
    /// Xray is on another host.
    remote: bool,
    /// A second process listens on the same port, or the first comes back at once.
    twins: bool,
    /// Other hands reset counters.
    resets: bool,
    /// The other host's clock runs away from ours.
    drift: bool,
    /// The ledger is lost, or younger than Xray.
    lost: bool,
}

const CERTAIN: Kind = Kind {
    remote: false,
    twins: false,
    resets: false,
    drift: false,
    lost: false,
};

/// The ledger as it is kept: what was committed, and no more.
struct Ledger {
    birth: Birth,
    shelf: VecDeque<(Boot, Arc<Baselines>)>,
    boots_max: usize,
    billed: PerUser,
}

struct History<'a> {
    kind: Kind,
    dice: Dice,
    world: World,
    ledger: Ledger,
    forms: &'a Forms,
    wire: &'a [String],
    /// Which two names are used most.
    names: usize,
    /// The process that the connection leads to.
    connection: Option<usize>,
    /// Whether the last read that was committed came over this connection.
    is_same_connection: bool,
    /// Whether something was in doubt, so that less may be billed than was counted.
    in_doubt: bool,
    story: Option<Vec<String>>,
}

fn forms() -> Forms {
    let emails = |form, id: &str| Emails {
        form,
        kernel_id: id.to_owned(),
        former_ids: Vec::new(),
    };
    let (bare, prefixed) = (
        emails(EmailForm::Bare, "in-b"),
        emails(EmailForm::Prefixed, "in-a"),
    );
    Forms::of([
        (InboundKey::of(NodeId(0), "main", "in-0"), &bare),
        (InboundKey::of(NodeId(1), "main", "in-1"), &prefixed),
    ])
}

/// The place of a user at a node in the oracle's books.
fn owner(node: NodeId, first_byte: u8) -> usize {
    match (node.0, first_byte) {
        (0, 0xaa) => 0,
        (1, 0xaa) => 1,
        (1, 0xbb) => 2,
        (0, 0xbb) => 3,
        other => panic!("nobody has {other:?}"),
    }
}

impl Ledger {
    fn new(world: &World, boots_max: usize) -> Self {
        Self {
            birth: Birth {
                kernel: world.kernel().to_owned(),
                at_ms: world.monotonic(),
            },
            shelf: VecDeque::with_capacity(4),
            boots_max,
            billed: PerUser::default(),
        }
    }

    fn commit(&mut self, entry: Entry, kernel_now: &str) {
        for (at, bytes) in &entry.counted.deltas {
            assert!(!bytes.is_zero(), "an empty delta");
            let at = 2 * owner(at.node, at.user.bytes()[0]);
            self.billed[at] += bytes.up;
            self.billed[at + 1] += bytes.down;
        }
        let (_, mut baselines) = match entry.boot {
            Some(place) => self.shelf.remove(place).unwrap(),
            None => (entry.row.clone(), Arc::default()),
        };
        Arc::make_mut(&mut baselines).absorb(&entry.counted.moved);
        self.shelf.push_front((entry.row, baselines));
        if self.shelf.len() > self.boots_max {
            let (dropped, _) = self.shelf.pop_back().unwrap();
            self.birth = born_after(&self.birth, &dropped, kernel_now);
        }
    }
}

impl<'a> History<'a> {
    fn new(mut kind: Kind, seed: u64, forms: &'a Forms, wire: &'a [String]) -> Self {
        let mut dice = Dice(seed);
        let mut world = World::new(kind.remote);
        let boots_max = [8, 8, 3, 2, 1][dice.place(5)];
        // Not kept: a new ledger beside two processes that clocks do not tell apart, of which it knows
        // one only. The other, which the lost one billed, may pass for that one, grown.
        kind.lost &= !(kind.remote && kind.twins);
        // For the same reason none of such two may be forgotten.
        let boots_max = if kind.twins && !kind.lost {
            8
        } else {
            boots_max
        };
        if kind.lost && dice.one_in(2) {
            world.start(&mut dice);
            world.carry(&mut dice, 0);
            world.pass(5_000);
        }
        let ledger = Ledger::new(&world, boots_max);
        world.pass(3_000);
        let names = dice.place(7);
        Self {
            kind,
            dice,
            world,
            ledger,
            forms,
            wire,
            names,
            connection: None,
            is_same_connection: false,
            in_doubt: kind.resets || kind.lost || kind.drift || kind.twins,
            story: None,
        }
    }

    fn tell(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let line = what(self);
            self.story
                .iter_mut()
                .for_each(|story| story.push(line.clone()));
        }
    }

    fn run(&mut self) -> Result<(), String> {
        if self.kind.twins || self.world.processes.is_empty() {
            self.start_another();
        }
        if self.kind.twins && self.dice.one_in(2) {
            let apart = self.dice.below(4_500);
            self.world.pass(apart.cast_signed());
            self.start_another();
        }
        for _ in 0..4 + self.dice.below(14) {
            self.step()?;
        }
        self.read()?;
        self.final_word()
    }

    /// Where nothing was in doubt, every process was billed for all that its last read showed.
    fn final_word(&self) -> Result<(), String> {
        if self.in_doubt {
            return Ok(());
        }
        let mut expected = PerUser::default();
        for read in self
            .world
            .processes
            .iter()
            .filter_map(|xray| xray.last_read)
        {
            expected
                .iter_mut()
                .zip(read)
                .for_each(|(sum, bytes)| *sum += bytes);
        }
        let billed = self.ledger.billed;
        (billed == expected)
            .then_some(())
            .ok_or_else(|| format!("billed {billed:?}, read {expected:?}"))
    }

    fn step(&mut self) -> Result<(), String> {
        let Kind {
            twins,
            resets,
            drift,
            lost,
            ..
        } = self.kind;
        let pause = self.dice.pause();
        self.world.pass(pause);
        match self.dice.below(20) {
            6..12 => return self.read(),
            12..14 => self.restart(),
            14 => self.reboot(),
            15 => self.world.suspend(pause * 2),
            16 => self.connection = None,
            17 if twins => self.start_another(),
            18 if resets => self.world.reset(&mut self.dice),
            18 if drift => {
                let by = pause / 1_000;
                let by = if self.dice.one_in(2) { -by } else { by };
                self.world.drift(by);
            }
            19 if lost && self.dice.one_in(2) => self.lose_ledger(),
            _ => self.world.carry(&mut self.dice, self.names),
        }
        Ok(())
    }

    fn start_another(&mut self) {
        if self.kind.lost {
            self.world.pass(5_000);
        }
        self.world.start(&mut self.dice);
        self.tell(|history| format!("process {} starts", history.world.processes.len() - 1));
    }

    fn restart(&mut self) {
        let Some(dies) = self.world.any(&mut self.dice) else {
            return self.start_another();
        };
        self.world.processes[dies].is_alive = false;
        self.tell(|_| format!("process {dies} dies"));
        let soonest = if self.kind.twins { 0 } else { 5_000 };
        let pause = self.dice.pause();
        self.world.pass(soonest + pause);
        self.start_another();
    }

    fn reboot(&mut self) {
        let pause = self.dice.pause();
        self.world.reboot(10_000 + pause);
        self.connection = None;
        self.tell(|history| format!("our host boots: {}", history.world.kernel()));
        // Which of several boots lives on is in doubt.
        self.in_doubt |= self.kind.remote && self.world.processes.len() > 1;
        if !self.kind.remote {
            self.start_another();
        }
    }

    fn lose_ledger(&mut self) {
        let billed = self.ledger.billed;
        self.ledger = Ledger::new(&self.world, self.ledger.boots_max);
        self.ledger.billed = billed;
        self.connection = None;
        self.tell(|_| "the ledger is lost".to_owned());
    }

    /// The process that answers, and whether the last read came over the same connection.
    fn connect(&mut self) -> Option<usize> {
        let held = self
            .connection
            .filter(|&at| self.world.processes[at].is_alive);
        if held.is_none() || self.dice.one_in(8) {
            self.connection = self.world.any(&mut self.dice);
            self.is_same_connection = false;
        }
        self.connection
    }

    fn read(&mut self) -> Result<(), String> {
        let Some(at) = self.connect() else {
            return Ok(());
        };
        let latency_max = if self.dice.one_in(4) { 900 } else { 5 };
        let latency = self.dice.below(latency_max);
        let (boot, counters) = self.world.answer(at, latency.cast_signed(), self.wire);
        if self.dice.one_in(16) {
            // The connection broke between the counters and the second look at the boot.
            self.connection = None;
            return Ok(());
        }
        let known: Vec<Boot> = self
            .ledger
            .shelf
            .iter()
            .map(|(boot, _)| boot.clone())
            .collect();
        self.note_doubt(at, &known, &boot);
        let entry = account(
            Read {
                boot: &boot,
                remote: self.kind.remote,
                same_connection: self.is_same_connection,
                counters: &counters,
            },
            Books {
                forms: self.forms,
                birth: &self.ledger.birth,
                known: &known,
            },
            |place| Ok::<_, Infallible>(Arc::clone(&self.ledger.shelf[place].1)),
        );
        let Ok(entry) = entry;
        self.tell(|_| format!("read of {at}: {boot:?} {counters:?} -> {entry:?}"));
        if self.dice.one_in(10) {
            // The agent dies before the commit.
            self.connection = None;
            return Ok(());
        }
        self.ledger.commit(entry, self.world.kernel());
        self.is_same_connection = true;
        self.world.was_read(at);
        self.check()
    }

    /// A new process that has run longer than an old one did may be that one, on another host; one
    /// that was forgotten while it lived is not billed for what it did meanwhile.
    fn note_doubt(&mut self, at: usize, known: &[Boot], boot: &Boot) {
        let is_new = self.world.processes[at].last_read.is_none();
        let outlives = |known: &Boot| known.uptime_s <= boot.uptime_s;
        // An Xray that had counted nothing when our host booted is not known again.
        let is_unknown = self.kind.remote || is_new;
        self.in_doubt |= is_unknown && is_older_than(boot, &self.ledger.birth);
        self.in_doubt |= self.kind.remote && is_new && known.iter().any(outlives);
    }

    fn check(&self) -> Result<(), String> {
        let (billed, truth) = (self.ledger.billed, self.world.truth);
        let is_more = billed
            .iter()
            .zip(truth)
            .any(|(billed, truth)| *billed > truth);
        if is_more {
            return Err(format!("billed {billed:?}, of {truth:?}"));
        }
        Ok(())
    }
}

/// Runs all histories of a kind, or the one that the environment names.
fn run_all(test: &str, salt: u64, kind: impl Fn(&mut Dice) -> Kind) {
    let (forms, wire) = (forms(), wire());
    let one = std::env::var("XRAY_AGENT_HISTORY_SEED").ok();
    let one: Option<u64> = one.map(|seed| seed.parse().expect("a number"));
    let mut seeds = Dice(salt);
    for _ in 0..one.map_or(HISTORIES, |_| 1) {
        let seed = one.unwrap_or_else(|| seeds.next());
        let kind = kind(&mut Dice(seed ^ 1));
        if History::new(kind, seed, &forms, &wire).run().is_ok() {
            continue;
        }
        let mut again = History::new(kind, seed, &forms, &wire);
        again.story = Some(Vec::new());
        let why = again.run().expect_err("a history is its seed");
        let story = again.story.unwrap_or_default().join("\n");
        panic!("XRAY_AGENT_HISTORY_SEED={seed} cargo test --lib {test}\n{story}\n{why}");
    }
}

#[test]
fn an_xray_beside_us_is_billed_to_the_byte_in_every_history() {
    run_all("beside_us", 1, |_| CERTAIN);
}

#[test]
fn an_xray_elsewhere_is_billed_to_the_byte_unless_in_doubt() {
    run_all("elsewhere", 2, |_| Kind {
        remote: true,
        ..CERTAIN
    });
}

#[test]
fn two_on_one_port_are_never_billed_for_more_than_they_counted() {
    run_all("two_on_one_port", 3, |dice| Kind {
        twins: true,
        remote: dice.one_in(3),
        lost: dice.one_in(4),
        ..CERTAIN
    });
}

#[test]
fn nobody_is_billed_for_more_than_was_counted_whatever_happens() {
    run_all("whatever_happens", 4, |dice| Kind {
        remote: dice.one_in(2),
        twins: dice.one_in(2),
        resets: dice.one_in(2),
        drift: dice.one_in(2),
        lost: dice.one_in(3),
    });
}
