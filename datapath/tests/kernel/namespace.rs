//! A network namespace for a while.

use nix::sched::{CloneFlags, unshare};

/// Runs in a thread of its own, in a namespace that ends with it.
pub(crate) fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            work()
        });
        worker.join().expect("no panic in the namespace")
    })
}
