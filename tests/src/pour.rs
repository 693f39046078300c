//! As many bytes as a path carries: flows of TCP for a while, each end a process of its own in its network namespace.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The gate's own word for the end that sends: an address with its port, and how many flows.
pub const POUR: &str = "__pour";
/// The gate's own word for the end that receives, the same: it prints bytes per second.
pub const DRAIN: &str = "__drain";
/// How long bytes are sent.
const FOR: Duration = Duration::from_secs(2);
/// How long the other end may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

/// Runs one of the verbs.
#[must_use]
pub fn run(verb: &str, rest: &[OsString]) -> ExitCode {
    let word = |at: usize| rest.get(at).and_then(|word| word.to_str());
    let address = word(0).and_then(|word| word.parse::<SocketAddr>().ok());
    let flows = word(1).and_then(|word| word.parse::<usize>().ok());
    let (Some(address), Some(flows)) = (address, flows) else {
        eprintln!("{verb} takes an address with its port, and how many flows");
        return ExitCode::from(64);
    };
    let done = match verb {
        POUR => pour(address, flows),
        _ => drain(address, flows),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{verb} {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn pour(address: SocketAddr, flows: usize) -> io::Result<()> {
    let streams: io::Result<Vec<TcpStream>> = (0..flows).map(|_| connect(address)).collect();
    let until = Instant::now() + FOR;
    let threads: Vec<_> = streams?
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || -> io::Result<()> {
                let piece = vec![0; PIECE];
                while Instant::now() < until {
                    stream.write_all(&piece)?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| io::Error::other("a flow broke"))??;
    }
    Ok(())
}

/// Until the other end listens; nobody tells when that is.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let began = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

fn drain(address: SocketAddr, flows: usize) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let streams: io::Result<Vec<TcpStream>> = (0..flows)
        .map(|_| listener.accept().map(|(stream, _)| stream))
        .collect();
    let streams = streams?;
    let began = Instant::now();
    let threads: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || -> io::Result<u64> {
                let (mut piece, mut bytes) = (vec![0; PIECE], 0);
                loop {
                    match stream.read(&mut piece)? {
                        0 => return Ok(bytes),
                        length => bytes += length as u64,
                    }
                }
            })
        })
        .collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread
            .join()
            .map_err(|_| io::Error::other("a flow broke"))??;
    }
    writeln!(
        io::stdout(),
        "{}",
        bytes as f64 / began.elapsed().as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_poured_is_drained() {
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let drained = std::thread::spawn(move || drain(address, 2));
        pour(address, 2).expect("what listens");
        drained.join().expect("no panic").expect("all of it");
    }
}
