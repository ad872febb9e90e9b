//! Large futures that are made where they stay.
//!
//! `Box::pin(future())` makes the future on the stack and copies all of it, also the room that
//! nothing was written to yet; for what every request has, that is 5 KiB read and written again.

use std::pin::Pin;

/// A pinned box of what `make` returns, made in the box.
pub fn boxed<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    // The room comes first: a value that waits for it would have to be dropped if there is none,
    // and what may have to be dropped is kept whole.
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}
