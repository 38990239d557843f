//! One program for all targets: `SONDE_FUZZ_TARGET` names the one that libFuzzer feeds. With `SONDE_FUZZ_SEEDS` the inputs that it
//! begins with are written into that directory instead; without a target their names are printed.

#![no_main]

use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fn begin() {
    let mut targets: Vec<Target> = Vec::new();
    targets.extend(sonde_agent::fuzz::TARGETS);
    targets.extend(sonde_collector::fuzz::TARGETS);
    let name = std::env::var("SONDE_FUZZ_TARGET").unwrap_or_default();
    let Some((_, run, seeds)) = targets.iter().find(|(each, ..)| *each == name) else {
        targets.iter().for_each(|(name, ..)| println!("{name}"));
        exit(i32::from(!name.is_empty()));
    };
    if let Ok(dir) = std::env::var("SONDE_FUZZ_SEEDS") {
        for (number, seed) in seeds().iter().enumerate() {
            std::fs::write(Path::new(&dir).join(format!("seed-{number:02}")), seed)
                .expect("a writable directory");
        }
        exit(0);
    }
    // The index library panics over damaged files; the store catches that, so here it is no finding.
    let finding = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let of_index = info.location().is_some_and(|place| {
            ["tantivy", "census", "ownedbytes", "fst-"].iter().any(|name| place.file().contains(name))
        });
        let in_store =
            name == "store" && (of_index || info.location().is_some_and(|at| at.file().contains("/rustc/")));
        if !in_store {
            finding(info);
        }
    }));
    let _ = RUN.set(*run);
}

fuzz_target!(init: begin(), |data: &[u8]| {
    if let Some(run) = RUN.get() {
        run(data);
    }
});
