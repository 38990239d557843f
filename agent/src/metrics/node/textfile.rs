//! Metrics that others leave as `*.prom` files in a directory, in Prometheus' text format.

use crate::metrics::help;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use sonde_daemon::page::{Kind, Sink, Source};

use crate::metrics::read::read_once;

/// Most files, and most samples of a file.
const MOST_FILES: usize = 256;
const MOST_SAMPLES: usize = 50_000;

/// The collector; without a directory it shows that nothing went wrong.
pub(super) struct Textfile {
    directory: Option<PathBuf>,
}

/// A sample of a file.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Why a file is left out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
struct ParseError {
    line: usize,
    what: &'static str,
}

impl Textfile {
    pub(super) fn new(directory: &str) -> Self {
        Self { directory: (!directory.is_empty()).then(|| directory.into()) }
    }
}

impl Source for Textfile {
    fn name(&self) -> &'static str {
        "textfile"
    }

    fn patience(&self) -> Option<Duration> {
        // The directory may be on a file system that hangs.
        self.directory.is_some().then_some(Duration::from_secs(1))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let mut errors = Vec::new();
        if let Some(directory) = &self.directory {
            match files(directory) {
                Ok(files) => {
                    for file in files {
                        if let Err(error) = show(&file, out) {
                            errors.push(format!("{}: {error}", file.display()));
                        }
                    }
                }
                Err(error) => errors.push(format!("{}: {error}", directory.display())),
            }
        }
        help::gauge(out, "node_textfile_scrape_error").row([], u64::from(!errors.is_empty()));
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "prom"))
        .take(MOST_FILES)
        .collect();
    files.sort();
    Ok(files)
}

fn show(path: &Path, out: &mut Sink) -> Result<(), String> {
    let text = read_once(path).map_err(|error| error.to_string())?;
    let (kinds, samples) = parse(&text).map_err(|error| error.to_string())?;
    for sample in &samples {
        // Series of histograms and summaries are plain rows here, under their own names.
        let kind = kinds.get(sample.name.as_str()).copied().unwrap_or(Kind::Untyped);
        let labels = sample.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        help::family(out, kind, &sample.name).row(labels, sample.value);
    }
    let changed = fs::metadata(path).and_then(|meta| meta.modified()).map_err(|error| error.to_string())?;
    let changed = changed.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let name = path.to_string_lossy();
    help::gauge(out, "node_textfile_mtime_seconds").row([("file", name.as_ref())], changed);
    Ok(())
}

type Parsed<'t> = (HashMap<&'t str, Kind>, Vec<Sample>);

/// A whole file, or nothing of it. Timestamps are refused, as node_exporter refuses them.
fn parse(text: &str) -> Result<Parsed<'_>, ParseError> {
    let mut kinds = HashMap::new();
    let mut samples = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let error = |what| ParseError { line: at + 1, what };
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if let (Some("TYPE"), Some(name), Some(kind)) = (words.next(), words.next(), words.next()) {
                match kind {
                    "counter" => kinds.insert(name, Kind::Counter),
                    "gauge" => kinds.insert(name, Kind::Gauge),
                    _ => kinds.insert(name, Kind::Untyped),
                };
            }
        } else if !line.is_empty() {
            if samples.len() == MOST_SAMPLES {
                return Err(error("too many samples"));
            }
            samples.push(parse_sample(line).map_err(error)?);
        }
    }
    Ok((kinds, samples))
}

fn parse_sample(line: &str) -> Result<Sample, &'static str> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace()).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    if name.is_empty() || !name.bytes().all(name_byte) || name.as_bytes()[0].is_ascii_digit() {
        return Err("no name of a metric");
    }
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        (labels, rest) = parse_labels(inside)?;
    }
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or("no value")?.parse().map_err(|_| "no number")?;
    if words.next().is_some() {
        return Err("a timestamp is not allowed");
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

type Labels<'t> = (Vec<(String, String)>, &'t str);

fn parse_labels(mut rest: &str) -> Result<Labels<'_>, &'static str> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (key, after) = rest.split_once('=').ok_or("a label without a value")?;
        let key = key.trim();
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if key.is_empty() || !key.bytes().all(good) || key.as_bytes()[0].is_ascii_digit() {
            return Err("no name of a label");
        }
        let text = after.trim_start().strip_prefix('"').ok_or("a label's value needs quotes")?;
        let mut value = String::new();
        let mut letters = text.char_indices();
        let end = loop {
            match letters.next().ok_or("a label's value does not end")? {
                (at, '"') => break at + 1,
                (_, '\\') => match letters.next().ok_or("a label's value does not end")?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.to_owned(), value));
        rest = text.get(end..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_taken_as_a_whole_or_not_at_all() {
        let good = "# HELP x y\n# TYPE x counter\nx{a=\"1\",b=\"q\\\"\\n}\",} 2\nrack 3e2\nbad_days NaN\n";
        let (kinds, samples) = parse(good).unwrap();
        assert_eq!(kinds["x"], Kind::Counter);
        let labels = vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "q\"\n}".to_owned())];
        assert_eq!(samples[0], Sample { name: "x".into(), labels, value: 2.0 });
        assert_eq!(samples.len(), 3);
        for (text, what) in [
            ("x", "no value"),
            ("x 1 1700000000000", "a timestamp is not allowed"),
            ("9x 1", "no name of a metric"),
            ("x{a=1} 1", "a label's value needs quotes"),
            ("x{a=\"1} 1", "a label's value does not end"),
            ("x{a} 1", "a label without a value"),
            ("x one", "no number"),
        ] {
            let error = parse(&format!("ok 1\n{text}\n")).unwrap_err();
            assert_eq!(error, ParseError { line: 2, what }, "{text}");
        }
    }

    #[test]
    fn a_broken_file_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.prom"), "a 1\n").unwrap();
        fs::write(dir.path().join("b.prom"), "b one\n").unwrap();
        fs::write(dir.path().join("c.txt"), "c 1\n").unwrap();
        let collector = Textfile::new(&dir.path().to_string_lossy());
        let mut sink = Sink::default();
        assert!(collector.collect(&mut sink).unwrap_err().contains("b.prom: line 1: no number"));
        // `a`, its mtime and the error.
        assert_eq!(sink.rows(), 3);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z{}=\"\\\\, 0-9\n#]{0,80}", any in "\\PC{0,60}") {
            let _ = (parse(&text).is_ok(), parse(&any).is_ok());
        }
    }
}
