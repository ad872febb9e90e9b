//! A machine in a bad state, for a program that a test starts: its clock shows another time, or
//! the disk can only be read. Nothing of it is in the product: the one is what the C library
//! answers, the other what the kernel permits.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::program::scratch;

/// What stands before the C library: the wall clock is off, and nobody keeps it.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, id, time);
    const char *ahead = getenv("TEST_CLOCK_AHEAD");
    if (result == 0 && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        time->tv_sec += atoll(ahead);
    return (int)result;
}

int adjtimex(struct timex *state) {
    state->status = STA_UNSYNC;
    return TIME_ERROR;
}
"#;

/// Lets the wall clock of `command` be ahead by so many seconds, and kept by nobody. Whether that
/// can be done here: it takes a C compiler.
pub fn sets_clock_ahead(command: &mut Command, seconds: i64) -> bool {
    let Some(shim) = shim() else { return false };
    command.env("LD_PRELOAD", shim).env("TEST_CLOCK_AHEAD", seconds.to_string());
    true
}

fn shim() -> Option<&'static Path> {
    static SHIM_FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let (source, library) = (scratch("clock.c"), scratch("clock.so"));
        std::fs::write(&source, SHIM).ok()?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let built = compiler.stdin(Stdio::null()).status().ok()?.success();
        let _ = std::fs::remove_file(source);
        built.then_some(library)
    };
    SHIM_FILE.get_or_init(build).as_deref()
}

/// A folder whose files can be read and not be written: also not by root, who ignores permissions.
pub const READ_ONLY: &str = "mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"";

/// Lets `command` run in namespaces of its own, after `mounts`: a script whose `$0` is `folder`.
/// Whether that can be done here: it takes user namespaces.
pub fn runs_behind(command: &mut Command, mounts: &str, folder: &Path) -> bool {
    let confined = |command: &Command| {
        let mut outer = Command::new("unshare");
        outer.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
        outer.arg(format!("{mounts}; exec \"$@\"")).arg(folder);
        outer.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        outer
    };
    let may = confined(&Command::new("true")).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return false;
    }
    let mut confined = confined(command);
    confined.stdout(Stdio::piped()).stderr(Stdio::piped());
    *command = confined;
    true
}
