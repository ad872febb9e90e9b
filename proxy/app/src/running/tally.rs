//! What a config has counted, for whoever judges it: requests by class, route and status code.

use std::sync::OnceLock;

use tillgate_net::metrics::{Label, RequestMeter};

use super::Running;

/// One series, as far as this config has counted into it.
pub(crate) struct Counted<'a> {
    pub(crate) class: &'a Label,
    pub(crate) route: &'a Label,
    pub(crate) code: &'static str,
    /// Since the process began; series outlive configs.
    pub(crate) count: u64,
    pub(crate) critical: bool,
    /// No rule of the policy says where such a request goes.
    pub(crate) unruled: bool,
}

impl Running {
    /// Tells every series of requests of routes, the forward proxy and other listeners.
    pub(crate) fn counted(&self, mut tell: impl FnMut(Counted<'_>)) {
        let mut tell_all = |meter: &RequestMeter, critical: bool, missing: &[&str]| {
            let (class, route) = meter.of();
            for (code, count) in meter.counted() {
                let unruled = missing.contains(&code);
                tell(Counted { class, route, code, count, critical, unruled });
            }
        };
        tell_all(&self.no_route, false, &["404"]);
        let by_class = |row: &[OnceLock<RequestMeter>],
                        missing: &[&str],
                        tell: &mut dyn FnMut(&RequestMeter, bool, &[&str])| {
            for (cell, class) in row.iter().zip(&self.classes) {
                if let Some(meter) = cell.get() {
                    tell(meter, class.spec.critical, missing);
                }
            }
        };
        for row in &self.routes {
            by_class(row, &[], &mut tell_all);
        }
        if let Some((unruled, rules)) = self.egress.split_last() {
            by_class(&unruled.requests, &["403"], &mut tell_all);
            for rule in rules {
                by_class(&rule.requests, &[], &mut tell_all);
            }
        }
        for listener in self.listeners.iter().filter_map(OnceLock::get) {
            tell_all(&listener.meter, self.class(listener.class).spec.critical, &[]);
        }
    }
}
