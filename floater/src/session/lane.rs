//! What waits to be sent over one socket, and what is on its way.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Numbers in flight stay within 16 bits, so that a quoted sequence number names one.
const SPAN: usize = 1 << 16;

/// What was heard of a number that is not in flight any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Its answer, or that it was never sent.
    Answer,
    /// Nothing within its time.
    Nothing,
    /// Its answer, when its time was over.
    TooLate,
}

/// One packet in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// The place of its probe in the plan.
    pub(super) probe: usize,
    /// When it was sent, by the session's clock; never later than it really was.
    pub(super) sent: Duration,
    /// When its device took it, by the kernel's wall clock.
    pub(super) kernel: Option<Duration>,
    /// When it was given to the kernel, by the wall clock.
    pub(super) user: Option<Duration>,
    /// Whether its answer may have been dropped on this node.
    pub(super) suspect: bool,
    /// When it runs out of time.
    pub(super) deadline: Duration,
    /// How late the driver had been altogether when it was sent.
    pub(super) lateness: Duration,
    /// How long its answer is waited for.
    pub(super) timeout: Duration,
    cost: usize,
}

impl Slot {
    /// The round-trip time, and whether it is the kernel's.
    ///
    /// The kernel's clock may be set while a packet is on its way: a time that is negative or longer than the session's
    /// own, which brackets it, is not believed.
    pub(super) fn rtt(&self, now: Duration, received: Option<Duration>) -> (Duration, bool) {
        let own = now.saturating_sub(self.sent);
        received
            .zip(self.kernel.or(self.user))
            .and_then(|(received, sent)| received.checked_sub(sent))
            .filter(|rtt| *rtt <= own)
            .map_or((own, false), |rtt| (rtt, true))
    }
}

struct Waiting {
    probe: usize,
    cost: usize,
    timeout: Duration,
    not_before: Duration,
}

/// A lane's queue and its ring of numbers in flight, oldest first.
pub(super) struct Window {
    queue: VecDeque<Waiting>,
    /// The number of the ring's front.
    base: u64,
    ring: VecDeque<Option<Slot>>,
    /// What is in flight, by when it runs out of time.
    deadlines: BTreeSet<(Duration, u64)>,
    /// By the low bits of the number: what was heard of it.
    heard: Vec<Heard>,
    room: usize,
    used: usize,
    in_flight: u64,
}

impl Window {
    /// A lane that may have as much in flight as costs `room` together.
    pub(super) fn new(room: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            base: 0,
            ring: VecDeque::new(),
            deadlines: BTreeSet::new(),
            heard: Vec::new(),
            room,
            used: 0,
            in_flight: 0,
        }
    }

    pub(super) fn enqueue(&mut self, probe: usize, cost: usize, timeout: Duration) {
        self.queue.push_back(Waiting {
            probe,
            cost,
            timeout,
            not_before: Duration::ZERO,
        });
    }

    /// When the next may be sent as far as this lane goes; none when nothing waits or nothing has room.
    ///
    /// Something that costs more than all the room goes alone.
    pub(super) fn eligible(&self) -> Option<Duration> {
        let next = self.queue.front()?;
        let fits = self.used + next.cost <= self.room || self.in_flight == 0;
        (fits && self.ring.len() < SPAN).then_some(next.not_before)
    }

    pub(super) fn ready(&self, now: Duration) -> bool {
        self.eligible().is_some_and(|at| at <= now)
    }

    /// Puts the front of the queue in flight: its number and its probe. [`Self::again`] or [`Self::done`] must follow.
    pub(super) fn launch(&mut self, now: Duration, lateness: Duration) -> (u64, usize) {
        let next = self.queue.front().expect("asked for only when ready");
        let number = self.base + self.ring.len() as u64;
        let deadline = now + next.timeout;
        self.deadlines.insert((deadline, number));
        self.ring.push_back(Some(Slot {
            probe: next.probe,
            sent: now,
            kernel: None,
            user: None,
            suspect: false,
            deadline,
            lateness,
            timeout: next.timeout,
            cost: next.cost,
        }));
        self.used += next.cost;
        self.in_flight += 1;
        (number, next.probe)
    }

    /// The front of the queue has more to send, not before that time. All wait equally long, so the queue stays sorted.
    pub(super) fn again(&mut self, not_before: Duration) {
        if let Some(mut next) = self.queue.pop_front() {
            next.not_before = not_before;
            self.queue.push_back(next);
        }
    }

    /// The front of the queue has nothing more to send.
    pub(super) fn done(&mut self) {
        self.queue.pop_front();
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// When the next one in flight runs out of time.
    pub(super) fn expiry(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out one in flight whose time is over.
    pub(super) fn expire(&mut self, now: Duration) -> Option<(u64, Slot)> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.judge(number, Heard::Nothing)
            .map(|slot| (number, slot))
    }

    /// Gives everything in flight so much more time.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.deadlines.clear();
        for (number, slot) in (self.base..).zip(&mut self.ring) {
            if let Some(slot) = slot {
                slot.deadline += by;
                self.deadlines.insert((slot.deadline, number));
            }
        }
    }

    /// Answers to what is in flight may have been dropped on this node.
    pub(super) fn suspect(&mut self) {
        for slot in self.ring.iter_mut().flatten() {
            slot.suspect = true;
        }
    }

    /// What is in flight under a number.
    pub(super) fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.ring.get_mut(at)?.as_mut()
    }

    /// Takes a number out of flight.
    pub(super) fn judge(&mut self, number: u64, heard: Heard) -> Option<Slot> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let slot = self.ring.get_mut(at)?.take()?;
        self.deadlines.remove(&(slot.deadline, number));
        self.used -= slot.cost;
        self.in_flight -= 1;
        let place = (number % SPAN as u64) as usize;
        if self.heard.len() <= place {
            self.heard.resize(place + 1, Heard::Nothing);
        }
        self.heard[place] = heard;
        self.trim();
        Some(slot)
    }

    /// The number that a sequence number stands for: the one in the ring, else the last that was.
    pub(super) fn number(&self, sequence: u16) -> Option<u64> {
        let next = self.base + self.ring.len() as u64;
        let back = (next.wrapping_sub(1) as u16).wrapping_sub(sequence);
        next.checked_sub(1 + u64::from(back))
    }

    /// What had been heard of a number that is out of flight; from now on, that it was answered. None if it is not
    /// known, because it was never sent or so long ago.
    pub(super) fn hear_again(&mut self, number: u64) -> Option<Heard> {
        let next = self.base + self.ring.len() as u64;
        if number >= next || next - number > SPAN as u64 {
            return None;
        }
        let heard = self.heard.get_mut((number % SPAN as u64) as usize)?;
        Some(std::mem::replace(
            heard,
            if *heard == Heard::Nothing {
                Heard::TooLate
            } else {
                *heard
            },
        ))
    }

    fn trim(&mut self) {
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.base += 1;
        }
    }
}
