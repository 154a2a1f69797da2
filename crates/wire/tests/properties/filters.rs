use proptest::prelude::*;
use wire::filter::{covers, matches, valid_filter, valid_topic};

use crate::hostile_text;

/// Few names, so that filters and topics often meet.
fn filter() -> impl Strategy<Value = String> {
    (prop::collection::vec(prop::sample::select(&["a", "b", "", "+", "$s"][..]), 0..5), any::<bool>()).prop_map(
        |(mut levels, rest)| {
            if rest || levels.is_empty() {
                levels.push("#");
            }
            if levels == [""] {
                levels.push("a");
            }
            levels.join("/")
        },
    )
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&["a", "b", "", "$s", "zz"][..]), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

/// The rules of MQTT 4.7, written down once more, slowly.
fn matches_slowly(filter: &[&str], topic: &[&str], first: bool) -> bool {
    let hidden = first && topic.first().is_some_and(|name| name.starts_with('$'));
    match (filter, topic) {
        (["#"], _) => !hidden,
        (["+", filter @ ..], [_, topic @ ..]) => !hidden && matches_slowly(filter, topic, false),
        ([level, filter @ ..], [name, topic @ ..]) => level == name && matches_slowly(filter, topic, false),
        (filter, topic) => filter.is_empty() && topic.is_empty(),
    }
}

fn levels(name: &str) -> Vec<&str> {
    name.split('/').collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_matches_what_the_standard_says(filter in filter(), topic in topic()) {
        prop_assert!(valid_filter(&filter) && valid_topic(&topic));
        prop_assert_eq!(matches(&filter, &topic), matches_slowly(&levels(&filter), &levels(&topic), true));
    }

    #[test]
    fn a11_a_covering_filter_matches_every_topic_of_the_narrower(wide in filter(), narrow in filter(), topic in topic()) {
        if covers(&wide, &narrow) {
            prop_assert!(!matches(&narrow, &topic) || matches(&wide, &topic), "{} {} {}", wide, narrow, topic);
        }
    }

    /// Were it not so, a legitimate subscription would be refused.
    #[test]
    fn a_filter_that_does_not_cover_misses_a_topic(wide in filter(), narrow in filter()) {
        prop_assume!(!covers(&wide, &narrow));
        let named = narrow.replace('+', "zz");
        let witnesses = match named.strip_suffix('#') {
            None => vec![named],
            Some(parent) => vec![parent.strip_suffix('/').unwrap_or(parent).to_owned(), format!("{parent}zz"), format!("{parent}zz/zz/zz/zz/zz/zz")],
        };
        prop_assert!(witnesses.iter().any(|topic| matches(&narrow, topic) && !matches(&wide, topic)), "{} {}", wide, narrow);
    }

    #[test]
    fn a_filter_covers_itself_and_a_topic_is_a_filter(filter in filter(), topic in topic()) {
        prop_assert!(covers(&filter, &filter));
        prop_assert_eq!(covers(&filter, &topic), matches(&filter, &topic));
    }

    #[test]
    fn no_text_makes_a_filter_panic(one in hostile_text(), two in hostile_text()) {
        let _ = (valid_filter(&one), valid_topic(&one), matches(&one, &two), covers(&one, &two));
        prop_assert!(!valid_topic(&one) || valid_filter(&one));
    }
}

#[test]
fn the_examples_of_the_standard() {
    for (filter, topic, expected) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$SYS/broker", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/broker", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("ACCOUNTS", "Accounts", false),
    ] {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
    }
    for filter in ["sport/tennis#", "sport/tennis/#/ranking", "sport+", "", "a\0b", "##", "+a/b"] {
        assert!(!valid_filter(filter), "{filter}");
    }
    for topic in ["", "a/+", "a/#", "a\0"] {
        assert!(!valid_topic(topic), "{topic}");
    }
    assert!(valid_topic("é/ü") && valid_topic("/") && valid_filter("#") && valid_filter("+/+/#"));
    assert!(valid_topic(&"x".repeat(65_535)) && !valid_topic(&"x".repeat(65_536)) && !valid_filter(&"x".repeat(65_536)));
}

#[test]
fn a11_wildcards_do_not_reach_hidden_topics() {
    assert!(!covers("#", "$SYS/#") && !covers("+/#", "$SYS/x") && covers("$SYS/#", "$SYS/+"));
    assert!(covers("+/#", "#") && covers("#", "+/#") && !covers("a/+/#", "a/#"));
}
