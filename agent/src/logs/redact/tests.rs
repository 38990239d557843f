use std::sync::{LazyLock, Mutex, PoisonError};

use proptest::prelude::*;

use super::presets::NAMES;
use super::*;

fn rule(preset: &str) -> RedactRule {
    RedactRule { preset: preset.to_owned(), ..RedactRule::default() }
}

fn pattern(pattern: &str) -> RedactRule {
    RedactRule { pattern: pattern.to_owned(), ..RedactRule::default() }
}

fn redactor(rules: &[RedactRule]) -> Redactor {
    Redactor::new(rules, 1 << 20).unwrap()
}

fn all() -> RuleSet {
    RuleSet(u32::MAX)
}

/// The body as it is sent.
fn sent(rules: &[RedactRule], body: &str) -> String {
    redactor(rules).apply(all(), body).unwrap_or_else(|| body.to_owned())
}

#[test]
fn addresses_are_replaced_and_what_only_looks_like_one_is_not() {
    for (body, want) in [
        ("user=ann.b+x@mail.example.org logged in", "user=[redacted] logged in"),
        ("<a@b.co>,<c_d@e-f.museum>", "<[redacted]>,<[redacted]>"),
        ("{\"to\":\"a@b.co\"}", "{\"to\":\"[redacted]\"}"),
        ("GET /@scope/pkg@1.2.3 200", "GET /@scope/pkg@1.2.3 200"),
        ("git@host:repo, a@b, @c.de", "git@host:repo, a@b, @c.de"),
    ] {
        assert_eq!(sent(&[rule("email")], body), want);
    }
}

#[test]
fn card_numbers_are_replaced_in_every_layout_and_other_numbers_are_not() {
    for body in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "378282246310005",
        "3782 822463 10005",
        "30569309025904",
        "3056 930902 5904",
        "6011111111111117",
        "3530111333300000",
        "2223003122003222",
    ] {
        assert_eq!(sent(&[rule("card")], &format!("card {body} of 7")), "card [redacted] of 7", "{body}");
        assert_eq!(
            sent(&[rule("card")], &format!("{{\"n\":\"{body}\"}}")),
            "{\"n\":\"[redacted]\"}",
            "{body}"
        );
    }
    assert_eq!(sent(&[rule("card")], "4111 1111 1111 1111 123"), "[redacted] 123");
    for body in [
        "4111111111111112",
        "1795192501000000000",
        "1795192501000",
        "0.4111111111111111",
        "94111111111111111",
        "4111 1111-1111 1111",
        "4111  1111 1111 1111",
        "4111 1111 1111 111",
        "0000000000000000",
    ] {
        assert_eq!(sent(&[rule("card")], body), body);
    }
}

#[test]
fn bearer_tokens_are_replaced_whatever_carries_them() {
    for (body, want) in [
        ("Authorization: Bearer abc.DEF-123~x/y+z==", "Authorization: Bearer [redacted]"),
        ("{\"authorization\":\"Basic dXNlcjpwYXNz\"}", "{\"authorization\":\"Basic [redacted]\"}"),
        (
            "h={\\\"Authorization\\\":\\\"Bearer abcdefgh\\\"}",
            "h={\\\"Authorization\\\":\\\"Bearer [redacted]\\\"}",
        ),
        ("curl -H 'BEARER 0123456789abcdef' x", "curl -H 'BEARER [redacted]' x"),
        ("?auth=bearer%20abcdefgh&x=1", "?auth=bearer%20[redacted]&x=1"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln end", "jwt [redacted] end"),
        ("the bearer of this", "the bearer of this"),
        // As Go, Java and JSON print headers with several values.
        ("map[Authorization:[Bearer abc123opaque]]", "map[Authorization:[Bearer [redacted]]]"),
        ("{Authorization=[Bearer abc], x=[1]}", "{Authorization=[Bearer [redacted]], x=[1]}"),
        ("{\"Authorization\":[\"Basic dXNlcjpwYXNz\"]}", "{\"Authorization\":[\"Basic [redacted]\"]}"),
        ("{\"authorization\": [ \"abc\" ]}", "{\"authorization\": [ \"[redacted]\" ]}"),
        ("{\\\"Authorization\\\":[\\\"Basic eA\\\"]}", "{\\\"Authorization\\\":[\\\"Basic [redacted]\\\"]}"),
        ("map[Authorization:[abc] Host:[x]]", "map[Authorization:[redacted] Host:[x]]"),
        ("Authorization: Splunk abc x", "Authorization: Splunk [redacted] x"),
        ("Authorization: SharedKey acct:c2ln", "Authorization: SharedKey [redacted]"),
        // All of a list, whoever printed it.
        (
            "map[Authorization:[Bearer abc Basic def] Host:[x]]",
            "map[Authorization:[Bearer [redacted]] Host:[x]]",
        ),
        ("{Authorization=[Bearer abc, Foo def], x=[1]}", "{Authorization=[Bearer [redacted]], x=[1]}"),
        (r#"{"authorization":["Basic a","Foo b"],"x":1}"#, r#"{"authorization":["Basic [redacted]"],"x":1}"#),
        (
            r#"{\"authorization\":[\"a b\", \"c\"],\"x\":1}"#,
            r#"{\"authorization\":[\"[redacted]\"],\"x\":1}"#,
        ),
        ("{'Authorization': ['a', 'b'], 'x': 1}", "{'Authorization': ['[redacted]'], 'x': 1}"),
        // Parameters.
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=AK/x, SignedHeaders=host, Signature=fe5f, next",
            "Authorization: AWS4-HMAC-SHA256 [redacted], next",
        ),
        ("authorization: Digest username=\"u\", response=\"66\" x", "authorization: Digest [redacted] x"),
        // A scheme that nobody knows.
        ("Authorization: Foo abc x", "Authorization: [redacted] [redacted] x"),
        ("Authorization: Foo k=\"v\", sig=\"w\"", "Authorization: [redacted] [redacted]"),
        (r#"{"authorization":"Foo abc","x":1}"#, r#"{"authorization":"[redacted]","x":1}"#),
        ("Authorization: abc, x", "Authorization: [redacted], x"),
        ("Authorization: abc\nHost: x", "Authorization: [redacted]\nHost: x"),
    ] {
        assert_eq!(sent(&[rule("bearer")], body), want);
    }
}

#[test]
fn keys_and_passwords_are_replaced_whatever_carries_them() {
    for (body, want) in [
        ("db_password=hunter2 next=1", "db_password=[redacted] next=1"),
        ("{\"password\":\"a \\\"b\\\" c\",\"x\":1}", "{\"password\":\"[redacted]\",\"x\":1}"),
        ("{\\\"api_key\\\":\\\"k1\\\",\\\"x\\\":1}", "{\\\"api_key\\\":\\\"[redacted]\\\",\\\"x\\\":1}"),
        ("ApiKey: 'a b' x", "ApiKey: '[redacted]' x"),
        ("?access_token=abc&x=1", "?access_token=[redacted]&x=1"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=[redacted]"),
        ("id AKIAIOSFODNN7EXAMPLE x", "id [redacted] x"),
        ("postgres://app:s3cret@db:5432/x", "postgres://app:[redacted]@db:5432/x"),
        ("a -----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY----- b", "a [redacted] b"),
        ("a -----BEGIN PRIVATE KEY----- MIIE", "a [redacted]"),
        ("-----BEGIN PUBLIC KEY----- MIIE", "-----BEGIN PUBLIC KEY----- MIIE"),
        ("tokens: 17, password policy", "tokens: 17, password policy"),
        ("map[X-Api-Key:[abc] Host:[x]]", "map[X-Api-Key:[redacted] Host:[x]]"),
        ("{\"password\":[\"x\"],\"y\":1}", "{\"password\":[\"[redacted]\"],\"y\":1}"),
        ("map[X-Api-Key:[abc def] Host:[x]]", "map[X-Api-Key:[redacted] Host:[x]]"),
        ("map[X-Api-Key:[abc de", "map[X-Api-Key:[redacted]"),
        (r#"{"tokens":1,"password":["x","y"],"z":1}"#, r#"{"tokens":1,"password":["[redacted]"],"z":1}"#),
        (r#"{\"password\":[\"x\",\"y\"]}"#, r#"{\"password\":[\"[redacted]\"]}"#),
        ("{'secret': ['x', 'y'], 'z': 1}", "{'secret': ['[redacted]'], 'z': 1}"),
        ("{\\\"password\\\":[\\\"x\\\"]}", "{\\\"password\\\":[\\\"[redacted]\\\"]}"),
        // JSON in a string: an escape in it has its own backslash escaped.
        (
            "{\\\"password\\\":\\\"se\\\\u0026cret\\\",\\\"x\\\":1}",
            "{\\\"password\\\":\\\"[redacted]\\\",\\\"x\\\":1}",
        ),
        ("{\\\"password\\\":\\\"a\\\\\\\"b\\\\\\\\c\\\"}", "{\\\"password\\\":\\\"[redacted]\\\"}"),
    ] {
        assert_eq!(sent(&[rule("key")], body), want);
    }
}

#[test]
fn the_last_word_of_a_cut_body_is_back_to_the_last_white_space_in_a_window() {
    for (body, left) in [("", ""), ("word", ""), ("two words", "two"), ("two ", "two"), ("a\tb\u{e9}", "a")] {
        assert_eq!(&body[..without_last_word(body.as_bytes())], left);
    }
    let long = format!("a {}", "x".repeat(5000));
    assert_eq!(without_last_word(long.as_bytes()), long.len() - LONGEST_WORD);
    assert_eq!(without_last_word(format!("{long} b").as_bytes()), long.len());
}

#[test]
fn of_a_pattern_with_a_group_the_group_is_replaced_and_of_another_the_whole() {
    let by_group = RedactRule { replace: "***".to_owned(), ..pattern(r"ssn=(\d+)|pin (\d+)") };
    assert_eq!(sent(std::slice::from_ref(&by_group), "ssn=17 pin 4 x"), "ssn=*** pin *** x");
    assert_eq!(sent(&[pattern(r"(?i)SSN=\d+")], "ssn=17 x"), "[redacted] x");
    assert_eq!(sent(&[pattern(r"é+")], "caféé!"), "caf[redacted]!");
}

#[test]
fn a_pattern_that_is_wider_than_its_group_hides_no_other_place() {
    let wide = [pattern(r"password=(\S+).* from \S+")];
    assert_eq!(
        sent(&wide, "password=one, password=two from x"),
        "password=[redacted] password=[redacted] from x"
    );
}

#[test]
fn rules_apply_to_their_containers_alone_and_count_by_rule() {
    let mut rules = [rule("email"), rule("card")];
    rules[0].namespace = "shop".into();
    rules[1].container = "pay*".into();
    let mut redactor = redactor(&rules);
    let pod = |namespace: &str| PodDir { namespace: namespace.into(), pod: "p".into(), uid: "u".into() };
    let body = "a@b.co c@d.ee 4111111111111111";
    let mut of = |namespace, container| {
        let set = redactor.rules_for(&pod(namespace), container);
        redactor.apply(set, body)
    };
    assert_eq!(of("other", "app"), None);
    assert_eq!(of("shop", "app").as_deref(), Some("[redacted] [redacted] 4111111111111111"));
    assert_eq!(of("other", "payment").as_deref(), Some("a@b.co c@d.ee [redacted]"));
    assert_eq!(redactor.times(), [("0:email".to_owned(), 2), ("1:card".to_owned(), 1)]);
}

#[test]
fn a_body_of_nothing_but_secrets_is_replaced_as_a_whole_and_costs_bounded_work() {
    let many = "a@b.co ".repeat(100_000);
    assert_eq!(sent(&[rule("email")], &many), "[redacted]");
    // Each place takes a search to the end of the line with this one.
    let slow = RedactRule { replace: "***".into(), ..pattern("[a-z][^A-Z]*[A-Z]|[a-z]") };
    assert_eq!(sent(&[slow], &"a".repeat(200_000)), "***");
    let mut small = Redactor::new(&[RedactRule { replace: "x".repeat(64), ..pattern("a") }], 100).unwrap();
    assert_eq!(small.apply(all(), &"a".repeat(50)), Some("x".repeat(64)));
}

#[test]
fn a_replacement_that_makes_a_new_place_with_its_neighbours_ends_with_the_whole_body() {
    // `ab` -> `-`, and `-b` is found again, for as long as there are more of them than passes.
    let rules = [RedactRule { replace: "c".into(), ..pattern("cb|ab") }];
    assert_eq!(sent(&rules, "abb!"), "c!");
    assert_eq!(sent(&rules, &format!("a{}!", "b".repeat(20))), "c");
}

#[test]
fn a_rule_that_cannot_keep_the_promise_is_refused() {
    let with = |replace: &str, rule: RedactRule| RedactRule { replace: replace.into(), ..rule };
    for (rules, key) in [
        (vec![RedactRule::default()], "[0]"),
        (vec![RedactRule { preset: "email".into(), ..pattern("x") }], "[0]"),
        (vec![rule("email"), rule("phone")], "[1].preset"),
        (vec![pattern("(")], "[0].pattern"),
        (vec![pattern("x*")], "[0].pattern"),
        (vec![pattern(r"\w{1000}{1000}")], "[0].pattern"),
        (vec![with("", rule("email"))], "[0].replace"),
        (vec![with("a \"b\"", rule("email"))], "[0].replace"),
        (vec![with("xx", pattern("x"))], "[0].replace"),
        (vec![rule("email"), pattern("redacted")], "[0].replace"),
        (vec![rule("card"); 33], ""),
    ] {
        let found = problems(&rules);
        assert_eq!(found.first().map(|problem| problem.key.as_str()), Some(key), "{rules:?}: {found:?}");
        assert!(Redactor::new(&rules, 100).is_err());
    }
    assert_eq!(problems(&NAMES.map(rule)), []);
}

/// Texts that are full of what the presets look for, and of their pieces.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a@b.co"),
        Just("@"),
        Just("."),
        Just("co"),
        Just("[redacted]"),
        Just("4111111111111111"),
        Just("4111 1111 "),
        Just("1111"),
        Just("-"),
        Just(" "),
        Just("378282246310005"),
        Just("password"),
        Just("password="),
        Just(" from x"),
        Just("["),
        Just("]"),
        Just("{"),
        Just("\"token\":\""),
        Just("="),
        Just(":"),
        Just("\""),
        Just("\\"),
        Just("'"),
        Just("Authorization: "),
        Just("Foo "),
        Just("k=\"v\", "),
        Just(", "),
        Just("','"),
        Just("\",\""),
        Just("Authorization:["),
        Just("\\\""),
        Just("Bearer "),
        Just("abcdefgh"),
        Just("eyJabcde.eyJfghij."),
        Just("AKIAIOSFODNN7EXAMPLE"),
        Just("-----BEGIN PRIVATE KEY-----"),
        Just("-----END PRIVATE KEY-----"),
        Just("://u:"),
        Just("é"),
        Just("\u{0}"),
    ];
    proptest::collection::vec(prop_oneof![6 => piece.prop_map(str::to_owned), 1 => ".{0,6}"], 0..24)
        .prop_map(|pieces| pieces.concat())
}

/// Compiled once.
static EVERY_RULE: LazyLock<Mutex<Redactor>> = LazyLock::new(|| {
    let wide = pattern(r"password=(\S+).* from \S+");
    Mutex::new(redactor(&NAMES.map(rule).into_iter().chain([wide]).collect::<Vec<_>>()))
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn what_is_sent_holds_nothing_that_a_rule_finds_and_a_second_time_changes_nothing(body in hostile(), which in 1u32..32) {
        let mut redactor = EVERY_RULE.lock().unwrap_or_else(PoisonError::into_inner);
        let set = RuleSet(which);
        let sent = redactor.apply(set, &body).unwrap_or_else(|| body.clone());
        prop_assert_eq!(redactor.apply(set, &sent), None);
        for (at, rule) in redactor.rules.iter().enumerate().filter(|(at, _)| set.has(*at)) {
            let mut from = 0;
            while let Some(place) = rule.finder.find(&sent, from) {
                from = place.next(&sent);
                for secret in place.secrets {
                    prop_assert_eq!(&sent[secret], "[redacted]", "rule {} in {}", at, sent);
                }
            }
        }
    }

    /// The card finder beside a plain definition of it.
    #[test]
    fn a_number_is_a_cards_exactly_if_its_digits_say_so(digits in "(4|5[1-5]|37|36|6011|62|9)[0-9]{10,17}") {
        let sum: u32 = digits.bytes().rev().enumerate().map(|(nth, digit)| {
            let digit = u32::from(digit - b'0') * if nth % 2 == 1 { 2 } else { 1 };
            digit / 10 + digit % 10
        }).sum();
        let len = digits.len();
        let is_brand = match &digits[..2] {
            "37" => len == 15,
            "36" => len == 14,
            "60" => (16..=19).contains(&len) && digits.starts_with("6011"),
            "62" => (16..=19).contains(&len),
            two if two.starts_with('4') => matches!(len, 16 | 19),
            two if two.starts_with('5') => len == 16,
            _ => false,
        };
        let found = sent(&[rule("card")], &digits) == "[redacted]";
        prop_assert_eq!(found, is_brand && sum.is_multiple_of(10), "{}", digits);
    }
}
