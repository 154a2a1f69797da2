//! The ledger on a real file.

use wire::grants::Action;

use super::*;

const LIMITS: Limits = Limits { waiting_max: 2, day_max: 5, kept_max: 6 };

fn ana() -> Identity {
    Identity { user: "city:ana".into(), authority: "city".into(), attributes: Map::new() }
}

fn want(until: At) -> Want {
    let bounds = Bounds { areas: vec!["cityA".into()], actions: vec![Action::Query], ..Bounds::default() };
    Want { bounds, from: 0, until, purpose: "a study".into() }
}

fn by(name: &str, at: At) -> Decided {
    Decided { at, by: name.into(), reason: "so".into() }
}

fn told(refused: Refused) -> Problem {
    match refused {
        Refused::Problem(problem) => problem,
        Refused::Fault(fault) => panic!("{fault}"),
    }
}

#[test]
fn a11_decisions_and_trail_survive_a_restart_and_hang_together() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, broken) = Ledger::open(dir.path()).unwrap();
    assert_eq!(broken, None);
    let first = ledger.ask(&ana(), &want(50), None, LIMITS, 1).unwrap();
    let given = Given { rule: "research".into(), until: 40 };
    let second = ledger.ask(&ana(), &want(50), Some(&given), LIMITS, 2).unwrap();
    assert_eq!((first.state, second.state), (State::Waiting, State::Approved));
    assert_eq!(second.granted, Some((want(50).bounds, 40)));
    let narrowed = Narrowed { until: Some("30".into()), ..Narrowed::default() };
    let approved = ledger.decide(first.id, Event::Approve, &by("oscar", 3), &narrowed).unwrap();
    assert_eq!(approved.granted, Some((want(50).bounds, 30)));
    let problem = told(ledger.decide(first.id, Event::Reject, &by("oscar", 4), &Narrowed::default()).unwrap_err());
    assert_eq!(problem.status, 409);
    assert_eq!(told(ledger.decide(99, Event::Revoke, &by("oscar", 4), &Narrowed::default()).unwrap_err()).status, 404);
    drop(ledger);
    let (ledger, broken) = Ledger::open(dir.path()).unwrap();
    assert_eq!(broken, None);
    assert_eq!(ledger.in_force(29).unwrap().len(), 2);
    assert_eq!(ledger.in_force(30).unwrap(), std::slice::from_ref(&second));
    ledger.decide(second.id, Event::Revoke, &by("oscar", 31), &Narrowed::default()).unwrap();
    assert!(ledger.in_force(31).unwrap().is_empty());
    let trail: Vec<_> = ledger.log(0, 99).unwrap().into_iter().map(|entry| (entry.who, entry.what, entry.request)).collect();
    let entry = |who: &str, what: &str, request| (who.to_owned(), what.to_owned(), request);
    let expected = [
        entry("city:ana", "asked", 1),
        entry("city:ana", "asked", 2),
        entry("rule research", "approved", 2),
        entry("oscar", "approved", 1),
        entry("oscar", "revoked", 2),
    ];
    assert_eq!(trail, expected);
}

#[test]
fn a11_the_trail_shows_that_it_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (ledger, _) = Ledger::open(dir.path()).unwrap();
    for now in 1..=2 {
        let id = ledger.ask(&ana(), &want(50), None, LIMITS, now).unwrap().id;
        ledger.decide(id, Event::Reject, &by("oscar", now), &Narrowed::default()).unwrap();
    }
    drop(ledger);
    let connection = Connection::open(&path).unwrap();
    for sql in ["UPDATE log SET who = 'x' WHERE seq = 2", "DELETE FROM log WHERE seq = 4"] {
        assert!(connection.execute(sql, []).unwrap_err().to_string().contains("audit trail"), "{sql}");
    }
    connection.execute_batch("DROP TRIGGER log_stays; DROP TRIGGER log_grows;").unwrap();
    for (forge, mend, seq) in [
        ("UPDATE log SET who = 'eve' WHERE seq = 2", "UPDATE log SET who = 'oscar' WHERE seq = 2", 2),
        ("UPDATE log SET at = at + 1 WHERE seq = 1", "UPDATE log SET at = at - 1 WHERE seq = 1", 1),
        ("UPDATE log SET detail = '{\"a\":1}' WHERE seq = 4", "UPDATE log SET detail = '{}' WHERE seq = 4", 4),
        ("UPDATE log SET seq = 9 WHERE seq = 3", "UPDATE log SET seq = 3 WHERE seq = 9", 3),
    ] {
        connection.execute(forge, []).unwrap();
        assert_eq!(Ledger::open(dir.path()).unwrap().1, Some(seq), "{forge}");
        connection.execute(mend, []).unwrap();
        assert_eq!(Ledger::open(dir.path()).unwrap().1, None, "{mend}");
    }
}

#[test]
fn a11_requests_are_limited_by_user_by_day_and_in_all() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path()).unwrap();
    let other = |name: &str| Identity { user: name.into(), ..ana() };
    let ask = |who: &Identity, now| ledger.ask(who, &want(9 * DAY), None, LIMITS, now).map(|request| request.id);
    let withdraw = |id| ledger.decide(id, Event::Withdraw, &by("city:ana", 1), &Narrowed::default()).unwrap();
    let first = ask(&ana(), 1).unwrap();
    ask(&ana(), 1).unwrap();
    assert_eq!(told(ask(&ana(), 1).unwrap_err()).status, 429, "two wait");
    ask(&other("city:bob"), 1).unwrap();
    withdraw(first);
    for _ in 0..3 {
        withdraw(ask(&ana(), 1).unwrap());
    }
    assert!(told(ask(&ana(), 1).unwrap_err()).detail.contains("within a day"));
    ask(&ana(), DAY + 2).unwrap();
    // Six are kept at most: those that are over make room, and when none is over there is no room.
    assert!(ledger.get(first).unwrap().is_none(), "the oldest that was over is forgotten");
    ask(&other("a"), DAY + 2).unwrap();
    ask(&other("b"), DAY + 2).unwrap();
    ask(&other("c"), DAY + 2).unwrap();
    assert!(told(ask(&other("d"), DAY + 2).unwrap_err()).detail.contains("list of requests is full"));
    let all: Vec<_> = ledger.list(None, None, None, 99).unwrap().iter().map(|request| request.id).collect();
    assert_eq!(all.len(), 6);
    assert!(all.is_sorted_by(|a, b| a > b), "the newest first");
    assert_eq!(ledger.list(Some("city:ana"), Some(State::Waiting), None, 99).unwrap().len(), 2);
    assert_eq!(ledger.list(None, None, Some(all[4]), 99).unwrap().len(), 1);
}
