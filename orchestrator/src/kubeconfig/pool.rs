//! Connections by authority: entries behind one scheme, host and port that connect in the same way share them.
//!
//! A proxy of a fleet manager serves thousands of clusters, each below a path of its own: connections of each to its own would be
//! thousands to one server. Tokens, passwords and impersonation travel with a request and so separate nothing; a client
//! certificate, the authorities that are believed, the name that the server is asked by, a proxy and what may be
//! connected to belong to a connection, and do.
//!
//! Requests are bounded, not connections: HTTP/1.1 has one request on a connection at a time, HTTP/2 as many as the server lets through. Those
//! that last have connections of their own, so that they never take the last of a connection from those that are answered at once.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use kube::client::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt as _};

use super::reach::Reach;
use super::tls::Trust;

/// Requests at once to one authority that are answered when the server gets to it.
pub(crate) const AT_ONCE: usize = 32;
/// Connections of HTTP/2 for requests whose answers last for as long as something goes on: watches, and floaters that probe.
const LANES: usize = 8;
/// Such requests at once on one of them: API servers take 100 at a time on a connection, Go's servers 250.
const OF_A_LANE: usize = 64;

/// What connections have to have in common to be shared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Scheme, host and port.
    pub(super) authority: String,
    /// The proxy's URL, credentials included.
    pub(super) proxy: Option<String>,
    pub(super) trust: Trust,
    /// The name that the server is asked by, where that is not the URL's.
    pub(super) name: Option<String>,
    /// The client's certificate and key, as the kubeconfig holds them.
    pub(super) identity: Option<(String, String)>,
    pub(super) reach: Reach,
}

/// What sends a request over a connection of its choice.
pub(super) type Http = BoxCloneSyncService<Request<Body>, Response<Answer>, BoxError>;
/// An answer as it comes.
pub(super) type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// The connections of one key. All clones share them.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    http: Http,
    short: Arc<Semaphore>,
    /// One for each request that lasts.
    lasting: Arc<Semaphore>,
    lanes: [Lane; LANES],
    make: Box<dyn Fn() -> Option<Http> + Send + Sync>,
}

/// A connection of HTTP/2, or as many of HTTP/1.1 as there are requests.
struct Lane {
    http: OnceLock<Http>,
    turns: Arc<Semaphore>,
}

/// A request's turn; given back in this order when it is dropped, so that whoever has a general one finds a lane.
#[expect(dead_code, reason = "held")]
struct Turn(Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

impl Shared {
    fn new(http: Http, make: impl Fn() -> Option<Http> + Send + Sync + 'static) -> Self {
        Self {
            http,
            short: Arc::new(Semaphore::new(AT_ONCE)),
            lasting: Arc::new(Semaphore::new(LANES * OF_A_LANE)),
            lanes: std::array::from_fn(|_| Lane {
                http: OnceLock::new(),
                turns: Arc::new(Semaphore::new(OF_A_LANE)),
            }),
            make: Box::new(make),
        }
    }

    /// Waits until a request may be sent, and says over which connections. The semaphores are never closed; without a turn there would be no
    /// bound, and nothing else would change.
    async fn turn(&self, lasts: bool) -> (Http, Turn) {
        if !lasts {
            let turn = Arc::clone(&self.short).acquire_owned().await.ok();
            return (self.http.clone(), Turn(None, turn));
        }
        let general = Arc::clone(&self.lasting).acquire_owned().await.ok();
        let free = self.lanes.iter().find_map(|lane| {
            let turn = Arc::clone(&lane.turns).try_acquire_owned().ok()?;
            let make = || (self.make)().unwrap_or_else(|| self.http.clone());
            Some((lane.http.get_or_init(make).clone(), turn))
        });
        match free {
            Some((http, turn)) => (http, Turn(Some(turn), general)),
            None => (self.http.clone(), Turn(None, general)),
        }
    }
}

/// The pools that somebody still uses.
static POOLS: LazyLock<Mutex<Held>> = LazyLock::new(Mutex::default);

/// Pools by key. Those that nobody uses any more are looked for when there are twice as many as were left the last time: once
/// for each that is made would be the square of a fleet in which every cluster has a certificate of its own.
#[derive(Default)]
struct Held {
    pools: HashMap<Key, Weak<Shared>>,
    /// As many as may be held until they are looked through.
    full: usize,
}

/// So many pools are held without a look.
const FEW: usize = 64;

impl Held {
    fn insert(&mut self, key: Key, shared: &Arc<Shared>) {
        if self.pools.len() >= self.full.max(FEW) {
            self.pools.retain(|_, held| held.strong_count() > 0);
            self.full = 2 * self.pools.len();
        }
        self.pools.insert(key, Arc::downgrade(shared));
    }
}

impl Pool {
    /// The pool of a key, made where there is none yet. `make` is asked again for those connections that requests which last are sent over.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn of<E>(
        key: Key,
        make: impl Fn() -> Result<Http, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let mut held = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = held.pools.get(&key).and_then(Weak::upgrade) {
            return Ok(Self(shared));
        }
        let shared = Arc::new(Shared::new(make()?, move || make().ok()));
        held.insert(key, &shared);
        Ok(Self(shared))
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl tower::Service<Request<Body>> for Pool {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (http, turn) = shared.turn(lasts(&request)).await;
            let response = http.oneshot(request).await?;
            // The connection is free once the answer has been read.
            Ok(response.map(|body| {
                body.map_err(move |error| {
                    let _held = &turn;
                    error
                })
                .boxed_unsync()
            }))
        })
    }
}

/// Whether an answer lasts for as long as something goes on. Such requests may wait for one another's cause, so they must not wait
/// for one another's end.
fn lasts<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let is_watch = query
        .split('&')
        .any(|pair| matches!(pair, "watch=1" | "watch=true"));
    is_watch
        || *request.method() == Method::POST && request.uri().path().ends_with("/proxy/v2/probe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, uri: &str) -> Request<Body> {
        let request = Request::builder().method(method).uri(uri);
        request.body(Body::empty()).expect("a request")
    }

    fn key(authority: String) -> Key {
        Key {
            authority,
            proxy: None,
            trust: Trust::Anybody,
            name: None,
            identity: None,
            reach: Reach::Everywhere,
        }
    }

    /// Pools that are in use stay, those that are not go, and how many are held does not grow with how many there ever were.
    #[test]
    fn pools_that_nobody_uses_are_forgotten() {
        let shared = || {
            let nobody = tower::service_fn(|_: Request<Body>| async {
                Err::<Response<Answer>, BoxError>("nobody is asked".into())
            });
            Arc::new(Shared::new(BoxCloneSyncService::new(nobody), || None))
        };
        let mut held = Held::default();
        let mut used = Vec::new();
        for number in 0..2000 {
            let one = shared();
            held.insert(key(number.to_string()), &one);
            if number % 10 == 0 {
                used.push((number, one));
            }
        }
        assert!(
            held.pools.len() <= 2 * used.len() + FEW,
            "{}",
            held.pools.len()
        );
        for (number, one) in &used {
            let found = held
                .pools
                .get(&key(number.to_string()))
                .and_then(Weak::upgrade);
            assert!(
                found.is_some_and(|found| Arc::ptr_eq(&found, one)),
                "{number}"
            );
        }
    }

    #[test]
    fn only_watches_and_probes_last() {
        for (method, uri, long) in [
            (Method::GET, "/api/v1/pods?watch=1&timeoutSeconds=3", true),
            (
                Method::GET,
                "/api/v1/pods?labelSelector=a%3Db&watch=true",
                true,
            ),
            (Method::GET, "/api/v1/pods?limit=5", false),
            (Method::POST, "/api/v1/namespaces/n/pods", false),
            (
                Method::POST,
                "/clusters/c/api/v1/namespaces/n/pods/https:p:1/proxy/v2/probe",
                true,
            ),
            (
                Method::GET,
                "/api/v1/namespaces/n/pods/https:p:1/proxy/v2/info",
                false,
            ),
            (
                Method::POST,
                "/api/v1/namespaces/n/pods/https:p:1/proxy/v2/tables",
                false,
            ),
        ] {
            assert_eq!(lasts(&request(method, uri)), long, "{uri}");
        }
    }

    /// Each lane has so many at a time, and a lane is made when it is needed.
    #[tokio::test]
    async fn requests_that_last_are_spread_over_connections() {
        let made = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&made);
        let nobody = BoxCloneSyncService::new(tower::service_fn(|_: Request<Body>| async {
            Err::<Response<Answer>, BoxError>("nobody is asked".into())
        }));
        let shared = Shared::new(nobody.clone(), move || {
            *counted.lock().expect("no panic") += 1;
            Some(nobody.clone())
        });
        let mut turns = Vec::new();
        for (count, lanes) in [
            (1, 1),
            (OF_A_LANE, 1),
            (OF_A_LANE + 1, 2),
            (LANES * OF_A_LANE, LANES),
        ] {
            while turns.len() < count {
                turns.push(shared.turn(true).await.1);
            }
            assert_eq!(*made.lock().expect("no panic"), lanes, "{count}");
        }
        // Otherwise whoever has waited often in a row is made to wait once more, whatever there is.
        let at_once = tokio::task::unconstrained;
        let waits = std::pin::pin!(at_once(shared.turn(true)));
        assert!(futures::poll!(waits).is_pending(), "no place is left");
        // Those that are answered at once are not kept waiting.
        let short = std::pin::pin!(at_once(shared.turn(false)));
        assert!(futures::poll!(short).is_ready());
    }

    /// However many ask, the server has so many requests at a time, and watches do not keep the others waiting.
    #[tokio::test]
    async fn requests_to_one_authority_are_bounded() {
        let most = Arc::new(Mutex::new((0, 0)));
        let counted = Arc::clone(&most);
        let http = tower::service_fn(move |request: Request<Body>| {
            let counted = Arc::clone(&counted);
            async move {
                if lasts(&request) {
                    std::future::pending::<()>().await;
                }
                {
                    let mut counts = counted.lock().expect("no panic");
                    counts.0 += 1;
                    counts.1 = counts.1.max(counts.0);
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                counted.lock().expect("no panic").0 -= 1;
                let body = http_body_util::Empty::new().map_err(|never| match never {});
                Ok::<_, BoxError>(Response::new(body.boxed_unsync()))
            }
        });
        let key = key("https://bounded.example:443".to_owned());
        let make = move || Ok::<_, ()>(BoxCloneSyncService::new(http.clone()));
        let pool = Pool::of(key.clone(), make.clone()).expect("made");
        assert!(Pool::of(key, make).expect("there").is_shared_with(&pool));
        let watches: Vec<_> = (0..AT_ONCE * 2)
            .map(|_| {
                tokio::spawn(
                    pool.clone()
                        .oneshot(request(Method::GET, "/api/v1/pods?watch=1")),
                )
            })
            .collect();
        // Whoever has an answer and does not read it keeps its turn.
        let reads = (0..AT_ONCE * 3).map(|_| async {
            let read = pool.clone().oneshot(request(Method::GET, "/api/v1/pods"));
            drop(read.await.expect("an answer"));
        });
        futures::future::join_all(reads).await;
        assert_eq!(most.lock().expect("no panic").1, AT_ONCE);
        watches.into_iter().for_each(|watch| watch.abort());
    }
}
