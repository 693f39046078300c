//! The floater itself: responder, API, probe engine, reader of tables.
//!
//! A [`Floater`] is a value on sockets that somebody else opened ([`Sockets`]), so that hundreds live in one process,
//! each in its own network namespace, on one runtime. Responders alone have a thread of their own, one for all of a process.

mod api;
mod check;
pub mod cli;
mod connections;
mod echo;
mod engine;
mod guests;
mod inspect;
mod meeting;
mod mmsg;
mod nonces;
mod plans;
mod responder;
mod settings;
mod socket;
mod starvation;
mod walked;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use crate::error::Error;
use crate::wire::Audience;
pub use crate::wire::Layer;
pub use datapath::state::Family;
pub use socket::{At, Counted, Here, Sockets};
pub use walked::{Fate, Walked, WalkedFloater};

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
    /// The only address to listen on; none for all. [`Sockets`] decide: this is for whoever makes them.
    pub bind: Option<IpAddr>,
    /// When it falls silent for good; none for never.
    pub expires: Option<SystemTime>,
}

impl Config {
    /// Whom requests have to be signed for.
    #[must_use]
    pub fn audience(&self) -> Audience {
        Audience {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            layer: self.layer,
        }
    }
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
            .field("bind", &self.bind)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// A living floater. Dropping it silences it.
///
/// From its expiry on nothing listens and nothing is sent, and it lives on until it is stopped: whoever started it would
/// only start another one in place of one that ended.
#[derive(Debug)]
pub struct Floater {
    stop: Stopper,
    task: Option<JoinHandle<()>>,
    expired: watch::Receiver<bool>,
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
    /// Opens the listeners and lives on the calling runtime until it is told to stop. One that has expired opens none.
    ///
    /// # Errors
    /// A listener that cannot be opened.
    pub async fn start(mut config: Config, sockets: Arc<dyn Sockets>) -> Result<Self, Error> {
        let listeners = if is_over(config.expires) {
            None
        } else {
            let responder = listen(&*sockets, config.port)?;
            let api = listen(&*sockets, config.api_port)?;
            (config.port, config.api_port) = (port_of(&responder)?, port_of(&api)?);
            let api = tokio_listener(api).map_err(|source| Error::Socket {
                doing: "wait for connections".to_owned(),
                source,
            })?;
            Some((responder, api))
        };
        let (port, api_port, expires) = (config.port, config.api_port, config.expires);
        let config = Arc::new(config);
        let served = Arc::new(api::Api::new(
            Arc::clone(&config),
            engine::Network::Sockets(sockets),
        ));
        let listeners = match listeners {
            None => None,
            Some((responder, api)) => {
                let answering = responder::Answering::start(responder, config);
                let answering = answering.map_err(|source| Error::Socket {
                    doing: "start the responder".to_owned(),
                    source,
                })?;
                Some((answering, api))
            }
        };
        let (stop, mut stopped) = watch::channel(false);
        let (silent, expired) = watch::channel(listeners.is_none());
        let task = tokio::spawn(async move {
            if let Some((answering, api)) = listeners {
                // Dropping the future closes the API's listener and ends its connections and every probe.
                tokio::select! {
                    biased;
                    _ = stopped.wait_for(|stop| *stop) => {}
                    () = expire(expires) => {}
                    () = api::serve(api, served) => {}
                }
                answering.stop().await;
            }
            silent.send_replace(true);
            // Whoever could stop it may be gone.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        Ok(Self {
            stop: Stopper(Arc::new(stop)),
            task: Some(task),
            expired,
            port,
            api_port,
        })
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.expired.borrow()
    }

    /// Waits until its time is over; for ever where it has no end.
    pub fn expired(&self) -> impl Future<Output = ()> + use<> {
        let mut expired = self.expired.clone();
        async move {
            if expired.wait_for(|over| *over).await.is_err() {
                std::future::pending().await
            }
        }
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

    /// Waits until it has ended. It does so when it is stopped.
    pub async fn stopped(mut self) {
        if let Some(task) = self.task.take() {
            let _ = task.await;
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

/// The wall clock, milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn is_over(expires: Option<SystemTime>) -> bool {
    expires.is_some_and(|expires| expires <= SystemTime::now())
}

/// Waits for a time of the wall clock, which may be set meanwhile.
async fn expire(expires: Option<SystemTime>) {
    const LOOK: Duration = Duration::from_secs(30);
    let Some(expires) = expires else {
        return std::future::pending().await;
    };
    while let Ok(left) = expires.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.clamp(Duration::from_millis(1), LOOK)).await;
    }
}

fn listen(sockets: &dyn Sockets, port: u16) -> Result<std::net::TcpListener, Error> {
    sockets.tcp_listener(port).map_err(|source| Error::Socket {
        doing: format!("listen on TCP port {port}"),
        source,
    })
}

fn tokio_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn port_of(listener: &std::net::TcpListener) -> Result<u16, Error> {
    let address = listener.local_addr().map_err(|source| Error::Socket {
        doing: "read a listener's address".to_owned(),
        source,
    })?;
    Ok(address.port())
}
