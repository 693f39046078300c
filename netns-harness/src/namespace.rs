//! Network namespaces held by descriptor: nothing to name, nothing to unmount, gone with the last holder.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// A network namespace. Clones hold the same one; the kernel frees it once no holder, process or socket is left.
#[derive(Debug, Clone)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// The calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(Error::doing("open this thread's network namespace"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// A new namespace. Its loopback link is down, as the kernel makes it.
    pub fn create() -> Result<Self, Error> {
        in_thread(Self::unshare)?
    }

    /// The namespace behind a descriptor that somebody else opened.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// Leaves the calling thread's namespace for a new one. For threads that never come back.
    fn unshare() -> Result<Self, Error> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let mut error = Error::new("make a network namespace", errno);
            // unshare(2): the limit of this user, or of one of those who own the user namespaces above.
            if errno == Errno::ENOSPC {
                error.hint = Some(limit_of_namespaces().map_or_else(
                    || "limit user.max_net_namespaces".to_owned(),
                    |limit| format!("limit user.max_net_namespaces, here {limit}"),
                ));
            }
            error
        })?;
        Self::current()
    }

    /// Moves the calling thread into this namespace. For threads that never come back: a runtime's worker must not call it.
    pub fn enter(&self) -> Result<(), Error> {
        setns(&*self.0, CloneFlags::CLONE_NEWNET).map_err(Error::doing("enter a network namespace"))
    }

    /// Runs `work` inside of the namespace, on a thread made for it that ends with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        in_thread(|| self.enter().map(|()| work()))?
    }

    /// The number by which `/proc/PID/ns/net` names it; unique while it exists.
    pub fn inode(&self) -> Result<u64, Error> {
        let stat = nix::sys::stat::fstat(&*self.0)
            .map_err(Error::doing("identify a network namespace"))?;
        Ok(stat.st_ino)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How many network namespaces a user may have at once, as far as this user namespace decides (`user.max_net_namespaces`).
#[must_use]
pub fn limit_of_namespaces() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/user/max_net_namespaces").ok()?;
    text.trim().parse().ok()
}

/// Runs `work` on a thread of its own and waits for it; a panic there goes on here.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .map_err(Error::doing("start a thread"))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A thread's right to move on into namespaces of its own making.
#[derive(Debug)]
pub struct Builder(());

impl Builder {
    /// A new namespace, which the calling builder thread is in from now on: its sockets and settings are this
    /// namespace's until the next call.
    pub fn create(&self) -> Result<Netns, Error> {
        Netns::unshare()
    }
}

/// Works through `jobs` on `threads` builder threads; the results come in the order of the jobs, or the first error.
///
/// A job may make any number of namespaces with its [`Builder`] and set each of them up from inside at no cost of entering.
pub fn build<J, T, E>(
    jobs: Vec<J>,
    threads: usize,
    work: impl Fn(&Builder, J) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E>
where
    J: Send,
    T: Send,
    E: Send + From<Error>,
{
    let total = jobs.len();
    let jobs: Vec<_> = jobs
        .into_iter()
        .map(|job| std::sync::Mutex::new(Some(job)))
        .collect();
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, total.max(1)) {
            let (sender, jobs, next, work) = (sender.clone(), &jobs, &next, &work);
            thread::Builder::new()
                .spawn_scoped(scope, move || {
                    let builder = Builder(());
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(slot) = jobs.get(index) else { return };
                        let job = slot.lock().ok().and_then(|mut slot| slot.take());
                        let Some(job) = job else { return };
                        let result = work(&builder, job);
                        let failed = result.is_err();
                        // The receiver outlives the scope.
                        let _ = sender.send((index, result));
                        if failed {
                            // Nobody will use what the others would still make.
                            next.store(usize::MAX / 2, Ordering::Relaxed);
                            return;
                        }
                    }
                })
                .map_err(|error| E::from(Error::new("start a builder thread", error)))?;
        }
        Ok::<_, E>(())
    })?;
    drop(sender);
    let mut made: Vec<Option<T>> = (0..total).map(|_| None).collect();
    for (index, result) in results {
        made[index] = Some(result?);
    }
    made.into_iter()
        .map(|value| {
            value.ok_or_else(|| {
                E::from(Error::new(
                    "build",
                    io::Error::other("a builder thread ended early"),
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "netns: needs veth"]
    fn namespaces_are_distinct_and_the_caller_stays_where_it_is() {
        let home = Netns::current().expect("open").inode().expect("stat");
        let made = build(vec![(); 20], 2, |builder, ()| builder.create()).expect("build");
        let mut inodes: Vec<_> = made
            .iter()
            .map(|netns| netns.inode().expect("stat"))
            .collect();
        inodes.push(home);
        inodes.sort_unstable();
        inodes.dedup();
        assert_eq!(inodes.len(), 21);
        let inside = made[3]
            .run(|| Netns::current().expect("open").inode().expect("stat"))
            .expect("run");
        assert_eq!(inside, made[3].inode().expect("stat"));
        assert_eq!(Netns::current().expect("open").inode().expect("stat"), home);
    }

    #[test]
    fn the_first_error_stops_the_building() {
        let made = build(vec![1, 2, 3], 1, |_, job| {
            if job == 2 {
                Err(Error::new("job 2", io::Error::from_raw_os_error(libc::EIO)))
            } else {
                Ok(job)
            }
        });
        assert_eq!(made.expect_err("job 2 fails").doing, "job 2");
    }
}
