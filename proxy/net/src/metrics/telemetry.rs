//! Instruments of telemetry itself: what of logs and spans never arrived.

use prometheus_client::metrics::counter::Counter;

use super::Metrics;
use super::known::known;

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
        let (lines, [access_dropped, log_dropped]) = known("log", ["access", "process"]);
        let (spans, [spans_exported, spans_dropped, spans_failed]) =
            known("result", ["exported", "dropped", "failed"]);
        metrics.with_registry(|registry| {
            let text = "log lines that were dropped because nobody wrote them fast enough";
            registry.register("log_lines_dropped", text, lines);
            let text = "spans, by what became of them: exported, dropped or failed";
            registry.register("trace_spans", text, spans);
        });
        Self { access_dropped, log_dropped, spans_exported, spans_dropped, spans_failed }
    }
}
