use std::time::Duration;

use proptest::prelude::*;

use super::*;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn contender(name: &str) -> Contender {
    Contender::new(name, Timing::default())
}

/// The Lease as an API server keeps it.
#[derive(Debug, Default, Clone)]
struct Server {
    held: Option<(Record, u64)>,
}

impl Server {
    fn answer(&mut self, ask: &Ask) -> Answer {
        match (ask, &self.held) {
            (Ask::Read, None) | (Ask::Replace { .. }, None) => Answer::Absent,
            (Ask::Read, Some((record, version))) => Answer::Found {
                record: record.clone(),
                version: version.to_string(),
            },
            (Ask::Create(_), Some(_)) => Answer::Conflict,
            (Ask::Create(record), None) => self.write(record),
            (Ask::Replace { record, version }, Some((_, held))) => {
                if *version == held.to_string() {
                    self.write(record)
                } else {
                    Answer::Conflict
                }
            }
        }
    }

    fn write(&mut self, record: &Record) -> Answer {
        let version = self.held.as_ref().map_or(1, |(_, version)| version + 1);
        self.held = Some((record.clone(), version));
        Answer::Written {
            version: version.to_string(),
        }
    }
}

/// Asks and answers until there is nothing more to ask at this moment.
fn turn(one: &mut Contender, server: &mut Server, now: Duration) -> usize {
    let mut asked = 0;
    let wall = Micros(i64::try_from(now.as_micros()).expect("a small time"));
    while let Some(ask) = one.poll(now, wall) {
        asked += 1;
        let answer = server.answer(&ask);
        one.answer(answer, now, wall);
    }
    asked
}

#[test]
fn the_first_makes_the_lease_and_keeps_it() {
    let (mut one, mut server) = (contender("a"), Server::default());
    assert_eq!(turn(&mut one, &mut server, seconds(0)), 2, "read, create");
    assert_eq!(one.leads_until(seconds(0)), Some(seconds(10)));
    let (record, _) = server.held.clone().expect("a Lease");
    assert_eq!((record.seconds, record.transitions), (Some(15), 0));
    assert_eq!(turn(&mut one, &mut server, seconds(1)), 0);
    assert_eq!(turn(&mut one, &mut server, seconds(2)), 1, "one renewal");
    let (renewed, _) = server.held.clone().expect("a Lease");
    assert_eq!(renewed.acquired, record.acquired);
    assert_eq!(renewed.renewed, Some(Micros(2_000_000)));
    assert_eq!(one.leads_until(seconds(2)), Some(seconds(12)));
}

#[test]
fn another_takes_over_fifteen_seconds_after_the_last_sign_of_life_that_it_saw() {
    let mut server = Server::default();
    let (mut one, mut other) = (contender("a"), contender("b"));
    turn(&mut one, &mut server, seconds(100));
    // The times in the record are those of another clock: they do not count.
    turn(&mut other, &mut server, seconds(7));
    assert_eq!(other.holder(), Some("a"));
    let mut now = seconds(7);
    while other.leads_until(now).is_none() {
        now = other.deadline().expect("nothing is on its way");
        turn(&mut other, &mut server, now);
    }
    assert!(now >= seconds(22) && now < seconds(27), "{now:?}");
    let (record, _) = server.held.expect("a Lease");
    assert_eq!((record.holder.as_str(), record.transitions), ("b", 1));
}

#[test]
fn a_leader_that_cannot_renew_stops_before_another_may_start() {
    let (mut one, mut server) = (contender("a"), Server::default());
    turn(&mut one, &mut server, seconds(0));
    let mut now = seconds(2);
    while now < seconds(10) {
        assert!(one.leads_until(now).is_some());
        assert!(matches!(
            one.poll(now, Micros(0)),
            Some(Ask::Replace { .. })
        ));
        one.answer(Answer::Failed, now, Micros(0));
        now = one.deadline().expect("a retry");
    }
    assert_eq!(one.leads_until(now), None);
    // It asks before it writes from now on.
    assert_eq!(one.poll(now, Micros(0)), Some(Ask::Read));
}

#[test]
fn an_answer_that_comes_late_counts_from_when_it_was_asked_for() {
    let mut one = contender("a");
    assert_eq!(one.poll(seconds(0), Micros(0)), Some(Ask::Read));
    one.answer(Answer::Absent, seconds(1), Micros(0));
    assert!(matches!(
        one.poll(seconds(1), Micros(0)),
        Some(Ask::Create(_))
    ));
    let version = "1".to_owned();
    one.answer(Answer::Written { version }, seconds(9), Micros(0));
    assert_eq!(one.leads_until(seconds(9)), Some(seconds(11)));
}

#[test]
fn a_leader_whose_version_is_old_looks_at_once() {
    let (mut one, mut server) = (contender("a"), Server::default());
    turn(&mut one, &mut server, seconds(0));
    // Somebody put a label on it.
    if let Some((_, version)) = &mut server.held {
        *version += 1;
    }
    assert_eq!(
        turn(&mut one, &mut server, seconds(2)),
        3,
        "replace, read, replace"
    );
    assert_eq!(one.leads_until(seconds(2)), Some(seconds(12)));
    let (record, _) = server.held.expect("a Lease");
    assert_eq!((record.holder.as_str(), record.transitions), ("a", 0));
}

#[test]
fn whoever_leaves_releases_it_and_the_next_need_not_wait() {
    let mut server = Server::default();
    let (mut one, mut other) = (contender("a"), contender("b"));
    turn(&mut one, &mut server, seconds(0));
    turn(&mut other, &mut server, seconds(0));
    let release = one.leave(seconds(1), Micros(1)).expect("it leads");
    assert_eq!(one.leads_until(seconds(1)), None);
    server.answer(&release);
    assert_eq!(one.poll(seconds(9), Micros(9)), None);
    other.nudge(seconds(1));
    turn(&mut other, &mut server, seconds(1));
    assert!(other.leads_until(seconds(1)).is_some());
    assert!(contender("c").leave(seconds(1), Micros(1)).is_none());
}

#[test]
fn a_lead_that_ended_comes_back_by_a_write_and_not_by_a_word() {
    let (mut one, mut server) = (contender("a"), Server::default());
    turn(&mut one, &mut server, seconds(0));
    let own = server.held.clone();
    let stolen = Record {
        holder: "b".to_owned(),
        seconds: Some(15),
        ..Record::default()
    };
    server.write(&stolen);
    turn(&mut one, &mut server, seconds(2));
    assert_eq!(one.leads_until(seconds(2)), None);
    // Somebody puts back what stood there.
    server.held = own.map(|(record, version)| (record, version + 2));
    let mut now = seconds(2);
    while one.poll(now, Micros(0)).is_none() {
        now = one.deadline().expect("a retry");
    }
    let answer = server.answer(&Ask::Read);
    one.answer(answer, now, Micros(0));
    assert!(now < seconds(10));
    assert_eq!(one.leads_until(now), None);
    turn(&mut one, &mut server, now);
    assert!(one.leads_until(now).is_some());
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// Until it reaches the server, and from there back, in tenths of a second.
    there: u64,
    back: u64,
    /// Whether it never arrives, or its answer never does.
    is_lost: bool,
    is_unheard: bool,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate =
        (0_u64..80, 0_u64..80, 0..10_u32, 0..10_u32).prop_map(|(there, back, lost, unheard)| {
            Fate {
                // Most are quick.
                there: if there < 60 { there % 3 } else { there },
                back: if back < 60 { back % 3 } else { back },
                is_lost: lost < 2,
                is_unheard: unheard < 2,
            }
        });
    prop::collection::vec(fate, 200..400)
}

/// A replica with its own clock, and what it has on its way.
struct Replica {
    contender: Contender,
    /// Its clock's speed in percent of the true one.
    rate: u64,
    offset: Duration,
    /// The request, when it reaches the server, and when the replica stops waiting.
    there: Option<(Ask, Duration, Fate)>,
    back: Option<(Answer, Duration)>,
}

impl Replica {
    fn clock(&self, truth: Duration) -> Duration {
        let micros = u64::try_from(truth.as_micros()).expect("a small time");
        self.offset + Duration::from_micros(micros * self.rate / 100)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Two replicas, requests that are late, lost or unheard, clocks that differ and run at speeds between 85 and 115 percent: at no
    /// moment do both lead, and when nothing is lost any more somebody does.
    #[test]
    fn at_most_one_leads(fates in fates(), rates in prop::array::uniform2(85_u64..=115), offsets in prop::array::uniform2(0_u64..1000)) {
        let mut server = Server::default();
        let mut fates = fates.into_iter();
        let mut replicas: Vec<Replica> = ["a", "b"].iter().enumerate().map(|(at, name)| Replica {
            contender: contender(name),
            rate: rates[at],
            offset: seconds(offsets[at]),
            there: None,
            back: None,
        }).collect();
        let quiet = Fate { there: 1, back: 1, is_lost: false, is_unheard: false };
        let mut end = None;
        let mut step = 0_u64;
        loop {
            let truth = Duration::from_millis(step * 100);
            let leaders = replicas.iter().filter(|one| one.contender.leads_until(one.clock(truth)).is_some()).count();
            prop_assert!(leaders <= 1, "two lead at {truth:?}");
            if end.is_some_and(|end| step > end) {
                prop_assert_eq!(leaders, 1, "nobody leads although nothing is lost");
                break;
            }
            for one in &mut replicas {
                let now = one.clock(truth);
                let wall = Micros(i64::try_from(now.as_micros()).expect("a small time"));
                if let Some((ask, at, fate)) = &one.there && *at <= truth {
                    // A lost request may be one that the client gave up and that arrives all the same: then the answer is unheard.
                    let answer = if fate.is_lost { Answer::Failed } else {
                        let answer = server.answer(ask);
                        if fate.is_unheard { Answer::Failed } else { answer }
                    };
                    one.back = Some((answer, truth + Duration::from_millis(fate.back * 100)));
                    one.there = None;
                }
                if let Some((answer, at)) = &one.back && *at <= truth {
                    one.contender.answer(answer.clone(), now, wall);
                    one.back = None;
                }
                if let Some(ask) = one.contender.poll(now, wall) {
                    let fate = fates.next();
                    if fate.is_none() && end.is_none() {
                        end = Some(step + 600);
                    }
                    let fate = fate.unwrap_or(quiet);
                    one.there = Some((ask, truth + Duration::from_millis(fate.there * 100), fate));
                }
            }
            step += 1;
        }
    }

    /// Whatever is answered to whatever, nothing panics, and a replica never leads on the word of anything but its own write.
    #[test]
    fn any_answer_is_survived(answers in prop::collection::vec((0..5_u32, 0..4_u64), 0..100)) {
        let mut one = contender("a");
        let mut now = seconds(0);
        for (kind, wait) in answers {
            now += seconds(wait);
            let _ = one.poll(now, Micros(0));
            let led = one.leads_until(now).is_some();
            let record = Record { holder: if wait % 2 == 0 { "a" } else { "b" }.to_owned(), ..Record::default() };
            let version = wait.to_string();
            let answer = match kind {
                0 => Answer::Absent,
                1 => Answer::Conflict,
                2 => Answer::Failed,
                3 => Answer::Found { record, version },
                _ => Answer::Written { version },
            };
            let is_written = matches!(answer, Answer::Written { .. });
            one.answer(answer, now, Micros(0));
            prop_assert!(led || is_written || one.leads_until(now).is_none());
        }
    }
}
