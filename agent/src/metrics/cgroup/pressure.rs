//! Pressure stall information (kernel, Documentation/accounting/psi.rst); v2 only.

use super::Files;
use crate::metrics::read::float;

/// Seconds in which tasks waited for one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some task waited.
    pub some_seconds: f64,
    /// All tasks waited.
    pub full_seconds: f64,
}

/// Pressure of the three resources.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressures {
    /// For CPU.
    pub cpu: Pressure,
    /// For memory.
    pub memory: Pressure,
    /// For IO.
    pub io: Pressure,
}

/// Reads a cgroup; `None` where the kernel does not account (no `CONFIG_PSI`, `psi=0`: the read is refused).
pub(super) fn read(files: &mut Files<'_>) -> Option<Pressures> {
    Some(Pressures {
        cpu: files.read("cpu.pressure").and_then(parse)?,
        memory: files.read("memory.pressure").and_then(parse)?,
        io: files.read("io.pressure").and_then(parse)?,
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=12` and the same with `full`, in microseconds.
pub(in crate::metrics) fn parse(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut known = false;
    for line in text.lines() {
        let Some((which, rest)) = line.split_once(' ') else { continue };
        let total = rest.split(' ').find_map(|word| word.strip_prefix("total="));
        let Some(Ok(total)) = total.map(str::parse::<u64>) else { continue };
        match which {
            "some" => pressure.some_seconds = float(total) / 1e6,
            "full" => pressure.full_seconds = float(total) / 1e6,
            _ => continue,
        }
        known = true;
    }
    known.then_some(pressure)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn totals_are_microseconds() {
        let text = "some avg10=0.00 avg60=0.12 avg300=1.30 total=10864816\nfull avg10=0 total=500000\n";
        assert_eq!(parse(text), Some(Pressure { some_seconds: 10.864_816, full_seconds: 0.5 }));
        assert_eq!(parse(""), None);
        assert_eq!(parse("some avg10=0.00 total=\n"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n]{0,120}") {
            let _ = parse(&text);
        }
    }
}
