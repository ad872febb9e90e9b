//! A Git repository: asked with `git`, shallow and sparse, bounded in time and bytes.
//!
//! The tip is asked for first; only another one is fetched, one commit deep and with the files of
//! one folder. What crosses the line does so through a relay of our own in class `control`. With
//! `allowedSigners` or a `keyring` the commit, or the tag that names it, must be signed by one of
//! them. Git orders nothing: what the branch shows is the policy, so a fleet that fears old commits
//! uses bundles.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

use self::program::{Program, Way};
use super::apart::{Apart, Blocks};
use super::{
    FetchError, Fetched, Given, Place, Proof, Signers, SourceSpec, Ssh, directory, relay, wrap,
};
use crate::gateway::Gateway;

mod program;

/// A repository on disk, history of fetches included, after which it is begun anew.
const REPOSITORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where the tip is kept.
const TIP: &str = "refs/tillgate/tip";

/// A repository that is asked.
#[derive(Debug)]
pub(crate) struct Git {
    server: Option<Server>,
    asker: Apart<Asker>,
}

/// A server across the line.
#[derive(Clone, Debug)]
struct Server {
    host: String,
    port: u16,
    kind: relay::Kind,
}

#[derive(Debug)]
struct Asker {
    url: String,
    folder: Option<String>,
    reference: String,
    signers: Signers,
    ssh: Ssh,
    repository: PathBuf,
    timeout: Duration,
    /// By its commit.
    given: Given,
}

/// The commit that is meant, and the name that it is fetched by.
struct Tip {
    commit: String,
    wanted: String,
    is_tag: bool,
}

impl Git {
    /// The repository of `spec`, kept below `state`.
    ///
    /// # Errors
    /// Why it can never be used.
    pub(crate) fn new(spec: &SourceSpec, state: &Path) -> Result<Self, String> {
        let Place::Git { url, folder, reference, signers, ssh } = &spec.place else {
            return Err("no repository".to_owned());
        };
        if !signers.any() && !spec.allow_unsigned {
            return Err("nobody's signature counts; name a file of SSH keys in \
                        `allowedSigners`, or of OpenPGP keys in `keyring`, or set `allowUnsigned`"
                .to_owned());
        }
        let asker = Asker {
            url: url.clone(),
            folder: folder.clone(),
            reference: reference.clone(),
            signers: signers.clone(),
            ssh: ssh.clone(),
            repository: state.join("git").join(&*spec.name),
            timeout: spec.timeout,
            given: Given::default(),
        };
        Ok(Self { server: server(url)?, asker: Apart::new(asker) })
    }

    pub(crate) fn settle(&mut self) {
        self.asker.settle();
    }

    pub(crate) async fn fetch(&mut self, gateway: &Arc<Gateway>) -> Result<Fetched, FetchError> {
        // Before a port is taken for it.
        self.asker.free()?;
        // It closes when this question is over.
        let relay = match &self.server {
            Some(server) => {
                let to = (server.host.clone(), server.port);
                Some(relay::Relay::open(Arc::clone(gateway), to, server.kind).await?)
            }
            None => None,
        };
        let way = match (&self.server, &relay) {
            (Some(server), Some(relay)) => match server.kind {
                relay::Kind::Connect => Way::Proxy(relay.address()),
                relay::Kind::Raw => Way::Ssh { to: relay.address(), host: server.host.clone() },
            },
            _ => Way::Direct,
        };
        self.asker.ask(way).await
    }
}

impl Blocks for Asker {
    type Way = Way;
    const HANGS: &'static str = "the question before has not ended";

    fn given(&mut self) -> &mut Given {
        &mut self.given
    }

    fn ask(&mut self, way: Way) -> Result<Fetched, FetchError> {
        let deadline = clock::now() + self.timeout;
        let program = Program::new(&self.repository, way, &self.ssh, deadline);
        let tip = self.tip(&program)?;
        if self.given.is_settled(&tip.commit) {
            return Ok(Fetched::Same { held: false });
        }
        let taken = self.take(&program, &tip, deadline);
        if taken.is_err() {
            // Whatever is wrong with it, the next question does not inherit.
            let _ = std::fs::remove_dir_all(&self.repository);
        }
        let (files, proof) = taken?;
        let commit = &tip.commit;
        let name = if commit.len() == 64 { "sha256" } else { "sha1" };
        let revision = format!("{}@{name}:{commit}", self.reference);
        self.given.gives(Some(commit.clone()));
        Ok(Fetched::Bundle { archive: wrap(files, revision, 1, Wall(0)), proof, held: false })
    }
}

impl Asker {
    /// What the reference means now, from the server; a commit means itself.
    fn tip(&self, program: &Program<'_>) -> Result<Tip, String> {
        let reference = &self.reference;
        if is_commit(reference) {
            let (commit, wanted) = (reference.clone(), reference.clone());
            return Ok(Tip { commit, wanted, is_tag: false });
        }
        let (head, tag) = (format!("refs/heads/{reference}"), format!("refs/tags/{reference}"));
        let peeled = format!("{tag}^{{}}");
        let names: &[&str] = if reference == "HEAD" { &["HEAD"] } else { &[&head, &tag, &peeled] };
        let mut arguments = vec!["ls-remote", "--quiet", "--", &self.url];
        arguments.extend(names);
        let told = program.run(None, &arguments)?;
        let find = |name: &str| {
            let mut lines = told.lines().filter_map(|line| line.split_once('\t'));
            let (commit, _) = lines.find(|(_, found)| *found == name)?;
            is_commit(commit).then(|| commit.to_owned())
        };
        let tip = |commit, wanted: &str, is_tag| Tip { commit, wanted: wanted.to_owned(), is_tag };
        if reference == "HEAD" {
            return find("HEAD")
                .map(|commit| tip(commit, "HEAD", false))
                .ok_or_else(|| "the repository is empty".to_owned());
        }
        if let Some(commit) = find(&head) {
            return Ok(tip(commit, &head, false));
        }
        let commit = find(&peeled).or_else(|| find(&tag));
        commit
            .map(|commit| tip(commit, &tag, true))
            .ok_or_else(|| format!("it has no branch or tag `{reference}`"))
    }

    /// Brings the files of the tip here.
    fn take(
        &self,
        program: &Program<'_>,
        tip: &Tip,
        deadline: Instant,
    ) -> Result<(crate::bundle::Files, Proof), String> {
        self.prepare(program)?;
        let within = Some(REPOSITORY_BYTES_MAX);
        let wanted = format!("+{}:{TIP}", tip.wanted);
        let fetch = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--filter=blob:none",
            "origin",
            &wanted,
        ];
        program.run(within, &fetch)?;
        let is = program.run(None, &["rev-parse", &format!("{TIP}^{{commit}}")])?;
        if is.trim() != tip.commit {
            return Err("it has changed while it was asked; the next question comes soon".into());
        }
        let proof = self.verify(program, tip)?;
        program.run(within, &["checkout", "--quiet", "--force", "--detach", TIP])?;
        if clock::now() >= deadline {
            return Err(format!("it took longer than {:?}", self.timeout));
        }
        let root = match &self.folder {
            Some(folder) => self.repository.join(folder),
            None => self.repository.clone(),
        };
        Ok((directory::policy_in(&root)?, proof))
    }

    /// An empty repository that knows where from and what of it, unless there is one.
    fn prepare(&self, program: &Program<'_>) -> Result<(), String> {
        let folder = &self.repository;
        if program::bytes_in(folder) > REPOSITORY_BYTES_MAX / 2 {
            let _ = std::fs::remove_dir_all(folder);
        }
        if !folder.join(".git/config").exists() {
            let _ = std::fs::remove_dir_all(folder);
            std::fs::create_dir_all(folder)
                .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
            program.run(None, &["init", "--quiet", "."])?;
        }
        for (name, value) in [
            ("remote.origin.url", self.url.as_str()),
            ("remote.origin.promisor", "true"),
            ("remote.origin.partialclonefilter", "blob:none"),
        ] {
            program.run(None, &["config", name, value])?;
        }
        match &self.folder {
            Some(folder) => {
                let folder = folder.trim_matches('/');
                program.run(None, &["sparse-checkout", "set", "--no-cone", &format!("/{folder}/")])
            }
            None => program.run(None, &["sparse-checkout", "disable"]),
        }
        .map(drop)
    }

    /// Who answers for the commit: who signed it, or the tag that names it.
    fn verify(&self, program: &Program<'_>, tip: &Tip) -> Result<Proof, String> {
        if !self.signers.any() {
            return Ok(Proof::Nobody);
        }
        program.import(self.signers.open_pgp.as_deref())?;
        let ssh = self.signers.ssh.as_ref().map(|file| file.display().to_string());
        let file = format!("gpg.ssh.allowedSignersFile={}", ssh.unwrap_or_default());
        // Which kind a signature is, it says itself.
        let check = |what, name: &str| program.run(None, &["-c", &file, what, name]);
        let by_tag = tip.is_tag && check("verify-tag", TIP).is_ok();
        if by_tag {
            return Ok(Proof::Commit);
        }
        check("verify-commit", &tip.commit).map(|_| Proof::Commit).map_err(|why| {
            let files = self.signers.shown();
            format!("commit {} is not signed by a key of {files}: {why}", tip.commit)
        })
    }
}

fn is_commit(text: &str) -> bool {
    (text.len() == 40 || text.len() == 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The server that `url` names; `None` = this machine.
fn server(url: &str) -> Result<Option<Server>, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("{url} is no address of a repository"));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let uri: http::uri::Authority = match (scheme, authority.parse()) {
        ("file", _) => return Ok(None),
        (_, Ok(uri)) => uri,
        (_, Err(_)) => return Err(format!("{url} names no host")),
    };
    let host = uri.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_here = host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match scheme {
        "http" if is_here => Ok(None),
        "http" => Err(format!("{url} is not encrypted; use https or ssh")),
        "https" => {
            let port = uri.port_u16().unwrap_or(443);
            Ok(Some(Server { host, port, kind: relay::Kind::Connect }))
        }
        "ssh" => {
            let port = uri.port_u16().unwrap_or(22);
            Ok(Some(Server { host, port, kind: relay::Kind::Raw }))
        }
        _ => Err(format!("a repository is not fetched by {scheme}; use https, ssh or file")),
    }
}

#[cfg(test)]
mod tests;
