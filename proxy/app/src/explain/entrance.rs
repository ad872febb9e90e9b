//! By which way a request comes, as a question names it.

use http::Method;
use tillgate_config::effective::Effective;
use tillgate_core::listener::{ListenerProtocol, ListenerSpec};

/// The HTTP entry, as a question calls it.
const HTTP: &str = "http";
/// The forward proxy.
pub(crate) const FORWARD_PROXY: &str = "forward-proxy";
/// TLS that is passed on.
const TLS_PASSTHROUGH: &str = "tls-passthrough";

/// Where a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance<'a> {
    /// At the HTTP entry. Nobody may have said so.
    Http {
        /// Whether the question says it.
        is_said: bool,
    },
    /// At the forward proxy, by this name.
    ForwardProxy(&'a str),
    /// At a listener that passes TLS on.
    Passthrough(&'a ListenerSpec),
}

impl<'a> Entrance<'a> {
    /// The one that is called `via`, or of whose kind that is. Where nobody says it, CONNECT is the
    /// forward proxy's and everything else the HTTP entry's.
    ///
    /// # Errors
    /// If there is none, or none of which the policy decides by a request's head.
    pub(crate) fn find(
        effective: &'a Effective,
        via: Option<&'a str>,
        method: &Method,
    ) -> Result<Self, String> {
        let Some(via) = via else {
            let is_tunnel = *method == Method::CONNECT;
            let plain = Self::Http { is_said: false };
            return Ok(if is_tunnel { Self::ForwardProxy(FORWARD_PROXY) } else { plain });
        };
        if let Some(spec) = effective.listeners.iter().find(|spec| *spec.name == *via) {
            return match spec.protocol {
                ListenerProtocol::Http => Ok(Self::Http { is_said: true }),
                ListenerProtocol::ForwardProxy => Ok(Self::ForwardProxy(&spec.name)),
                ListenerProtocol::TlsPassthrough => Ok(Self::Passthrough(spec)),
                ListenerProtocol::Admin
                | ListenerProtocol::Tcp
                | ListenerProtocol::Udp
                | ListenerProtocol::Registry
                | ListenerProtocol::ConfigEndpoint => {
                    Err(format!("`via`: no route and no rule decides what `{via}` does"))
                }
            };
        }
        match via {
            HTTP => Ok(Self::Http { is_said: true }),
            FORWARD_PROXY => Ok(Self::ForwardProxy(FORWARD_PROXY)),
            TLS_PASSTHROUGH => Self::only_passthrough(effective),
            other => Err(format!(
                "`via`: no listener is called `{other}`: write `{HTTP}`, `{FORWARD_PROXY}`, \
                 `{TLS_PASSTHROUGH}` or the name of a listener"
            )),
        }
    }

    /// Listeners that do the same are one.
    fn only_passthrough(effective: &'a Effective) -> Result<Self, String> {
        let is_one = |spec: &&ListenerSpec| spec.protocol == ListenerProtocol::TlsPassthrough;
        let mut all = effective.listeners.iter().filter(is_one);
        let Some(first) = all.next() else {
            return Err("`via`: no listener passes TLS on".to_owned());
        };
        let does = |spec: &ListenerSpec| (spec.destination_port, spec.class);
        match all.find(|spec| does(spec) != does(first)) {
            None => Ok(Self::Passthrough(first)),
            Some(other) => Err(format!(
                "`via`: several listeners pass TLS on, each in its own way: name one, such as \
                 `{}` or `{}`",
                first.name, other.name
            )),
        }
    }
}
