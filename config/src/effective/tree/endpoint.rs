//! The config endpoint as plain data. Shown only where there is one; secrets are files.

use tillgate_core::endpoint::service_accounts::{AccountSpec, ServiceAccountsSpec};
use tillgate_core::endpoint::{EndpointSpec, EnrolmentSpec, HookKind, HookSpec, TokenSpec};
use tillgate_core::tls::{ClientAuth, TrustAnchors};

use super::{Value, duration_text, entry, list, map, named, text};

pub(super) fn of_endpoint(one: &EndpointSpec) -> Value {
    let tls = one.listener.tls.as_ref();
    let clients = tls.and_then(|tls| tls.client_certificates.as_ref());
    let auth = match clients.map(|clients| clients.mode) {
        Some(ClientAuth::Required) => "Mutual",
        Some(ClientAuth::Optional) | None => "Token",
    };
    let mut shown = vec![
        ("listen".to_owned(), text(one.listener.address)),
        ("clientAuth".to_owned(), text(auth)),
    ];
    if let Some(tls) = tls {
        shown.push(("tls".to_owned(), entry::of_server_tls(tls)));
    }
    shown.push(("auditDirectory".to_owned(), text(one.audit_directory.display())));
    shown.push(("tokens".to_owned(), named(&one.tokens, of_token)));
    shown.push(("hooks".to_owned(), named(&one.hooks, of_hook)));
    if one.enrolment.directory.is_some() {
        shown.push(("enrolment".to_owned(), of_enrolment(&one.enrolment)));
    }
    Value::Map(shown)
}

fn of_enrolment(one: &EnrolmentSpec) -> Value {
    let mut shown = vec![("certificateLifetime".to_owned(), text(duration_text(one.lifetime)))];
    if let Some(directory) = &one.directory {
        shown.push(("directory".to_owned(), text(directory.display())));
    }
    if let Some(accounts) = &one.service_accounts {
        shown.push(("serviceAccounts".to_owned(), of_accounts(accounts)));
    }
    Value::Map(shown)
}

fn of_accounts(one: &ServiceAccountsSpec) -> Value {
    let account = |one: &AccountSpec| (one.name.to_string(), text(&one.workload));
    let mut shown = vec![
        ("issuer".to_owned(), text(&one.issuer)),
        ("audience".to_owned(), text(&one.audience)),
        ("jwksFile".to_owned(), text(one.jwks_file.display())),
    ];
    if let Some(from) = &one.jwks_url {
        shown.push(("jwksUrl".to_owned(), text(&from.url)));
        if let TrustAnchors::File(file) = &from.roots {
            shown.push(("caFile".to_owned(), text(file.display())));
        }
        if let Some(file) = &from.token_file {
            shown.push(("tokenFile".to_owned(), text(file.display())));
        }
    }
    if !one.accounts.is_empty() {
        shown.push(("accounts".to_owned(), named(&one.accounts, account)));
    }
    Value::Map(shown)
}

fn of_token(one: &TokenSpec) -> (String, Value) {
    let roles: Vec<&str> = one.roles.iter().map(|role| role.name()).collect();
    let mut shown = vec![("roles".to_owned(), list(&roles, text))];
    if let Some(workload) = &one.workload {
        shown.push(("workload".to_owned(), text(workload)));
    }
    shown.push(("file".to_owned(), text(one.file.display())));
    (one.name.to_string(), Value::Map(shown))
}

fn of_hook(one: &HookSpec) -> (String, Value) {
    let kind = match one.kind {
        HookKind::GitHub => "GitHub",
        HookKind::Generic => "Generic",
        HookKind::GitLab => "GitLab",
    };
    let files = list(&one.secret_files, |file| text(file.display()));
    (one.name.to_string(), map([("type", text(kind)), ("secretFiles", files)]))
}
