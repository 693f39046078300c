//! The floater itself: responder, API, probe engine, reader of tables.
//!
//! A [`Floater`] is a value on sockets that somebody else opened ([`Sockets`]), so that hundreds live in one process,
//! each in its own network namespace, on one runtime and without a thread of their own.

mod api;
mod check;
pub mod cli;
mod connect;
mod echo;
mod engine;
mod inspect;
mod mmsg;
mod responder;
mod settings;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

pub use crate::error::Error;
pub use crate::wire::Layer;
pub use datapath::state::Family;
pub use socket::{At, Here, Sockets};

/// Who a floater is and where it listens.
#[derive(Clone)]
pub struct Config {
    /// The cluster's id: the uid of its kube-system namespace.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// Which network it stands in.
    pub layer: Layer,
    /// The run that started it.
    pub run: String,
    /// The run's key: proves the floater to its callers and its callers to the floater.
    pub run_key: Vec<u8>,
    /// The responder's port; 0 for any.
    pub port: u16,
    /// The API's port; 0 for any.
    pub api_port: u16,
    /// After this it falls silent for good; none for never.
    pub ttl: Option<Duration>,
}

impl std::fmt::Debug for Config {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("layer", &self.layer)
            .field("run", &self.run)
            .field("port", &self.port)
            .field("api_port", &self.api_port)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Why a floater fell silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Its time was over.
    Expired,
    /// It was told to.
    Stopped,
}

/// A living floater. Dropping it silences it.
#[derive(Debug)]
pub struct Floater {
    stop: Stopper,
    task: Option<JoinHandle<Silence>>,
    port: u16,
    api_port: u16,
}

/// Silences a floater from elsewhere.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// Closes the listeners and ends what is under way.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Floater {
    /// Opens the listeners and lives on the calling runtime until its time is over or it is told to stop.
    ///
    /// # Errors
    /// A listener that cannot be opened.
    pub async fn start(config: Config, sockets: Arc<dyn Sockets>) -> Result<Self, Error> {
        let responder = listen(&*sockets, config.port)?;
        let api = listen(&*sockets, config.api_port)?;
        let (port, api_port) = (port_of(&responder)?, port_of(&api)?);
        let ttl = config.ttl;
        let config = Arc::new(config);
        let (sender, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            // Dropping the two futures closes the listeners and ends every connection and probe.
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => Silence::Stopped,
                () = expire(ttl) => Silence::Expired,
                () = responder::serve(responder, Arc::clone(&config)) => Silence::Stopped,
                () = api::serve(api, config, sockets) => Silence::Stopped,
            }
        });
        Ok(Self {
            stop: Stopper(Arc::new(sender)),
            task: Some(task),
            port,
            api_port,
        })
    }

    /// The responder's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The API's port.
    #[must_use]
    pub fn api_port(&self) -> u16 {
        self.api_port
    }

    /// Closes the listeners and ends what is under way; [`Self::stopped`] tells when that is done.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// A handle that outlives the borrow of this value.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Waits until it is silent: nothing listens, nothing is sent.
    pub async fn stopped(mut self) -> Silence {
        match self.task.take() {
            Some(task) => task.await.unwrap_or(Silence::Stopped),
            None => Silence::Stopped,
        }
    }
}

impl Drop for Floater {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn expire(ttl: Option<Duration>) {
    match ttl {
        Some(ttl) => tokio::time::sleep(ttl).await,
        None => std::future::pending().await,
    }
}

fn listen(sockets: &dyn Sockets, port: u16) -> Result<TcpListener, Error> {
    let open = || {
        let listener = sockets.tcp_listener(port)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    open().map_err(|source| Error::Socket {
        doing: format!("listen on TCP port {port}"),
        source,
    })
}

fn port_of(listener: &TcpListener) -> Result<u16, Error> {
    listener
        .local_addr()
        .map(|address| address.port())
        .map_err(|source| Error::Socket {
            doing: "read a listener's address".to_owned(),
            source,
        })
}

/// Answers connections, at most so many at once, until it is dropped, and takes them with it; further ones wait to be accepted.
async fn serve<A: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    most: usize,
    answer: impl Fn(TcpStream) -> A,
) {
    let room = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        // Never closed, so always granted.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = answer(stream);
                connections.spawn(async move {
                    answered.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept");
                // Descriptors run out and come back.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
