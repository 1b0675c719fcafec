//! What Linux knows about this process, under the names that every Prometheus client uses.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Read from `/proc` on every scrape; what cannot be read is left out.
#[derive(Debug)]
pub struct Process;

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
    threads: Option<u64>,
    start_seconds: Option<f64>,
}

/// Linux counts CPU time for user space in hundredths of a second, whatever the kernel's own rate (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

// === impl Reading ===

impl Reading {
    fn now() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let open_fds = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64);
        Self {
            open_fds,
            ..Self::parse(
                &text("/proc/self/stat"),
                &text("/proc/self/status"),
                &text("/proc/self/limits"),
                &text("/proc/stat"),
            )
        }
    }

    /// proc(5). The second field of `stat` is the name in brackets, and may hold anything, spaces too.
    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<f64>().ok();
        let line = |text: &str, key: &str| -> Option<String> {
            text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned())
        };
        let number = |text: Option<String>| text?.split_whitespace().next()?.parse::<u64>().ok();
        let booted = line(system, "btime ").and_then(|text| text.parse::<f64>().ok());
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: number(line(status, "VmRSS:")).map(|kib| kib * 1024),
            open_fds: None,
            max_fds: number(line(limits, "Max open files")),
            threads: number(line(status, "Threads:")),
            start_seconds: booted.zip(field(22)).map(|(booted, ticks)| booted + ticks / TICKS_PER_SECOND),
        }
    }
}

// === impl Process ===

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let reading = Reading::now();
        let mut write = |name: &str, help: &str, metric: Option<&dyn EncodeMetric>| -> fmt::Result {
            let Some(metric) = metric else { return Ok(()) };
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let cpu = reading.cpu_seconds.map(ConstCounter::new);
        let gauge = |value: Option<u64>| value.map(|value| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
        let (resident, open, max) = (gauge(reading.resident_bytes), gauge(reading.open_fds), gauge(reading.max_fds));
        let threads = gauge(reading.threads);
        let start = reading.start_seconds.map(ConstGauge::new);
        write("cpu_seconds", "CPU time used", cpu.as_ref().map(|m| m as &dyn EncodeMetric))?;
        write("resident_memory_bytes", "Memory in RAM", resident.as_ref().map(|m| m as &dyn EncodeMetric))?;
        write("open_fds", "Open file descriptors", open.as_ref().map(|m| m as &dyn EncodeMetric))?;
        write("max_fds", "File descriptors at most", max.as_ref().map(|m| m as &dyn EncodeMetric))?;
        write("threads", "Threads", threads.as_ref().map(|m| m as &dyn EncodeMetric))?;
        let help = "When the process started, in seconds since 1970";
        write("start_time_seconds", help, start.as_ref().map(|m| m as &dyn EncodeMetric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_survives_a_hostile_process_name() {
        let stat = "7 (a) b c) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 4 0 1000 9 9";
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t4\n";
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            20000   20000    files\n";
        let read = Reading::parse(stat, status, limits, "cpu 1 2\nbtime 1700000000\n");
        let expected = Reading {
            cpu_seconds: Some(3.0),
            resident_bytes: Some(2_097_152),
            open_fds: None,
            max_fds: Some(20_000),
            threads: Some(4),
            start_seconds: Some(1_700_000_010.0),
        };
        assert_eq!(read, expected);
        assert_eq!(Reading::parse("", "", "", ""), Reading::default());
    }
}
