//! Severity numbers and their names (OpenTelemetry logs data model, "Displaying severity").

const SHORT: [&str; 25] = [
    "", "TRACE", "TRACE2", "TRACE3", "TRACE4", "DEBUG", "DEBUG2", "DEBUG3", "DEBUG4", "INFO", "INFO2",
    "INFO3", "INFO4", "WARN", "WARN2", "WARN3", "WARN4", "ERROR", "ERROR2", "ERROR3", "ERROR4", "FATAL",
    "FATAL2", "FATAL3", "FATAL4",
];

/// The short name of a number: `INFO` for 9, `INFO2` for 10. `None` outside 1 to 24.
pub fn name(number: u8) -> Option<&'static str> {
    SHORT.get(usize::from(number)).copied().filter(|name| !name.is_empty())
}

/// The number that a name stands for, in any case: the short names, and what programs write for them.
pub fn number(name: &str) -> Option<u8> {
    let name = name.trim();
    let (base, step) = match name.as_bytes() {
        [base @ .., digit @ b'2'..=b'4'] => (&name[..base.len()], digit - b'1'),
        _ => (name, 0),
    };
    let known: [&[&str]; 6] = [
        &["trace"],
        &["debug", "dbug"],
        &["info", "information", "informational", "notice"],
        &["warn", "warning"],
        &["error", "err"],
        &["fatal", "critical", "crit", "alert", "emerg", "emergency", "panic"],
    ];
    let index = known.iter().position(|names| names.iter().any(|known| known.eq_ignore_ascii_case(base)))?;
    Some(u8::try_from(index * 4 + 1).ok()? + step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_name_that_reads_back() {
        for n in 1..=24 {
            assert_eq!(number(&name(n).unwrap().to_lowercase()), Some(n));
        }
        assert_eq!((name(0), name(25)), (None, None));
        assert_eq!(
            (number("Warning"), number("4"), number(""), number("info5")),
            (Some(13), None, None, None)
        );
    }
}
