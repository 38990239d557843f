//! Finished log files of a known number of lines, for tests that read files from their start.

use std::io::Write;
use std::path::Path;

/// Writes `files` container logs with `lines` CRI entries each below `pod_logs`, about `bytes` bytes a line.
///
/// # Errors
/// The disk's.
pub fn write(pod_logs: &Path, files: usize, lines: usize, bytes: usize) -> anyhow::Result<()> {
    let pad = "x".repeat(bytes.saturating_sub(70));
    for file in 0..files {
        let uid = format!("{file:08x}-0000-4000-8000-000000000000");
        let dir = pod_logs.join(format!("ns-{}_pod-{file}_{uid}", file % 3)).join("app");
        std::fs::create_dir_all(&dir)?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(dir.join("0.log"))?);
        let now = now_seconds();
        for line in 0..lines {
            let (date, stamp) = (line / 1_000_000, line % 1_000_000);
            writeln!(
                out,
                "{}.{stamp:06}{:03}Z stdout F w{file} seq={line} {pad}",
                rfc3339(now + date as u64),
                file % 1000
            )?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.flush()?;
    }
    Ok(())
}

fn now_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_secs())
}

/// `YYYY-MM-DDTHH:MM:SS` of a Unix time (days to civil, Howard Hinnant's algorithm).
pub fn rfc3339(seconds: u64) -> String {
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days / 146_097;
    let doe = days % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let s = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
