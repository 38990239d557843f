//! The named rules: which line goes on the trace that a language's runtime prints.
//!
//! Each language is a machine of a few phases over the lines of one record. Its first line sets the phase ([`Language::head`]);
//! each further line either goes on the record ([`Language::step`] gives the next phase) or begins the next one. What is
//! common to all: a line that begins with white space goes on. A line that begins an exception's text (`java.lang.X: …`,
//! `Traceback …`) goes on the record before only if that is one line so far and has a word such as `ERROR` or `INFO` in it
//! ([`LEVELS`]): it was logged with it. Else the exception is a record of its own. For `auto`, which does not know whose lines
//! they are, it must be one of [`SEVERE`], and what looks like a function's name must be a clear one.
//!
//! The shapes are those of `Throwable.printStackTrace` (OpenJDK), `traceback.print_exception` (CPython, PEP 3134 and 654),
//! `runtime/traceback.go` (Go), `Exception.ToString` (.NET), `Error.stack` and `node_errors.cc` (Node.js), and `error.c` and
//! `vm_backtrace.c` (Ruby, 2.5 to 3.4).

/// Words that say that a line is one of a logger, beside [`SEVERE`].
const LEVELS: [&[u8]; 6] = [b"trace", b"debug", b"info", b"inf", b"dbg", b"vrb"];
/// Those of a line that an exception may come with.
const SEVERE: [&[u8]; 12] = [
    b"warn",
    b"warning",
    b"error",
    b"err",
    b"severe",
    b"fatal",
    b"critical",
    b"crit",
    b"fail",
    b"exception",
    b"wrn",
    b"ftl",
];
/// Bytes of a first line in which they are looked for.
const LEVEL_WITHIN: usize = 512;

/// Where a language's trace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No trace yet.
    #[default]
    Plain,
    /// The head of a trace that has its frames further below.
    Head,
    /// Among frames.
    Frames,
    /// Behind the frames.
    Ended,
    /// An empty line behind that.
    Blank,
    /// What announces another trace, or the line of source that Node shows.
    Chain,
}

/// A line without its carriage return and the colours at its beginning.
#[derive(Clone, Copy)]
struct Line<'a> {
    text: &'a [u8],
    /// It holds nothing but white space.
    blank: bool,
    /// It begins with white space.
    indented: bool,
    /// An exception that begins here was logged with the line before.
    joins_head: bool,
    /// Nobody said which language it is.
    is_guess: bool,
}

struct Language {
    name: &'static str,
    head: fn(&[u8]) -> Phase,
    step: fn(Phase, Line<'_>) -> Option<Phase>,
}

const LANGUAGES: [Language; 6] = [
    Language { name: "java", head: java_head, step: java },
    Language { name: "python", head: python_head, step: python },
    Language { name: "go", head: go_head, step: go },
    Language { name: "dotnet", head: dotnet_head, step: dotnet },
    Language { name: "node", head: node_head, step: node },
    Language { name: "ruby", head: ruby_head, step: ruby },
];

/// Names of all presets.
pub const NAMES: [&str; 7] = ["java", "python", "go", "dotnet", "node", "ruby", "auto"];

/// A named rule: one language, or all of them (`auto`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset(Option<usize>);

/// What is known of a record from its lines so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    is_logged: bool,
    is_first: bool,
    phases: [Phase; LANGUAGES.len()],
}

impl Preset {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        if name == "auto" {
            return Some(Self(None));
        }
        LANGUAGES.iter().position(|language| language.name == name).map(|at| Self(Some(at)))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.and_then(|at| LANGUAGES.get(at)).map_or("auto", |language| language.name)
    }

    fn has(self, at: usize) -> bool {
        self.0.is_none_or(|only| only == at)
    }

    /// Of a record that begins with this line.
    pub fn begin(self, text: &[u8]) -> State {
        let is_severe = has_word(text, &SEVERE);
        let is_logged = is_severe || (self.0.is_some() && has_word(text, &LEVELS));
        let mut state = State { is_logged, is_first: true, ..State::default() };
        for (at, language) in LANGUAGES.iter().enumerate().filter(|(at, _)| self.has(*at)) {
            state.phases[at] = (language.head)(text);
        }
        state
    }

    /// Whether the line goes on the record; then the state is the one behind it.
    pub fn goes_on(self, state: &mut State, text: &[u8]) -> bool {
        let line = Line {
            text,
            blank: text.iter().all(u8::is_ascii_whitespace),
            indented: text.first().is_some_and(u8::is_ascii_whitespace),
            joins_head: state.is_first && state.is_logged,
            is_guess: self.0.is_none(),
        };
        let mut goes_on = false;
        for (at, language) in LANGUAGES.iter().enumerate().filter(|(at, _)| self.has(*at)) {
            let next = (language.step)(state.phases[at], line);
            goes_on |= next.is_some();
            state.phases[at] = next.unwrap_or_else(|| (language.head)(text));
        }
        // An empty line may stand between the two (Tomcat's).
        state.is_first &= line.blank;
        goes_on
    }
}

/// `Throwable.printStackTrace`, also with what logback and log4j make of it.
fn java(phase: Phase, line: Line<'_>) -> Option<Phase> {
    use Phase::{Blank, Frames, Plain};
    if line.blank {
        return (phase == Frames).then_some(Frames).or_else(|| line.joins_head.then_some(Blank));
    }
    if line.indented {
        let text = line.text.trim_ascii_start();
        let is_frame = begins(text, &[b"at ", b"... ", b"Caused by: ", b"Suppressed: "]);
        return Some(if is_frame || phase == Frames { Frames } else { Plain });
    }
    let is_more = begins(line.text, &[b"Caused by: ", b"Suppressed: ", b"Wrapped by: "])
        || (line.text.starts_with(b"... ") && ends(line.text, &[b" more", b" common frames omitted"]));
    (is_more || (line.joins_head && is_exception(line.text))).then_some(Frames)
}

fn java_head(text: &[u8]) -> Phase {
    let is_trace = is_exception(text) || text.starts_with(b"Exception in thread \"");
    if is_trace { Phase::Frames } else { Phase::Plain }
}

/// `Exception.ToString`, as the console logger and Serilog print it, and as an unhandled one.
fn dotnet(phase: Phase, line: Line<'_>) -> Option<Phase> {
    use Phase::{Frames, Plain};
    if line.blank {
        return (phase == Frames).then_some(Frames);
    }
    if line.indented {
        let text = line.text.trim_ascii_start();
        let is_frame = begins(text, &[b"at ", b"---> ", b"--- End of "]);
        return Some(if is_frame || phase == Frames { Frames } else { Plain });
    }
    let is_more = begins(line.text, &[b"--- End of ", b"---> "]);
    (is_more || (line.joins_head && is_exception(line.text))).then_some(Frames)
}

fn dotnet_head(text: &[u8]) -> Phase {
    let is_trace = is_exception(text) || begins(text, &[b"Unhandled exception. ", b"Unhandled Exception: "]);
    if is_trace { Phase::Frames } else { Phase::Plain }
}

const TRACEBACK: &[u8] = b"Traceback (most recent call last):";

/// `traceback.print_exception`, with causes and contexts.
fn python(phase: Phase, line: Line<'_>) -> Option<Phase> {
    use Phase::{Blank, Chain, Ended, Frames, Plain};
    if line.blank {
        return match phase {
            Ended | Blank => Some(Blank),
            Frames | Chain => Some(phase),
            _ => None,
        };
    }
    if line.indented {
        return Some(phase);
    }
    if line.text.starts_with(TRACEBACK) {
        return (phase == Chain || (phase == Plain && line.joins_head)).then_some(Frames);
    }
    match phase {
        // The exception: its name, and its text behind a colon.
        Frames => {
            let name = line.text.split(|byte| *byte == b':').next().unwrap_or_default();
            let is_name = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.<>".contains(byte));
            is_name.then_some(Ended)
        }
        Ended if begins(line.text, &[b"[SQL: ", b"[parameters: ", b"(Background on this error at"]) => {
            Some(Ended)
        }
        Ended | Blank => {
            let announced: [&[u8]; 2] = [
                b"During handling of the above exception",
                b"The above exception was the direct cause of the following exception",
            ];
            begins(line.text, &announced).then_some(Chain)
        }
        _ => None,
    }
}

fn python_head(text: &[u8]) -> Phase {
    if text.starts_with(TRACEBACK) { Phase::Frames } else { Phase::Plain }
}

/// Panics and fatal errors with their goroutines, and the stacks of zap and `pkg/errors` below a line of a logger.
fn go(phase: Phase, line: Line<'_>) -> Option<Phase> {
    use Phase::{Frames, Head, Plain};
    if line.blank {
        return matches!(phase, Head | Frames).then_some(phase);
    }
    if line.indented {
        return Some(phase);
    }
    let text = line.text;
    if is_goroutine(text) {
        return (phase != Plain || line.joins_head).then_some(Frames);
    }
    let is_more = match phase {
        Head => begins(
            text,
            &[
                b"[signal ",
                b"[recovered",
                b"panic: ",
                b"fatal error: ",
                b"runtime: ",
                b"runtime stack:",
                b"PC=",
            ],
        )
        .then_some(if text.starts_with(b"runtime stack:") { Frames } else { Head }),
        Frames => (begins(text, &[b"created by ", b"panic(", b"exit status ", b"...additional frames"])
            || is_call(text)
            || is_register(text)
            || is_function(text))
        .then_some(Frames),
        _ => None,
    };
    let is_stack = is_function(text) && (!line.is_guess || is_clear_function(text));
    is_more.or_else(|| (line.joins_head && is_stack).then_some(Frames))
}

fn go_head(text: &[u8]) -> Phase {
    let is_panic = begins(
        text,
        &[
            b"panic: ",
            b"fatal error: ",
            b"runtime: ",
            b"unexpected fault address",
            b"SIGQUIT: ",
            b"SIGABRT: ",
        ],
    );
    if is_goroutine(text) {
        Phase::Frames
    } else if is_panic || memchr::memmem::find(text, b"http: panic serving ").is_some() {
        Phase::Head
    } else {
        Phase::Plain
    }
}

/// `goroutine 1 [running]:`
fn is_goroutine(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"goroutine ") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest[digits..].starts_with(b" ") && rest.ends_with(b":")
}

/// `main.(*Server).serve(0xc000, {0x1, 0x2})`
fn is_call(text: &[u8]) -> bool {
    let Some(open) = memchr::memchr(b'(', text) else { return false };
    let name = &text[..open];
    text.ends_with(b")") && name.contains(&b'.') && !name.contains(&b' ')
}

/// A function's name alone, as zap prints it: `net/http.(*conn).serve`.
fn is_function(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./()*-[]".contains(byte);
    let dot = memchr::memchr(b'.', text);
    let starts = text.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    starts && dot.is_some_and(|at| at + 1 < text.len()) && !text.ends_with(b".") && text.iter().all(is_part)
}

/// One that is not the name of a host or a file either: `main.run`, `net/http.(*conn).serve`, `github.com/acme/shop.Load`.
fn is_clear_function(text: &[u8]) -> bool {
    let last = text.rsplit(|byte| *byte == b'/').next().unwrap_or(text);
    let behind = last.iter().position(|byte| *byte == b'.').and_then(|dot| last.get(dot + 1));
    begins(last, &[b"main.", b"runtime.", b"testing."])
        || behind.is_some_and(|byte| byte.is_ascii_uppercase() || *byte == b'(')
}

/// `rax    0x0`
fn is_register(text: &[u8]) -> bool {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (Some(name), Some(value), None) = (words.next(), words.next(), words.next()) else { return false };
    name.len() <= 6 && name.iter().all(u8::is_ascii_alphanumeric) && value.starts_with(b"0x")
}

/// `Error.stack`, the properties behind it, and what Node prints of an uncaught one.
fn node(phase: Phase, line: Line<'_>) -> Option<Phase> {
    use Phase::{Blank, Chain, Ended, Frames, Head, Plain};
    let text = line.text;
    let is_caret = !line.blank && text.iter().all(|byte| b"^~ \t".contains(byte));
    match phase {
        // Behind the place comes its line of source, and a caret below.
        Head if !line.blank => return Some(Chain),
        Chain => return is_caret.then_some(Ended),
        Ended if line.blank => return Some(Ended),
        Ended if is_error(text) || begins(text, &[b"Uncaught", b"(Use `node "]) => return Some(Frames),
        Blank if text.starts_with(b"Node.js v") => return Some(Plain),
        _ => {}
    }
    if line.blank {
        return (phase == Frames).then_some(Blank);
    }
    if line.indented {
        let is_frame = text.trim_ascii_start().starts_with(b"at ");
        return Some(if is_frame || phase == Frames { Frames } else { Plain });
    }
    // The ends of what is printed over several lines.
    if text.iter().all(|byte| b"}]),;".contains(byte)) {
        return Some(phase);
    }
    if phase == Frames && begins(text, &[b"Require stack:", b"- /", b"- node:", b"Node.js v", b"(Use `node "])
    {
        return Some(Frames);
    }
    (line.joins_head && is_error(text)).then_some(Frames)
}

fn node_head(text: &[u8]) -> Phase {
    let is_place = || {
        let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0
            && text[..text.len() - digits].ends_with(b":")
            && !text.contains(&b' ')
            && (text.starts_with(b"node:")
                || (begins(text, &[b"/", b"file://"])
                    && ends(&text[..text.len() - digits - 1], &[b"js", b"ts", b"jsx", b"tsx"])))
    };
    if is_error(text) {
        Phase::Frames
    } else if is_place() {
        Phase::Head
    } else {
        Phase::Plain
    }
}

/// `TypeError: text`, `Error [ERR_CODE]: text`, `Uncaught RangeError`.
fn is_error(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"Uncaught ").unwrap_or(text);
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_$.".contains(byte);
    let len = text.iter().take_while(|byte| is_part(byte)).count();
    let (name, mut rest) = text.split_at(len);
    if let Some(code) = rest.strip_prefix(b" [")
        && let Some(end) = memchr::memchr(b']', code)
    {
        rest = &code[end + 1..];
    }
    ends(name, &[b"Error", b"Exception"]) && (rest.is_empty() || rest.starts_with(b":"))
}

/// Uncaught exceptions, with or without `error_highlight`, and those of Rails.
fn ruby(phase: Phase, line: Line<'_>) -> Option<Phase> {
    use Phase::{Chain, Frames, Plain};
    let text = line.text;
    if line.blank {
        return (phase == Frames).then_some(Frames);
    }
    if line.indented {
        let is_frame = text.trim_ascii_start().starts_with(b"from ");
        return Some(if is_frame || phase == Frames { Frames } else { Plain });
    }
    if text == b"Caused by:" {
        return Some(Chain);
    }
    let is_frame =
        ruby_place(text).is_some_and(|rest| rest.ends_with(b"'") && memchr::memchr(b':', rest).is_none());
    if phase == Chain || (is_frame && (phase == Frames || line.joins_head)) {
        return Some(Frames);
    }
    (line.joins_head && is_ruby_error(text)).then_some(Frames)
}

fn ruby_head(text: &[u8]) -> Phase {
    if ruby_place(text).is_some() || is_ruby_error(text) { Phase::Frames } else { Phase::Plain }
}

/// What stands behind ``app.rb:10:in `` or ``app.rb:10: ``.
fn ruby_place(text: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', text)?;
    let rest = &text[colon + 1..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = rest[digits..].strip_prefix(b":in ")?;
    (colon > 0 && digits > 0 && begins(rest, &[b"`", b"'"])).then(|| &rest[1..])
}

/// `NoMethodError (undefined method …):`, `ActiveRecord::RecordNotFound: …`
fn is_ruby_error(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b':';
    let len = text.iter().take_while(|byte| is_part(byte)).count();
    let (name, rest) = text.split_at(len);
    let name = name.strip_suffix(b":").unwrap_or(name);
    let is_name = name.first().is_some_and(u8::is_ascii_uppercase)
        && (ends(name, &[b"Error", b"Exception"]) || is_scoped(name));
    is_name
        && (rest.is_empty() || begins(rest, &[b" (", b": ", b" "]))
        && (len != name.len() || rest.starts_with(b" ("))
}

/// `ActiveRecord::RecordNotFound`, but not `FE80::1`.
fn is_scoped(name: &[u8]) -> bool {
    let mut ends = memchr::memmem::find_iter(name, b"::").peekable();
    ends.peek().is_some() && ends.all(|at| name.get(at + 2).is_some_and(u8::is_ascii_uppercase))
}

/// `java.lang.IllegalStateException: text`, `System.ArgumentNullException`.
fn is_exception(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_$.`".contains(byte);
    let len = text.iter().take_while(|byte| is_part(byte)).count();
    let (name, rest) = text.split_at(len);
    let starts = name.first().is_some_and(u8::is_ascii_alphabetic) && name.contains(&b'.');
    starts
        && ends(name, &[b"Exception", b"Error", b"Throwable", b"Failure", b"Fault"])
        && (rest.is_empty() || rest.starts_with(b":"))
}

fn begins(text: &[u8], with: &[&[u8]]) -> bool {
    with.iter().any(|prefix| text.starts_with(prefix))
}

fn ends(text: &[u8], with: &[&[u8]]) -> bool {
    with.iter().any(|suffix| text.ends_with(suffix))
}

fn has_word(text: &[u8], words: &[&[u8]]) -> bool {
    let text = text.get(..LEVEL_WITHIN).unwrap_or(text);
    text.split(|byte| !byte.is_ascii_alphanumeric())
        .any(|word| words.iter().any(|of| word.eq_ignore_ascii_case(of)))
}
