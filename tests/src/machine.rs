//! A machine in a bad state, for a program that a test starts: its clock shows another time, the
//! power goes at a point of the test's choice, or the disk can only be read. Nothing of it is in
//! the product: it is what the C library answers, and what the kernel permits.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::program::scratch;

/// What stands before the C library: the wall clock is off, and nobody keeps it; or the process
/// kills itself where it changes the disk.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, id, time);
    const char *ahead = getenv("TEST_CLOCK_AHEAD");
    if (result == 0 && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        char text[32] = {0};
        /* A number, or the file that has it. */
        int file = *ahead == '/' ? open(ahead, O_RDONLY) : -1;
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
            close(file);
        }
        time->tv_sec += atoll(*ahead == '/' ? text : ahead);
    }
    return (int)result;
}

int adjtimex(struct timex *state) {
    if (!getenv("TEST_CLOCK_AHEAD")) return (int)syscall(SYS_adjtimex, state);
    state->status = STA_UNSYNC;
    return TIME_ERROR;
}

/* Names of TEST_DIES_AT that have come. */
static int seen;

/* 1 = it is the last name of the list, and it is its turn; -1 = its turn, and more follow. */
static int turn(const char *name) {
    const char *list = getenv("TEST_DIES_AT");
    for (int skip = seen; list && skip > 0; skip--) {
        list = strchr(list, ' ');
        if (list) list++;
    }
    size_t length = list ? strcspn(list, " ") : 0;
    if (!list || strlen(name) != length || strncmp(list, name, length)) return 0;
    return list[length] ? -1 : 1;
}

static int dies(const char *when) {
    const char *chosen = getenv("TEST_DIES");
    return chosen && !strcmp(chosen, when);
}

static void die(void) {
    for (;;) kill(getpid(), SIGKILL);
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return strstr(path, "/bundles/") ? "bundles" : slash ? slash + 1 : path;
}

int rename(const char *from, const char *to) {
    int now = turn(name_of(to));
    if (now == 1 && dies("before")) die();
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (now == 1 && dies("after") && result == 0) die();
    if (now == -1 && result == 0) seen++;
    return result;
}

int mkdir(const char *path, mode_t mode) {
    if (strstr(path, "/bundles/.tmp-") && turn("begun") == 1) die();
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

ssize_t write(int file, const void *bytes, size_t count) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = dies("inside") ? readlink(link, path, sizeof path - 1) : -1;
    if (length > 0) {
        path[length] = 0;
        char *beside = strstr(path, "/.tmp-");
        if (beside && turn(strstr(path, "/bundles/") ? "bundles" : beside + 6) == 1) {
            syscall(SYS_write, file, bytes, count / 2);
            die();
        }
    }
    return syscall(SYS_write, file, bytes, count);
}
"#;

/// Lets the wall clock of `command` be ahead by so many seconds, and kept by nobody. Whether that
/// can be done here: it takes a C compiler.
pub fn sets_clock_ahead(command: &mut Command, seconds: i64) -> bool {
    let Some(shim) = shim() else { return false };
    command.env("LD_PRELOAD", shim).env("TEST_CLOCK_AHEAD", seconds.to_string());
    true
}

/// Lets `command` be killed (SIGKILL) when it has changed the disk as the names in `at` say, one
/// after the other: `before` the last of them, `after` it, or `inside` of its bytes. A name is that
/// of what is renamed to (`current`, `lkg`, `state.json`), `bundles` for a bundle, or `begun` for
/// the folder that a bundle is written into. Whether that can be done here: it takes a C compiler.
pub fn dies(command: &mut Command, when: &str, at: &str) -> bool {
    let Some(shim) = shim() else { return false };
    command.env("LD_PRELOAD", shim).env("TEST_DIES", when).env("TEST_DIES_AT", at);
    true
}

/// Lets the wall clock be ahead by as many seconds as the file `ahead` (an absolute path) says at
/// each moment.
pub fn follows_clock_of(command: &mut Command, ahead: &Path) -> bool {
    let Some(shim) = shim() else { return false };
    command.env("LD_PRELOAD", shim).env("TEST_CLOCK_AHEAD", ahead);
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
