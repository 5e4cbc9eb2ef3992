//! The real world in small, for histories: hosts whose clocks run on, sleep and start anew, and Xray
//! processes behind one port that count true bytes until they die. It knows nothing of ledgers.

use crate::base::clock::Moment;
use crate::xray::boot::Boot;
use crate::xray::client::SysStats;
use crate::xray::counters::UserCounters;
use std::time::Duration;

/// E-mails and whose bytes they count: node and user as one number, or a foreigner's.
const NAMES: [(&str, Option<usize>); 7] = [
    ("aaaaaaaa-0000-4000-8000-000000000001", Some(0)),
    ("AAAAAAAA-0000-4000-8000-000000000001", Some(0)),
    ("in-b.aaaaaaaa-0000-4000-8000-000000000001", Some(0)),
    ("in-a.aaaaaaaa-0000-4000-8000-000000000001", Some(1)),
    ("in-a.bbbbbbbb-0000-4000-8000-000000000002", Some(2)),
    ("bbbbbbbb-0000-4000-8000-000000000002", Some(3)),
    ("a@b", None),
];
/// Both ways of every name.
const COUNTERS: usize = 2 * NAMES.len();

/// Bytes of each user at each node, both ways: `2 * owner + way`.
pub(super) type PerUser = [u64; 8];

/// `SplitMix64`: every history is its seed.
pub(super) struct Dice(pub u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A place in a list of this length.
    pub(super) fn place(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Milliseconds: mostly seconds, at times an hour.
    pub(super) fn pause(&mut self) -> i64 {
        let end = match self.below(8) {
            0..4 => 1_500,
            4..7 => 12_000,
            _ => 4_000_000,
        };
        self.below(end).cast_signed()
    }
}

/// One Xray.
pub(super) struct Process {
    pub(super) is_alive: bool,
    /// On the clock that it runs by.
    started: i64,
    values: [Option<u64>; COUNTERS],
    alloc: u64,
    /// What it had counted when it was read last, resets left out.
    pub(super) last_read: Option<PerUser>,
    counted: PerUser,
}

/// Our host, and Xray on it or on another.
pub(super) struct World {
    /// True time, in milliseconds.
    now: i64,
    /// When our host booted; how long it has slept since; how often it booted.
    booted: i64,
    asleep: i64,
    kernel: u8,
    pub(super) remote: bool,
    /// Milliseconds by which the other host's clock is off.
    drift: i64,
    pub(super) processes: Vec<Process>,
    /// Truly counted.
    pub(super) truth: PerUser,
}

impl World {
    pub(super) fn new(remote: bool) -> Self {
        Self {
            now: 1_000_000,
            booted: 0,
            asleep: 0,
            kernel: 0,
            remote,
            drift: 0,
            processes: Vec::with_capacity(4),
            truth: PerUser::default(),
        }
    }

    pub(super) fn pass(&mut self, ms: i64) {
        self.now += ms;
    }

    /// Milliseconds on the clock of our host that stands still in a suspend.
    pub(super) fn monotonic(&self) -> i64 {
        self.now - self.booted - self.asleep
    }

    pub(super) fn kernel(&self) -> &'static str {
        let boots = "abcdefghijklmnopqrstuvwxyz";
        &boots[usize::from(self.kernel)..][..1]
    }

    /// The clock by which an Xray runs.
    fn clock(&self) -> i64 {
        if self.remote {
            self.now + self.drift
        } else {
            self.monotonic()
        }
    }

    pub(super) fn start(&mut self, dice: &mut Dice) {
        self.processes.push(Process {
            is_alive: true,
            started: self.clock(),
            values: [None; COUNTERS],
            alloc: dice.below(400),
            last_read: None,
            counted: PerUser::default(),
        });
    }

    /// A living one.
    pub(super) fn any(&self, dice: &mut Dice) -> Option<usize> {
        let alive = self.processes.iter().filter(|xray| xray.is_alive).count();
        let nth = (alive > 0).then(|| dice.place(alive))?;
        let mut living = (0..self.processes.len()).filter(|&at| self.processes[at].is_alive);
        living.nth(nth)
    }

    pub(super) fn carry(&mut self, dice: &mut Dice, names: usize) {
        let Some(at) = self.any(dice) else { return };
        let xray = &mut self.processes[at];
        for _ in 0..=dice.below(2) {
            let counter = 2 * ((names + dice.place(2) * 3) % NAMES.len()) + dice.place(2);
            let bytes_max = if dice.one_in(3) { 1_000 } else { 20 };
            let bytes = 1 + dice.below(bytes_max);
            *xray.values[counter].get_or_insert(0) += bytes;
            if let Some(owner) = NAMES[counter / 2].1 {
                xray.counted[2 * owner + counter % 2] += bytes;
                self.truth[2 * owner + counter % 2] += bytes;
            }
        }
        xray.alloc += 1 + dice.below(300);
    }

    /// Other hands set counters to zero: all, or one.
    pub(super) fn reset(&mut self, dice: &mut Dice) {
        let Some(at) = self.any(dice) else { return };
        let only = dice.one_in(2).then(|| dice.place(COUNTERS));
        for (counter, value) in self.processes[at].values.iter_mut().enumerate() {
            if value.is_some() && only.is_none_or(|only| only == counter) {
                *value = Some(0);
            }
        }
    }

    pub(super) fn suspend(&mut self, ms: i64) {
        self.now += ms;
        self.asleep += ms;
    }

    /// Our host boots; an Xray on it dies.
    pub(super) fn reboot(&mut self, down_ms: i64) {
        for xray in &mut self.processes {
            xray.is_alive &= self.remote;
        }
        self.now += down_ms;
        (self.booted, self.asleep) = (self.now, 0);
        self.kernel += 1;
        self.now += 3_000;
    }

    /// The other host's clock runs away from ours, or stands still while that host sleeps.
    pub(super) fn drift(&mut self, ms: i64) {
        self.drift += ms;
    }

    /// Both answers of a process; the first takes `latency_ms`.
    pub(super) fn answer(
        &mut self,
        at: usize,
        latency_ms: i64,
        wire: &[String],
    ) -> (Boot, UserCounters) {
        let clock = self.clock();
        self.now += latency_ms;
        let since = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        let moment = Moment {
            monotonic: since(self.monotonic()),
            with_suspend: since(self.now - self.booted),
            kernel_boot_id: self.kernel().to_owned(),
        };
        let xray = &mut self.processes[at];
        xray.alloc += 1;
        let stats = SysStats {
            uptime: u32::try_from((clock - xray.started) / 1_000).unwrap_or_default(),
            total_alloc: xray.alloc,
            mallocs: xray.alloc,
            ..SysStats::default()
        };
        let counters = xray.values.iter().zip(wire);
        let counters = counters.filter_map(|(value, name)| {
            let value = i64::try_from((*value)?).unwrap();
            Some((name.clone(), value))
        });
        (Boot::of(&stats, &moment), UserCounters::of(counters))
    }

    /// The last answer of this process was counted.
    pub(super) fn was_read(&mut self, at: usize) {
        let xray = &mut self.processes[at];
        xray.last_read = Some(xray.counted);
    }
}

/// The names of all counters, as Xray writes them.
pub(super) fn wire() -> Vec<String> {
    let both = |(email, _): (&str, _)| {
        ["uplink", "downlink"].map(|way| format!("user>>>{email}>>>traffic>>>{way}"))
    };
    NAMES.into_iter().flat_map(both).collect()
}
