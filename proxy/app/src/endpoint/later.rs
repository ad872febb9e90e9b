//! Answers that come later, on their way out past the router.
//!
//! A router passes on responses and nothing else, so what shall wait goes along with a response
//! that nobody sends, in its extensions. The entrance takes it out again and gives it to the
//! listener, which keeps little of a connection that waits.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use axum::response::Response;

use super::lock;

/// An answer to come.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Where it is kept in the response in its place; shared because extensions can be cloned.
#[derive(Clone)]
struct Kept(Arc<Mutex<Option<Waiting>>>);

/// What stands for the answer that `waiting` will be.
pub(super) fn answer(waiting: impl Future<Output = Response> + Send + 'static) -> Response {
    let mut answer = Response::default();
    let waiting: Waiting = Box::pin(waiting);
    answer.extensions_mut().insert(Kept(Arc::new(Mutex::new(Some(waiting)))));
    answer
}

/// What `answer` stands for, if it is not an answer yet.
pub(super) fn waiting(answer: &mut Response) -> Option<Waiting> {
    let Kept(kept) = answer.extensions_mut().remove()?;
    lock(&kept).take()
}

/// `answer` after `change`: now, or when it comes.
pub(super) fn then(
    mut answer: Response,
    change: impl FnOnce(Response) -> Response + Send + 'static,
) -> Response {
    match waiting(&mut answer) {
        None => change(answer),
        Some(waiting) => self::answer(async move { change(waiting.await) }),
    }
}
