use proptest::prelude::*;

use super::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

fn said(state: State) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic::None,
        is_poll: false,
        is_final: false,
        multiplier: 3,
        mine: number(9),
        yours: (state != State::Down).then(|| number(1)),
        send: millis(100),
        receive: millis(100),
    }
}

fn fresh() -> Session {
    Session::new(Settings::default(), number(1), Duration::ZERO)
}

/// A session in a state, by the shortest way there.
fn in_state(state: State) -> Session {
    let mut session = fresh();
    match state {
        State::Down => {}
        State::Init => drop(session.received(&said(State::Down), Duration::ZERO)),
        State::Up => drop(session.received(&said(State::Init), Duration::ZERO)),
        State::AdminDown => drop(session.administer(false, Duration::ZERO)),
    }
    assert_eq!(session.state(), state);
    session
}

#[test]
fn every_edge_of_the_diagram_is_there_and_no_other() {
    use State::{AdminDown, Down, Init, Up};
    for (from, heard, to) in [
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Down, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Init, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
        (Up, AdminDown, Down),
        (AdminDown, Down, AdminDown),
        (AdminDown, Init, AdminDown),
        (AdminDown, Up, AdminDown),
        (AdminDown, AdminDown, AdminDown),
    ] {
        let mut session = in_state(from);
        let packet = Packet {
            yours: Some(number(1)),
            ..said(heard)
        };
        assert_eq!(
            session.received(&packet, millis(1)),
            from != to,
            "{from:?} hears {heard:?}"
        );
        assert_eq!(session.state(), to, "{from:?} hears {heard:?}");
    }
    for (from, to) in [
        (Down, Down),
        (Init, Down),
        (Up, Down),
        (AdminDown, AdminDown),
    ] {
        let mut session = in_state(from);
        assert_eq!(session.check(millis(100_000)), from != to, "{from:?}");
        assert_eq!(session.state(), to, "{from:?}");
    }
}

#[test]
fn what_is_not_meant_for_it_is_not_heard() {
    for packet in [
        Packet {
            yours: Some(number(2)),
            ..said(State::Up)
        },
        Packet {
            yours: None,
            ..said(State::Init)
        },
        Packet {
            yours: None,
            ..said(State::Up)
        },
        Packet {
            multiplier: 0,
            ..said(State::Down)
        },
    ] {
        let mut session = fresh();
        assert!(!session.received(&packet, millis(1)), "{packet:?}");
        assert_eq!((session.state(), session.expires), (State::Down, None));
    }
}

#[test]
fn a_dead_end_is_noticed_after_three_packets() {
    let mut session = in_state(State::Up);
    assert_eq!(session.detection(), millis(300));
    session.received(&said(State::Up), millis(1000));
    assert!(!session.check(millis(1299)));
    assert!(session.deadline().is_some_and(|at| at <= millis(1300)));
    assert!(session.check(millis(1300)));
    assert_eq!(
        (session.state(), session.diagnostic()),
        (State::Down, Diagnostic::TimeExpired)
    );
    // It forgets whom it heard, and speaks slowly.
    let packet = session.poll(millis(1300), 0).expect("the news at once");
    assert_eq!(
        (packet.yours, packet.send, packet.state),
        (None, SLOW, State::Down)
    );
    assert_eq!(session.poll(millis(2299), 0), None);
}

#[test]
fn a_slower_end_sets_the_pace_and_a_silent_one_hears_nothing() {
    let mut session = in_state(State::Up);
    session.received(
        &Packet {
            send: millis(500),
            receive: millis(400),
            ..said(State::Up)
        },
        millis(10),
    );
    assert_eq!(session.detection(), millis(1500));
    session.poll(millis(10), 0).expect("a packet");
    assert_eq!(session.deadline(), Some(millis(410)));
    session.received(
        &Packet {
            receive: Duration::ZERO,
            ..said(State::Up)
        },
        millis(20),
    );
    assert_eq!(session.poll(millis(5000), 0), None);
    // But what is asked is answered.
    session.received(
        &Packet {
            receive: Duration::ZERO,
            is_poll: true,
            ..said(State::Up)
        },
        millis(30),
    );
    let answer = session.poll(millis(30), 0).expect("an answer");
    assert!(answer.is_final && !answer.is_poll);
}

#[test]
fn new_times_are_asked_to_be_confirmed_until_they_are() {
    let mut session = in_state(State::Up);
    for at in [0, 200, 400] {
        assert!(session.poll(millis(at), 0).expect("a packet").is_poll);
    }
    session.received(
        &Packet {
            is_final: true,
            ..said(State::Up)
        },
        millis(450),
    );
    assert!(!session.poll(millis(600), 0).expect("a packet").is_poll);
}

#[test]
fn out_of_service_is_no_failure() {
    let (mut one, mut other) = (in_state(State::Up), in_state(State::Up));
    assert!(one.administer(false, millis(5)) && !one.administer(false, millis(5)));
    let packet = one.poll(millis(5), 0).expect("the news");
    assert_eq!(
        (packet.state, packet.diagnostic),
        (State::AdminDown, Diagnostic::AdministrativelyDown)
    );
    other.received(
        &Packet {
            yours: Some(number(1)),
            ..packet
        },
        millis(5),
    );
    assert_eq!(
        (other.state(), other.diagnostic()),
        (State::Down, Diagnostic::NeighbourDown)
    );
    assert!(one.administer(true, millis(6)));
    assert_eq!(one.state(), State::Down);
}

/// Two ends and what is between them, by one true clock; each end's own may be fast or slow.
struct Twins {
    ends: [Session; 2],
    /// Thousandths by which the clock of each end goes.
    speeds: [u32; 2],
    now: Duration,
    /// How long a packet travels.
    delay: Duration,
    /// What is on its way: when it comes, to which end.
    flying: Vec<(Duration, usize, Packet)>,
    /// The longest row of packets that were lost, to each end.
    chance: u32,
    lost: [u32; 2],
}

impl Twins {
    fn new(settings: [Settings; 2], speeds: [u32; 2], delay: Duration) -> Self {
        let end = |at: usize| Session::new(settings[at], number(at as u32 + 1), Duration::ZERO);
        Self {
            ends: [end(0), end(1)],
            speeds,
            now: Duration::ZERO,
            delay,
            flying: Vec::new(),
            chance: 1,
            lost: [0, 0],
        }
    }

    fn own(&self, at: usize, now: Duration) -> Duration {
        now * self.speeds[at] / 1000
    }

    fn true_time(&self, at: usize, own: Duration) -> Duration {
        // Rounded up, so that the end's own time is not before what it asked for.
        own * 1000 / self.speeds[at] + Duration::from_nanos(1000)
    }

    /// Goes on until a time. `loses` says of a packet whether it is lost: to whom, and how many in a row were.
    fn run(&mut self, until: Duration, mut loses: impl FnMut(usize, u32) -> bool) {
        while self.now < until {
            let arrivals = self.flying.iter().map(|(at, _, _)| *at);
            let due = (0..2).filter_map(|at| Some(self.true_time(at, self.ends[at].deadline()?)));
            let next = arrivals.chain(due).min().unwrap_or(until);
            self.now = next.max(self.now + Duration::from_micros(1)).min(until);
            let now = self.now;
            let (come, still): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flying)
                .into_iter()
                .partition(|(at, _, _)| *at <= now);
            self.flying = still;
            for (_, to, packet) in come {
                let own = self.own(to, now);
                let octets = packet.encode();
                let packet = Packet::decode(&octets).expect("what was encoded");
                self.ends[to].received(&packet, own);
            }
            for at in 0..2 {
                let own = self.own(at, now);
                self.ends[at].check(own);
                self.chance = self
                    .chance
                    .wrapping_mul(1_664_525)
                    .wrapping_add(1_013_904_223);
                while let Some(packet) = self.ends[at].poll(own, self.chance >> 8) {
                    let to = 1 - at;
                    if loses(to, self.lost[to]) {
                        self.lost[to] += 1;
                    } else {
                        self.lost[to] = 0;
                        self.flying.push((now + self.delay, to, packet));
                    }
                }
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    (50..400_u64, 50..400_u64, 2..6_u8).prop_map(|(send, receive, multiplier)| Settings {
        send: millis(send),
        receive: millis(receive),
        multiplier,
        is_hasty: false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Two ends that reach each other come up, and stay up while no more packets in a row are lost than the detection allows, whatever their
    /// clocks do; when all are lost both notice within the detection time, and when none is lost again they come up again.
    #[test]
    fn twins_agree_over_a_lossy_path(
        one in settings(), other in settings(), speeds in [980..1020_u32, 980..1020_u32], delay in 0..20_u64, seed in any::<u64>(),
    ) {
        let mut twins = Twins::new([one, other], speeds, millis(delay));
        twins.run(millis(5000), |_, _| false);
        prop_assert_eq!(twins.states(), [State::Up; 2]);
        prop_assert!(!twins.ends[0].is_polling && !twins.ends[1].is_polling);

        // One packet less than it takes, and one for the clocks and the jitter.
        let bound = [other.multiplier.saturating_sub(2), one.multiplier.saturating_sub(2)];
        let mut random = seed | 1;
        twins.run(millis(25_000), |to, in_a_row| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % 3 == 0 && in_a_row < bound[to].into()
        });
        prop_assert_eq!(twins.states(), [State::Up; 2]);
        prop_assert_eq!(twins.ends[0].diagnostic(), Diagnostic::None);

        let detection = twins.ends.iter().map(Session::detection).max().unwrap_or_default();
        let cut = twins.now;
        twins.run(cut + detection * 103 / 100 + millis(delay) + millis(1), |_, _| true);
        prop_assert_eq!(twins.states(), [State::Down; 2]);
        let healed = twins.now;
        twins.run(healed + millis(5000), |_, _| false);
        prop_assert_eq!(twins.states(), [State::Up; 2]);
    }

    /// One direction that is cut takes both ends down: nobody sends into a path that only leads back.
    #[test]
    fn a_path_that_leads_one_way_is_no_path(one in settings(), other in settings(), deaf in 0..2_usize) {
        let mut twins = Twins::new([one, other], [1000, 1000], millis(1));
        twins.run(millis(5000), |_, _| false);
        let detection = twins.ends.iter().map(Session::detection).max().unwrap_or_default();
        let until = twins.now + detection + millis(50);
        twins.run(until, |to, _| to == deaf);
        prop_assert!(twins.states()[deaf] != State::Up);
        let until = twins.now + millis(10_000);
        twins.run(until, |to, _| to == deaf);
        prop_assert!(twins.states().iter().all(|state| *state != State::Up), "{:?}", twins.states());
    }

    /// A budget: an end sends no more than its own pace and the other's allow, and one answer to each question.
    #[test]
    fn nobody_sends_more_than_agreed(one in settings(), other in settings()) {
        let mut twins = Twins::new([one, other], [1000, 1000], millis(1));
        twins.run(millis(6000), |_, _| false);
        let mut sent = [0_u32; 2];
        let until = twins.now + millis(10_000);
        twins.run(until, |to, _| { sent[to] += 1; false });
        for (to, (from, at)) in [(other, one), (one, other)].into_iter().enumerate() {
            let pace = from.send.max(at.receive).as_millis() as u32;
            prop_assert!(sent[to] <= 10_000 * 4 / (3 * pace) + 2, "{} packets, {pace} ms apart", sent[to]);
        }
    }

    #[test]
    fn whatever_comes_in_harms_nobody(octets in prop::collection::vec(any::<u8>(), 0..40), times in prop::collection::vec(0..10_000_u64, 1..20)) {
        let mut session = fresh();
        let mut now = Duration::ZERO;
        for time in times {
            now += millis(time);
            if let Some(packet) = Packet::decode(&octets) {
                session.received(&packet, now);
                prop_assert_eq!(Packet::decode(&packet.encode()), Some(packet));
            }
            session.check(now);
            session.poll(now, time as u32);
            // What is due later is later: nobody is woken for nothing.
            if let Some(at) = session.deadline() {
                prop_assert!(at > now || session.must_confirm, "{at:?} {now:?}");
            }
        }
    }
}

#[test]
fn packets_have_the_octets_of_the_rfc() {
    let packet = Packet {
        is_poll: true,
        diagnostic: Diagnostic::TimeExpired,
        ..said(State::Up)
    };
    let octets = packet.encode();
    assert_eq!(octets[..4], [0x21, 0xe8, 3, 24]);
    assert_eq!(octets[4..12], [0, 0, 0, 9, 0, 0, 0, 1]);
    assert_eq!(octets[12..16], 100_000_u32.to_be_bytes());
    assert_eq!(Packet::decode(&octets), Some(packet));
    let changed = |at: usize, value: u8| {
        let mut octets = octets;
        octets[at] = value;
        Packet::decode(&octets)
    };
    assert_eq!(changed(0, 0x41), None, "another version");
    assert_eq!(
        changed(1, 0xe8 | 1 << 4),
        None,
        "a question that is an answer"
    );
    assert_eq!(changed(1, 0xe8 | 1 << 2), None, "authentication");
    assert_eq!(changed(1, 0xe8 | 1), None, "multipoint");
    assert_eq!(changed(2, 0), None, "no multiplier");
    assert_eq!(changed(3, 23), None, "another length");
    assert_eq!(changed(7, 0), None, "nobody's session");
    assert_eq!(Packet::decode(&octets[..23]), None);
    let long = Packet {
        send: Duration::from_secs(1 << 40),
        ..packet
    };
    assert_eq!(
        Packet::decode(&long.encode()).map(|packet| packet.send),
        Some(Duration::from_micros(u32::MAX.into()))
    );
}
