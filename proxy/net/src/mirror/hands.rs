//! Threads that touch files, so that no worker ever waits for a disk.
//!
//! In: a piece of work. Out: its result, awaited. Pieces are small (a chunk, a rename), so a few
//! threads serve many readers in turn. The queue is bounded: whoever finds it full waits, and with
//! him only the one body that he reads or writes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::{Semaphore, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// Pieces of work that wait or run: more than any disk does at once, and each holds a chunk at
/// most.
const JOBS_MAX: usize = 256;

/// See the module. Its threads end with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
}

impl Hands {
    /// `count` threads called `name`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn new(name: &str, count: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            let take = move || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                while let Ok(job) = take() {
                    job();
                }
            })?;
        }
        Ok(Self { jobs, room: Arc::new(Semaphore::new(JOBS_MAX)) })
    }

    /// Does `work` there. Once begun it is done, whether or not it is still waited for.
    ///
    /// # Errors
    /// What `work` says; or that it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _permit = permit;
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let done = done.unwrap_or_else(|_| Err(io::Error::other("a file's thread panicked")));
            // Nobody may be waiting any more.
            let _ = tell.send(done);
        });
        self.jobs.send(job).map_err(|_| io::Error::other("no thread for files is left"))?;
        told.await.map_err(io::Error::other)?
    }
}
