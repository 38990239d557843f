//! A panic as one line of the daemon's log.
//!
//! What a panic says may quote data (a slice of a log line, an error's fields), so only the fixed part of the
//! message and the place in the source are logged.

use std::panic::PanicHookInfo;

/// Replaces the process's panic hook. Threads end, and tasks and caught sources fail, as they did before.
pub fn install() {
    std::panic::set_hook(Box::new(log));
}

fn log(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().map_or("", fixed_part);
    tracing::error!(
        panic = message,
        location = place,
        thread = thread.name().unwrap_or("unnamed"),
        "a part of this process panicked"
    );
}

/// The message up to where std and common macros put values: a quoted value, a colon, a second line.
fn fixed_part(message: &str) -> &str {
    const NAMES: [&str; 8] = ["Result::", "Option::", "Err`", "Ok`", "None`", "Some`", "left ", "async fn"];
    let mut end = message.len();
    for stop in [": ", "; ", "\n", "\""] {
        end = end.min(message.find(stop).unwrap_or(end));
    }
    let mut opening = true;
    for (at, _) in message[..end].match_indices('`') {
        if opening && !NAMES.iter().any(|name| message[at + 1..].starts_with(name)) {
            end = at;
            break;
        }
        opening = !opening;
    }
    let limit = message[..end].char_indices().nth(200).map_or(end, |(at, _)| at);
    message[..limit].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_message_loses_the_values_it_quotes() {
        for (message, kept) in [
            (
                "called `Result::unwrap()` on an `Err` value: Secret(\"x\")",
                "called `Result::unwrap()` on an `Err` value",
            ),
            ("called `Option::unwrap()` on a `None` value", "called `Option::unwrap()` on a `None` value"),
            ("end byte index 9 is out of bounds of `password=1`", "end byte index 9 is out of bounds of"),
            (
                "byte index 1 is not a char boundary; it is inside 'é' of `é`",
                "byte index 1 is not a char boundary",
            ),
            ("begin <= end (4 <= 2) when slicing `secret`", "begin <= end (4 <= 2) when slicing"),
            ("assertion `left == right` failed\n  left: 1", "assertion `left == right` failed"),
            (
                "range end index 10 out of range for slice of length 5",
                "range end index 10 out of range for slice of length 5",
            ),
            ("", ""),
            ("`", ""),
        ] {
            assert_eq!(fixed_part(message), kept);
        }
        assert_eq!(fixed_part(&"é".repeat(1000)).chars().count(), 200);
    }
}
