//! The config endpoint: who may ask what of a store.
//!
//! Roles come from the names in a verified certificate (`tillgate://viewer/anna`) or from a token
//! of the policy. A route names the roles that it answers; whoever has none of them is refused.
//! Nothing here knows HTTP, and nothing compares secrets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::service_accounts::ServiceAccountsSpec;
use crate::listener::ListenerSpec;
use crate::tls::ClientIdentity;

pub mod service_accounts;

/// The config endpoint of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its listener; always with TLS.
    pub listener: ListenerSpec,
    /// Tokens that are a credential beside certificates.
    pub tokens: Vec<TokenSpec>,
    /// Where the audit log is kept.
    pub audit_directory: Arc<Path>,
    /// Who may say that there is something new.
    pub hooks: Vec<HookSpec>,
    /// How sidecars get certificates of the store's own authority.
    pub enrolment: EnrolmentSpec,
}

/// Enrolment of sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentSpec {
    /// Where the authority and the tokens are kept; `None` = there is no enrolment, because
    /// nothing says where, or nobody without a certificate may ask.
    pub directory: Option<Arc<Path>>,
    /// How long a sidecar's certificate is good.
    pub lifetime: Duration,
    /// Pods whose tokens are exchanged for a certificate.
    pub service_accounts: Option<ServiceAccountsSpec>,
}

/// A token, by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// Who has it, for the audit log.
    pub name: Arc<str>,
    /// What it opens.
    pub roles: Roles,
    /// The workload that its sidecar stands beside, as `pos/checkout`.
    pub workload: Option<Arc<str>>,
    /// The file that holds it.
    pub file: Arc<Path>,
}

/// A receiver of webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSpec {
    /// Its name in the path.
    pub name: Arc<str>,
    /// How its messages prove where they come from.
    pub kind: HookKind,
    /// Files of its secrets; two while one replaces the other.
    pub secret_files: Vec<Arc<Path>>,
}

/// How a webhook proves where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// `X-Hub-Signature-256: sha256=<hex>`.
    GitHub,
    /// `X-Signature: sha256=<hex>`.
    Generic,
    /// `X-Gitlab-Token`, the secret itself.
    GitLab,
}

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads what runs here.
    Viewer,
    /// A proxy beside a workload: reads its own slice.
    Sidecar,
    /// Does what the policy leaves to people; reads what a viewer reads.
    Operator,
    /// Reads the audit log.
    Auditor,
}

impl Role {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Sidecar, Self::Operator, Self::Auditor];

    /// Its name in policy, certificates and the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Sidecar => "sidecar",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }

    /// The role called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Some roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// None.
    pub const NONE: Self = Self(0);

    /// These.
    pub const fn of(roles: &[Role]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < roles.len() {
            bits |= 1 << roles[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// The same and `role`.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role as u8)
    }

    /// Whether `role` is among them.
    pub const fn has(self, role: Role) -> bool {
        self.0 & 1 << role as u8 != 0
    }

    /// Whether one of them is among `wanted`.
    pub const fn meets(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// `certificate:anna`, `token:grafana`: for the audit log.
    pub actor: Arc<str>,
    /// The name alone: the id of a sidecar's own instance.
    pub name: Arc<str>,
    /// What it may.
    pub roles: Roles,
    /// The workload that a sidecar stands beside, where its credential says so.
    pub workload: Option<Arc<str>>,
    /// The service account that a sidecar's certificate was given for, as `shop/basket`.
    pub account: Option<Arc<str>>,
}

/// What names that carry a role begin with.
const SCHEME: &str = "URI:tillgate://";

/// What stands in the place of a role before the workload of a sidecar.
const WORKLOAD: &str = "workload";

/// And before the service account of a pod.
const ACCOUNT: &str = "account";

/// What the names of pods' sidecars begin with, and no others: no name in a policy has a `_`.
pub const POD: &str = "pod_";

/// The longest name of a caller: what DNS allows.
const NAME_MAX: usize = 253;

impl Who {
    /// Whom a verified certificate describes: each `URI:tillgate://ROLE/NAME` among its names is
    /// a role, `URI:tillgate://workload/NAMESPACE/NAME` what a sidecar stands beside, and
    /// `URI:tillgate://account/NAMESPACE/NAME` whose token it came with. `None` without any role,
    /// and where they disagree about the name, the workload or the account.
    pub fn of_certificate(identity: &ClientIdentity) -> Option<Self> {
        let mut roles = Roles::NONE;
        let mut name: Option<&str> = None;
        let (mut workload, mut account): (Option<&str>, Option<&str>) = (None, None);
        for san in &identity.sans {
            let Some(rest) = san.strip_prefix(SCHEME) else { continue };
            let (role, who) = rest.split_once('/')?;
            let beside = match role {
                WORKLOAD => Some(&mut workload),
                ACCOUNT => Some(&mut account),
                _ => None,
            };
            if let Some(beside) = beside {
                if !is_workload(who) || beside.is_some_and(|other| other != who) {
                    return None;
                }
                *beside = Some(who);
                continue;
            }
            let role = Role::by_name(role)?;
            if !is_name(who) || name.is_some_and(|other| other != who) {
                return None;
            }
            name = Some(who);
            roles = roles.with(role);
        }
        let name = name?;
        let actor = format!("certificate:{name}").into();
        let (workload, account) = (workload.map(Arc::from), account.map(Arc::from));
        Some(Self { actor, name: name.into(), roles, workload, account })
    }

    /// The names with which [`Who::of_certificate`] knows the sidecar `id`, as URIs.
    pub fn sidecar_names(id: &str, workload: Option<&str>, account: Option<&str>) -> Vec<String> {
        let role = |role: &str, name: &str| format!("tillgate://{role}/{name}");
        let workload = workload.map(|workload| role(WORKLOAD, workload));
        let account = account.map(|account| role(ACCOUNT, account));
        [role(Role::Sidecar.name(), id)].into_iter().chain(workload).chain(account).collect()
    }

    /// Whoever has this token.
    pub fn of_token(token: &TokenSpec) -> Self {
        Self {
            actor: format!("token:{}", token.name).into(),
            name: Arc::clone(&token.name),
            roles: token.roles,
            workload: token.workload.clone(),
            account: None,
        }
    }
}

/// Whether `text` can name a caller, an instance or a receiver in a path.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(fits) && !text.starts_with('.')
}

/// Whether `text` is a workload, as `pos/checkout`.
pub fn is_workload(text: &str) -> bool {
    text.split_once('/').is_some_and(|(space, name)| is_name(space) && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(sans: &[&str]) -> Option<Who> {
        let sans = sans.iter().map(|san| Arc::from(*san)).collect();
        Who::of_certificate(&ClientIdentity { sans, ..ClientIdentity::default() })
    }

    #[test]
    fn a_certificate_says_who_and_what() {
        let anna = who(&["DNS:anna.example", "URI:tillgate://viewer/anna"]).unwrap();
        assert_eq!((&*anna.actor, &*anna.name), ("certificate:anna", "anna"));
        assert!(anna.roles.has(Role::Viewer) && !anna.roles.has(Role::Operator));
        let both = who(&["URI:tillgate://viewer/anna", "URI:tillgate://auditor/anna"]).unwrap();
        assert_eq!(both.roles.iter().collect::<Vec<_>>(), [Role::Viewer, Role::Auditor]);
        assert_eq!(both.workload, None);
        let beside = ["URI:tillgate://workload/pos/checkout", "URI:tillgate://sidecar/pos-1"];
        let sidecar = who(&beside).unwrap();
        assert_eq!(sidecar.workload.as_deref(), Some("pos/checkout"));
        let names = Who::sidecar_names(&sidecar.name, sidecar.workload.as_deref(), None);
        let names: Vec<String> = names.iter().map(|name| format!("URI:{name}")).collect();
        assert_eq!(who(&[&names[0], &names[1]]).unwrap(), sidecar);
        let names = Who::sidecar_names("pod_pos.till", Some("pos/till"), Some("pos/robot"));
        let names: Vec<String> = names.iter().map(|name| format!("URI:{name}")).collect();
        let pod = who(&[&names[0], &names[1], &names[2]]).unwrap();
        assert_eq!((&*pod.name, pod.account.as_deref()), ("pod_pos.till", Some("pos/robot")));
    }

    #[test]
    fn what_is_not_a_role_opens_nothing() {
        for sans in [
            &[][..],
            &["DNS:viewer"],
            &["URI:spiffe://store/viewer/anna"],
            &["URI:tillgate://viewer"],
            &["URI:tillgate://viewer/"],
            &["URI:tillgate://Viewer/anna"],
            &["URI:tillgate://root/anna"],
            &["URI:tillgate://viewer/anna/b"],
            &["URI:tillgate://viewer/.."],
            &["URI:tillgate://viewer/a%2Fb"],
            &["URI:tillgate://viewer/anna", "URI:tillgate://operator/otto"],
            &["URI:tillgate://viewer/anna", "URI:tillgate://root/anna"],
            &["URI:tillgate://workload/pos/checkout"],
            &["URI:tillgate://sidecar/a", "URI:tillgate://workload/checkout"],
            &["URI:tillgate://sidecar/a", "URI:tillgate://workload/pos/a/b"],
            &[
                "URI:tillgate://sidecar/a",
                "URI:tillgate://workload/pos/a",
                "URI:tillgate://workload/pos/b",
            ],
        ] {
            assert_eq!(who(sans), None, "{sans:?}");
        }
    }

    #[test]
    fn roles_are_a_set() {
        let some = Roles::of(&[Role::Viewer, Role::Auditor]);
        assert!(some.meets(Roles::of(&[Role::Auditor])));
        assert!(!some.meets(Roles::of(&[Role::Operator, Role::Sidecar])));
        assert!(!Roles::NONE.meets(Roles::of(&Role::ALL)) && Roles::NONE.is_empty());
    }
}
