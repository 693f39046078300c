//! A stream of packets that tells which of them came back, and for how long none did: echo requests at a steady pace, whether they are answered or
//! not.
//!
//! It runs as a process of its own, because only that can be in another network namespace: [`VERB`] and an address, until its standard input ends.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// The gate's own word for it.
pub const VERB: &str = "__stream";
/// A thousand a second.
const PACE: Duration = Duration::from_millis(1);
/// The line that is said with the first request.
const BEGUN: &str = "begun";
/// How long answers are waited for after the last request.
const LATE: Duration = Duration::from_secs(2);
/// Where nobody asks it to end: ten million packets are nearly three hours.
const MOST: usize = 10_000_000;

/// What became of the packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Requests that the kernel took.
    pub sent: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Requests that the kernel refused at once (no route, no device); they count as sent.
    pub refused: u64,
    /// The longest time between two requests that were answered with none in between that was, milliseconds; the pace where none was lost.
    pub gap_ms: u64,
    /// How many times answers began to fail.
    pub gaps: u64,
}

impl Count {
    fn of(requests: &[Request]) -> Self {
        let mut count = Self {
            sent: requests.len() as u64,
            answered: 0,
            refused: 0,
            gap_ms: 0,
            gaps: 0,
        };
        let (mut last, mut was_lost) = (None::<Duration>, false);
        for request in requests {
            count.refused += u64::from(request.refused);
            if request.answered {
                count.answered += 1;
                let gap = request.at.saturating_sub(last.unwrap_or(request.at));
                count.gap_ms = count
                    .gap_ms
                    .max(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
                last = Some(request.at);
            } else {
                count.gaps += u64::from(!was_lost);
            }
            was_lost = !request.answered;
        }
        // One that never ends is as long as it was watched.
        if let (Some(last), Some(end), true) = (last, requests.last(), was_lost) {
            let gap = end.at.saturating_sub(last).as_millis();
            count.gap_ms = count.gap_ms.max(u64::try_from(gap).unwrap_or(u64::MAX));
        }
        count
    }

    /// Those that never came back.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }
}

#[derive(Debug, Clone, Copy)]
struct Request {
    /// Since the stream began.
    at: Duration,
    answered: bool,
    refused: bool,
}

/// Runs the verb: an address, then until standard input ends. Prints [`Count`] as JSON.
#[must_use]
pub fn run(rest: &[OsString]) -> ExitCode {
    let address = rest.first().and_then(|word| word.to_str()?.parse().ok());
    let Some(address) = address else {
        eprintln!("{VERB} takes one address");
        return ExitCode::from(64);
    };
    match stream(address) {
        Ok(count) => {
            let mut line = serde_json::to_vec(&count).unwrap_or_default();
            line.push(b'\n');
            match io::stdout().write_all(&line) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("{VERB} {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stream(address: IpAddr) -> io::Result<Count> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_recv_buffer_size(1 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let identifier = std::process::id().to_be_bytes();
    let identifier = [identifier[2], identifier[3]];
    let (asked_to_end, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut requests, answers) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| answers(&socket, address, identifier, &over));
        scope.spawn(|| {
            let mut rest = Vec::new();
            let _ = io::stdin().lock().read_to_end(&mut rest);
            asked_to_end.store(true, Ordering::Relaxed);
        });
        let requests = send(&socket, address, identifier, &asked_to_end);
        std::thread::sleep(LATE);
        over.store(true, Ordering::Relaxed);
        (requests, receiver.join().unwrap_or_default())
    });
    for number in answers {
        if let Some(request) = requests.get_mut(number as usize) {
            request.answered = true;
        }
    }
    Ok(Count::of(&requests))
}

fn send(
    socket: &Socket,
    address: IpAddr,
    identifier: [u8; 2],
    asked_to_end: &AtomicBool,
) -> Vec<Request> {
    let began = Instant::now();
    let mut requests = Vec::new();
    while !asked_to_end.load(Ordering::Relaxed) && requests.len() < MOST {
        let number = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let due = PACE * number;
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
        let packet = request(address, identifier, number);
        let refused = socket.send(&packet).is_err();
        if number == 0 {
            // Whoever waits for this line knows that it is there by now.
            println!("{BEGUN}");
        }
        requests.push(Request {
            at: began.elapsed(),
            answered: false,
            refused,
        });
    }
    requests
}

/// An echo request (RFC 792, RFC 4443) whose data is its number.
fn request(address: IpAddr, identifier: [u8; 2], number: u32) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[0] = if address.is_ipv4() { 8 } else { 128 };
    packet[4..6].copy_from_slice(&identifier);
    packet[6..8].copy_from_slice(&number.to_be_bytes()[2..]);
    packet[8..12].copy_from_slice(&number.to_be_bytes());
    if address.is_ipv4() {
        // The kernel fills in that of ICMPv6.
        let sum: u32 = packet
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let [.., high, low] = (!folded).to_be_bytes();
        packet[2..4].copy_from_slice(&[high, low]);
    }
    packet
}

/// The numbers that were answered.
fn answers(
    mut socket: &Socket,
    address: IpAddr,
    identifier: [u8; 2],
    over: &AtomicBool,
) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else {
            // Nothing for a while, or an ICMP error, which is no answer.
            continue;
        };
        let (header, kind) = match address {
            IpAddr::V4(_) => (usize::from(buffer[0] & 0xf) * 4, 0),
            IpAddr::V6(_) => (0, 129),
        };
        if let Some(&[first, _, _, _, id0, id1, _, _, a, b, c, d]) =
            buffer[..length].get(header..header + 12)
            && first == kind
            && [id0, id1] == identifier
        {
            numbers.push(u32::from_be_bytes([a, b, c, d]));
        }
    }
    numbers
}

/// A stream that runs as long as this lives.
#[derive(Debug)]
pub struct Stream {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Stream {
    /// Starts one by a command that begins a process where it is to run; the verb and the address are added to it. The first packet is sent when
    /// this returns.
    ///
    /// # Errors
    /// That it does not start.
    pub fn start(command: &mut Command, address: &str) -> io::Result<Self> {
        let mut child = command
            .args([VERB, address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        let mut output = output.ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        match line.trim_end() {
            BEGUN => Ok(Self { child, output }),
            _ => Err(io::Error::other(format!("no stream to {address}"))),
        }
    }

    /// Ends it and waits for the last answers.
    ///
    /// # Errors
    /// That it failed.
    pub fn end(mut self) -> Result<Count, String> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let read = self.output.read_to_string(&mut text);
        let status = self.child.wait().map_err(|error| error.to_string())?;
        read.map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{status} ({error})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(answered: &[bool]) -> Count {
        let requests: Vec<Request> = (0..)
            .zip(answered)
            .map(|(number, &answered)| Request {
                at: PACE * number,
                answered,
                refused: false,
            })
            .collect();
        Count::of(&requests)
    }

    #[test]
    fn gaps_are_between_answers() {
        let all = count(&[true; 5]);
        assert_eq!((all.lost(), all.gap_ms, all.gaps), (0, 1, 0));
        let some = count(&[true, false, false, true, false, true, true]);
        assert_eq!((some.lost(), some.gap_ms, some.gaps), (3, 3, 2));
        let end = count(&[true, true, false, false, false]);
        assert_eq!((end.lost(), end.gap_ms, end.gaps), (3, 3, 1));
        let none = count(&[false, false]);
        assert_eq!((none.lost(), none.gap_ms, none.gaps), (2, 0, 1));
    }

    /// RFC 1071: a sum over all that includes its checksum is all ones.
    #[test]
    fn requests_have_a_checksum() {
        let packet = request(
            "10.0.0.1".parse().expect("an address"),
            [0xab, 0xcd],
            70_000,
        );
        let sum: u32 = packet
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
