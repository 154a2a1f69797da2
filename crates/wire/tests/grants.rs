//! Who may do what: the verdict, and what is said about grants that are written wrongly.

use std::sync::Arc;

use serde_json::{Value, json};
use wire::grants::{Action, Denial, Grants, GrantsFile, Sensors, SensorsFile, Subject, Verdict};

use Action::{Publish, Query, Subscribe};

fn grants(list: Value) -> Grants {
    let file: GrantsFile = serde_json::from_value(json!({ "grant": list })).expect("the file has the right shape");
    Grants::new(&file).expect("the grants are valid")
}

fn user<'a>(user: &'a str, client: &'a str) -> Subject<'a> {
    Subject { user: Some(user), client }
}

fn allowed(grants: &Grants, subject: &Subject<'_>, action: Action, name: &str) -> bool {
    grants.verdict(subject, action, name, 0).is_allowed()
}

/// All messages about one grant that stands behind a valid one.
fn faults(grant: Value) -> String {
    let valid = json!({"users": ["a"], "actions": ["query"], "areas": ["a"]});
    match serde_json::from_value::<GrantsFile>(json!({ "grant": [valid, grant] })) {
        Err(shape) => shape.to_string(),
        Ok(file) => Grants::new(&file).expect_err("the grant has a fault").to_string(),
    }
}

#[test]
fn a11_nothing_is_allowed_that_no_grant_names() {
    let none = Grants::default();
    for action in [Publish, Subscribe, Query] {
        assert_eq!(none.verdict(&user("alice", "c"), action, "data/cityA/m/p", 0), Verdict::Denied(Denial::NoGrant));
    }
    assert!(!none.delivers(&user("alice", "c"), "data/cityA/m/p", 0));
}

#[test]
fn a11_an_analyst_of_one_area_sees_that_area_only() {
    let grants = grants(json!([{"users": ["alice"], "actions": ["subscribe", "query"], "areas": ["cityA"]}]));
    let alice = user("alice", "laptop");
    assert!(allowed(&grants, &alice, Query, "data/cityA/meter-1/power"));
    assert!(allowed(&grants, &alice, Subscribe, "data/cityA/#") && allowed(&grants, &alice, Subscribe, "data/cityA/+/power/#"));
    assert!(grants.delivers(&alice, "data/cityA/meter-1/power", 0));
    for filter in
        ["#", "data/#", "data/+/meter-1/power", "+/cityA/#", "data/cityB/#", "data/cityA2/#", "data", "$share/g/data/cityA/#"]
    {
        assert_eq!(grants.verdict(&alice, Subscribe, filter, 0), Verdict::Denied(Denial::NoGrant), "{filter}");
    }
    assert!(
        !allowed(&grants, &alice, Query, "data/cityB/meter-1/power")
            && !allowed(&grants, &alice, Publish, "data/cityA/meter-1/power")
    );
    assert!(!grants.delivers(&alice, "data/cityB/meter-1/power", 0));
    assert!(!allowed(&grants, &user("bob", "laptop"), Query, "data/cityA/meter-1/power"));
    assert!(!allowed(&grants, &user("Alice", "laptop"), Query, "data/cityA/meter-1/power"));
}

#[test]
fn a11_a_wildcard_is_not_a_topic() {
    let grants = grants(json!([{"users": ["*"], "actions": ["publish", "query", "subscribe"], "topics": ["data/#"]}]));
    for topic in ["data/#", "data/+/x", "", "data/\0"] {
        assert_eq!(grants.verdict(&user("a", "c"), Publish, topic, 0), Verdict::Denied(Denial::InvalidName), "{topic:?}");
        assert_eq!(grants.verdict(&user("a", "c"), Query, topic, 0), Verdict::Denied(Denial::InvalidName), "{topic:?}");
    }
    assert_eq!(grants.verdict(&user("a", "c"), Subscribe, "data/#/x", 0), Verdict::Denied(Denial::InvalidName));
    assert!(allowed(&grants, &user("a", "c"), Subscribe, "data/#"));
}

#[test]
fn a11_one_grant_must_cover_a_subscription_wholly() {
    let grants = grants(json!([
        {"users": ["alice"], "actions": ["subscribe"], "topics": ["x/a", "x/b"]},
        {"users": ["alice"], "actions": ["subscribe"], "topics": ["x/+/y"]},
    ]));
    let alice = user("alice", "c");
    assert!(allowed(&grants, &alice, Subscribe, "x/a") && allowed(&grants, &alice, Subscribe, "x/+/y"));
    assert!(!allowed(&grants, &alice, Subscribe, "x/+") && !allowed(&grants, &alice, Subscribe, "x/#"));
}

fn sensors() -> Arc<Sensors> {
    let file: SensorsFile = serde_json::from_value(json!({"sensors": {
        "cityA/home-1": ["residential", "h0"], "cityA/home-2": ["residential"], "cityA/shop": ["commercial"], "cityB/home": ["residential"],
    }}))
    .expect("the sensors are valid");
    Arc::new(Sensors::new(&file).expect("the sensors are valid"))
}

#[test]
fn a11_tags_pick_sensors_within_areas_and_streams() {
    let granted = |grant: Value| {
        let mut grant = grant;
        grant["users"] = json!(["ana"]);
        grant["actions"] = json!(["subscribe", "query"]);
        grants(json!([grant])).with_sensors(sensors())
    };
    let ana = user("ana", "c");
    let sees = |grants: &Grants, topic: &str| {
        let delivered = grants.delivers(&ana, topic, 0);
        assert_eq!(delivered, allowed(grants, &ana, Query, topic), "live and past agree: {topic}");
        delivered
    };
    let homes = granted(json!({"areas": ["cityA"], "tags": ["residential"]}));
    assert!(sees(&homes, "data/cityA/home-1/power/active") && sees(&homes, "data/cityA/home-2/water"));
    for topic in [
        "data/cityA/shop/power/active",
        "data/cityB/home/power/active",
        "data/cityA/new/power",
        "data/cityA",
        "data",
        "x/cityA/home-1/p",
    ] {
        assert!(!sees(&homes, topic), "{topic}");
    }
    // Bounds are by name, tags are asked at each delivery; a filter that names a sensor is asked at once.
    for filter in ["data/cityA/#", "data/cityA/+/power/#", "data/cityA/home-2/#", "data/cityA/home-2"] {
        assert!(allowed(&homes, &ana, Subscribe, filter), "{filter}");
    }
    for filter in
        ["data/#", "data/+/home-1/#", "data/cityA/shop/#", "data/cityA/shop", "data/cityA/new/#", "#", "data/cityB/home/#"]
    {
        assert!(!allowed(&homes, &ana, Subscribe, filter), "{filter}");
    }
    let both = granted(json!({"tags": ["residential", "h0"]}));
    assert!(sees(&both, "data/cityA/home-1/p") && !sees(&both, "data/cityA/home-2/p"), "all tags must hold");
    assert!(allowed(&both, &ana, Subscribe, "data/#") && !allowed(&both, &ana, Subscribe, "#"));
    let active = granted(json!({"tags": ["residential"], "streams": ["power/active", "heat/#"]}));
    assert!(sees(&active, "data/cityB/home/power/active") && sees(&active, "data/cityA/home-1/heat/in/1"));
    assert!(!sees(&active, "data/cityB/home/power/reactive") && !sees(&active, "data/cityA/shop/power/active"));
    assert!(
        allowed(&active, &ana, Subscribe, "data/+/+/power/active") && allowed(&active, &ana, Subscribe, "data/cityA/+/heat/+")
    );
    assert!(!allowed(&active, &ana, Subscribe, "data/cityA/#") && !allowed(&active, &ana, Subscribe, "data/+/+/power/#"));
    let water = granted(json!({"areas": ["cityA", "cityB"], "streams": ["water"]}));
    assert!(
        sees(&water, "data/cityB/any/water")
            && !sees(&water, "data/cityB/any/water/hot")
            && !sees(&water, "data/cityC/any/water")
    );
    let unknown = grants(json!([{"users": ["ana"], "actions": ["query"], "tags": ["residental"]}])).with_sensors(sensors());
    assert_eq!(unknown.unknown_tags(), ["residental"]);
    let without = grants(json!([{"users": ["ana"], "actions": ["query"], "tags": ["residential"]}]));
    assert!(!sees(&without, "data/cityA/home-1/p"), "without a registry no sensor has a tag");
}

#[test]
fn a11_two_sources_of_grants_stand_side_by_side() {
    let first = grants(
        json!([{"users": ["ana"], "actions": ["query"], "areas": ["cityA"]}, {"users": ["*"], "actions": ["query"], "topics": ["t"]}]),
    );
    let second = grants(json!([
        {"users": ["bob"], "actions": ["query"], "areas": ["cityC"]},
        {"users": ["ana"], "actions": ["query"], "tags": ["residential"]},
        {"users": ["*"], "actions": ["query"], "topics": ["u"]},
    ]));
    let all = first.with_sensors(sensors()).and(&second);
    for (name, topic, expected) in [
        ("ana", "data/cityA/shop/p", true),
        ("ana", "data/cityB/home/p", true),
        ("ana", "data/cityC/x/p", false),
        ("bob", "data/cityC/x/p", true),
        ("bob", "data/cityA/home-1/p", false),
        ("eve", "t", true),
        ("eve", "u", true),
    ] {
        assert_eq!(allowed(&all, &user(name, "c"), Query, topic), expected, "{name} {topic}");
    }
}

#[test]
fn a11_a_client_without_a_verified_user_has_no_grants() {
    let grants = grants(json!([{"users": ["*"], "actions": ["publish", "subscribe"], "topics": ["#", "$SYS/#"]}]));
    let nobody = Subject { user: None, client: "c" };
    assert_eq!(grants.verdict(&nobody, Publish, "a", 0), Verdict::Denied(Denial::NoUser));
    assert!(!grants.delivers(&nobody, "a", 0));
    assert!(allowed(&grants, &user("anyone", "c"), Publish, "a"));
}

#[test]
fn a11_names_stand_for_themselves_and_smuggle_nothing() {
    let grants = grants(json!([
        {"users": ["*"], "actions": ["publish"], "topics": ["op/+/cityA/%u/#", "query/%c", "x/a-%u.%c-b"]},
        {"users": ["*"], "actions": ["subscribe"], "topics": ["own/%c/#", "%c/#"]},
    ]));
    let meter = user("meter-1", "c7");
    assert!(allowed(&grants, &meter, Publish, "op/store/cityA/meter-1/power") && allowed(&grants, &meter, Publish, "query/c7"));
    assert!(allowed(&grants, &meter, Publish, "x/a-meter-1.c7-b") && allowed(&grants, &meter, Subscribe, "own/c7/+"));
    for topic in [
        "op/store/cityA/meter-2/power",
        "op/store/cityA/meter-11/power",
        "query/c77",
        "query/%c",
        "x/a-meter-1.c7",
        "x/a-c7.meter-1-b",
    ] {
        assert!(!allowed(&grants, &meter, Publish, topic), "{topic}");
    }
    for client in ["+", "#", "a+b", "a/b", "a/#", "$SYS", "", "a\0"] {
        let subject = user(client, client);
        let topics = [
            format!("op/store/cityA/{client}/x"),
            format!("query/{client}"),
            "query/a".into(),
            "query/a/b".into(),
            "op/store/cityA//x".into(),
        ];
        for topic in &topics {
            assert!(!allowed(&grants, &subject, Publish, topic), "{client:?} {topic:?}");
        }
        for filter in ["own/#", "own/+/#", "own/a/b/#", "own/a/#", "#", "+/#", "$SYS/#", "own//#"] {
            assert!(!allowed(&grants, &subject, Subscribe, filter), "{client:?} {filter:?}");
        }
        assert!(!grants.delivers(&subject, "own/a/b", 0) && !grants.delivers(&subject, "$SYS/x", 0), "{client:?}");
    }
    assert!(!allowed(&grants, &user("%c", "c7"), Publish, "op/store/cityA/c7/x"), "what was put in is not read again");
}

#[test]
fn c9_a_grant_holds_from_its_first_to_before_its_last_nanosecond() {
    let grants = grants(json!([{
        "users": ["alice"], "actions": ["subscribe"], "areas": ["cityA"], "not_before": "1970-01-01T00:00:01Z", "until": "1970-01-01T02:00:02+02:00",
    }]));
    let alice = user("alice", "c");
    for (now, holds) in [
        (0, false),
        (999_999_999, false),
        (1_000_000_000, true),
        (1_999_999_999, true),
        (2_000_000_000, false),
        (i64::MAX, false),
    ] {
        let expected = if holds { Verdict::Allowed } else { Verdict::Denied(Denial::OutOfTime) };
        assert_eq!(grants.verdict(&alice, Subscribe, "data/cityA/#", now), expected, "{now}");
        assert_eq!(grants.delivers(&alice, "data/cityA/m/p", now), holds, "{now}");
    }
}

#[test]
fn hidden_topics_need_a_grant_that_names_them() {
    let grants = grants(json!([{"users": ["a"], "actions": ["subscribe", "publish"], "topics": ["#"]}]));
    assert!(!allowed(&grants, &user("a", "c"), Subscribe, "$SYS/#") && !allowed(&grants, &user("a", "c"), Publish, "$SYS/x"));
    assert!(!grants.delivers(&user("a", "c"), "$SYS/x", 0));
}

#[test]
fn a_fault_names_the_grant_the_field_and_the_fix() {
    let with = |field: &str, value: Value| {
        let mut grant = json!({"users": ["a"], "actions": ["subscribe"], "topics": ["a"]});
        grant[field] = value;
        faults(grant)
    };
    let read = |field: &str, value: Value| {
        let mut grant = json!({"users": ["a"], "actions": ["query"], "areas": ["a"]});
        grant[field] = value;
        faults(grant)
    };
    for (message, parts) in [
        (with("users", json!([])), ["grant 2: users:", "\"*\" for every verified user"]),
        (with("users", json!(["*", "b"])), ["grant 2: users:", "leave out"]),
        (with("users", json!(["meter-*"])), ["grant 2: users: \"meter-*\"", "write whole names"]),
        (with("users", json!("alice")), ["grant 2: ", "expected a sequence"]),
        (with("actions", json!([])), ["grant 2: actions:", "name publish, subscribe or query"]),
        (with("actions", json!(["read"])), ["grant 2: actions: \"read\"", "use publish, subscribe or query"]),
        (with("topics", json!([])), ["grant 2: topics:", "or areas in `areas`"]),
        (with("tags", json!(["x"])), ["grant 2: topics:", "in a grant of its own"]),
        (read("tags", json!(["a/b"])), ["grant 2: tags: \"a/b\"", "write its name alone"]),
        (read("tags", json!(["%u"])), ["grant 2: tags: \"%u\"", "write its name alone"]),
        (read("streams", json!(["../x", "power/#/x"])), ["grant 2: streams: \"power/#/x\"", "like \"power/active\""]),
        (read("streams", json!(["%u"])), ["grant 2: streams: \"%u\"", "like \"power/active\""]),
        (faults(json!({"users": ["a"], "actions": ["query"], "streams": ["p"]})), ["grant 2: streams:", "areas or tags beside"]),
        (faults(json!({"users": ["a"], "actions": ["publish"], "tags": ["p"]})), ["grant 2: tags:", "in a grant of its own"]),
        (with("topics", json!(["a/#/b"])), ["grant 2: topics: \"a/#/b\"", "# only at the end"]),
        (with("topics", json!(["a%u+"])), ["grant 2: topics: \"a%u+\"", "stand alone"]),
        (with("topics", json!(["%s/b"])), ["grant 2: topics: \"%s/b\"", "%u (user) and %c (client id)"]),
        (with("topics", json!(["a%"])), ["grant 2: topics: \"a%\"", "%u (user) and %c (client id)"]),
        (with("topics", json!([""])), ["grant 2: topics: \"\"", "not an MQTT topic filter"]),
        (with("areas", json!(["cityA/#"])), ["grant 2: areas: \"cityA/#\"", "write its name alone"]),
        (with("areas", json!(["%u"])), ["grant 2: areas: \"%u\"", "write its name alone"]),
        (with("until", json!("tomorrow")), ["grant 2: until: \"tomorrow\"", "2026-01-31T18:00:00Z"]),
        (with("until", json!("2026-01-31T18:00:00")), ["grant 2: until:", "with its offset"]),
        (with("not_before", json!("9000-01-01T00:00:00Z")), ["grant 2: not_before:", "use a year from 1678 to 2261"]),
        (with("untill", json!("2026-01-31T18:00:00Z")), ["grant 2: unknown field `untill`", "`until`"]),
        (faults(json!({"users": ["a"], "actions": ["publish"], "areas": ["a"]})), ["grant 2: areas:", "in a grant of its own"]),
        (
            faults(
                json!({"users": ["a"], "actions": ["query"], "areas": ["a"], "not_before": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}),
            ),
            ["grant 2: until:", "give a later time"],
        ),
    ] {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}\nlacks one of {parts:?}");
    }
    assert_eq!(faults(json!({})).lines().count(), 3, "every fault is told at once");
    assert!(
        serde_json::from_value::<GrantsFile>(json!({"grants": []}))
            .is_err_and(|error| error.to_string().contains("unknown field `grants`"))
    );
}

#[test]
fn grants_are_read_back_as_they_were_written() {
    let list = json!({"grant": [
        {"users": ["alice"], "actions": ["subscribe", "query"], "areas": ["cityA"], "until": "2027-01-01T00:00:00Z"},
        {"users": ["*"], "actions": ["publish"], "topics": ["op/+/cityA/%u/#"]},
    ]});
    let file: GrantsFile = serde_json::from_value(list.clone()).unwrap();
    assert_eq!(serde_json::to_value(&file).unwrap(), list);
    assert!(Grants::new(&GrantsFile::default()).is_ok(), "no grants at all: nothing is allowed");
}
