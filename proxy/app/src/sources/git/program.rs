//! The `git` program, kept on a short leash: no configuration but ours, no prompts, no other
//! protocols, a deadline, a bound of bytes, and an end for everything that it has started.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tillgate_net::{clock, threads};

use crate::sources::Ssh;

/// What it may say: names of a few commits.
const SAID_BYTES_MAX: u64 = 64 * 1024;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How git reaches the server.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// It is on this machine.
    Direct,
    /// By CONNECT to there.
    Proxy(SocketAddr),
    /// Its `ssh` is led there.
    Ssh { to: SocketAddr, host: String },
}

/// See the module.
pub(super) struct Program<'a> {
    folder: &'a Path,
    way: Way,
    ssh: &'a Ssh,
    deadline: Instant,
}

impl<'a> Program<'a> {
    pub(super) fn new(folder: &'a Path, way: Way, ssh: &'a Ssh, deadline: Instant) -> Self {
        Self { folder, way, ssh, deadline }
    }

    /// Runs `git` with `arguments` in the repository; what it says. `within` = how large the
    /// repository may become meanwhile.
    pub(super) fn run(&self, within: Option<u64>, arguments: &[&str]) -> Result<String, String> {
        let what = arguments.iter().find(|one| !one.starts_with('-') && !one.contains('='));
        let what = format!("git {}", what.copied().unwrap_or_default());
        self.end(self.command(arguments), &what, within)
    }

    /// Lets the OpenPGP keys of a file count, and no others, from here on.
    pub(super) fn import(&self, keys: Option<&Path>) -> Result<(), String> {
        let home = self.home();
        let begin = || {
            if home.exists() {
                fs::remove_dir_all(&home)?;
            }
            if keys.is_none() {
                return Ok(());
            }
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
            // Whether a key may sign is asked of the keyring, not of a store's clock.
            fs::write(home.join("gpg.conf"), "ignore-time-conflict\nignore-valid-from\n")
        };
        begin().map_err(|error| format!("cannot make {}: {error}", home.display()))?;
        let Some(keys) = keys else { return Ok(()) };
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--no-autostart", "--import"]).arg(keys);
        self.tame(&mut command);
        self.end(command, "gpg --import", None).map(drop)
    }

    /// Where keys of people are kept: beside the repository, which begins anew now and then.
    fn home(&self) -> PathBuf {
        let mut name = self.folder.as_os_str().to_owned();
        name.push(".keys");
        name.into()
    }

    fn end(&self, mut command: Command, what: &str, within: Option<u64>) -> Result<String, String> {
        let program = command.get_program().display().to_string();
        let mut child = command.spawn().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return format!("there is no `{program}` on this machine: install it");
            }
            format!("{program} cannot be started: {error}")
        })?;
        let (said, complained) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let ended = self.watch(&mut child, within);
        let (said, complained) = (text(said), text(complained));
        match ended {
            Ok(status) if status.success() => Ok(said),
            Ok(status) => {
                let lines = complained.lines().map(str::trim).filter(|line| !line.is_empty());
                let why: Vec<&str> = lines.collect();
                let why = why.last().map_or_else(|| status.to_string(), |line| (*line).to_owned());
                Err(format!("{what}: {why}"))
            }
            Err(why) => Err(format!("{what}: {why}")),
        }
    }

    fn watch(
        &self,
        child: &mut Child,
        within: Option<u64>,
    ) -> Result<std::process::ExitStatus, String> {
        loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                return Ok(status);
            }
            let too_late = clock::now() >= self.deadline;
            let too_much = within.is_some_and(|most| bytes_in(self.folder) > most);
            if too_late || too_much {
                // Its helpers speak to the server; they are of its group.
                let _ = threads::kill_group(child.id());
                let _ = child.wait();
                return Err(if too_late {
                    "no end within the source's `timeout`".to_owned()
                } else {
                    "the repository is too large for a policy".to_owned()
                });
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        for setting in [
            "protocol.allow=never",
            "protocol.https.allow=always",
            "protocol.http.allow=always",
            "protocol.ssh.allow=always",
            "protocol.file.allow=always",
            "core.hooksPath=/dev/null",
            // A link would be a way out of the repository.
            "core.symlinks=false",
            "core.autocrlf=false",
            "core.fsmonitor=false",
            "credential.helper=",
            "gc.auto=0",
            "maintenance.auto=false",
            "http.followRedirects=initial",
        ] {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(match &self.way {
            Way::Proxy(relay) => format!("http.proxy=http://{relay}"),
            Way::Direct | Way::Ssh { .. } => "http.proxy=".to_owned(),
        });
        command.args(arguments);
        self.tame(&mut command);
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            command.env("GIT_SSL_CAINFO", file);
        }
        if self.folder.is_dir() {
            command.current_dir(self.folder).env("GIT_CEILING_DIRECTORIES", self.folder);
        } else {
            command.current_dir("/");
        }
        command
    }

    /// Nothing of ours but what it needs.
    fn tame(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", self.ssh())
            .env("HOME", "/nonexistent")
            // No keyring of anybody else.
            .env("GNUPGHOME", self.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
    }

    fn ssh(&self) -> String {
        let mut ssh = String::from("ssh -o BatchMode=yes -o StrictHostKeyChecking=yes");
        if let Some(file) = &self.ssh.identity {
            ssh.push_str(&format!(" -o IdentitiesOnly=yes -i '{}'", file.display()));
        }
        if let Some(file) = &self.ssh.known_hosts {
            ssh.push_str(&format!(
                " -o 'UserKnownHostsFile={}' -o GlobalKnownHostsFile=/dev/null",
                file.display()
            ));
        }
        if let Way::Ssh { to, host } = &self.way {
            // The key is checked as that of the server, not of the relay.
            ssh.push_str(&format!(
                " -o HostKeyAlias={host} -o HostName={} -o Port={}",
                to.ip(),
                to.port()
            ));
        }
        ssh
    }
}

/// Bytes of the files below `folder`.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let pipe = pipe?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut bounded = pipe.take(SAID_BYTES_MAX);
        // What was said until it broke is enough.
        let _ = bounded.read_to_end(&mut bytes);
        let _ = io::copy(&mut bounded.into_inner(), &mut io::sink());
        bytes
    }))
}

fn text(bytes: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = bytes.and_then(|thread| thread.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
