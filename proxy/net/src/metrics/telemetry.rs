//! Instruments of telemetry itself: what of logs and spans never arrived.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogLabels {
    log: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpanLabels {
    result: &'static str,
}

/// What became of log lines and spans.
#[derive(Clone, Debug)]
pub struct TelemetryMeters {
    /// Lines of the access log that found its queue full.
    pub access_dropped: Counter,
    /// Lines of the process's own log that found its queue full.
    pub log_dropped: Counter,
    /// Spans that the collector has taken.
    pub spans_exported: Counter,
    /// Spans that found their queue full.
    pub spans_dropped: Counter,
    /// Spans that the collector refused, or could not be reached for.
    pub spans_failed: Counter,
}

impl TelemetryMeters {
    /// Adds them to what a scrape of `metrics` shows.
    pub fn register(metrics: &Metrics) -> Self {
        let lines: Family<LogLabels, Counter> = Family::default();
        let spans: Family<SpanLabels, Counter> = Family::default();
        metrics.with_registry(|registry| {
            let text = "log lines that were dropped because nobody wrote them fast enough";
            registry.register("log_lines_dropped", text, lines.clone());
            let text = "spans, by what became of them: exported, dropped or failed";
            registry.register("trace_spans", text, spans.clone());
        });
        let line = |log| lines.get_or_create_owned(&LogLabels { log });
        let span = |result| spans.get_or_create_owned(&SpanLabels { result });
        Self {
            access_dropped: line("access"),
            log_dropped: line("process"),
            spans_exported: span("exported"),
            spans_dropped: span("dropped"),
            spans_failed: span("failed"),
        }
    }
}
