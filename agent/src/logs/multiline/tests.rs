use proptest::prelude::*;

use super::*;

mod traces;

fn rule(start: &str, preset: &str) -> Arc<Rule> {
    let rule = MultilineRule { start: start.into(), preset: preset.into(), ..MultilineRule::default() };
    Rules::new(&[rule], 1 << 20).unwrap().rules.remove(0).1
}

/// The records that a rule makes of lines.
fn records(rule: &Rule, text: &str) -> Vec<String> {
    let mut records: Vec<String> = Vec::new();
    let mut progress = Progress::default();
    for line in text.split('\n') {
        if let Some(last) = records.last_mut()
            && rule.goes_on(&mut progress, line.as_bytes())
        {
            last.push('\n');
            last.push_str(line);
        } else {
            progress = rule.begin(line.as_bytes());
            records.push(line.to_owned());
        }
    }
    records
}

#[test]
fn a_pattern_is_searched_in_each_line_without_colours_before_it_and_the_return_behind() {
    let found = |start: &str, text: &str| records(&rule(start, ""), text).len();
    assert_eq!(found(r"^\d{4}-", "2026-11-21 one\n  more\n\n2026-11-21 two\nend"), 2);
    assert_eq!(
        found(r"^\d{4}-", "2026-a\n\u{1b}[32m2026-b\n\u{1b}[1;31m\u{1b}[0m2026-c\n\u{1b}[2J2026-d"),
        3
    );
    assert_eq!(found("begin$", "begin\r\nx\r\nbegin\r"), 2);
    assert_eq!(found("begin", "x\nto begin with"), 2, "not bound to the line's start");
    let far = format!("a\n{}begin", " ".repeat(LOOK));
    assert_eq!(found("begin", &far), 1, "beyond what a rule sees");
}

#[test]
fn a_wish_is_off_a_preset_or_a_pattern_of_bounded_size() {
    let mut rules = Rules::new(&[], 1 << 20).unwrap();
    assert!(matches!(rules.wish("off"), Ok(rule) if !rule.joins() && rule.is_wish()));
    for good in ["java", "auto", r"^\d{4}"] {
        let (Ok(one), Ok(other)) = (rules.wish(good), rules.wish(good)) else {
            panic!("{good}");
        };
        assert!(one.is_wish() && Arc::ptr_eq(&one, &other), "one program for all pods");
        assert_eq!(rules.of_spec(one.spec()).unwrap().spec(), one.spec());
    }
    let long = "a".repeat(LONGEST_WISH + 1);
    for bad in ["", "[", "x*", r"(\w{500}){500}", &long] {
        assert!(rules.wish(bad).is_err(), "{bad}");
    }
    // What no container has any more is forgotten.
    drop(rules.wish("^other"));
    drop(rules.wish("^another"));
    assert_eq!(rules.others.len(), 1);
}

#[test]
fn the_first_rule_that_fits_a_container_wins_and_is_found_again_by_its_text() {
    let of = |namespace: &str, container: &str, preset: &str| MultilineRule {
        namespace: namespace.into(),
        container: container.into(),
        preset: preset.into(),
        ..MultilineRule::default()
    };
    let mut rules =
        Rules::new(&[of("shop", "app", "java"), of("shop", "", "go"), of("", "x*", "auto")], 4096).unwrap();
    let pod = |namespace: &str| PodDir { namespace: namespace.into(), pod: "p".into(), uid: "u".into() };
    let of = |namespace: &str, container: &str| {
        rules.for_container(&pod(namespace), container).map(|rule| rule.spec().to_owned())
    };
    assert_eq!(of("shop", "app").as_deref(), Some("c 1000 4096 2000 preset java"));
    assert_eq!(of("shop", "x1").as_deref(), Some("c 1000 4096 2000 preset go"));
    assert_eq!(of("other", "x1").as_deref(), Some("c 1000 4096 2000 preset auto"));
    assert_eq!(of("other", "app"), None);
    assert!(Arc::ptr_eq(&rules.of_spec("c 1000 4096 2000 preset go").unwrap(), &rules.rules[1].1));
    for odd in [
        "",
        "c 1 1 1 preset cobol",
        "c 1 1 preset java",
        "w x 1 1 start ^a",
        "c 1 1 1 end ^a",
        "c 1 1 1 start [",
    ] {
        assert!(rules.of_spec(odd).is_err(), "{odd}");
    }
}

proptest! {
    #[test]
    fn whatever_the_lines_are_no_preset_loses_or_reorders_one(
        lines in proptest::collection::vec("[ \t]{0,2}(at |Caused by: |Traceback \\(most recent call last\\):|goroutine 1 \\[x\\]:|panic: |[a-z./:'`(){}\\[\\]^-]{0,12}|\\PC{0,8})", 1..20),
        preset in proptest::sample::select(PRESETS.to_vec()),
    ) {
        let text = lines.join("\n");
        prop_assert_eq!(records(&rule("", preset), &text).join("\n"), text);
    }

    #[test]
    fn a_preset_copes_with_any_bytes(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..10)) {
        for preset in PRESETS {
            let preset = Preset::named(preset).unwrap();
            let mut state = preset.begin(seen(&lines[0]));
            for line in &lines[1..] {
                if !preset.goes_on(&mut state, seen(line)) {
                    state = preset.begin(seen(line));
                }
            }
        }
    }

    #[test]
    fn what_auto_joins_some_language_joins(
        lines in proptest::collection::vec("(  |\t|)(at x|[a-z]{1,5}\\.[a-z]{1,5}|Caused by: x|ERROR x|a\\.b\\.CException: x|Traceback \\(most recent call last\\):|)", 2..4),
    ) {
        // Of two lines; behind them each language may be in another place.
        let joins = |preset: &str| records(&rule("", preset), &lines[..2].join("\n")).len() == 1;
        prop_assert!(!joins("auto") || PRESETS.iter().any(|preset| *preset != "auto" && joins(preset)));
    }
}
