//! Which CPUs the process may use, and threads that stay on one.

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

/// Gives back the memory of code that ran at the start, and of all other code until it runs again.
/// Reading a policy touches several megabytes of the program that nothing needs afterwards.
///
/// # Errors
/// What the kernel says; nothing is different then.
pub fn release_start_code() -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    crate::sockopt::release_code(&program).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

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
