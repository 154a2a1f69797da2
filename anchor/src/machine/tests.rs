//! Every state with every event, and the ways that matter.

use super::*;

const NOW: At = 1_700_000_000_000_000_000;
const SECOND: At = 1_000_000_000;

fn mined() -> Mined {
    Mined { tx: [1; 32], block_number: 5, block_hash: [2; 32], log_index: 0, gas_used: 31_703 }
}

fn of(state: State) -> Progress {
    let on_chain = matches!(state, State::Mined | State::Final);
    Progress {
        state,
        failure: (state == State::Failed).then_some(Failure::ForeignHead),
        mined: on_chain.then(mined),
        ..Progress::closed(NOW)
    }
}

fn events() -> Vec<Event> {
    let heads = [Head::Reached, Head::Before, Head::Older, Head::Foreign];
    let refusals = [
        Refusal::AlreadyKnown,
        Refusal::NonceTooLow,
        Refusal::NoFunds,
        Refusal::Underpriced,
        Refusal::FeeBelowBase,
        Refusal::HeadMismatch([3; 32]),
        Refusal::Reverts("no".into()),
        Refusal::Busy,
        Refusal::Other("no".into()),
    ];
    let mut events =
        vec![Event::Turn, Event::Signed, Event::Held, Event::Taken, Event::Vanished, Event::Confirmed, Event::Foreign];
    events.extend(refusals.map(Event::Refused));
    events.push(Event::Seen(Sight::Wrote(mined())));
    for head in heads {
        events.push(Event::Seen(Sight::Failed(head)));
        for nonce in [Nonce::Next, Nonce::Used, Nonce::Ahead] {
            events.push(Event::Seen(Sight::Nothing { head, nonce }));
        }
    }
    events
}

#[test]
fn b2_every_state_with_every_event_keeps_the_rules() {
    for state in State::ALL {
        for event in events() {
            for later in [0, 20 * SECOND, 200 * SECOND, -SECOND] {
                let before = of(state);
                let (after, action) = step(&before, &event, NOW + later);
                let told = format!("{state:?} + {event:?} -> {after:?}, {action:?}");
                let on_chain = |progress: &Progress| matches!(progress.state, State::Mined | State::Final);
                // What the ledger's own checks demand.
                assert_eq!(on_chain(&after), after.mined.is_some(), "{told}");
                assert_eq!(after.state == State::Failed, after.failure.is_some(), "{told}");
                // Only what was seen puts a batch on chain, only a confirmation makes it final, only a vanished block undoes it.
                if on_chain(&after) && !on_chain(&before) {
                    assert!(matches!(event, Event::Seen(Sight::Wrote(_))), "{told}");
                }
                if after.state == State::Final && before.state != State::Final {
                    assert!(before.state == State::Mined && event == Event::Confirmed, "{told}");
                }
                if on_chain(&before) && !on_chain(&after) {
                    assert_eq!(event, Event::Vanished, "{told}");
                }
                // A nonce is used only by its turn, or when the one before is lost for good; never twice for what is on chain.
                if action == Action::Sign {
                    assert_eq!(after.state, State::Batched, "{told}");
                }
                if matches!(action, Action::Sign | Action::Replace | Action::Send) {
                    assert!(!on_chain(&after) && after.state != State::Failed, "{told}");
                }
                // Nothing is sent that was not signed.
                if action == Action::Send {
                    assert!(matches!(after.state, State::Signed | State::Sent), "{told}");
                }
            }
        }
    }
}

#[test]
fn b2_b3_every_step_of_a_batch_is_one_that_its_records_know() {
    use wire::state::Anchored;
    let fits = |state, record| match state {
        State::Final => record == Anchored::OnChain,
        // Again, when it was signed before.
        State::Batched => matches!(record, Anchored::Waiting | Anchored::SentToChain),
        State::Signed | State::Sent | State::Mined | State::Failed => record == Anchored::SentToChain,
    };
    for state in State::ALL {
        for event in events() {
            for record in Anchored::ALL.into_iter().filter(|record| fits(state, *record)) {
                let (after, _) = step(&of(state), &event, NOW);
                let told = format!("{record} in {state:?} + {event:?} -> {after:?}");
                let next = match record_event(state, after.state) {
                    None => record,
                    Some(event) => record.after(event).expect(&told),
                };
                assert!(fits(after.state, next), "{told}, {next}");
                assert!(next != Anchored::Waiting || record == Anchored::Waiting, "{told}: what was submitted once stays so");
            }
        }
    }
}

/// Follows the events and gives the end.
fn follow(start: Progress, way: &[(Event, Action)]) -> Progress {
    way.iter().fold(start, |before, (event, expected)| {
        let (after, action) = step(&before, event, NOW + SECOND);
        assert_eq!(action, *expected, "{before:?} + {event:?}");
        after
    })
}

#[test]
fn b2_the_straight_way() {
    let end = follow(
        Progress::closed(NOW),
        &[
            (Event::Turn, Action::Sign),
            (Event::Signed, Action::Send),
            (Event::Taken, Action::Wait),
            (Event::Turn, Action::Look),
            (Event::Seen(Sight::Wrote(mined())), Action::Wait),
            (Event::Confirmed, Action::Wait),
        ],
    );
    assert_eq!((end.state, end.mined), (State::Final, Some(mined())));
}

#[test]
fn b2_a_process_that_died_after_sending_sends_the_same_and_finds_it_mined() {
    let end = follow(
        of(State::Signed),
        &[
            (Event::Turn, Action::Send),
            (Event::Refused(Refusal::NonceTooLow), Action::Look),
            (Event::Seen(Sight::Wrote(mined())), Action::Wait),
        ],
    );
    assert_eq!(end.state, State::Mined);
}

#[test]
fn b2_a_batch_whose_block_vanished_is_sent_at_once_when_its_turn_comes() {
    let nothing = Event::Seen(Sight::Nothing { head: Head::Before, nonce: Nonce::Next });
    for state in [State::Mined, State::Final] {
        let end =
            follow(of(state), &[(Event::Vanished, Action::Look), (Event::Turn, Action::Look), (nothing.clone(), Action::Send)]);
        assert_eq!(end.state, State::Sent);
    }
}

#[test]
fn b2_a_nonce_is_given_up_only_after_looking_three_times() {
    for nonce in [Nonce::Used, Nonce::Ahead] {
        let lost = Event::Seen(Sight::Nothing { head: Head::Before, nonce });
        let end = follow(
            of(State::Sent),
            &[(lost.clone(), Action::Wait), (lost.clone(), Action::Wait), (lost, Action::Sign), (Event::Signed, Action::Send)],
        );
        assert_eq!((end.state, end.unseen), (State::Signed, 0));
    }
}

#[test]
fn b2_a_batch_that_reverts_is_not_tried_for_ever() {
    let mut progress = of(State::Sent);
    for _ in 1..limits::REVERTS_MAX {
        progress = follow(progress, &[(Event::Seen(Sight::Failed(Head::Before)), Action::Rest), (Event::Signed, Action::Send)]);
    }
    let end = follow(progress, &[(Event::Seen(Sight::Failed(Head::Before)), Action::Rest)]);
    assert_eq!(end.failure, Some(Failure::Reverts));
}

#[test]
fn b2_a_failed_batch_goes_on_when_the_head_is_ours_again() {
    let before = Event::Seen(Sight::Nothing { head: Head::Before, nonce: Nonce::Next });
    let end = follow(of(State::Failed), &[(Event::Turn, Action::Look), (before, Action::Sign)]);
    assert_eq!((end.state, end.failure), (State::Batched, None));
}
