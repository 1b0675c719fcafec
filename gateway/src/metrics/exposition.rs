//! The two text formats that metrics are asked for in. Pure.
//!
//! prometheus-client writes OpenMetrics. Scrapers that do not accept it get the older text format of Prometheus, which differs in
//! little: the type of a counter is told under the name that its samples have, and nothing marks the end.

use http::HeaderMap;
use http::header::ACCEPT;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own, version 0.0.4.
    Prometheus,
}

// === impl Exposition ===

impl Exposition {
    /// What a scraper asks for; OpenMetrics only if it names it, and does not rank it below the other.
    pub fn asked(headers: &HeaderMap) -> Self {
        let ranges = headers.get_all(ACCEPT).iter().flat_map(|value| value.to_str().unwrap_or_default().split(','));
        let (mut open, mut plain) = (0.0, 0.0);
        for range in ranges {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f32>().ok()).unwrap_or(1.0);
            match kind.as_str() {
                "application/openmetrics-text" => open = weight.max(open),
                "text/plain" => plain = weight.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of a text in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What was written as OpenMetrics, in this format.
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => prometheus(&open_metrics),
        }
    }
}

fn prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // HELP comes before TYPE, and needs to know it.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = if matches!(kind, "counter" | "gauge" | "histogram" | "summary") { kind } else { "untyped" };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                out.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        } else {
            // `# EOF` and `# UNIT` are comments there.
            help = help.filter(|_| line.starts_with("# UNIT"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::registry::Metrics;
    use http::HeaderValue;

    fn asked(accept: &[&str]) -> Exposition {
        let headers = accept.iter().map(|accept| (ACCEPT, HeaderValue::from_str(accept).unwrap())).collect();
        Exposition::asked(&headers)
    }

    #[test]
    fn openmetrics_is_given_to_those_who_ask_for_it() {
        use Exposition::{OpenMetrics, Prometheus};
        let scraper = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (&[][..], Prometheus),
            (&["*/*"], Prometheus),
            (&["text/html, */*"], Prometheus),
            (&["text/plain"], Prometheus),
            (&["application/openmetrics-text"], OpenMetrics),
            (&[scraper], OpenMetrics),
            (&["application/openmetrics-text;q=0"], Prometheus),
            (&["application/openmetrics-text;q=0.1, text/plain"], Prometheus),
            (&["text/plain;q=0.1", "Application/OpenMetrics-Text"], OpenMetrics),
        ] {
            assert_eq!(asked(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_text_of_prometheus_names_counters_by_their_samples() {
        let text = "# HELP a_posts Posts, all.\n# TYPE a_posts counter\na_posts_total{x=\"# y\"} 3\n# HELP a_open Open\n# TYPE a_open gauge\n\
                    # UNIT a_open s\na_open 1\n# TYPE b info\nb_info 1\n# EOF\n";
        let expected = "# HELP a_posts_total Posts, all.\n# TYPE a_posts_total counter\na_posts_total{x=\"# y\"} 3\n# HELP a_open Open\n\
                        # TYPE a_open gauge\na_open 1\n# TYPE b untyped\nb_info 1\n";
        assert_eq!(Exposition::Prometheus.of(text.to_owned()), expected);
        assert_eq!(Exposition::OpenMetrics.of(text.to_owned()), text);
    }

    #[test]
    fn every_sample_is_in_both() {
        let text = Metrics::new(2).text().unwrap();
        let samples =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        let plain = Exposition::Prometheus.of(text.clone());
        assert_eq!(samples(&plain), samples(&text));
        assert!(plain.contains("# TYPE tidings_requests_total counter\n") && !plain.contains("# EOF"), "{plain}");
    }
}
