//! What the file of `--bootstrap` says, checked and ready to use.
//!
//! Everything that is wrong is told at once. What is not built yet is named, not ignored.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tillgate_config::effective::{Effective, Secrets};
use tillgate_config::kinds::BootstrapDoc;
use tillgate_config::kinds::bootstrap::{ReportingDoc, RoleDoc, SourceDoc, SourceType};
use tillgate_config::scalar::FilePath;
use tillgate_config::{bootstrap_endpoint, defaults, load_bootstrap};
use tillgate_core::endpoint::EndpointSpec;
use tillgate_core::reconcile::{HealthSpec, ProbationSpec};
use tillgate_core::tls::TrustAnchors;

use super::report::ReportSpec;
use crate::bundle::Archive;
use crate::bundle::keys::PrivateKey;
use crate::bundle::verify::{KeyRole, Trust, Verified, VerifyError};
use crate::cli::read_policy;
use crate::endpoint::private_text;
use crate::send::explain;
use crate::sources::relay::CLASS;
use crate::sources::{Place, Proof, Signers, SourceSpec, Ssh};
use crate::state::StateDir;

/// What a store knows by itself.
pub(crate) struct Spec {
    /// Its id.
    pub(crate) store: Arc<str>,
    pub(crate) state: StateDir,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) trust: Trust,
    pub(crate) probation: ProbationSpec,
    /// Where the secrets lie that policies name.
    pub(crate) secrets: Secrets,
    /// What it serves without a policy.
    pub(crate) minimal: Effective,
    /// Where sidecars and tools ask, if anywhere.
    pub(crate) endpoint: Option<EndpointSpec>,
    /// Where it reports to, if anywhere.
    pub(super) reporting: Option<ReportSpec>,
    /// What of the file is not built yet.
    pub(crate) not_in_effect: Vec<&'static str>,
}

impl Spec {
    /// Reads the file of `--bootstrap`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = read_policy(file)?;
        let name = file.display().to_string();
        let told = |report: tillgate_config::Report| {
            format!("{name}: {}\n{}", report.summary(), report.to_text().trim_end())
        };
        let document = load_bootstrap(&name, &text).map_err(told)?;
        let minimal = Effective::minimal(&document).map_err(told)?;
        let endpoint = bootstrap_endpoint(&name, &text).map_err(told)?;
        let spec = Self::of(&document, minimal);
        let spec = spec.map_err(|wrong| format!("{name}: {}", wrong.join("\n")))?;
        Ok(Self { endpoint, ..spec })
    }

    fn of(document: &BootstrapDoc, minimal: Effective) -> Result<Self, Vec<String>> {
        let spec = &document.spec;
        let mut wrong = Vec::new();
        if spec.role == RoleDoc::Sidecar {
            let how = "the role `Sidecar` has no Bootstrap: begin it with `tillgate sidecar`";
            wrong.push(how.to_owned());
        }
        let mut take =
            |found: Result<SourceSpec, String>| found.map_err(|why| wrong.push(why)).ok();
        let sources = spec.sources.iter().filter_map(|one| take(source(one))).collect();
        let trust = Trust::of(&spec.trust).unwrap_or_else(|why| {
            wrong.extend(why);
            Trust::default()
        });
        let may = trust.keys.iter().filter(|key| key.roles.contains(&KeyRole::Bundle)).count();
        if may < trust.threshold {
            wrong.push(format!(
                "a policy needs {} signatures, and {may} keys may sign one: add keys with the \
                 role `bundle`, or lower `threshold`",
                trust.threshold
            ));
        }
        let reporting = spec.reporting.as_ref().map(reporting).transpose();
        let reporting = reporting.unwrap_or_else(|why| {
            wrong.push(why);
            None
        });
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            store: spec.store_id.0.as_str().into(),
            state: StateDir::new(PathBuf::from(&spec.state_dir.0)),
            sources,
            trust,
            probation: probation(document),
            secrets: spec.secrets(),
            minimal,
            endpoint: None,
            reporting,
            not_in_effect: not_in_effect(document),
        })
    }

    /// Whether an archive counts that was brought with this `proof`.
    pub(crate) fn verify(&self, archive: &Archive, proof: Proof) -> Result<Verified, VerifyError> {
        match proof {
            Proof::Signatures => self.trust.verify(archive, Some(&self.store)),
            Proof::Commit | Proof::Nobody => Trust::unsigned(archive, &self.store),
        }
    }

    /// Whether an archive on this store's own disk counts: it was believed once, but keys change.
    pub(crate) fn verify_kept(&self, archive: &Archive) -> Result<Verified, VerifyError> {
        let plain = |source: &SourceSpec| source.allow_unsigned || source.is_git();
        if archive.signatures.is_empty() && self.sources.iter().any(plain) {
            return Trust::unsigned(archive, &self.store);
        }
        self.trust.verify(archive, Some(&self.store))
    }
}

fn source(document: &SourceDoc) -> Result<SourceSpec, String> {
    let name = &document.name.0;
    let url = || {
        let missing = || format!("the source `{name}` has no `url`: write where it is");
        document.url.as_ref().map(|url| url.0.clone()).ok_or_else(missing)
    };
    let file = |given: Option<&FilePath>| given.map(|file| Arc::clone(&file.0));
    let place = match document.source_type {
        SourceType::Directory => {
            let path = document
                .path
                .as_ref()
                .ok_or_else(|| format!("the source `{name}` has no `path`: write the folder's"))?;
            Place::Directory(PathBuf::from(&path.0))
        }
        SourceType::HttpBundle => {
            let url = url()?;
            if !url.starts_with("https://") && !url.starts_with("http://") {
                return Err(format!("the source `{name}`: {url} is no web server's address"));
            }
            Place::Http(url)
        }
        SourceType::Git => Place::Git {
            url: url()?,
            folder: document.path.as_ref().map(|path| path.0.clone()),
            reference: document.reference.as_ref().map_or("HEAD", |one| &one.0).to_owned(),
            signers: Signers {
                ssh: file(document.allowed_signers.as_ref()),
                open_pgp: file(document.keyring.as_ref()),
            },
            ssh: Ssh {
                identity: file(document.identity.as_ref()),
                known_hosts: file(document.known_hosts.as_ref()),
            },
        },
        SourceType::OciArtifact => {
            return Err(format!(
                "the source `{name}`: `OCIArtifact` is not built yet; use `HTTPBundle`, `Git` or \
                 `Directory`"
            ));
        }
    };
    let time = |given: Option<tillgate_config::scalar::DurationText>, default: Duration| {
        given.map_or(default, |text| text.0)
    };
    Ok(SourceSpec {
        name: name.as_str().into(),
        place,
        interval: document.interval.0,
        timeout: time(document.timeout, defaults::FETCH_TIMEOUT),
        long_poll: time(document.long_poll, Duration::ZERO),
        spread: time(document.spread, defaults::FETCH_SPREAD),
        allow_unsigned: document.allow_unsigned.is_some_and(|flag| flag.0),
    })
}

fn reporting(document: &ReportingDoc) -> Result<ReportSpec, String> {
    let key = document.key_file.as_ref().map(|file| {
        let text = private_text(&file.0).map_err(|error| explain(&error))?;
        PrivateKey::read(&text).map_err(|error| format!("{}: {error}", file.0.display()))
    });
    let key = key.transpose().map_err(|why| format!("`reporting.keyFile`: {why}"))?;
    let class = document.traffic_class.as_ref().map_or(CLASS, |name| name.0.as_str());
    let roots = document.ca_file.as_ref().map(|file| TrustAnchors::File(Arc::clone(&file.0)));
    let spec = ReportSpec {
        url: document.url.0.clone(),
        heartbeat: document.heartbeat.map_or(defaults::HEARTBEAT, |text| text.0),
        spread: defaults::FETCH_SPREAD,
        class: class.into(),
        roots: roots.unwrap_or(TrustAnchors::System),
        key,
    };
    spec.server().map_err(|why| format!("`reporting.url`: {why}"))?;
    Ok(spec)
}

fn probation(document: &BootstrapDoc) -> ProbationSpec {
    let given = document.spec.probation;
    let time = |text: Option<tillgate_config::scalar::DurationText>, default: Duration| {
        text.map_or(default, |text| text.0)
    };
    let least = time(given.and_then(|one| one.least), defaults::PROBATION_LEAST);
    let most = time(given.and_then(|one| one.most), defaults::PROBATION_MOST);
    let requests = given.and_then(|one| one.requests).map(|count| u64::from(count.fit::<u32>()));
    let requests = requests.unwrap_or(defaults::PROBATION_REQUESTS);
    ProbationSpec {
        least,
        requests,
        most: most.max(least),
        health: HealthSpec {
            samples: defaults::PROBATION_SAMPLES.min(requests),
            points: defaults::PROBATION_POINTS,
        },
    }
}

fn not_in_effect(document: &BootstrapDoc) -> Vec<&'static str> {
    let spec = &document.spec;
    let resolvers = spec.fixed.as_ref().is_some_and(|fixed| fixed.resolvers.is_some());
    let parts = [
        ("spec.static.resolvers", resolvers),
        ("spec.trust.rootVersion", spec.trust.root_version.is_some()),
    ];
    parts.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(change: impl Fn(&str) -> String) -> Result<Spec, String> {
        let text = include_str!("../../../../config/examples/fleet/bootstrap/store-0412.yaml");
        let name =
            format!("tillgate-bootstrap-{}-{:?}", std::process::id(), std::thread::current());
        let file = std::env::temp_dir().join(name.replace(['(', ')'], "-"));
        std::fs::write(&file, change(text)).unwrap();
        let spec = Spec::read(&file);
        let _ = std::fs::remove_file(file);
        spec
    }

    #[test]
    fn the_example_of_the_fleet_can_be_used() {
        let spec = example(str::to_owned).unwrap();
        assert_eq!((&*spec.store, spec.sources.len(), spec.trust.threshold), ("0412", 2, 1));
        assert_eq!(spec.sources[0].long_poll, Duration::from_secs(55));
        assert_eq!(spec.trust.keys[1].approves_as, Some(vec!["release-manager".into()]));
        assert_eq!(spec.probation.requests, defaults::PROBATION_REQUESTS);
        assert!(spec.minimal.egress.is_some() && spec.not_in_effect.is_empty());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let wrong = example(|text| {
            text.replace("threshold: 1", "threshold: 3")
                .replace("type: HTTPBundle", "type: OCIArtifact")
        });
        let wrong = wrong.err().unwrap();
        assert!(wrong.contains("needs 3 signatures, and 1 keys"), "{wrong}");
        assert!(wrong.contains("`OCIArtifact` is not built yet"), "{wrong}");
        let alone = example(|text| text.replace("role: Gateway", "role: Sidecar")).err().unwrap();
        assert!(alone.contains("begin it with `tillgate sidecar`"), "{alone}");
        let policy = example(|_| "apiVersion: tillgate.dev/v1alpha1\nkind: Freeze\n".to_owned());
        assert!(policy.is_err(), "another document is no Bootstrap");
    }
}
