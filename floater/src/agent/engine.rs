//! Drives a session over real sockets.
//!
//! One wake sends a burst, reads what came since and sleeps to the next tick: the kernel's stamps make the time of
//! reading immaterial, and wake-ups are what probing costs.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::state::Family;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::Sockets;
use super::connect::connect;
use super::echo::Echo;
use crate::probe::icmp::Mark;
use crate::session::{Command, Input, Lane, Limits, Session, Token};
use crate::wire::{Event, Failure, Plan, Protocol};

/// Connections at once.
const CONNECTIONS: usize = 128;

/// A sleep up to this is slept through; in a longer one an answer may allow more to be sent.
const TICK: Duration = Duration::from_millis(50);

/// Waking later than this after the time is a stall: the process was stopped, or its processor busy elsewhere.
const STALL: Duration = Duration::from_millis(10);

/// What a floater's plans have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    /// The identifier of its echoes: one, so that a node's connection tracking holds one entry per destination.
    pub(super) identifier: u16,
    /// Makes its echoes' cookies.
    pub(super) cookies: u64,
}

/// Runs a plan to its end, or until nobody listens any more.
pub(super) async fn run(
    plan: &Plan,
    sockets: &Arc<dyn Sockets>,
    secret: Secret,
    events: &mpsc::Sender<Event>,
) {
    let mut engine = Engine::new(plan, sockets, secret);
    let mut slept: Option<(Duration, Duration)> = None;
    loop {
        let now = engine.now();
        if let Some((from, until)) = slept
            && now > until + STALL
        {
            // How much of the sleep nobody ran is not known: none of it counts.
            let by = now - from;
            engine.session.handle(now, Input::Stalled { by });
        }
        if !engine.connections.is_empty() {
            // What has happened to connections is heard by their tasks first.
            tokio::task::yield_now().await;
        }
        engine.read();
        engine.act(now, plan, sockets);
        while let Some(event) = engine.session.event(engine.now()) {
            if events.send(event).await.is_err() {
                return;
            }
        }
        let now = engine.now();
        let Some(deadline) = engine.session.deadline(now) else {
            tracing::debug!(counts = ?engine.session.counts(), "probed");
            return;
        };
        slept = Some((now, deadline.max(now)));
        tokio::select! {
            biased;
            () = events.closed() => return,
            () = engine.sleep(deadline.saturating_sub(now)) => {}
        }
    }
}

struct Engine {
    epoch: Instant,
    session: Session,
    echoes: [Option<io::Result<Echo>>; 2],
    connections: JoinSet<(Token, Result<Duration, Failure>)>,
    abort: HashMap<Token, AbortHandle>,
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
            connections: JoinSet::new(),
            abort: HashMap::new(),
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
        while let Some(joined) = self.connections.try_join_next() {
            // An abandoned one is judged already, and nothing in there panics.
            if let Ok((token, result)) = joined {
                self.abort.remove(&token);
                self.session
                    .handle(self.epoch.elapsed(), Input::Connected { token, result });
            }
        }
    }

    /// Does what the session asks for.
    fn act(&mut self, now: Duration, plan: &Plan, sockets: &Arc<dyn Sockets>) {
        while let Some(command) = self.session.poll(now) {
            match command {
                Command::Abandon { token } => {
                    if let Some(connection) = self.abort.remove(&token) {
                        connection.abort();
                    }
                }
                Command::Connect { token, probe } => {
                    let probe = &plan.probes[probe];
                    let (dst, expect) = (
                        SocketAddr::new(probe.dst.to_canonical(), probe.port),
                        probe.expect.clone(),
                    );
                    let sockets = Arc::clone(sockets);
                    let connection = self.connections.spawn(async move {
                        (token, connect(&*sockets, dst, expect.as_ref()).await)
                    });
                    self.abort.insert(token, connection);
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
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = arrival(first) => {}
            () = arrival(second) => {}
            Some(joined) = self.connections.join_next() => {
                if let Ok((token, result)) = joined {
                    self.abort.remove(&token);
                    self.session.handle(self.epoch.elapsed(), Input::Connected { token, result });
                }
            }
        }
    }
}
