use wire::openadr::{ObjectOperation, ObjectType, Operation, ResourceRequest, SubscriptionRequest, VenRequest};

use super::calls::{Call, Next};
use super::subscriptions::{Notice, Sight, Told};
use super::*;

fn ven(name: &str) -> VenRequest {
    serde_json::from_value(serde_json::json!({"venName": name})).unwrap()
}

fn resource(ven: &str, name: &str, targets: &[&str]) -> ResourceRequest {
    serde_json::from_value(serde_json::json!({"venID": ven, "resourceName": name, "targets": targets})).unwrap()
}

fn wanting(objects: &[ObjectType], operations: &[Operation]) -> SubscriptionRequest {
    let operation = ObjectOperation {
        objects: objects.to_vec(),
        operations: operations.to_vec(),
        callback_url: "http://127.0.0.1:1/x".to_owned(),
        bearer_token: Some("secret".to_owned()),
    };
    SubscriptionRequest { client_name: "c".to_owned(), program_id: None, object_operations: vec![operation], targets: None }
}

fn event(targets: &[&str]) -> Notice {
    Notice {
        kind: ObjectType::Event,
        operation: Operation::Create,
        program: Some("peak".to_owned()),
        owner: None,
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        object: serde_json::json!({"id": "e", "targets": targets}),
    }
}

#[test]
fn c13_a_ven_is_its_users_own_and_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vens.sqlite");
    let clients = Clients::open(&path).unwrap();
    let made = clients.write(|desk| desk.add_ven("user.1", &ven("home"), 5)).unwrap();
    assert_eq!((made.id.as_str(), made.client_id.as_str(), made.ven_name.as_str()), ("ven-1", "user_1", "home"));
    for user in ["user.1", "eve"] {
        assert!(matches!(clients.write(|desk| desk.add_ven(user, &ven("home"), 6)), Err(ClientsFault::Taken("VEN"))));
    }
    clients.write(|desk| desk.add_ven("eve", &ven("mine"), 6)).unwrap();
    let fridge = clients.write(|desk| desk.add_resource(Whose::User("user.1"), &resource("ven-1", "fridge", &["cold"]), 6));
    let (fridge, _) = fridge.unwrap().unwrap();
    drop(clients);
    let clients = Clients::open(&path).unwrap();
    let (own, others) = (Whose::User("user.1"), Whose::User("eve"));
    clients
        .write(|desk| {
            assert_eq!(desk.vens(own)?, [made]);
            assert_eq!(desk.vens(Whose::All)?.len(), 2);
            assert_eq!(desk.granted("user.1")?, ["cold"]);
            assert_eq!(desk.change_ven(others, "ven-1", &ven("theirs"), 7)?, None);
            assert_eq!(desk.remove_ven(others, "ven-1")?, None);
            assert!(matches!(desk.change_ven(own, "ven-1", &ven("mine"), 7), Err(ClientsFault::Taken(_))));
            let (changed, _) = desk.change_ven(own, "ven-1", &ven("house"), 7)?.unwrap();
            let is_later = changed.created_date_time != changed.modification_date_time;
            assert_eq!((changed.ven_name.as_str(), is_later), ("house", true));
            assert_eq!(desk.resources(own, Some("ven-1"))?, std::slice::from_ref(&fridge));
            assert_eq!(desk.resources(others, None)?, []);
            assert_eq!(desk.add_resource(others, &resource("ven-1", "oven", &[]), 7)?, None);
            let taken = desk.add_resource(own, &resource("ven-1", "fridge", &[]), 7);
            assert!(matches!(taken, Err(ClientsFault::Taken("resource"))));
            assert_eq!(desk.change_resource(own, &fridge.id, &resource("ven-2", "fridge", &[]), 7)?, None);
            let (renamed, _) = desk.change_resource(own, &fridge.id, &resource("ven-1", "freezer", &[]), 7)?.unwrap();
            assert_eq!((renamed.resource_name.as_str(), renamed.targets.len()), ("freezer", 0));
            assert!(desk.remove_ven(own, "ven-1")?.is_some());
            assert_eq!((desk.vens(own)?.len(), desk.resources(Whose::All, None)?.len()), (0, 0));
            Ok(())
        })
        .unwrap();
}

#[test]
fn c13_a_change_is_told_to_whom_it_concerns_and_hides_targets_that_were_not_granted() {
    let all = wanting(&[ObjectType::Event], &[Operation::Create]);
    let granted = ["north".to_owned()];
    let told = |notice: &Notice, request: &SubscriptionRequest, sight| notice.to(request, sight, &granted);
    let (plain, north, south) = (event(&[]), event(&["north", "big"]), event(&["south"]));
    assert!(told(&plain, &all, Sight::Targeted).is_some());
    assert!(told(&plain, &all, Sight::None).is_none());
    assert!(told(&south, &all, Sight::Targeted).is_none());
    assert!(told(&south, &all, Sight::All).is_some());
    let (notification, _) = told(&north, &all, Sight::Targeted).unwrap();
    assert_eq!(notification.targets, Some(vec!["north".to_owned()]));
    assert_eq!(notification.object["targets"], serde_json::json!(["north"]), "the other target is hidden");
    let wants = |targets: &[&str]| SubscriptionRequest {
        targets: Some(targets.iter().map(|target| (*target).to_owned()).collect()),
        ..all.clone()
    };
    assert!(told(&north, &wants(&["north"]), Sight::Targeted).is_some());
    assert!(told(&north, &wants(&["big"]), Sight::Targeted).is_none());
    assert!(told(&plain, &wants(&["north"]), Sight::Targeted).is_none());
    let other = SubscriptionRequest { program_id: Some("other".to_owned()), ..all.clone() };
    assert!(told(&plain, &other, Sight::All).is_none());
    for (objects, operations) in
        [(vec![ObjectType::Report], vec![Operation::Create]), (vec![ObjectType::Event], vec![Operation::Delete])]
    {
        assert!(told(&plain, &wanting(&objects, &operations), Sight::All).is_none());
    }
}

#[test]
fn c13_what_is_to_be_told_is_bounded_ordered_and_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vens.sqlite");
    let clients = Clients::open(&path).unwrap();
    let request = wanting(&[ObjectType::Event], &[Operation::Create]);
    clients.write(|desk| desk.subscribe("a", &request, 1)).unwrap();
    clients.write(|desk| desk.subscribe("b", &request, 1)).unwrap();
    let sees = |user: &str| if user == "a" { Sight::All } else { Sight::None };
    let told = clients.write(|desk| {
        let mut sum = Told::default();
        for _ in 0..1_002 {
            let one = desk.tell(&event(&[]), &sees, 5)?;
            (sum.queued, sum.dropped) = (sum.queued + one.queued, sum.dropped + one.dropped);
        }
        Ok(sum)
    });
    assert_eq!(told.unwrap(), Told { queued: 1_000, dropped: 2 });
    drop(clients);
    let clients = Clients::open(&path).unwrap();
    clients
        .write(|desk| {
            assert_eq!(desk.due(4, 10)?, []);
            let due = desk.due(5, 10)?;
            assert_eq!((due.len(), due[0].bearer.as_deref(), desk.waiting()?), (1, Some("secret"), 1_000));
            desk.put_off(due[0].id, 50)?;
            assert_eq!(desk.due(49, 10)?, [], "those behind it wait, too");
            assert_eq!(desk.due(50, 10)?, [Call { tries: 1, ..due[0].clone() }]);
            desk.end_call(due[0].id)?;
            let next = desk.due(5, 10)?[0].id;
            assert!(next > due[0].id);
            assert!(desk.unsubscribe(Whose::User("b"), "subscription-1")?.is_none());
            assert!(desk.unsubscribe(Whose::User("a"), "subscription-1")?.is_some());
            assert_eq!(desk.waiting()?, 0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn c13_a_call_that_fails_is_tried_again_with_growing_pauses_and_given_up_when_it_is_old() {
    const SECOND: i64 = 1_000_000_000;
    let call = |tries| Call { id: 1, url: String::new(), bearer: None, body: String::new(), tries, made: 0 };
    let pauses = [0, 1, 2, 8, 9, 60, u32::MAX].map(|tries| match call(tries).after_failure(10, 100 * SECOND) {
        Next::Again(at) => (at - 10) / SECOND,
        Next::Never => -1,
    });
    assert_eq!(pauses, [1, 2, 4, 256, 300, 300, 300]);
    assert_eq!(call(3).after_failure(100 * SECOND, 100 * SECOND), Next::Never);
}

#[test]
fn c13_what_was_told_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let clients = Clients::open(&folder.path().join("vens.sqlite")).unwrap();
    let (series, epoch) = ("a/b/c".parse().unwrap(), wire::Epoch(0xfe));
    clients
        .write(|desk| {
            assert_eq!(desk.events_told("peak")?, None);
            desk.tell_events("peak", epoch, 3)?;
            desk.tell_events("peak", epoch, 4)?;
            assert_eq!(desk.events_told("peak")?, Some((epoch, 4)));
            assert!(!desk.reports_are_wanted("peak")?);
            desk.want_reports("peak", &[(series, epoch, wire::Intervals::of(1, 5))])?;
            assert!(desk.reports_are_wanted("peak")?);
            assert_eq!(desk.reports_told(&"a/b/c".parse().unwrap(), epoch)?, wire::Intervals::of(1, 5));
            desk.forget_reports("peak")?;
            assert!(!desk.reports_are_wanted("peak")?);
            assert!(desk.reports_told(&"a/b/c".parse().unwrap(), epoch)?.is_empty());
            Ok(())
        })
        .unwrap();
}

#[test]
fn steps_are_sound() {
    store::check_steps(STEPS).unwrap();
}
