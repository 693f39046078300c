//! The answer to a plan, as it comes, signed as it goes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::check::Checked;
use super::super::engine::Network;
use super::super::plans::Place;
use super::Body;
use crate::wire::{Event, HEARTBEAT_MS, Transcript};

/// Events between the engine and a reader that is slower; the engine waits when it is full.
const EVENTS: usize = 256;

const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS);

/// A plan that runs for as long as its lines are wanted: dropping the stream ends the probing.
struct Running {
    events: mpsc::Receiver<Event>,
    #[expect(dead_code, reason = "ends the probing when it is dropped")]
    engine: JoinSet<()>,
    transcript: Transcript,
    signed: Instant,
    finished: bool,
}

/// Runs a plan.
pub(super) fn lines(
    checked: Checked,
    network: Network,
    place: Place,
    transcript: Transcript,
) -> Body {
    let (sender, events) = mpsc::channel(EVENTS);
    let mut engine = JoinSet::new();
    engine.spawn(async move {
        network.run(checked, &place, &sender).await;
    });
    let running = Running {
        events,
        engine,
        transcript,
        signed: Instant::now(),
        finished: false,
    };
    let parts = futures::stream::unfold(running, |mut running| async move {
        let part = running.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(part)), running))
    });
    StreamBody::new(parts.boxed()).boxed_unsync()
}

impl Running {
    /// The next lines; none after the last one, or when the engine was ended.
    async fn next(&mut self) -> Option<Bytes> {
        if self.finished {
            return None;
        }
        let mut lines = Vec::new();
        tokio::select! {
            biased;
            event = self.events.recv() => {
                self.push(&event?, &mut lines);
                // What is there already goes along: one write for many lines.
                while let Ok(event) = self.events.try_recv() {
                    self.push(&event, &mut lines);
                }
            }
            // Also when there is nothing to say: silence would be taken for death.
            () = tokio::time::sleep_until(self.signed + HEARTBEAT) => {}
        }
        if self.finished || self.signed.elapsed() >= HEARTBEAT {
            let signature = self.transcript.signature();
            let finished = self.finished;
            self.push(&Event::Signed { signature }, &mut lines);
            self.finished = finished;
            self.signed = Instant::now();
        }
        Some(Bytes::from(lines))
    }

    fn push(&mut self, event: &Event, lines: &mut Vec<u8>) {
        if let Ok(line) = serde_json::to_vec(event) {
            self.transcript.push(&line);
            lines.extend(line);
            lines.push(b'\n');
        }
        self.finished |= matches!(event, Event::Done { .. });
    }
}
