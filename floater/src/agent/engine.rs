//! Drives a session over real sockets.
//!
//! One wake sends a burst, reads what came since and sleeps to the next tick: the kernel's stamps make the time of
//! reading immaterial, and wake-ups are what probing costs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::digest::Digester;
use datapath::state::{Family, NodeState};
use tokio::sync::mpsc;

use super::check::Checked;
use super::connections::Connections;
use super::echo::Echo;
use super::plans::{Place, Secret};
use super::walked::{self, Walked};
use super::{Counted, Sockets, starvation};
use crate::probe::icmp::Mark;
use crate::session::{Command, Input, Lane, Limits, Session, TICK, Token};
use crate::wire::{CONNECTIONS, Event, Failure, Health, Plan, Protocol};

/// Runs a plan to its end, or until nobody listens any more.
async fn run(
    checked: Checked,
    sockets: &Arc<dyn Sockets>,
    place: &Place,
    events: &mpsc::Sender<Event>,
) {
    for outcome in checked.refused {
        if events.send(Event::Outcome(outcome)).await.is_err() {
            return;
        }
    }
    let plan = checked.plan;
    let before = Kernel::read(&**sockets);
    let mut engine = Engine::new(&plan, sockets, place.secret());
    loop {
        let now = engine.now();
        engine.session.wake(now);
        engine.session.limit(now, place.share_pps(), &plan);
        engine.read();
        engine.act(now, &plan, sockets);
        while let Some(mut event) = engine.session.event(engine.now()) {
            if let Event::Done { health, .. } = &mut event {
                place.fared(*health);
                before.since(&Kernel::read(&**sockets), health);
            }
            if events.send(event).await.is_err() {
                return;
            }
        }
        let now = engine.now();
        let Some(deadline) = engine.session.deadline(now) else {
            tracing::debug!(counts = ?engine.session.counts(), "probed");
            return;
        };
        tokio::select! {
            biased;
            () = events.closed() => return,
            () = engine.sleep(deadline.saturating_sub(now)) => {}
        }
    }
}

/// What a floater stands in.
#[derive(Clone)]
pub(super) enum Network {
    /// One that sockets lead to.
    Sockets(Arc<dyn Sockets>),
    /// One that is computed.
    Walked(Arc<dyn Walked>),
}

impl Network {
    /// What its kernel counts; nothing where there is none.
    pub(super) fn kernel(&self) -> Kernel {
        match self {
            Self::Sockets(sockets) => Kernel::read(&**sockets),
            Self::Walked(_) => Kernel {
                run_queue_delay_us: None,
                accept_queue_overflows: None,
            },
        }
    }

    /// Its tables, and in words what of them could not be read. Blocks.
    pub(super) fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        match self {
            Self::Sockets(sockets) => sockets.inspect(),
            Self::Walked(network) => network.inspect(),
        }
    }

    /// As [`Sockets::inspect_counting`]; none where counting would save nothing.
    pub(super) fn inspect_counting(&self, digester: &Digester) -> Option<Result<Counted, String>> {
        match self {
            Self::Sockets(sockets) => Some(sockets.inspect_counting(digester)),
            Self::Walked(network) => network.inspect_counting(digester).map(Ok),
        }
    }

    /// Runs a plan to its end, or until nobody listens any more.
    pub(super) async fn run(&self, checked: Checked, place: &Place, events: &mpsc::Sender<Event>) {
        match self {
            Self::Sockets(sockets) => run(checked, sockets, place, events).await,
            Self::Walked(network) => walked::run(checked, network, place, events).await,
        }
    }
}

/// What the kernel counts beside the engine.
pub(super) struct Kernel {
    run_queue_delay_us: Option<u64>,
    accept_queue_overflows: Option<u64>,
}

impl Kernel {
    fn read(sockets: &dyn Sockets) -> Self {
        Self {
            run_queue_delay_us: starvation::run_queue_delay_us(),
            accept_queue_overflows: sockets.accept_queue_overflows().ok(),
        }
    }

    /// Puts what has come since into a health.
    pub(super) fn since(&self, now: &Self, health: &mut Health) {
        let since = |before: Option<u64>, now: Option<u64>| Some(now?.saturating_sub(before?));
        health.run_queue_delay_us = since(self.run_queue_delay_us, now.run_queue_delay_us);
        health.accept_queue_overflows =
            since(self.accept_queue_overflows, now.accept_queue_overflows);
    }
}

struct Engine {
    epoch: Instant,
    session: Session,
    echoes: [Option<io::Result<Echo>>; 2],
    connections: io::Result<Connections>,
}

impl Engine {
    fn new(plan: &Plan, sockets: &Arc<dyn Sockets>, secret: Secret) -> Self {
        let echoes = [Family::Ipv4, Family::Ipv6].map(|family| {
            let payload_bytes = plan
                .probes
                .iter()
                .filter(|probe| probe.protocol == Protocol::Icmp)
                .filter(|probe| Family::of(probe.dst.to_canonical()) == family)
                .map(|probe| probe.payload_bytes)
                .max()?;
            Some(Echo::open(
                &**sockets,
                family,
                secret.identifier,
                payload_bytes,
            ))
        });
        // Without a socket every echo fails at once and nothing is held back.
        let room = |echo: &Option<io::Result<Echo>>| match echo {
            Some(Ok(echo)) => echo.granted(),
            Some(Err(_)) | None => usize::MAX,
        };
        let limits = Limits {
            icmp4_bytes: room(&echoes[0]),
            icmp6_bytes: room(&echoes[1]),
            connections: CONNECTIONS,
            secret: secret.cookies,
        };
        Self {
            epoch: Instant::now(),
            session: Session::new(plan, limits),
            echoes,
            connections: Connections::new(),
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells the session everything that has come in.
    fn read(&mut self) {
        for echo in self.echoes.iter_mut().flatten().flatten() {
            let (session, epoch) = (&mut self.session, self.epoch);
            echo.drain(|input| session.handle(epoch.elapsed(), input));
        }
        if let Ok(connections) = &mut self.connections {
            connections.drain(|number, result| {
                let token = Token {
                    lane: Lane::Tcp,
                    number,
                };
                self.session
                    .handle(self.epoch.elapsed(), Input::Connected { token, result });
            });
        }
    }

    /// Does what the session asks for.
    fn act(&mut self, now: Duration, plan: &Plan, sockets: &Arc<dyn Sockets>) {
        while let Some(command) = self.session.poll(now) {
            match command {
                Command::Abandon { token } => {
                    if let Ok(connections) = &mut self.connections {
                        connections.abandon(token.number);
                    }
                }
                Command::Connect { token, probe } => {
                    let probe = &plan.probes[probe];
                    let dst = SocketAddr::new(probe.dst.to_canonical(), probe.port);
                    let opened = match &mut self.connections {
                        Ok(connections) => {
                            connections.open(token.number, &**sockets, dst, probe.expect.clone())
                        }
                        Err(error) => Err(Failure::Local {
                            error: format!("cannot wait for connections: {error}"),
                        }),
                    };
                    if let Err(failure) = opened {
                        let result = Err(failure);
                        self.session.handle(now, Input::Connected { token, result });
                    }
                }
                Command::Echo {
                    token,
                    cookie,
                    dst,
                    payload_bytes,
                } => match &mut self.echoes[usize::from(token.lane == Lane::Icmp6)] {
                    Some(Ok(echo)) => {
                        let session = &mut self.session;
                        echo.push(Mark { token, cookie }, dst, payload_bytes, |input| {
                            session.handle(now, input);
                        });
                    }
                    Some(Err(error)) => {
                        let error = format!("no ICMP socket: {error}");
                        self.session.handle(
                            now,
                            Input::SendFailed {
                                token,
                                error,
                                short: false,
                            },
                        );
                    }
                    // A socket was opened for every family that the plan has.
                    None => {}
                },
            }
        }
        for echo in self.echoes.iter_mut().flatten().flatten() {
            let session = &mut self.session;
            echo.flush(|input| session.handle(now, input));
        }
    }

    /// Sleeps for so long, or until something comes in if that matters.
    async fn sleep(&mut self, time: Duration) {
        let echoes = || self.echoes.iter().flatten().flatten();
        let watching = time > TICK || !self.session.is_sending() || !echoes().all(Echo::is_stamped);
        let arrival = async |echo: &Option<io::Result<Echo>>| match echo {
            Some(Ok(echo)) if watching => echo.wait().await,
            _ => std::future::pending().await,
        };
        let [first, second] = &self.echoes;
        let connected = async {
            match &self.connections {
                Ok(connections) => connections.wait().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = arrival(first) => {}
            () = arrival(second) => {}
            () = connected => {}
        }
    }
}
