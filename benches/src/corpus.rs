//! Log files in the CRI format, of a given total size, with bodies that compress like logs do.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What a line's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Words and numbers; the whole CRI line is about 200 bytes.
    Plain,
    /// A JSON object with level and trace id; the whole CRI line is about 300 bytes.
    Json,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The `pod_logs` directory.
    pub pod_logs: PathBuf,
    /// The files, for the floor.
    pub files: Vec<PathBuf>,
    /// Bytes in all.
    pub bytes: u64,
    /// Lines in all.
    pub lines: u64,
}

/// Writes `files` files of `total / files` bytes each below `dir`.
///
/// # Errors
/// The disk's.
pub fn write(dir: &Path, shape: Shape, files: usize, total: u64) -> anyhow::Result<Corpus> {
    let mut corpus = Corpus { pod_logs: dir.to_owned(), files: Vec::new(), bytes: 0, lines: 0 };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for file in 0..files {
        let pod = dir.join(format!("bench_pod-{file}_{file:08x}-0000-4000-8000-000000000000")).join("app");
        std::fs::create_dir_all(&pod)?;
        let path = pod.join("0.log");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        let (mut written, mut line) = (0, 0_u64);
        let mut text = Vec::with_capacity(512);
        while written < total / files as u64 {
            text.clear();
            entry(&mut text, shape, file, line, &mut random)?;
            out.write_all(&text)?;
            written += text.len() as u64;
            line += 1;
        }
        out.flush()?;
        corpus.files.push(path);
        corpus.bytes += written;
        corpus.lines += line;
    }
    Ok(corpus)
}

fn entry(out: &mut Vec<u8>, shape: Shape, file: usize, line: u64, random: &mut u64) -> std::io::Result<()> {
    let mut next = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    };
    let (second, nanos) = (line / 10_000 % 60, line % 10_000 * 100_000 + file as u64 % 1000);
    let minute = line / 600_000 % 60;
    write!(out, "2026-11-20T10:{minute:02}:{second:02}.{nanos:09}Z stdout F ")?;
    let (user, item, took) = (next() % 100_000, next() % 1_000_000, next() % 5_000);
    match shape {
        Shape::Plain => writeln!(
            out,
            "request {line} from 10.{}.{}.{} user {user:05} GET /api/v1/items/{item:06}?page={} status 200 took {took:04} us cache {} upstream pool-{:02} session {:016x}",
            next() % 256,
            next() % 256,
            next() % 256,
            next() % 50,
            if next() % 3 == 0 { "hit " } else { "miss" },
            next() % 32,
            next(),
        ),
        Shape::Json => writeln!(
            out,
            "{{\"ts\":\"2026-11-20T10:{minute:02}:{second:02}Z\",\"level\":\"{}\",\"msg\":\"request served\",\"seq\":{line},\"user\":{user},\"item\":{item},\"took_us\":{took},\"trace_id\":\"{:016x}{:016x}\",\"span_id\":\"{:016x}\",\"path\":\"/api/v1/items\"}}",
            if next() % 20 == 0 { "warn" } else { "info" },
            next(),
            next(),
            next(),
        ),
    }
}
