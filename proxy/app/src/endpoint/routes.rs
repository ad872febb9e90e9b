//! What the config endpoint answers: one table.
//!
//! The router, who may ask, the bounds of bodies, the OpenAPI document and the test that walks
//! every route with every role are all made from it, so none of them can say anything else.

use tillgate_core::endpoint::{Role, Roles};

/// One method of one path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) verb: Verb,
    pub(crate) access: Access,
    pub(crate) op: Op,
    /// What it takes.
    pub(crate) takes: Option<Takes>,
    /// Parameters of the query.
    pub(crate) query: &'static [Parameter],
    /// How it may succeed: status and media type, if there is a body.
    pub(crate) answers: &'static [(u16, Option<&'static str>)],
    /// How it may fail, beyond what every route may answer.
    pub(crate) errors: &'static [u16],
    pub(crate) meaning: &'static str,
}

/// A method of HTTP; GET answers HEAD as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    /// As HTTP writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whoever has one of these roles.
    Roles(Roles),
    /// Whoever has any role.
    AnyRole,
    /// Whoever signs the body with the receiver's secret.
    Signature,
    /// Whoever has an enrolment token, or a certificate of the store's own authority.
    Enrolment,
    /// Everyone: probes.
    Everyone,
}

/// A body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takes {
    /// Its media types; the first is what the OpenAPI document shows.
    pub(crate) types: &'static [&'static str],
    pub(crate) bytes_max: usize,
    /// Its schema's name in the OpenAPI document.
    pub(crate) schema: &'static str,
}

/// A parameter of a query.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    /// JSON Schema of its value.
    pub(crate) schema: &'static str,
    pub(crate) meaning: &'static str,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Config,
    Events,
    Register,
    Acknowledge,
    Instances,
    Status,
    Drift,
    Revisions,
    Revision,
    Difference,
    Validate,
    Plan,
    Explain,
    Reconcile,
    Pin,
    SetPin,
    Unpin,
    RollBack,
    Operation,
    Hook,
    Mint,
    Enrol,
    Audit,
    Windows,
    Overrides,
    Schema,
    OpenApi,
    Live,
    Ready,
    Started,
    Metrics,
}

pub(crate) const JSON: &str = "application/json";
/// The same, with the version of its shape.
pub(crate) const JSON_V1: &str = "application/vnd.tillgate.config.v1+json";
pub(crate) const PROBLEM: &str = "application/problem+json";
pub(crate) const EVENTS: &str = "text/event-stream";
pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const TEXT: &str = "text/plain";
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text";

const VIEWER: Access = Access::Roles(Roles::of(&[Role::Viewer, Role::Operator]));
const READER: Access = Access::Roles(Roles::of(&[Role::Viewer, Role::Operator, Role::Sidecar]));
const OPERATOR: Access = Access::Roles(Roles::of(&[Role::Operator]));
const AUDITOR: Access = Access::Roles(Roles::of(&[Role::Auditor]));
const SIDECAR: Access = Access::Roles(Roles::of(&[Role::Sidecar]));

const POLICY: Takes = Takes {
    types: &["application/yaml", "application/x-yaml", "text/yaml", "application/gzip"],
    bytes_max: 1024 * 1024,
    schema: "Policy",
};

/// Sixteen kibibytes: an acknowledgement with a long reason.
const NOTE_BYTES: usize = 16 * 1024;

const WAIT: &[Parameter] = &[
    Parameter {
        name: "wait",
        schema: r#"{"type":"string","pattern":"^[0-9]{1,5}s?$"}"#,
        meaning: "Hold the question for so many seconds until the digest is another one than \
                  If-None-Match says; the same as `Prefer: wait=`.",
    },
    Parameter {
        name: "role",
        schema: r#"{"type":"string","enum":["viewer","sidecar"]}"#,
        meaning: "Narrow what is shown to what this role sees.",
    },
    Parameter {
        name: "workload",
        schema: r#"{"type":"string","pattern":"^[\\w.-]+/[\\w.-]+$"}"#,
        meaning: "Narrow what is shown to what the sidecar of this workload sees, as `pos/checkout`; \
                  a sidecar may ask for its own.",
    },
];
const RANGE: &[Parameter] = &[
    Parameter {
        name: "from",
        schema: r#"{"type":"string","format":"date-time"}"#,
        meaning: "From when on; now without it.",
    },
    Parameter {
        name: "until",
        schema: r#"{"type":"string","format":"date-time"}"#,
        meaning: "Until when; a week without it, 400 days at most.",
    },
    Parameter { name: "rollout", schema: r#"{"type":"string"}"#, meaning: "One rollout." },
];
const RECORDS: &[Parameter] = &[
    Parameter {
        name: "after",
        schema: r#"{"type":"integer","minimum":0}"#,
        meaning: "The number after which records are sent; 0 without it.",
    },
    Parameter {
        name: "limit",
        schema: r#"{"type":"integer","minimum":0,"maximum":1000}"#,
        meaning: "How many at most; 100 without it.",
    },
];
const HOOK: Takes = Takes {
    types: &["application/json", "application/x-www-form-urlencoded"],
    bytes_max: 64 * 1024,
    schema: "Hook",
};
const VERBOSE: &[Parameter] = &[Parameter {
    name: "verbose",
    schema: r#"{"type":"string"}"#,
    meaning: "Say what was looked at.",
}];

const fn read(path: &'static str, op: Op, access: Access, meaning: &'static str) -> Route {
    Route {
        path,
        verb: Verb::Get,
        access,
        op,
        takes: None,
        query: &[],
        answers: &[(200, Some(JSON))],
        errors: &[],
        meaning,
    }
}

const fn probe(path: &'static str, op: Op, meaning: &'static str) -> Route {
    Route {
        query: VERBOSE,
        answers: &[(200, Some(TEXT))],
        errors: &[503],
        ..read(path, op, Access::Everyone, meaning)
    }
}

const fn check(path: &'static str, op: Op, meaning: &'static str) -> Route {
    Route {
        verb: Verb::Post,
        takes: Some(POLICY),
        errors: &[400, 408, 413, 415, 422, 429, 503],
        ..read(path, op, VIEWER, meaning)
    }
}

const fn note(route: Route, verb: Verb, schema: &'static str) -> Route {
    Route {
        verb,
        takes: Some(Takes { types: &[JSON], bytes_max: NOTE_BYTES, schema }),
        answers: &[(204, None)],
        ..route
    }
}

/// The table.
pub(crate) static ROUTES: [Route; 31] = [
    Route {
        query: WAIT,
        answers: &[(200, Some(JSON)), (200, Some(JSON_V1)), (304, None)],
        errors: &[400, 429, 503],
        ..read(
            "/v1/config",
            Op::Config,
            READER,
            "The effective config, as far as the caller may see it.",
        )
    },
    Route {
        answers: &[(200, Some(EVENTS))],
        errors: &[429, 503],
        ..read(
            "/v1/config/events",
            Op::Events,
            READER,
            "An event with the digest of each new config.",
        )
    },
    read("/v1/instances", Op::Instances, VIEWER, "The sidecars that this gateway configures."),
    Route {
        errors: &[400, 408, 409, 413, 415, 429],
        ..note(
            read(
                "/v1/instances/{id}",
                Op::Register,
                SIDECAR,
                "Registers an instance, or says that it lives; for 60 s.",
            ),
            Verb::Put,
            "Instance",
        )
    },
    Route {
        errors: &[400, 408, 409, 413, 415],
        ..note(
            read(
                "/v1/instances/{id}/ack",
                Op::Acknowledge,
                SIDECAR,
                "What an instance made of a config.",
            ),
            Verb::Post,
            "Acknowledgement",
        )
    },
    read("/v1/status", Op::Status, VIEWER, "What the gateway does right now."),
    read("/v1/drift", Op::Drift, VIEWER, "Where what runs is not what was wanted."),
    read(
        "/v1/revisions",
        Op::Revisions,
        VIEWER,
        "The configs that this store has run, newest first: as far back as its disk remembers, \
         where policy comes from sources.",
    ),
    Route {
        errors: &[404, 410, 429],
        ..read(
            "/v1/revisions/{digest}",
            Op::Revision,
            VIEWER,
            "One of them, by a digest of its config or of its bundle, or as `current`, `previous`, \
             `lkg` or `candidate`.",
        )
    },
    Route {
        errors: &[404, 410, 429],
        ..read(
            "/v1/revisions/{digest}/diff/{other}",
            Op::Difference,
            VIEWER,
            "What is different between two of them.",
        )
    },
    check("/v1/validate", Op::Validate, "Checks a policy and changes nothing."),
    check("/v1/plan", Op::Plan, "Checks a policy and says what it would change here."),
    Route {
        verb: Verb::Post,
        takes: Some(Takes { types: &[JSON], schema: "Question", ..POLICY }),
        errors: &[400, 408, 413, 415, 422, 429, 503],
        ..read("/v1/explain", Op::Explain, VIEWER, "What would happen to a request, and why.")
    },
    Route {
        verb: Verb::Post,
        answers: &[(202, Some(JSON))],
        errors: &[429],
        ..read("/v1/reconcile", Op::Reconcile, OPERATOR, "Looks for another policy now.")
    },
    read("/v1/pin", Op::Pin, OPERATOR, "Whether the store stays on a revision, and until when."),
    Route {
        errors: &[400, 404, 408, 409, 410, 412, 413, 415, 428, 429],
        answers: &[(200, Some(JSON))],
        ..note(
            read("/v1/pin", Op::SetPin, OPERATOR, "Keeps the store on what runs, for a while."),
            Verb::Put,
            "Pin",
        )
    },
    Route {
        verb: Verb::Delete,
        answers: &[(204, None)],
        errors: &[404, 409, 412, 429],
        ..read("/v1/pin", Op::Unpin, OPERATOR, "Lets the store follow its sources again.")
    },
    Route {
        errors: &[400, 404, 408, 409, 410, 412, 413, 415, 429],
        answers: &[(202, Some(JSON))],
        ..note(
            read(
                "/v1/rollback",
                Op::RollBack,
                OPERATOR,
                "Goes back to the last known good revision, or to another one, and stays there.",
            ),
            Verb::Post,
            "Rollback",
        )
    },
    Route {
        errors: &[404],
        ..read("/v1/operations/{id}", Op::Operation, VIEWER, "What became of what was asked for.")
    },
    Route {
        verb: Verb::Post,
        takes: Some(HOOK),
        answers: &[(202, Some(JSON))],
        errors: &[401, 404, 408, 413, 415, 429],
        ..read(
            "/v1/hooks/{receiver}",
            Op::Hook,
            Access::Signature,
            "A hint to look for another policy; what it says beyond that is not read.",
        )
    },
    Route {
        errors: &[400, 408, 409, 413, 415, 422, 429],
        answers: &[(201, Some(JSON))],
        ..note(
            read(
                "/v1/enrolments",
                Op::Mint,
                OPERATOR,
                "Mints a token with which one sidecar gets a certificate, once.",
            ),
            Verb::Post,
            "Enrolment",
        )
    },
    Route {
        errors: &[400, 408, 409, 413, 415, 422, 429],
        answers: &[(201, Some(JSON))],
        ..note(
            read(
                "/v1/enrol",
                Op::Enrol,
                Access::Enrolment,
                "Signs a sidecar's key, for a token or for the certificate that it has.",
            ),
            Verb::Post,
            "CertificateRequest",
        )
    },
    Route {
        query: RECORDS,
        answers: &[(200, Some(NDJSON))],
        errors: &[400, 404],
        ..read("/v1/audit", Op::Audit, AUDITOR, "What happened here, when and by whom.")
    },
    Route {
        query: RANGE,
        errors: &[400],
        ..read("/v1/windows", Op::Windows, VIEWER, "When this store may change.")
    },
    read("/v1/overrides", Op::Overrides, VIEWER, "Signed exceptions, active and expired."),
    Route {
        answers: &[(200, Some(JSON)), (304, None)],
        errors: &[404],
        ..read(
            "/v1/schema/{name}",
            Op::Schema,
            Access::AnyRole,
            "The JSON Schema of a kind, or `all.json`.",
        )
    },
    Route {
        answers: &[(200, Some(JSON)), (304, None)],
        ..read("/v1/openapi.json", Op::OpenApi, Access::AnyRole, "This document.")
    },
    probe("/livez", Op::Live, "Whether the process lives."),
    probe("/readyz", Op::Ready, "Whether it should get traffic."),
    probe("/startupz", Op::Started, "Whether it has begun to serve."),
    Route {
        answers: &[(200, Some(OPEN_METRICS))],
        ..read("/metrics", Op::Metrics, VIEWER, "All instruments.")
    },
];

/// The routes of one path.
pub(crate) fn at(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| route.path == path)
}

/// What `Allow` says of a path.
pub(crate) fn allowed(path: &str) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for route in at(path) {
        methods.push(route.verb.name());
        if route.verb == Verb::Get {
            methods.push("HEAD");
        }
    }
    methods.join(", ")
}
