//! Which CPUs the process may use, threads that stay on one, and memory that they give back.

use std::io;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::setpriority_process;

use crate::sockopt;

/// How nice work is that makes way: a tenth of the share of a thread that serves requests, which
/// takes the processor from it as soon as it wakes (`sched(7)`), and enough to end on a busy one.
const NICE: i32 = 10;

/// The CPUs that this thread may use, in order.
///
/// # Errors
/// What the kernel says.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    sockopt::allowed_cpus()
}

/// Keeps this thread on one CPU.
///
/// # Errors
/// What the kernel says, for example that the CPU is not ours to use.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    sockopt::stay_on(cpu)
}

/// Ends a process that was started as the first of its own group, with all that it has started.
///
/// # Errors
/// What the kernel says, for example that there is none.
pub fn kill_group(leader: u32) -> io::Result<()> {
    sockopt::kill_group(leader)
}

/// Runs `work` on a thread of its own that makes way for all others, and waits for it. What it
/// computes must not hold a lock that requests wait for: it may be kept from going on.
///
/// A thread may become nicer without any right, and no less nice again: hence its own.
///
/// # Panics
/// If `work` does.
pub fn making_way<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = Mutex::new(Some(work));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let done = thread::scope(|scope| {
        let nicely = || {
            if let Err(error) = setpriority_process(None, NICE) {
                tracing::debug!(%error, "work that could make way does not");
            }
            take().map(|work| work())
        };
        let thread = thread::Builder::new().name("compile".into()).spawn_scoped(scope, nicely);
        // Without a thread it is done here.
        thread.map_or(Ok(None), thread::ScopedJoinHandle::join)
    });
    match done {
        Ok(Some(done)) => done,
        Ok(None) => take().expect("no thread has taken it")(),
        Err(panic) => resume_unwind(panic),
    }
}

/// Gives back the memory of code that ran at the start, and of all other code until it runs again.
/// Reading a policy touches several megabytes of the program that nothing needs afterwards.
pub fn release_start_code() {
    let released = std::env::current_exe().and_then(|path| sockopt::release_code(&path));
    if let Err(error) = released {
        tracing::debug!(%error, "the memory of code that ran at the start is kept");
    }
}

/// Gives back what this thread has freed a while ago. The allocator does so by itself only when it
/// is asked for more, which a thread whose clients have left does not do.
pub fn release_freed() {
    sockopt::collect_freed();
}

/// Fewer connections that have ended leave less than half a megabyte behind.
const EBB: usize = 256;

/// How many connections there were at most since memory of C libraries (cryptography has its state
/// there) was given back for the last time. Those do it by themselves only for what they used last.
#[derive(Debug, Default)]
pub struct Tide {
    high: usize,
}

impl Tide {
    /// There are `open` now; gives memory back if they are many fewer than they were. Costs some
    /// milliseconds then, nothing else. Returns whether it did.
    pub fn follow(&mut self, open: usize) -> bool {
        self.high = self.high.max(open);
        let falls = self.high - open >= EBB.max(open);
        if falls {
            self.high = open;
            sockopt::trim_c_heap();
        }
        falls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_once_when_many_have_left() {
        let mut tide = Tide::default();
        let steps =
            [(10, false), (1000, false), (900, false), (499, true), (499, false), (0, true)];
        for (open, gives) in steps {
            assert_eq!(tide.follow(open), gives, "{open} are open");
        }
        assert!(!tide.follow(200) && !tide.follow(0), "too few to matter");
    }

    #[test]
    fn work_makes_way_and_the_thread_that_waits_for_it_does_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        assert_eq!(making_way(nice), NICE.max(before));
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_thread_stays_where_it_was_put() {
        let last = *allowed_cpus().unwrap().last().unwrap();
        std::thread::spawn(move || {
            stay_on(last).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [last]);
        })
        .join()
        .unwrap();
        stay_on(usize::MAX).unwrap_err();
    }
}
