//! `sonde demo` as a newcomer runs it: it passes, and it fails when the promise is broken on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

fn demo(extra: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sonde"));
    command.args(["demo", "--duration", "8s", "--rate", "3000"]).args(extra);
    let out = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code(), text)
}

/// One after the other: the three would choose the same ports at the same time.
#[test]
fn the_demo_passes_and_notices_both_kinds_of_sabotage() {
    let (code, text) = demo(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("PASSED: every line is in the store exactly once"), "{text}");
    // Without Python the demo stands on its own comparison alone, and says so.
    let python = Command::new("python3").arg("--version").output().is_ok_and(|out| out.status.success());
    let (agrees, disagrees) = if python {
        (
            "verify.py (shares no code with Sonde) agrees:",
            "verify.py (shares no code with Sonde) does not agree:",
        )
    } else {
        eprintln!("SKIPPED the demo's second verifier: there is no python3 here");
        ("verify.py was not run", "verify.py was not run")
    };
    assert!(text.contains(agrees), "{text}");
    let (code, text) = demo(&["--sabotage", "drop"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the sabotage was noticed") && text.contains("not stored:"), "{text}");
    assert!(text.contains(disagrees), "{text}");
    let (code, text) = demo(&["--sabotage", "double"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the sabotage was noticed") && text.contains("stored twice:"), "{text}");
    assert!(text.contains(disagrees), "{text}");
}
