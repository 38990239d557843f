use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;

const POD: &str = "shop_web-0_0d1c4a8e-0000-4000-a000-000000000001";

/// A chain of a compressed, a rotated and a live file; a long line goes from the second into the third.
fn files(root: &Path) {
    let dir = root.join(POD).join("web");
    fs::create_dir_all(&dir).unwrap();
    let mut gz =
        GzEncoder::new(File::create(dir.join("0.log.20261120-163501.gz")).unwrap(), Compression::fast());
    gz.write_all(b"2026-11-20T16:35:00.1Z stdout F one\n2026-11-20T16:35:00.2Z stderr F \n").unwrap();
    gz.finish().unwrap();
    fs::write(
        dir.join("0.log.20261120-163502"),
        b"2026-11-20T16:35:01.25Z stdout P tw\n2026-11-20T16:35:01.3Z stderr F \xff!\n",
    )
    .unwrap();
    fs::write(
        dir.join("0.log"),
        b"2026-11-20T16:35:02.5Z stdout F o\n2026-11-20T16:35:02.6Z stdout F three\n2026-11-20T16:35:02.7Z std",
    )
    .unwrap();
}

fn record(time: &str, stream: &str, body: &str) -> String {
    serde_json::json!({"time": time, "namespace": "shop", "pod": "web-0", "container": "web", "stream": stream,
                       "body": body, "uid": "x", "attributes": {}})
    .to_string()
}

fn export() -> Vec<String> {
    vec![
        record("2026-11-20T16:35:00.100000000Z", "stdout", "one"),
        record("2026-11-20T16:35:00.200000000Z", "stderr", ""),
        record("2026-11-20T16:35:01.250000000Z", "stdout", "two"),
        record("2026-11-20T16:35:01.300000000Z", "stderr", "\u{fffd}!"),
        record("2026-11-20T16:35:02.600000000Z", "stdout", "three"),
    ]
}

fn compare(export: &[String]) -> Report {
    let root = tempfile::tempdir().unwrap();
    files(root.path());
    Lines::read(root.path()).unwrap().compare(export.join("\n").as_bytes()).unwrap()
}

fn counts(report: &Report) -> (u64, u64, u64) {
    (report.missing, report.twice, report.unknown)
}

#[test]
fn a_faultless_store_agrees() {
    let report = compare(&export());
    assert!(report.agrees(), "{report:?}");
    assert_eq!((report.in_files, report.in_store), (5, 5));
}

#[test]
fn a_dropped_line_is_missing() {
    for at in 0..5 {
        let mut export = export();
        export.remove(at);
        let report = compare(&export);
        assert_eq!(counts(&report), (1, 0, 0));
        assert!(report.examples[0].starts_with("not stored: "), "{report:?}");
    }
}

#[test]
fn a_doubled_line_is_found() {
    let mut export = export();
    export.push(export[3].clone());
    let report = compare(&export);
    assert_eq!(counts(&report), (0, 1, 0));
    assert!(report.examples[0].contains("stored twice"), "{report:?}");
}

#[test]
fn an_altered_or_mislabelled_line_is_missing_and_unknown() {
    for (from, to) in [
        ("three", "thr\\u00e9e"),
        ("\"shop\"", "\"shot\""),
        ("stdout", "stderr"),
        ("web-0", "web-1"),
        ("02.600000000", "02.600000001"),
    ] {
        let mut export = export();
        let altered = export[4].replace(from, to);
        assert_ne!(altered, export[4]);
        export[4] = altered;
        assert_eq!(counts(&compare(&export)), (1, 0, 1), "{from} to {to}");
    }
}

#[test]
fn an_export_that_is_not_json_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    files(root.path());
    assert!(Lines::read(root.path()).unwrap().compare(&b"oops\n"[..]).is_err());
}
