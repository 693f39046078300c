//! Starting a program without copying this process's page tables.
//!
//! `fork` of a lab with hundreds of clusters takes milliseconds, nearly all for page tables that `exec` throws away. With
//! `CLONE_VM | CLONE_VFORK` the child borrows our memory while we stand still, as posix_spawn(3) does, which itself knows neither
//! namespaces nor death signals.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::ptr;

use nix::unistd::{Pid, getpid};

/// More than the few calls of the child need.
const STACK: usize = 64 << 10;

/// `_NSIG` of the kernel on all architectures but MIPS.
const LAST_SIGNAL: c_int = 64;
/// Bytes of the kernel's `sigset_t`.
const SIGNAL_SET: usize = 8;

/// What the child needs, all of it made before: it may not allocate.
struct Plan {
    path: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
    netns: RawFd,
    null: RawFd,
    log: RawFd,
    parent: libc::pid_t,
    /// Null where the program keeps the caller's root.
    root: *const c_char,
    /// What is put where below the root; ends with a null.
    binds: *const Bind,
    errno: c_int,
}

/// A file or folder that is put in a second place. All pointers are to text that ends with a zero; the last bind has none.
#[repr(C)]
struct Bind {
    source: *const c_char,
    target: *const c_char,
}

/// A root of a program's own: its folder, and what of the caller's files is put where in it, as absolute paths outside of it.
pub(super) struct Root {
    pub(super) folder: CString,
    pub(super) binds: Vec<(CString, CString)>,
}

/// What a program is started with.
pub(super) struct Start<'a> {
    /// Where the program is, as seen from its root.
    pub(super) path: &'a CString,
    pub(super) args: &'a [CString],
    pub(super) env: &'a [CString],
    pub(super) netns: BorrowedFd<'a>,
    pub(super) null: BorrowedFd<'a>,
    pub(super) log: BorrowedFd<'a>,
    pub(super) root: Option<&'a Root>,
}

/// Starts a program in a namespace, with standard input from `null` and output to `log`; the kernel kills it when the calling
/// thread ends. The calling thread has all signals blocked; the program starts with none blocked, none ignored, and no
/// handler.
#[expect(
    unsafe_code,
    reason = "the standard library forks when a child has to do something first"
)]
pub(super) fn spawn(start: &Start<'_>) -> io::Result<Pid> {
    let pointers = |words: &[CString]| -> Vec<*const c_char> {
        let each = words.iter().map(|word| word.as_ptr());
        each.chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(start.args), pointers(start.env));
    let binds = start.root.map_or(&[][..], |root| &root.binds);
    let binds = binds.iter().map(|(source, target)| Bind {
        source: source.as_ptr(),
        target: target.as_ptr(),
    });
    let end = Bind {
        source: ptr::null(),
        target: ptr::null(),
    };
    let binds: Vec<Bind> = binds.chain([end]).collect();
    let mut plan = Plan {
        path: start.path.as_ptr(),
        args: args.as_ptr(),
        env: env.as_ptr(),
        netns: start.netns.as_raw_fd(),
        null: start.null.as_raw_fd(),
        log: start.log.as_raw_fd(),
        parent: getpid().as_raw(),
        root: start.root.map_or(ptr::null(), |root| root.folder.as_ptr()),
        binds: binds.as_ptr(),
        errno: 0,
    };
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is exclusively the child's, aligned to 16 bytes and grows down from its end; the kernel keeps this
    // thread from running until the child has executed the program or ended, so `plan`, all that it points to, and the stack
    // outlive every use of them. The child makes system calls only.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast::<c_void>(),
            flags,
            ptr::from_mut(&mut plan).cast::<c_void>(),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid);
    // The child wrote to it through its pointer.
    // SAFETY: `plan` is alive, and the child has let go of it.
    let errno = unsafe { ptr::read_volatile(&raw const plan.errno) };
    if errno == 0 {
        return Ok(pid);
    }
    // It has ended already; nobody else knows its number.
    let _ = nix::sys::wait::waitpid(pid, None);
    Err(io::Error::from_raw_os_error(errno))
}

/// Puts the child into a root of its own: mounts that nobody else sees, and that end with it (mount_namespaces(7)).
///
/// # Safety
/// As [`child`], with a root in the plan.
#[expect(unsafe_code, reason = "only system calls may be made here")]
unsafe fn is_at_home(plan: &Plan) -> bool {
    const NOTHING: *const c_char = ptr::null();
    // SAFETY: all texts of the plan end with a zero and outlive the child's use of them; the list of binds ends with a null.
    unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let mut is_done = libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(NOTHING, c"/".as_ptr(), NOTHING, private, ptr::null()) == 0;
        let mut bind = plan.binds;
        while is_done && !(*bind).source.is_null() {
            let (source, target) = ((*bind).source, (*bind).target);
            let flags = libc::MS_BIND | libc::MS_REC;
            is_done = libc::mount(source, target, NOTHING, flags, ptr::null()) == 0;
            bind = bind.add(1);
        }
        is_done && libc::chroot(plan.root) == 0 && libc::chdir(c"/".as_ptr()) == 0
    }
}

/// The child between its making and the program.
#[expect(unsafe_code, reason = "only system calls may be made here")]
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `spawn` hands over a plan that outlives this function, to which nobody else has access meanwhile. All calls are
    // async-signal-safe. The descriptors are open in this process's copy of the table; 0 to 2 are not among them, since the
    // parent has those open itself.
    unsafe {
        let plan = &mut *plan.cast::<Plan>();
        let ready = libc::setns(plan.netns, libc::CLONE_NEWNET) == 0
            && libc::dup2(plan.null, 0) == 0
            && libc::dup2(plan.log, 1) == 1
            && libc::dup2(plan.log, 2) == 2
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && (plan.root.is_null() || is_at_home(plan));
        if ready {
            if libc::getppid() == plan.parent {
                // Until `execve` the child runs in the parent's memory: a handler of the parent that ran here would write to
                // it while the parent's own thread stands still in the middle of anything. `execve` itself keeps what is
                // ignored, such as SIGINT of a shell's background job, which the program did not ask for. The kernel's own
                // call, since the C library's refuses the two signals that it uses itself, whose handlers must not run either.
                let default = [0_u64; 4];
                for signal in 1..=LAST_SIGNAL {
                    // SIGKILL and SIGSTOP cannot be changed and need not be.
                    libc::syscall(
                        libc::SYS_rt_sigaction,
                        signal,
                        default.as_ptr(),
                        ptr::null_mut::<c_void>(),
                        SIGNAL_SET,
                    );
                }
                let mut none = std::mem::zeroed::<libc::sigset_t>();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
                libc::execve(plan.path, plan.args, plan.env);
            } else {
                // The parent died in between, and its death signal was missed.
                libc::_exit(127);
            }
        }
        plan.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}
