//! Sockets opened inside of namespaces by a thread that goes there, so that nobody else has to.

use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use crate::Error;
use crate::namespace::Netns;

type Request = (Netns, Box<dyn FnOnce(Result<(), Error>) + Send>);

/// A thread that enters a namespace for each request and hands out what was opened there. A socket belongs to the
/// namespace of its birth, so the asker may use it from any thread.
#[derive(Debug)]
pub struct Opener {
    requests: Option<Mutex<Sender<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Opener {
    /// Starts the thread.
    pub fn start() -> Result<Self, Error> {
        // An empty namespace of its own: nobody may go back to the machine's from a user namespace.
        let home = Netns::create()?;
        let (requests, inbox) = mpsc::channel::<Request>();
        let thread = thread::Builder::new()
            .name("opener".to_owned())
            .spawn(move || {
                for (netns, work) in inbox {
                    work(netns.enter());
                    // Staying would hold a namespace that its owner believes gone.
                    if home.enter().is_err() {
                        return;
                    }
                }
            })
            .map_err(Error::doing("start the opener thread"))?;
        Ok(Self {
            requests: Some(Mutex::new(requests)),
            thread: Some(thread),
        })
    }

    /// Runs `open` inside of a namespace and waits for it. It must not wait for anything itself: all askers share the thread.
    pub fn open<T: Send + 'static>(
        &self,
        netns: &Netns,
        open: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let ended = || {
            Error::new(
                "open a socket in a namespace",
                std::io::Error::other("the opener thread has ended"),
            )
        };
        let (answer, opened) = mpsc::sync_channel(1);
        let work = Box::new(move |entered: Result<(), Error>| {
            // An asker that is gone needs no answer.
            let _ = answer.send(entered.map(|()| open()));
        });
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        requests
            .lock()
            .map_err(|_| ended())?
            .send((netns.clone(), work))
            .map_err(|_| ended())?;
        opened.recv().map_err(|_| ended())?
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of a request has been reported to its asker.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    #[ignore = "netns: needs veth"]
    fn a_socket_stays_in_the_namespace_of_its_birth() {
        let opener = Opener::start().expect("start");
        let netns = Netns::create().expect("create");
        let (there, inode) = opener
            .open(&netns, || {
                let inode = Netns::current().expect("open").inode().expect("stat");
                (TcpListener::bind("0.0.0.0:8889").expect("bind"), inode)
            })
            .expect("open");
        assert_eq!(inode, netns.inode().expect("stat"));
        let second = opener
            .open(&netns, || TcpListener::bind("0.0.0.0:8889").map(drop))
            .expect("open");
        assert!(second.is_err(), "the port is taken there");
        drop(there);
    }
}
