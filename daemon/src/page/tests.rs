//! What the page promises.

mod reference;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use http_body_util::BodyExt;

use super::*;

fn page(sources: Vec<Box<dyn Source>>) -> Page {
    Page::new(vec![Section::new(None, sources)], true)
}

fn one(collect: impl Fn(&mut Sink) + Send + Sync + 'static) -> Page {
    let collect = move |out: &mut Sink| {
        collect(out);
        Ok(())
    };
    page(vec![source("one", collect)])
}

#[test]
fn names_types_and_values_come_out_exactly_as_given() {
    let page = one(|out| {
        out.counter("container_memory_failcnt", "Number of memory usage hits limits").row([], 7u64);
        out.gauge("container_fs_inodes_total", "Inodes").row([("device", "/dev/sda")], 1.5e9);
        out.untyped("node_netstat_Tcp_RtoMin", "Statistic").row([("a", "unknown"), ("b", "")], -3i64);
        out.counter("x_total", "X").row([("a", "1")], 2u64).row([("a", "2")], u64::MAX);
        out.gauge("nothing", "No rows");
        out.family(Kind::Histogram, "h_seconds", "H").histogram(
            [("q", "a")],
            1.25,
            &[(0.5, 1), (f64::INFINITY, 2)],
        );
    });
    let wanted = r#"# HELP container_memory_failcnt Number of memory usage hits limits
# TYPE container_memory_failcnt counter
container_memory_failcnt 7
# HELP container_fs_inodes_total Inodes
# TYPE container_fs_inodes_total gauge
container_fs_inodes_total{device="/dev/sda"} 1500000000.0
# HELP node_netstat_Tcp_RtoMin Statistic
# TYPE node_netstat_Tcp_RtoMin untyped
node_netstat_Tcp_RtoMin{a="unknown",b=""} -3
# HELP x_total X
# TYPE x_total counter
x_total{a="1"} 2
x_total{a="2"} 18446744073709551615
# HELP h_seconds H
# TYPE h_seconds histogram
h_seconds_sum{q="a"} 1.25
h_seconds_count{q="a"} 3
h_seconds_bucket{le="0.5",q="a"} 1
h_seconds_bucket{le="+Inf",q="a"} 3
"#;
    assert_eq!(page.render(Format::Classic), wanted);
}

#[test]
fn help_and_label_values_are_escaped() {
    let page = one(|out| {
        out.gauge("g", "a \\ b\nc \"d\"").row([("l", "q\"\\\né\u{1b}")], 1u64);
    });
    assert_eq!(
        page.render(Format::Classic),
        "# HELP g a \\\\ b\\nc \"d\"\n# TYPE g gauge\ng{l=\"q\\\"\\\\\\né\u{1b}\"} 1\n"
    );
    assert!(page.render(Format::OpenMetrics).contains("# HELP g a \\\\ b\\nc \\\"d\\\"\n"));
}

#[test]
fn openmetrics_names_a_counters_family_without_its_suffix_and_ends_with_eof() {
    let page = one(|out| {
        out.counter("x_total", "X").row([("a", "1")], 2u64);
        out.counter("y", "Y").row([], 2u64);
    });
    let wanted =
        "# HELP x X\n# TYPE x counter\nx_total{a=\"1\"} 2\n# HELP y Y\n# TYPE y unknown\ny 2\n# EOF\n";
    assert_eq!(page.render(Format::OpenMetrics), wanted);
}

#[test]
fn a_family_of_several_sources_is_one_family_and_one_with_two_types_is_refused() {
    let rows = |value: &'static str| {
        source(value, move |out| {
            out.gauge("g", "G").row([("source", value)], 1u64);
            out.gauge("other", "O").row([("source", value)], 1u64);
            Ok(())
        })
    };
    let wrong = source("wrong", |out| {
        out.counter("g", "another").row([], 5u64);
        out.gauge("0 bad\nname", "bad").row([], 5u64);
        Ok(())
    });
    let text = page(vec![rows("a"), rows("b"), wrong]).render(Format::Classic);
    let wanted = "# HELP g G\n# TYPE g gauge\ng{source=\"a\"} 1\ng{source=\"b\"} 1\n\
        # HELP other O\n# TYPE other gauge\nother{source=\"a\"} 1\nother{source=\"b\"} 1\n";
    assert_eq!(text, wanted);
}

#[test]
fn families_may_be_filled_in_turn_and_a_panic_takes_out_its_own_rows_alone() {
    let first = source("first", |out| {
        for row in ["1", "2"] {
            out.gauge("a", "A").row([("row", row)], 1u64);
            out.gauge("b", "B").row([("row", row)], 1u64);
        }
        Ok(())
    });
    let panics = source("panics", |out| {
        out.gauge("a", "A").row([("row", "3")], 1u64);
        out.gauge("c", "C").row([], 1u64);
        panic!("of course")
    });
    let last = source("last", |out| {
        out.counter("c", "C").row([], 2u64);
        out.gauge("a", "A").row([("row", "4")], 1u64);
        Ok(())
    });
    let wanted = "# HELP a A\n# TYPE a gauge\na{row=\"1\"} 1\na{row=\"2\"} 1\na{row=\"4\"} 1\n\
        # HELP b B\n# TYPE b gauge\nb{row=\"1\"} 1\nb{row=\"2\"} 1\n# HELP c C\n# TYPE c counter\nc 2\n";
    assert_eq!(page(vec![first, panics, last]).render(Format::Classic), wanted);
}

/// Waits for a word from outside before it answers.
struct Hangs {
    go: Mutex<mpsc::Receiver<()>>,
    asked: AtomicU64,
}

impl Source for Hangs {
    fn name(&self) -> &'static str {
        "hangs"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.go.lock().unwrap().recv().map_err(|error| error.to_string())?;
        out.gauge("late", "L").row([], asked);
        Ok(())
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }
}

#[test]
fn a_source_that_panics_fails_or_hangs_is_left_out_and_accounted() {
    let (go, wait) = mpsc::channel();
    let sources = vec![
        source("good", |out| {
            out.gauge("good", "G").row([], 1u64);
            Ok(())
        }),
        source("panics", |out| {
            out.gauge("half", "H").row([], 1u64);
            panic!("of course")
        }),
        source("fails", |out| {
            out.gauge("part", "P").row([], 1u64);
            Err("no such file".to_owned())
        }),
        Box::new(Hangs { go: Mutex::new(wait), asked: AtomicU64::new(0) }),
    ];
    let accounting = Accounting { prefix: "t_source".to_owned(), label: "source".to_owned() };
    let page = Page::new(vec![Section::new(Some(accounting), sources)], false);
    let start = Instant::now();
    for round in 1..=3 {
        let text = page.render(Format::Classic);
        for (line, there) in [
            ("good 1\n", true),
            ("half", false),
            ("part 1\n", true),
            ("late", false),
            ("t_source_success{source=\"good\"} 1\n", true),
            ("t_source_success{source=\"panics\"} 0\n", true),
            ("t_source_success{source=\"fails\"} 0\n", true),
            ("t_source_success{source=\"hangs\"} 0\n", true),
            ("t_source_duration_seconds{source=\"good\"} ", true),
            (&format!("t_source_panics_total{{source=\"panics\"}} {round}\n"), true),
        ] {
            assert_eq!(text.contains(line), there, "{line} in {text}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(3), "a source that hangs is waited for once");
    // It comes back: the old answer is thrown away, a fresh one is asked for.
    go.send(()).unwrap();
    go.send(()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(page.render(Format::Classic).contains("late 2\n"));
}

#[tokio::test]
async fn the_answer_follows_accept_and_accept_encoding() {
    let page = one(|out| {
        out.counter("x_total", "X").row([], 2u64);
    });
    let ask = |page: &Page, pairs: &[(header::HeaderName, &str)]| {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        page.answer(&headers.collect())
    };
    let kind = |response: &Response<Full<Bytes>>| {
        response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
    };
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let classic = Format::Classic.content_type();
    for (accept, wanted) in [
        (prometheus, Format::OpenMetrics.content_type()),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", classic),
        ("application/openmetrics-text;q=0", classic),
        ("*/*", classic),
        (";;;,q=,,", classic),
    ] {
        assert_eq!(kind(&ask(&page, &[(header::ACCEPT, accept)])), wanted, "{accept}");
    }
    let only_classic = Page { openmetrics: false, ..page.clone() };
    assert_eq!(kind(&ask(&only_classic, &[(header::ACCEPT, prometheus)])), classic);
    let zipped = ask(&page, &[(header::ACCEPT_ENCODING, "deflate, gzip;q=0.8")]);
    assert_eq!(zipped.headers()[header::CONTENT_ENCODING], "gzip");
    let bytes = zipped.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    assert_eq!(text, page.render(Format::Classic));
    for refusal in ["gzip;q=0", "br", ""] {
        let plain = ask(&page, &[(header::ACCEPT_ENCODING, refusal)]);
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING), "{refusal}");
    }
}

#[test]
fn the_process_and_its_build_are_on_the_page() {
    let build = Build { prefix: "sonde_test", version: "1.2.3" };
    let text = page(vec![Box::new(Process), Box::new(build)]).render(Format::Classic);
    for name in [
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_start_time_seconds ",
        "sonde_test_build_info{version=\"1.2.3\",",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
    }
}
