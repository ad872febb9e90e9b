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

/// Lets `command` see `folder`, and nothing in it can be written: also not by root, who ignores
/// permissions. Whether that can be done here: it takes user namespaces.
pub fn makes_read_only(command: &mut Command, folder: &Path) -> bool {
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount"]).stdin(Stdio::null());
        unshare
    };
    let may = unshare().arg("true").stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        return false;
    }
    let mut confined = unshare();
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    confined.args(["sh", "-c", script]).arg(folder);
    confined.arg(command.get_program()).args(command.get_args());
    confined.stdout(Stdio::piped()).stderr(Stdio::piped());
    *command = confined;
    true
}
