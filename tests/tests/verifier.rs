//! The verifier itself: it notices what it is there to notice, and its rules are the ones it claims.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::process::{Command, Stdio};

use sonde_tests::{root, verify};

#[test]
fn every_kind_of_fault_is_found() {
    if !verify::python() {
        eprintln!("SKIPPED every_kind_of_fault_is_found: no python3 on this machine");
        return;
    }
    let out =
        Command::new("python3").arg(root().join("tests/verify.py")).arg("--self-test").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("swap") && text.contains("0 wrong"), "{text}");
}

/// Reads pairs of hexadecimal lines: raw bytes, and what Rust made of them.
const CHECK: &str = "
import sys
sys.path.insert(0, sys.argv[1])
import verify
lines = sys.stdin.read().split('\\n')
for raw, lossy in zip(lines[0::2], lines[1::2]):
    assert verify.lossy(bytes.fromhex(raw)) == bytes.fromhex(lossy), raw
print(len(lines) // 2)
";

#[test]
fn invalid_utf8_is_replaced_as_rust_replaces_it() {
    if !verify::python() {
        eprintln!("SKIPPED invalid_utf8_is_replaced_as_rust_replaces_it: no python3 on this machine");
        return;
    }
    let mut child = Command::new("python3")
        .args(["-B", "-c", CHECK])
        .arg(root().join("tests"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Lead, continuation and other bytes in such a mix that most sequences are nearly valid.
    let palette =
        b"a\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff";
    let mut state = 0x9e37_79b9_u64;
    let mut text = String::new();
    for length in (1..9).cycle().take(20_000) {
        let raw: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                palette[usize::try_from(state >> 40).unwrap() % palette.len()]
            })
            .collect();
        text += &format!("{}\n{}\n", hex(&raw), hex(String::from_utf8_lossy(&raw).as_bytes()));
    }
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "20000");
}

#[test]
fn what_is_no_log_file_is_named_and_what_cannot_be_read_fails_it() {
    if !verify::python() {
        eprintln!(
            "SKIPPED what_is_no_log_file_is_named_and_what_cannot_be_read_fails_it: no python3 on this machine"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let container = dir.path().join("pods/shop_web-0_4ac1/app");
    std::fs::create_dir_all(container.join("0.log")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    let pipe = container.join("1.log");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("/nowhere", container.join("4.log")).unwrap();
    let export = dir.path().join("export");
    std::fs::write(&export, "").unwrap();
    let verify = |export: &str| {
        let out = Command::new("python3")
            .args(["-B".as_ref(), root().join("tests/verify.py").as_os_str(), "--logs".as_ref()])
            .args([dir.path().join("pods").as_os_str(), "--export".as_ref(), export.as_ref()])
            .output()
            .unwrap();
        let text =
            [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!text.contains("Traceback"), "{text}");
        (out.status.code(), text)
    };
    let export = export.to_str().unwrap();
    let (code, text) = verify(export);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("0.log is a directory") && text.contains("1.log is a pipe"), "{text}");

    for (name, bytes) in
        [("2.log.gz", &b"no gzip at all, but long enough"[..]), ("3.log.gz", b"\x1f\x8b\x08\0\0\0")]
    {
        std::fs::write(container.join(name), bytes).unwrap();
        let (code, text) = verify(export);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("/{name}: ")), "{text}");
        std::fs::remove_file(container.join(name)).unwrap();
    }
    std::fs::write(export, "[1]\n\"x\"\n{\"uid\":[],\"body\":\"\",\"time\":\"\"}\nnull\n").unwrap();
    assert_eq!(verify(export).0, Some(1));
    assert_eq!(verify("/no/such/file").0, Some(2));
    assert_eq!(verify("http://127.0.0.1:1/").0, Some(2));
}
