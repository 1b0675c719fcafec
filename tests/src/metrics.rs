//! Metrics as a scrape shows them: the Prometheus text format, read as far as tests need it.

use std::collections::BTreeMap;

/// Every sample of one scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(BTreeMap<String, Vec<(String, f64)>>);

// === impl Samples ===

impl Samples {
    /// Reads a scrape; lines that are no samples are passed over.
    pub fn read(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, rest) = match line.split_once('}') {
                Some((series, rest)) => (series, rest),
                None => line.split_once(' ').unwrap_or((line, "")),
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let value = rest.split_whitespace().next().and_then(|word| word.parse().ok());
            if let Some(value) = value {
                samples.0.entry(name.to_owned()).or_default().push((labels.to_owned(), value));
            }
        }
        samples
    }

    /// The sum over all series of a name.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, &[])
    }

    /// The sum over the series of a name that carry all these labels, each written `label="value"`.
    pub fn sum_where(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.0.get(name).into_iter().flatten();
        series.filter(|(have, _)| labels.iter().all(|label| have.contains(label))).map(|(_, value)| value).sum()
    }

    /// Whether there is a series of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\"} 4.5 # {id=\"7\"} 1\nb 1e3\n# EOF\n";
        let samples = Samples::read(text);
        assert_eq!(samples.sum("a_total"), 7.5);
        assert_eq!(samples.sum_where("a_total", &["x=\"1\""]), 3.0);
        assert_eq!(samples.sum("b"), 1000.0);
        assert_eq!((samples.sum("c"), samples.has("c"), samples.has("b")), (0.0, false, true));
    }
}
