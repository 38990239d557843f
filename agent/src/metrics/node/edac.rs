//! Errors that the memory controllers corrected or could not, from `/sys/devices/system/edac/mc` (kernel,
//! Documentation/admin-guide/RAS/main.rst). Virtual machines have none.

use crate::metrics::help;
use std::fs;
use std::path::{Path, PathBuf};

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::{number, read_once};

/// Most controllers, and most rows of a controller, that are looked at.
const MOST: usize = 256;

/// Family, its file in the controller's directory, of errors that no row is known of, and in a row's directory.
const KINDS: [(&str, &str, &str); 2] = [
    ("correctable_errors_total", "ce_count", "ce_noinfo_count"),
    ("uncorrectable_errors_total", "ue_count", "ue_noinfo_count"),
];

pub(super) fn collector(sys: &Path) -> Box<dyn Source> {
    let directory = sys.join("devices/system/edac/mc");
    source("edac", move |out| {
        show(&directory, out);
        Ok(())
    })
}

/// Directories that are called so and a number.
fn numbered(directory: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut all: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path()))
        })
        .take(MOST)
        .collect();
    all.sort();
    all
}

fn show(directory: &Path, out: &mut Sink) {
    let controllers = numbered(directory, "mc");
    let count = |path: &Path, file: &str| read_once(&path.join(file)).ok().as_deref().and_then(number);
    for (family, file, of_no_row) in KINDS {
        let mut rows = help::counter(out, &format!("node_edac_{family}"));
        for (controller, path) in &controllers {
            if let Some(errors) = count(path, file) {
                rows.row([("controller", controller.to_string().as_str())], errors);
            }
        }
        let mut rows = help::counter(out, &format!("node_edac_csrow_{family}"));
        for (controller, path) in &controllers {
            let controller = controller.to_string();
            let of_no_row = count(path, of_no_row).map(|errors| ("unknown".to_owned(), errors));
            let of_rows = numbered(path, "csrow");
            let of_rows =
                of_rows.iter().filter_map(|(row, path)| Some((row.to_string(), count(path, file)?)));
            for (row, errors) in of_no_row.into_iter().chain(of_rows) {
                rows.row([("controller", controller.as_str()), ("csrow", row.as_str())], errors);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_controller_and_by_row() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("mc0/ce_count", "5\n"),
            ("mc0/ce_noinfo_count", "1\n"),
            ("mc0/ue_count", "\u{fffd}"),
            ("mc0/csrow0/ce_count", "4\n"),
            ("mc0/csrow0/ue_count", "2\n"),
            ("mc0/csrowx/ce_count", "9\n"),
            ("mcx/ce_count", "9\n"),
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let path = dir.path().to_owned();
        let text = crate::metrics::tests::rendered(move |out| show(&path, out));
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            [
                r#"node_edac_correctable_errors_total{controller="0"} 5"#,
                r#"node_edac_csrow_correctable_errors_total{controller="0",csrow="unknown"} 1"#,
                r#"node_edac_csrow_correctable_errors_total{controller="0",csrow="0"} 4"#,
                r#"node_edac_csrow_uncorrectable_errors_total{controller="0",csrow="0"} 2"#,
            ]
        );
    }
}
