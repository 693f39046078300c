//! The machine on a network that loses, delays, reorders, doubles and corrupts, in virtual time.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::wire::Probe;

/// A small generator, so that a case is its seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

#[derive(Debug, Clone)]
struct World {
    seed: u64,
    loss: u64,
    double: u64,
    corrupt: u64,
    error: u64,
    delay_ms: u64,
    stall: u64,
    refuse: u64,
    stamps: bool,
    buffer: usize,
    connections: usize,
}

fn world() -> impl Strategy<Value = World> {
    (
        (
            1_u64..,
            0_u64..40,
            0_u64..20,
            0_u64..10,
            0_u64..10,
            1_u64..400,
        ),
        (
            prop_oneof![Just(0_u64), 1_u64..20],
            any::<bool>(),
            1_usize..40,
            1_usize..6,
        ),
    )
        .prop_map(
            |(
                (seed, loss, double, corrupt, error, delay_ms),
                (stall, stamps, answers, connections),
            )| World {
                seed,
                loss,
                double,
                corrupt,
                error,
                delay_ms,
                stall,
                refuse: 2,
                stamps,
                buffer: answers * ANSWER_BYTES,
                connections,
            },
        )
}

fn plan() -> impl Strategy<Value = Plan> {
    let probe = (
        0_u8..3,
        1_u8..20,
        1_u16..6,
        prop_oneof![Just(56_u16), Just(1400)],
    )
        .prop_map(|(kind, host, count, payload_bytes)| Probe {
            id: 0,
            dst: match kind {
                0 => IpAddr::from([10, 0, 0, host]),
                1 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)]),
                _ => IpAddr::from([10, 0, 1, host]),
            },
            protocol: if kind == 2 {
                Protocol::Tcp
            } else {
                Protocol::Icmp
            },
            port: 8889,
            count,
            payload_bytes,
            timeout_ms: None,
            expect: None,
        });
    (
        prop::collection::vec(probe, 0..40),
        1_u32..3000,
        20_u32..600,
    )
        .prop_map(|(mut probes, budget_pps, timeout_ms)| {
            for (id, probe) in probes.iter_mut().enumerate() {
                probe.id = id as u32;
                // Some are more patient than the plan, some less.
                probe.timeout_ms = [None, Some(timeout_ms / 2 + 1), Some(timeout_ms * 3)]
                    [(probe.count as usize + id) % 3];
            }
            Plan {
                version: 2,
                run: "r".into(),
                budget_pps,
                timeout_ms,
                ports: Vec::new(),
                probes,
            }
        })
}

/// What the network has on its way, by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    at: std::cmp::Reverse<Duration>,
    order: u64,
    what: usize,
}

const WALL: Duration = Duration::from_secs(1_700_000_000);

struct Run {
    events: Vec<Event>,
    counts: Counts,
    /// Per probe: how many packets were really answered in time.
    answered: HashMap<u32, u32>,
    sends: Vec<Duration>,
    overflowed: usize,
}

/// Drives a session to its end as a driver would: read everything, then poll, then sleep; sometimes oversleep.
fn run(plan: &Plan, world: &World) -> Result<Run, TestCaseError> {
    let limits = Limits {
        icmp4_bytes: world.buffer,
        icmp6_bytes: world.buffer,
        connections: world.connections,
        secret: world.seed,
    };
    let mut session = Session::new(plan, limits);
    let mut dice = Dice(world.seed);
    let mut now = Duration::ZERO;
    let mut flying: BinaryHeap<Arrival> = BinaryHeap::new();
    let mut inputs: Vec<Input> = Vec::new();
    let mut result = Run {
        events: vec![],
        counts: Counts::default(),
        answered: HashMap::new(),
        sends: vec![],
        overflowed: 0,
    };
    let mut connecting: BTreeMap<Token, ()> = BTreeMap::new();
    for step in 0_u64.. {
        prop_assert!(step < 200_000, "it never ends: {:?}", session.counts());
        session.wake(now);
        // What arrived while we slept waited in buffers of fixed size.
        let mut waiting = [0_usize; 3];
        while flying.peek().is_some_and(|next| next.at.0 <= now) {
            let Some(arrival) = flying.pop() else { break };
            let input = inputs[arrival.what].clone();
            let (lane, bytes) = match &input {
                Input::Reply { token, .. } => (token.lane, ANSWER_BYTES),
                Input::Connected { token, .. } => {
                    if connecting.remove(token).is_none() {
                        continue;
                    }
                    (token.lane, 0)
                }
                Input::IcmpError { lane, .. } => (*lane, ANSWER_BYTES),
                _ => (Lane::Tcp, 0),
            };
            waiting[lane as usize] += bytes;
            if world.double == 0 && world.corrupt == 0 && waiting[lane as usize] > world.buffer {
                result.overflowed += 1;
            }
            session.handle(now, input);
        }
        while let Some(command) = session.poll(now) {
            match command {
                Command::Abandon { token } => {
                    prop_assert!(
                        connecting.remove(&token).is_some(),
                        "abandoned what was not connecting"
                    );
                }
                Command::Connect { token, probe } => {
                    result.sends.push(now);
                    connecting.insert(token, ());
                    prop_assert!(connecting.len() <= world.connections);
                    let delay = Duration::from_millis(dice.roll(world.delay_ms));
                    let verdict = match dice.roll(5) {
                        _ if dice.chance(world.loss) => continue,
                        0 => Err(Failure::Refused),
                        1 => Err(Failure::WrongIdentity {
                            answered: "x/y".into(),
                        }),
                        _ => Ok(delay),
                    };
                    let id = plan.probes[probe].id;
                    // The driver's tasks have no time stamps: an answer counts when it is heard in time.
                    *result.answered.entry(id).or_default() += 0;
                    inputs.push(Input::Connected {
                        token,
                        result: verdict,
                    });
                    flying.push(Arrival {
                        at: std::cmp::Reverse(now + delay),
                        order: step,
                        what: inputs.len() - 1,
                    });
                }
                Command::Echo {
                    token, cookie, dst, ..
                } => {
                    result.sends.push(now);
                    session.handle(
                        now,
                        Input::Sending {
                            token,
                            at: WALL + now,
                        },
                    );
                    if dice.chance(world.refuse) {
                        session.handle(
                            now,
                            Input::SendFailed {
                                token,
                                error: "no buffer".into(),
                                short: dice.chance(50),
                            },
                        );
                        continue;
                    }
                    if world.stamps {
                        session.handle(
                            now,
                            Input::Transmitted {
                                token,
                                cookie,
                                at: WALL + now,
                            },
                        );
                    }
                    if dice.chance(world.loss) {
                        continue;
                    }
                    let delay = Duration::from_millis(dice.roll(world.delay_ms));
                    let copies = 1 + u64::from(dice.chance(world.double));
                    let bad = dice.chance(world.corrupt);
                    let error = dice.chance(world.error);
                    for copy in 0..copies {
                        let at = now + delay + Duration::from_millis(copy * dice.roll(300));
                        let input = if bad && dice.chance(50) {
                            Input::Reply {
                                token,
                                cookie: cookie ^ 1,
                                from: dst,
                                received: Some(WALL + at),
                            }
                        } else if bad {
                            Input::Reply {
                                token,
                                cookie,
                                from: IpAddr::from([192, 0, 2, 1]),
                                received: Some(WALL + at),
                            }
                        } else if error {
                            Input::IcmpError {
                                lane: token.lane,
                                sequence: token.sequence(),
                                dst,
                                from: IpAddr::from([192, 0, 2, 9]),
                                kind: 11,
                                code: 0,
                            }
                        } else {
                            Input::Reply {
                                token,
                                cookie,
                                from: dst,
                                received: world.stamps.then_some(WALL + at),
                            }
                        };
                        inputs.push(input);
                        flying.push(Arrival {
                            at: std::cmp::Reverse(at),
                            order: step,
                            what: inputs.len() - 1,
                        });
                    }
                    if !bad && !error && world.stamps {
                        let probe = plan.probes.iter().filter(|probe| probe.dst == dst);
                        for probe in probe.filter(|probe| delay <= plan.timeout(probe)) {
                            *result.answered.entry(probe.id).or_default() += 1;
                        }
                    }
                }
            }
            let counts = session.counts();
            prop_assert_eq!(
                counts.sent,
                counts.judged() + session.in_flight(),
                "the law of verdicts: {:?}",
                counts
            );
        }
        while let Some(event) = session.event(now) {
            result.events.push(event);
        }
        let counts = session.counts();
        prop_assert_eq!(
            counts.sent,
            counts.judged() + session.in_flight(),
            "the law of verdicts: {:?}",
            counts
        );
        let Some(deadline) = session.deadline(now) else {
            break;
        };
        prop_assert!(!session.is_finished());
        prop_assert!(deadline >= now || session.in_flight() > 0);
        let next = flying
            .peek()
            .map_or(deadline, |next| next.at.0.min(deadline));
        // At least a little, as real sleeping is; sometimes long, as when the machine has other things to do.
        now = next.max(now + Duration::from_micros(1));
        if dice.chance(world.stall) {
            now += Duration::from_millis(dice.roll(5000));
        }
    }
    result.counts = session.counts();
    prop_assert!(session.is_finished());
    prop_assert_eq!(session.in_flight(), 0);
    Ok(result)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_gets_one_verdict(plan in plan(), world in world()) {
        let run = run(&plan, &world)?;
        let asked: u64 = plan.probes.iter().map(|probe| u64::from(probe.count)).sum();
        prop_assert_eq!(run.counts.sent, asked);
        prop_assert_eq!(run.counts.judged(), asked);
        let Some((Event::Done { sent, .. }, outcomes)) = run.events.split_last() else {
            return Err(TestCaseError::fail("the last line is not Done"));
        };
        prop_assert_eq!(*sent, asked);
        let mut seen = BTreeMap::new();
        for event in outcomes {
            let Event::Outcome(outcome) = event else {
                return Err(TestCaseError::fail("Done before the end"));
            };
            prop_assert!(seen.insert(outcome.id, outcome).is_none(), "told twice");
        }
        prop_assert_eq!(seen.len(), plan.probes.len());
        for probe in &plan.probes {
            let outcome = seen[&probe.id];
            prop_assert_eq!(outcome.sent, u32::from(probe.count));
            prop_assert!(outcome.is_possible(), "{outcome:?}");
            prop_assert_eq!(outcome.failure.is_none(), outcome.received == outcome.sent);
            prop_assert_eq!(outcome.rtt.is_some(), outcome.received > 0);
            if let Some(rtt) = &outcome.rtt {
                prop_assert!(rtt.min_us <= rtt.p50_us && rtt.p50_us <= rtt.p99_us && rtt.p99_us <= rtt.max_us, "{rtt:?}");
            }
        }
    }

    /// Whatever the driver was kept from doing, with the kernel's stamps an answer in time counts as one.
    #[test]
    fn a_stall_is_not_a_loss(mut plan in plan(), mut world in world()) {
        plan.probes.retain(|probe| probe.protocol == Protocol::Icmp);
        let mut hosts = std::collections::BTreeSet::new();
        plan.probes.retain(|probe| hosts.insert(probe.dst));
        plan.probes.iter_mut().for_each(|probe| probe.payload_bytes = 56);
        // An answer that comes after its time also takes room: that is what `Input::Overflowed` is for.
        world = World { delay_ms: world.delay_ms.min(u64::from(plan.timeout_ms) / 2), stall: 20, stamps: true, double: 0, corrupt: 0, ..world };
        let run = run(&plan, &world)?;
        prop_assert_eq!(run.overflowed, 0);
        for event in &run.events {
            if let Event::Outcome(outcome) = event {
                let answered = run.answered.get(&outcome.id).copied().unwrap_or(0);
                prop_assert_eq!(outcome.received, answered, "{:?}", outcome);
                let lost = outcome.sent - outcome.received;
                prop_assert!(outcome.starved || outcome.undecided == 0 || lost == 0, "{:?}", outcome);
            }
        }
    }
}

#[test]
fn the_ceiling_holds_whatever_the_plan_asks() {
    let mut plan = one(Protocol::Icmp, 20);
    plan.budget_pps = u32::MAX;
    plan.timeout_ms = 50;
    plan.probes = (0..2500)
        .map(|id| Probe {
            id,
            dst: IpAddr::from([10, 1, (id >> 8) as u8, id as u8]),
            ..plan.probes[0].clone()
        })
        .collect();
    let world = World {
        seed: 11,
        loss: 0,
        double: 0,
        corrupt: 0,
        error: 0,
        delay_ms: 1,
        stall: 1,
        refuse: 0,
        stamps: true,
        buffer: usize::MAX,
        connections: 1,
    };
    let run = run(&plan, &world).expect("a run without faults");
    assert_eq!(run.sends.len(), 50_000);
    let ceiling = crate::wire::CEILING_PPS as usize;
    let (mut first, mut most) = (0, 0);
    for (last, at) in run.sends.iter().enumerate() {
        while run.sends[first] + Duration::from_secs(1) <= *at {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    assert!(most <= ceiling && most > ceiling / 2, "{most} in a second");
}

#[test]
fn what_a_full_buffer_swallowed_is_not_called_lost() {
    let mut session = Session::new(&one(Protocol::Icmp, 2), LIMITS);
    let mut now = Duration::ZERO;
    let (_, _, from) = echo(&mut session, &mut now);
    session.handle(
        now,
        Input::Overflowed {
            lane: Lane::Icmp4,
            drops: 3,
        },
    );
    let (token, cookie, _) = echo(&mut session, &mut now);
    session.handle(
        now,
        Input::Reply {
            token,
            cookie,
            from,
            received: None,
        },
    );
    now += Duration::from_secs(2);
    assert_eq!(session.poll(now), None);
    let outcome = outcome(&mut session, now);
    assert!(
        matches!(outcome.failure, Some(Failure::Undecided { .. })),
        "{outcome:?}"
    );
    assert_eq!((outcome.undecided, outcome.starved), (1, false));
    assert_eq!(
        (session.counts().timeouts, session.counts().undecided),
        (0, 1)
    );
    assert_eq!(session.health().receive_drops, 3);
}

fn one(protocol: Protocol, count: u16) -> Plan {
    Plan {
        version: 2,
        run: "r".into(),
        budget_pps: 1000,
        timeout_ms: 1000,
        ports: Vec::new(),
        probes: vec![Probe {
            id: 7,
            dst: IpAddr::from([10, 0, 0, 1]),
            protocol,
            port: 8889,
            count,
            payload_bytes: 56,
            timeout_ms: None,
            expect: None,
        }],
    }
}

const LIMITS: Limits = Limits {
    icmp4_bytes: 212_992,
    icmp6_bytes: 212_992,
    connections: 4,
    secret: 5,
};

/// Polls until the session wants something sent.
fn launch(session: &mut Session, now: &mut Duration) -> Command {
    loop {
        if let Some(command) = session.poll(*now) {
            return command;
        }
        *now = session
            .deadline(*now)
            .expect("something is left to be sent");
    }
}

fn echo(session: &mut Session, now: &mut Duration) -> (Token, u64, IpAddr) {
    match launch(session, now) {
        Command::Echo {
            token, cookie, dst, ..
        } => (token, cookie, dst),
        other => panic!("an echo, not {other:?}"),
    }
}

fn outcome(session: &mut Session, now: Duration) -> Outcome {
    match session.event(now) {
        Some(Event::Outcome(outcome)) => outcome,
        other => panic!("an outcome, not {other:?}"),
    }
}

#[test]
fn late_and_double_answers_are_counted_once_each() {
    let mut session = Session::new(&one(Protocol::Icmp, 2), LIMITS);
    let mut now = Duration::ZERO;
    let (first, first_cookie, dst) = echo(&mut session, &mut now);
    let (second, second_cookie, _) = echo(&mut session, &mut now);
    let answer = |token, cookie| Input::Reply {
        token,
        cookie,
        from: dst,
        received: None,
    };
    now += Duration::from_millis(1);
    session.handle(now, answer(second, second_cookie));
    session.handle(now, answer(second, second_cookie));
    now += Duration::from_secs(2);
    assert_eq!(session.poll(now), None);
    session.handle(now, answer(first, first_cookie));
    session.handle(now, answer(first, first_cookie));
    let counts = session.counts();
    assert_eq!(
        (
            counts.replies,
            counts.timeouts,
            counts.late,
            counts.duplicates
        ),
        (1, 1, 1, 2)
    );
    let outcome = outcome(&mut session, now);
    assert_eq!(
        (outcome.sent, outcome.received, outcome.failure),
        (2, 1, Some(Failure::Timeout))
    );
}

#[test]
fn an_icmp_error_is_a_failure_of_its_own_probe() {
    let mut session = Session::new(&one(Protocol::Icmp, 1), LIMITS);
    let mut now = Duration::ZERO;
    let (token, _, dst) = echo(&mut session, &mut now);
    let from = IpAddr::from([192, 0, 2, 1]);
    let error = |sequence, dst| Input::IcmpError {
        lane: Lane::Icmp4,
        sequence,
        dst,
        from,
        kind: 11,
        code: 0,
    };
    session.handle(now, error(token.sequence(), IpAddr::from([10, 0, 0, 2])));
    session.handle(now, error(token.sequence().wrapping_add(1), dst));
    assert_eq!((session.counts().strays, session.in_flight()), (2, 1));
    session.handle(now, error(token.sequence(), dst));
    let outcome = outcome(&mut session, now);
    assert_eq!(
        outcome.failure,
        Some(Failure::IcmpError {
            from,
            kind: 11,
            code: 0
        })
    );
    assert_eq!((outcome.received, outcome.rtt), (0, None));
    assert!(matches!(
        session.event(now),
        Some(Event::Done { sent: 1, .. })
    ));
}

#[test]
fn times_are_the_kernels_where_they_can_be_believed() {
    let wall = WALL;
    let ms = Duration::from_millis;
    // (transmitted, received) by the wall clock, after the wall clock's time of sending; 9 ms pass by the session's.
    for (sent, received, expected, unstamped) in [
        (Some(ms(1)), Some(ms(3)), ms(2), 0),
        (None, Some(ms(3)), ms(3), 0),
        (Some(ms(3)), Some(ms(1)), ms(9), 1),
        (Some(ms(1)), Some(ms(11)), ms(9), 1),
        (Some(ms(1)), None, ms(9), 1),
    ] {
        let mut session = Session::new(&one(Protocol::Icmp, 1), LIMITS);
        let mut now = Duration::ZERO;
        let (token, cookie, from) = echo(&mut session, &mut now);
        session.handle(now, Input::Sending { token, at: wall });
        if let Some(sent) = sent {
            session.handle(
                now,
                Input::Transmitted {
                    token,
                    cookie,
                    at: wall + sent,
                },
            );
            // A device below a tunnel stamps again.
            session.handle(
                now,
                Input::Transmitted {
                    token,
                    cookie,
                    at: wall + ms(8),
                },
            );
        }
        now += ms(9);
        session.handle(
            now,
            Input::Reply {
                token,
                cookie,
                from,
                received: received.map(|at| wall + at),
            },
        );
        let rtt = outcome(&mut session, now).rtt.expect("answered");
        assert_eq!(u128::from(rtt.max_us), expected.as_micros());
        assert_eq!(session.counts().unstamped, unstamped);
    }
}

#[test]
fn the_most_telling_failure_is_told() {
    let mut session = Session::new(&one(Protocol::Tcp, 3), LIMITS);
    let mut now = Duration::ZERO;
    let wrong = Failure::WrongIdentity {
        answered: "east/n2".into(),
    };
    for verdict in [
        Err(Failure::Refused),
        Err(wrong.clone()),
        Ok(Duration::from_millis(1)),
    ] {
        let Command::Connect { token, probe: 0 } = launch(&mut session, &mut now) else {
            panic!("a connection");
        };
        session.handle(
            now,
            Input::Connected {
                token,
                result: verdict,
            },
        );
    }
    let outcome = outcome(&mut session, now);
    assert_eq!(
        (outcome.sent, outcome.received, outcome.failure),
        (3, 1, Some(wrong))
    );
}

#[test]
fn a_connection_that_takes_too_long_is_abandoned() {
    let mut session = Session::new(&one(Protocol::Tcp, 1), LIMITS);
    let mut now = Duration::ZERO;
    let Command::Connect { token, .. } = launch(&mut session, &mut now) else {
        panic!("a connection");
    };
    // The driver looks around while it waits.
    while now < Duration::from_secs(1) {
        assert_eq!(session.poll(now), None);
        now = session.deadline(now).expect("its timeout");
        session.wake(now);
    }
    assert_eq!(session.poll(now), Some(Command::Abandon { token }));
    assert_eq!(outcome(&mut session, now).failure, Some(Failure::Timeout));
}

/// Launches the only packet of a plan and sleeps until so long after the time that was asked for.
fn overslept(protocol: Protocol, late: Duration) -> (Session, Command, Duration) {
    let mut session = Session::new(&one(protocol, 1), LIMITS);
    let mut now = Duration::ZERO;
    let command = launch(&mut session, &mut now);
    now = session.deadline(now).expect("it waits") + late;
    session.wake(now);
    (session, command, now)
}

fn reply(command: &Command) -> Input {
    match command {
        Command::Echo {
            token,
            cookie,
            dst: from,
            ..
        } => Input::Reply {
            token: *token,
            cookie: *cookie,
            from: *from,
            received: None,
        },
        Command::Connect { token, .. } => Input::Connected {
            token: *token,
            result: Ok(Duration::from_millis(1)),
        },
        Command::Abandon { .. } => panic!("in time"),
    }
}

#[test]
fn what_waited_while_the_driver_slept_is_answered() {
    for protocol in [Protocol::Icmp, Protocol::Tcp] {
        let (mut session, command, now) = overslept(protocol, Duration::from_secs(5));
        session.handle(now, reply(&command));
        let outcome = outcome(&mut session, now);
        assert_eq!(
            (outcome.received, outcome.failure),
            (1, None),
            "{protocol:?}"
        );
        let health = session.health();
        assert_eq!(
            (health.missed_ticks, health.worst_lateness_us),
            (1, 5_000_000)
        );
    }
}

#[test]
fn a_connection_gets_back_the_time_that_the_driver_missed_and_no_more() {
    let late = Duration::from_secs(5);
    let left = Duration::from_secs(1) - TICK;
    for (after, received) in [(left - Duration::from_millis(1), 1), (left, 0)] {
        let (mut session, command, mut now) = overslept(Protocol::Tcp, late);
        assert_eq!(session.poll(now), None);
        now += after;
        if session.poll(now).is_none() {
            session.handle(now, reply(&command));
        }
        assert_eq!(outcome(&mut session, now).received, received, "{after:?}");
    }
}

#[test]
fn an_echo_that_was_not_there_after_a_stall_is_undecided_and_after_none_lost() {
    for (late, starved) in [(Duration::from_secs(5), true), (TOLERANCE, false)] {
        let (mut session, _, now) = overslept(Protocol::Icmp, late);
        assert_eq!(session.poll(now), None);
        let outcome = outcome(&mut session, now);
        assert_eq!(
            (outcome.starved, outcome.undecided),
            (starved, u32::from(starved))
        );
        assert_eq!(
            outcome.failure == Some(Failure::Timeout),
            !starved,
            "{outcome:?}"
        );
        assert_eq!(session.health().missed_ticks, u64::from(starved));
    }
}

#[test]
fn a_little_lateness_within_a_long_wait_starves_nobody() {
    let mut session = Session::new(&one(Protocol::Tcp, 1), LIMITS);
    let mut now = Duration::ZERO;
    launch(&mut session, &mut now);
    let mut abandoned = None;
    for tick in 0..100 {
        now = session.deadline(now).expect("it waits");
        // An eighth of a second altogether.
        now += Duration::from_millis(if tick < 5 { 25 } else { 0 });
        session.wake(now);
        abandoned = session.poll(now);
        if abandoned.is_some() {
            break;
        }
    }
    assert!(abandoned.is_some());
    assert_eq!(outcome(&mut session, now).failure, Some(Failure::Timeout));
    assert_eq!(session.health().missed_ticks, 5);
}

#[test]
fn each_probe_is_waited_for_as_it_asks() {
    let mut plan = one(Protocol::Icmp, 1);
    plan.probes.push(Probe {
        id: 8,
        timeout_ms: Some(200),
        dst: IpAddr::from([10, 0, 0, 2]),
        ..plan.probes[0].clone()
    });
    let mut session = Session::new(&plan, LIMITS);
    let mut now = Duration::ZERO;
    echo(&mut session, &mut now);
    echo(&mut session, &mut now);
    for (id, ms) in [(8, 200), (7, 1000)] {
        now = session.deadline(now).expect("a timeout");
        assert!(now >= Duration::from_millis(ms) && now < Duration::from_millis(ms + 50));
        session.wake(now);
        assert_eq!(session.poll(now), None);
        assert_eq!(outcome(&mut session, now).id, id);
    }
}

#[test]
fn a_lower_share_holds_from_the_next_packet_on() {
    let mut plan = one(Protocol::Icmp, 1);
    plan.budget_pps = 10_000;
    plan.probes = (0..5000)
        .map(|id| Probe {
            id,
            ..plan.probes[0].clone()
        })
        .collect();
    let mut session = Session::new(
        &plan,
        Limits {
            icmp4_bytes: usize::MAX,
            ..LIMITS
        },
    );
    let sent = |session: &mut Session, from: u64| {
        (from..from + 1000)
            .map(|ms| {
                let now = Duration::from_millis(ms);
                std::iter::from_fn(|| session.poll(now)).count()
            })
            .sum::<usize>()
    };
    session.limit(Duration::ZERO, 100, &plan);
    let slow = sent(&mut session, 0);
    assert!(slow <= 100 && slow > 80, "{slow}");
    session.limit(Duration::from_secs(1), u32::MAX, &plan);
    assert!(sent(&mut session, 1000) > 4000);
}

#[test]
fn no_more_is_in_flight_than_the_buffer_holds_answers() {
    let mut plan = one(Protocol::Icmp, 1);
    plan.budget_pps = u32::MAX;
    plan.probes = (0..1000)
        .map(|id| Probe {
            id,
            payload_bytes: if id % 2 == 0 { 0 } else { 1400 },
            ..plan.probes[0].clone()
        })
        .collect();
    let mut session = Session::new(&plan, LIMITS);
    let mut now = Duration::ZERO;
    let mut bytes = 0;
    while now < Duration::from_millis(900) {
        while let Some(command) = session.poll(now) {
            if let Command::Echo { payload_bytes, .. } = command {
                bytes += answer_bytes(payload_bytes);
            }
        }
        now += Duration::from_millis(1);
    }
    assert!(
        bytes <= LIMITS.icmp4_bytes && bytes > LIMITS.icmp4_bytes - 10_000,
        "{bytes}"
    );
}

#[test]
fn sequence_numbers_wrap() {
    let mut plan = one(Protocol::Icmp, 1);
    plan.budget_pps = u32::MAX;
    plan.timeout_ms = 10_000;
    plan.probes = (0..70_000)
        .map(|id| Probe {
            id,
            ..plan.probes[0].clone()
        })
        .collect();
    let mut session = Session::new(
        &plan,
        Limits {
            icmp4_bytes: usize::MAX,
            ..LIMITS
        },
    );
    let mut now = Duration::ZERO;
    let (oldest, _, dst) = echo(&mut session, &mut now);
    let mut last = oldest;
    while let Some(deadline) = session.deadline(now) {
        now = now.max(deadline);
        if now >= Duration::from_secs(9) {
            break;
        }
        while let Some(Command::Echo {
            token, cookie, dst, ..
        }) = session.poll(now)
        {
            session.handle(
                now,
                Input::Reply {
                    token,
                    cookie,
                    from: dst,
                    received: None,
                },
            );
            last = token;
        }
    }
    // The oldest is unanswered: sending stops before its number could be taken for another.
    assert_eq!(last.number, 65_535);
    let from = dst;
    session.handle(
        now,
        Input::IcmpError {
            lane: Lane::Icmp4,
            sequence: oldest.sequence(),
            dst,
            from,
            kind: 3,
            code: 1,
        },
    );
    assert_eq!(session.counts().icmp_errors, 1);
    let (next, cookie, _) = echo(&mut session, &mut now);
    assert_eq!((next.number, next.sequence()), (65_536, 0));
    session.handle(
        now,
        Input::Reply {
            token: next,
            cookie,
            from,
            received: None,
        },
    );
    assert_eq!(session.counts().duplicates, 0);
}
