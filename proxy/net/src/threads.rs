//! Which CPUs the process may use, threads that stay on one, and memory that they give back.

use std::io;

use crate::sockopt;

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
