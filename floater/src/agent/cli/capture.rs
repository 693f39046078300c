//! `floater capture`: frames of this network namespace into a file that other programs read (pcap).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt,
    sockopt::{ReceiveTimestampns, RxqOvfl},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::Error;

/// An output could not be written.
const OUTPUT: u8 = 74;
/// A file's whole header (pcap, `LINKTYPE_ETHERNET`): microseconds, version 2.4, the longest frame.
const HEADER: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, LONGEST as u32, 1];
/// The longest frame, bytes: the kernel hands out those of segmentation offload whole.
const LONGEST: usize = 256 << 10;
/// What the kernel keeps for a capture that is late, bytes.
const ROOM: usize = 8 << 20;

/// What to capture, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The file; - for standard output
    #[arg(short, long, value_name = "FILE.pcap")]
    write: PathBuf,
    /// End after so many frames (default: at SIGINT or SIGTERM)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only this link (default: all, a frame once on each that it passes)
    #[arg(short, long, value_name = "LINK")]
    interface: Option<String>,
}

/// Captures until the count is reached or a signal asks for the end; says how many frames there were.
pub(super) fn capture(options: &Options) -> Result<ExitCode, Error> {
    let doing = |doing: &str| {
        let doing = doing.to_owned();
        move |source: io::Error| Error::Socket { doing, source }
    };
    let link = match &options.interface {
        Some(name) => Some(
            if_nametoindex(name.as_str()).map_err(|error| Error::Setting {
                variable: "--interface".to_owned(),
                rule: format!(
                    "there is no link `{}` here ({error})",
                    name.escape_default()
                ),
            })?,
        ),
        None => None,
    };
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let signals: SigSet = signals.into_iter().collect();
    let signals = signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC))
        .map_err(|error| doing("wait for signals")(error.into()))?;
    let socket = open().map_err(doing("open a packet socket (it takes CAP_NET_RAW)"))?;
    let mut writer = match Writer::open(&options.write) {
        Ok(writer) => writer,
        Err(error) => return Ok(failed(&options.write, &error)),
    };
    let (count, mut lost) = (options.count.unwrap_or(u64::MAX), 0);
    let (mut frame, mut ends) = (vec![0; LONGEST], None);
    while writer.frames < count {
        match next(&socket, signals.as_fd(), &mut ends, &mut frame) {
            Ok(None) => break,
            Ok(Some(seen)) if link.is_none_or(|link| link == seen.link) => {
                lost = seen.lost;
                if let Err(error) = writer.frame(&seen, &frame) {
                    return Ok(failed(&options.write, &error));
                }
            }
            Ok(Some(_)) => {}
            Err(error) => return Err(doing("receive frames")(error)),
        }
    }
    super::say(format_args!(
        "{} frames captured, {lost} lost by the kernel",
        writer.frames
    ));
    Ok(ExitCode::SUCCESS)
}

fn failed(path: &Path, error: &io::Error) -> ExitCode {
    super::say(format_args!("cannot write {}: {error}", path.display()));
    ExitCode::from(OUTPUT)
}

/// A packet socket for every frame (packet(7)).
fn open() -> io::Result<Socket> {
    let every = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every)))?;
    socket.set_recv_buffer_size(ROOM)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    // Every frame then comes with how many there was no room for before it.
    setsockopt(&socket, RxqOvfl, &1)?;
    Ok(socket)
}

/// A frame that lies in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    link: u32,
    /// Bytes in the buffer.
    captured: usize,
    /// Bytes on the wire.
    length: usize,
    /// Since 1970.
    at: Duration,
    /// Frames until now that the kernel had no room for.
    lost: u32,
}

/// The next frame; none where a signal has asked for the end and what came before it is written.
fn next(
    socket: &Socket,
    signals: BorrowedFd<'_>,
    ends: &mut Option<Duration>,
    frame: &mut [u8],
) -> io::Result<Option<Seen>> {
    loop {
        match receive(socket, frame)? {
            Received::Frame(seen) if ends.is_some_and(|end| seen.at > end) => return Ok(None),
            Received::Frame(seen) => return Ok(Some(seen)),
            Received::Other => continue,
            Received::Nothing if ends.is_some() => return Ok(None),
            Received::Nothing => {}
        }
        let mut waits = [
            PollFd::new(signals, PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waits[0].any() == Some(true) {
            // Frames that are there already were seen by whoever asks for the end.
            *ends = Some(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            );
        }
    }
}

/// What the socket had.
enum Received {
    /// A frame, which lies in the buffer.
    Frame(Seen),
    /// Nothing yet.
    Nothing,
    /// What is not of Ethernet, or the second of two that a loopback shows of each frame.
    Other,
}

fn receive(socket: &Socket, frame: &mut [u8]) -> io::Result<Received> {
    let captured_at_most = frame.len();
    let mut parts = [IoSliceMut::new(frame)];
    let mut room = nix::cmsg_space!(libc::timespec, u32);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags);
    let message = match message {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(Received::Nothing),
        // A link that goes down is told as an error of the socket.
        Err(Errno::ENETDOWN | Errno::EINTR) => return Ok(Received::Other),
        Err(error) => return Err(error.into()),
    };
    let Some(address) = message.address else {
        return Ok(Received::Other);
    };
    let address: &libc::sockaddr_ll = address.as_ref();
    let is_loopback = address.sll_hatype == libc::ARPHRD_LOOPBACK;
    let is_sent = address.sll_pkttype == libc::PACKET_OUTGOING;
    if is_loopback && is_sent || !is_loopback && address.sll_hatype != libc::ARPHRD_ETHER {
        return Ok(Received::Other);
    }
    let (mut at, mut lost) = (Duration::ZERO, 0);
    for control in message.cmsgs().map_err(io::Error::from)? {
        match control {
            ControlMessageOwned::ScmTimestampns(stamp) => at = Duration::from(stamp),
            ControlMessageOwned::RxqOvfl(count) => lost = count,
            _ => {}
        }
    }
    Ok(Received::Frame(Seen {
        link: u32::try_from(address.sll_ifindex).unwrap_or_default(),
        captured: message.bytes.min(captured_at_most),
        length: message.bytes,
        at,
        lost,
    }))
}

/// A capture file: each frame is written as a whole, so that one that is cut off by a kill ends with a whole frame.
struct Writer {
    output: Box<dyn Write>,
    record: Vec<u8>,
    frames: u64,
}

impl Writer {
    fn open(path: &Path) -> io::Result<Self> {
        let output: Box<dyn Write> = if path.as_os_str() == OsStr::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path)?)
        };
        Self::over(output)
    }

    fn over(mut output: Box<dyn Write>) -> io::Result<Self> {
        output.write_all(&HEADER.map(u32::to_ne_bytes).concat())?;
        output.flush()?;
        Ok(Self {
            output,
            record: Vec::new(),
            frames: 0,
        })
    }

    fn frame(&mut self, seen: &Seen, frame: &[u8]) -> io::Result<()> {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let header = [
            // Seconds of 32 bits, as the format has them.
            seen.at.as_secs() as u32,
            seen.at.subsec_micros(),
            number(seen.captured),
            number(seen.length),
        ];
        self.record.clear();
        self.record.extend(header.map(u32::to_ne_bytes).concat());
        self.record.extend(&frame[..seen.captured]);
        self.output.write_all(&self.record)?;
        self.output.flush()?;
        self.frames += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The format's own words: a header of 24 bytes, then 16 bytes and the frame each.
    #[test]
    fn a_file_is_headers_and_frames() {
        let kept = Kept::default();
        let mut writer = Writer::over(Box::new(kept.clone())).expect("a file in memory");
        let seen = Seen {
            link: 1,
            captured: 4,
            length: 9,
            at: Duration::new(7, 8_000),
            lost: 0,
        };
        writer
            .frame(&seen, &[1, 2, 3, 4, 5])
            .expect("a file in memory");
        let bytes = kept.0.lock().expect("no panic").clone();
        let words: Vec<u32> = bytes[..40]
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("its length")))
            .collect();
        assert_eq!(words[0], 0xa1b2_c3d4);
        assert_eq!(
            u16::from_ne_bytes(bytes[4..6].try_into().expect("its length")),
            2
        );
        assert_eq!(
            u16::from_ne_bytes(bytes[6..8].try_into().expect("its length")),
            4
        );
        assert_eq!(&words[5..], [1, 7, 8, 4, 9]);
        assert_eq!(bytes[40..], [1, 2, 3, 4]);
    }
}
