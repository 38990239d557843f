//! The collector's pages in a real browser, with a real agent (`tests/page/run.js`).
//!
//! `tests/page/install` puts playwright-core and a Chromium below `target/page`; without them this test is skipped,
//! loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use sonde_tests::{daemon, root};

#[test]
fn the_page_finds_follows_and_never_runs_what_a_line_holds() {
    let exe = std::env::current_exe().unwrap();
    let places = [exe.ancestors().nth(3).unwrap().join("page"), root().join("target/page")];
    let Some(installed) = places.iter().find(|place| place.join("chromium").exists()) else {
        eprintln!(
            "SKIPPED the_page_finds_follows_and_never_runs_what_a_line_holds: no browser below target/page \
             (run tests/page/install)"
        );
        return;
    };
    let out = Command::new("node")
        .arg(root().join("tests/page/run.js"))
        .env("SONDE_PAGE", installed)
        .env("SONDE_BIN", daemon::binary("sonde-collector").unwrap().parent().unwrap())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}");
}
