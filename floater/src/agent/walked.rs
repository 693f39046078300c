//! A floater in a network that is computed: no socket, no namespace, and the time of answers computed, not waited for.
//!
//! Its owner hands it streams in place of a listener's connections. Requests, signatures, plans and the probe machine are those of
//! any floater; only what the machine asks for is not sent but looked up in a [`Walked`].

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use datapath::digest::Digester;
use datapath::state::NodeState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::api::Api;
use super::check::Checked;
use super::engine::Network;
use super::guests::Lobby;
use super::plans::Place;
use super::socket::Counted;
use super::{Config, is_over, responder};
use crate::probe::tcp;
use crate::session::{Command, Input, Limits, Session, Token};
use crate::wire::{CONNECTIONS, Event, Failure, Plan};

/// The receive buffer of a socket that is none, bytes: as the kernel grants it to those of a floater.
const BUFFER: usize = 4 << 20;
/// How many packets are looked up before others get their turn.
const TURN: u32 = 64;
/// Connections at once that have not proved anything.
const GUESTS: usize = 64;

/// What became of a packet or connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was answered.
    Answered {
        /// The round-trip time.
        after: Duration,
    },
    /// It or its answer was lost on the way, or nobody was there.
    Lost,
    /// Nobody listens on the port.
    Refused {
        /// The round-trip time.
        after: Duration,
    },
    /// An ICMP error came back.
    Unreachable {
        /// Who sent it.
        from: IpAddr,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
        /// The round-trip time.
        after: Duration,
    },
    /// The node could not even send it.
    Unsent {
        /// The system's words.
        error: String,
    },
}

/// A network that is computed.
pub trait Walked: Send + Sync + 'static {
    /// The tables of the network, and in words what of them could not be read.
    ///
    /// # Errors
    /// Why nothing could be read.
    fn inspect(&self) -> Result<(NodeState, Vec<String>), String>;

    /// The tables without the rows that count for a digester, and the digest of these; none where that is no less work than
    /// [`Walked::inspect`].
    fn inspect_counting(&self, digester: &Digester) -> Option<Counted> {
        let _ = digester;
        None
    }

    /// What becomes of an echo request with so many bytes behind its ICMP header, the `number`th packet of its run here.
    fn echo(&self, dst: IpAddr, payload_bytes: u16, number: u64) -> Fate;

    /// What becomes of a connection, the `number`th of its run here.
    fn connect(&self, dst: SocketAddr, number: u64) -> Fate;

    /// What a listener that took a connection answers to a request; nothing where none is there any more.
    fn answer(&self, dst: SocketAddr, request: &str) -> Vec<u8>;
}

/// A floater in such a network.
pub struct WalkedFloater {
    config: Arc<Config>,
    api: Arc<Api>,
    lobby: Lobby,
}

impl std::fmt::Debug for WalkedFloater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalkedFloater")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl WalkedFloater {
    /// A floater that stands ready.
    #[must_use]
    pub fn new(config: Config, network: Arc<dyn Walked>) -> Self {
        let config = Arc::new(config);
        Self {
            api: Arc::new(Api::new(Arc::clone(&config), Network::Walked(network))),
            config,
            lobby: Lobby::new(GUESTS),
        }
    }

    /// Who it is.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether its time is over: nothing of it listens any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        is_over(self.config.expires)
    }

    /// Serves its API over a stream until that ends. TLS is the owner's affair: within one process it would hide nothing.
    pub fn serve_api<S>(&self, stream: S) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (api, lobby) = (Arc::clone(&self.api), self.lobby.clone());
        async move {
            let (place, gone) = lobby.admit(Ipv4Addr::LOCALHOST.into());
            tokio::select! {
                biased;
                _ = gone => {}
                () = api.exchange(stream, Arc::new(place)) => {}
            }
        }
    }

    /// Serves its plain port over a stream, as a connection that came in at an address.
    pub fn serve_plain<S>(
        &self,
        stream: S,
        at: SocketAddr,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = Arc::clone(&self.config);
        async move {
            if let Err(error) = responder::answer(stream, &config, at).await {
                tracing::debug!(%error, "connection");
            }
        }
    }

    /// What its plain port answers to the head of a request that came in at an address.
    #[must_use]
    pub fn respond(&self, head: &str, at: SocketAddr) -> Vec<u8> {
        responder::respond(head.as_bytes(), &self.config, at).into_bytes()
    }
}

/// Runs a plan to its end, or until nobody listens any more.
pub(super) async fn run(
    checked: Checked,
    network: &Arc<dyn Walked>,
    place: &Place,
    events: &mpsc::Sender<Event>,
) {
    for outcome in checked.refused {
        if events.send(Event::Outcome(outcome)).await.is_err() {
            return;
        }
    }
    let plan = checked.plan;
    let limits = Limits {
        icmp4_bytes: BUFFER,
        icmp6_bytes: BUFFER,
        connections: CONNECTIONS,
        secret: place.secret().cookies,
    };
    // What chance does to a packet is no reason for what it does to the same one of the next plan.
    let before = place.packets_before(&plan);
    let mut session = Session::new(&plan, limits);
    let mut arrivals = Arrivals::default();
    let mut now = Duration::ZERO;
    let mut looked_up = 0;
    loop {
        session.wake(now);
        session.limit(now, place.share_pps(), &plan);
        while let Some((at, input)) = arrivals.take_until(now) {
            session.handle(at, input);
        }
        while let Some(command) = session.poll(now) {
            if let Some((after, input)) = carry_out(command, &plan, before, &**network) {
                arrivals.insert(now + after, input);
            }
            looked_up += 1;
            if looked_up % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        while let Some(event) = session.event(now) {
            if let Event::Done { health, .. } = &event {
                place.fared(*health);
            }
            if events.send(event).await.is_err() {
                return;
            }
        }
        let Some(deadline) = session.deadline(now) else {
            return;
        };
        now = arrivals
            .first()
            .map_or(deadline, |at| at.min(deadline))
            .max(now);
    }
}

/// What comes of a command, and how much later; nothing where nothing ever comes of it.
fn carry_out(
    command: Command,
    plan: &Plan,
    before: u64,
    network: &dyn Walked,
) -> Option<(Duration, Input)> {
    match command {
        // What was given up may still be answered: the machine counts that.
        Command::Abandon { .. } => None,
        Command::Connect { token, probe } => {
            let probe = plan.probes.get(probe)?;
            let dst = SocketAddr::new(probe.dst.to_canonical(), probe.port);
            let (after, result) = match network.connect(dst, before + token.number) {
                Fate::Lost => return None,
                Fate::Answered { after } => match &probe.expect {
                    None => (after, Ok(after)),
                    Some(expect) => {
                        let answer = network.answer(dst, &tcp::request(&expect.nonce));
                        // The question takes as long as the handshake did.
                        (2 * after, tcp::judge(&answer, expect).map(|()| after))
                    }
                },
                Fate::Refused { after } => (after, Err(Failure::Refused)),
                Fate::Unreachable {
                    from,
                    kind,
                    code,
                    after,
                } => (after, Err(Failure::IcmpError { from, kind, code })),
                Fate::Unsent { error } => (Duration::ZERO, Err(Failure::Local { error })),
            };
            Some((after, Input::Connected { token, result }))
        }
        Command::Echo {
            token,
            cookie,
            dst,
            payload_bytes,
        } => echo(
            token,
            cookie,
            dst,
            network.echo(dst, payload_bytes, before + token.number),
        ),
    }
}

fn echo(token: Token, cookie: u64, dst: IpAddr, fate: Fate) -> Option<(Duration, Input)> {
    match fate {
        Fate::Answered { after } => {
            let reply = Input::Reply {
                token,
                cookie,
                from: dst,
                received: None,
            };
            Some((after, reply))
        }
        Fate::Unreachable {
            from,
            kind,
            code,
            after,
        } => {
            let error = Input::IcmpError {
                lane: token.lane,
                sequence: token.sequence(),
                dst,
                from,
                kind,
                code,
            };
            Some((after, error))
        }
        Fate::Unsent { error } => {
            let failed = Input::SendFailed {
                token,
                error,
                short: false,
            };
            Some((Duration::ZERO, failed))
        }
        // No port can refuse an echo.
        Fate::Lost | Fate::Refused { .. } => None,
    }
}

/// What is on its way, in the order of its arrival.
#[derive(Default)]
struct Arrivals {
    by_time: BTreeMap<(Duration, u64), Input>,
    next: u64,
}

impl Arrivals {
    fn insert(&mut self, at: Duration, input: Input) {
        self.by_time.insert((at, self.next), input);
        self.next += 1;
    }

    fn first(&self) -> Option<Duration> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    fn take_until(&mut self, now: Duration) -> Option<(Duration, Input)> {
        let first = self.by_time.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let ((at, _), input) = first.remove_entry();
        Some((at, input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::check;
    use crate::agent::plans::Plans;
    use crate::wire::{Expect, Outcome, proof};

    /// Answers after 2 ms at .1 and for somebody else at .2, loses everything at .3, refuses at .4, says so at .5.
    struct Network;

    fn last(ip: IpAddr) -> u8 {
        match ip {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        }
    }

    const AFTER: Duration = Duration::from_millis(2);

    impl Walked for Network {
        fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
            Ok((NodeState::default(), Vec::new()))
        }

        fn echo(&self, dst: IpAddr, _: u16, _: u64) -> Fate {
            self.connect(SocketAddr::new(dst, 0), 0)
        }

        fn connect(&self, dst: SocketAddr, _: u64) -> Fate {
            match last(dst.ip()) {
                1 | 2 => Fate::Answered { after: AFTER },
                4 => Fate::Refused { after: AFTER },
                5 => Fate::Unreachable {
                    from: [10, 0, 0, 254].into(),
                    kind: 3,
                    code: 0,
                    after: AFTER,
                },
                6 => Fate::Unsent {
                    error: "no route".to_owned(),
                },
                _ => Fate::Lost,
            }
        }

        fn answer(&self, dst: SocketAddr, _: &str) -> Vec<u8> {
            let node = if last(dst.ip()) == 1 { "n1" } else { "n2" };
            let identity = crate::wire::Identity {
                cluster: "uid".to_owned(),
                node: node.to_owned(),
                proof: proof(b"key", "00ff", "uid", node, dst),
            };
            let body = serde_json::to_string(&identity).expect("plain");
            format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()
        }
    }

    async fn outcomes(protocol: &str) -> (Vec<Outcome>, u64, u64) {
        let probes: Vec<_> = (1..=6)
            .map(|at| {
                let dst = SocketAddr::from(([10, 0, 0, at], 8889));
                let expect = Expect {
                    nonce: "00ff".to_owned(),
                    proof: proof(b"key", "00ff", "uid", "n1", dst),
                };
                let expect = (protocol == "tcp").then_some(expect);
                serde_json::json!({"id": at, "dst": dst.ip(), "port": 8889, "protocol": protocol, "count": 5, "expect": expect})
            })
            .collect();
        let plan = serde_json::json!({
            "version": crate::wire::VERSION, "run": "r", "budget_pps": 50, "timeout_ms": 1000, "ports": [8889], "probes": probes,
        });
        let checked = check::plan(plan.to_string().as_bytes()).expect("a good plan");
        let place = Plans::new().place().expect("room");
        let (sender, mut events) = mpsc::channel(64);
        let network: Arc<dyn Walked> = Arc::new(Network);
        run(checked, &network, &place, &sender).await;
        drop(sender);
        let (mut found, mut end) = (Vec::new(), (0, 0));
        while let Some(event) = events.recv().await {
            match event {
                Event::Outcome(outcome) => found.push(outcome),
                Event::Done {
                    sent,
                    elapsed_us,
                    health,
                } => {
                    assert!(!health.is_starved(), "{health:?}");
                    end = (sent, elapsed_us);
                }
                Event::Signed { .. } => {}
            }
        }
        found.sort_by_key(|outcome| outcome.id);
        (found, end.0, end.1)
    }

    /// A plan that takes a second and more of its own time takes none of ours.
    #[tokio::test]
    async fn every_fate_is_an_outcome_and_nobody_waits() {
        let started = std::time::Instant::now();
        for protocol in ["icmp", "tcp"] {
            let (found, sent, elapsed_us) = outcomes(protocol).await;
            assert_eq!((found.len(), sent), (6, 30));
            // 30 packets at 50 a second, and the last timeout.
            assert!((1_000_000..3_000_000).contains(&elapsed_us), "{elapsed_us}");
            let rtt = found[0].rtt.as_ref().map(|rtt| rtt.max_us);
            assert_eq!((found[0].received, rtt), (5, Some(2000)));
            let failures: Vec<_> = found
                .iter()
                .map(|outcome| outcome.failure.clone())
                .collect();
            assert_eq!(failures[0], None);
            assert_eq!(failures[2], Some(Failure::Timeout));
            assert!(matches!(
                failures[4],
                Some(Failure::IcmpError { kind: 3, .. })
            ));
            assert!(matches!(failures[5], Some(Failure::Local { .. })));
            if protocol == "tcp" {
                assert!(
                    matches!(&failures[1], Some(Failure::WrongIdentity { answered }) if answered == "uid/n2")
                );
                assert_eq!(failures[3], Some(Failure::Refused));
            }
        }
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
