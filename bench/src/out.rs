//! The one place of the lab that writes to standard output.
//!
//! A reader that goes away (`lab ... | head`) ends the program quietly instead of with a panic.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};

/// Writes one line.
pub fn line(text: Arguments<'_>) {
    raw(format_args!("{text}\n"));
}

/// Writes without a line end and flushes, for progress.
pub fn raw(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_fmt(text).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes one line to standard output.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::out::line(format_args!($($part)*)) };
}
