//! Every state with every event, on both sides, against the tables in the documentation.

use super::*;

/// The tables as they are promised.
const PROMISED: &str = include_str!("../../../../docs/semantics.md");

/// One machine as the documentation writes it: a row a state, a column an event, `-` for what can't be.
fn table<S: Copy + fmt::Display, E: Copy + fmt::Debug, R: fmt::Display>(
    states: &[S],
    events: &[E],
    after: impl Fn(S, E) -> Option<R>,
) -> String {
    let mut lines = vec![
        format!("| state | {} |", events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>().join(" | ")),
        format!("|---|{}", "---|".repeat(events.len())),
    ];
    for state in states {
        let cells = events.iter().map(|event| after(*state, *event).map_or("-".to_owned(), |next| next.to_string()));
        lines.push(format!("| {state} | {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    lines.join("\n")
}

/// The terminal's table, written down a second time.
const TERMINAL: [(TerminalState, [&str; 7]); 6] = [
    //                               Sent            Deferred   Accepted          Rejected          Submitted      Finalised  Reverted
    (TerminalState::Pending, ["SentToServer", "-", "-", "-", "-", "-", "-"]),
    (TerminalState::SentToServer, ["SentToServer", "Pending", "ServerAccepted", "ServerRejected", "-", "-", "-"]),
    (TerminalState::ServerAccepted, ["-", "-", "-", "-", "SentToChain", "OnChain", "-"]),
    (TerminalState::ServerRejected, ["-", "-", "-", "-", "-", "-", "-"]),
    (TerminalState::SentToChain, ["-", "-", "-", "-", "SentToChain", "OnChain", "SentToChain"]),
    (TerminalState::OnChain, ["-", "-", "-", "-", "-", "OnChain", "SentToChain"]),
];

/// The server's.
const SERVER: [(ServerState, [&str; 3]); 3] = [
    //                                Submitted      Finalised  Reverted
    (ServerState::RequestCompleted, ["SentToChain", "OnChain", "-"]),
    (ServerState::SentToChain, ["SentToChain", "OnChain", "SentToChain"]),
    (ServerState::OnChain, ["-", "OnChain", "SentToChain"]),
];

#[test]
fn b1_b2_every_state_of_a_terminal_knows_every_event() {
    assert_eq!(TERMINAL.map(|(state, _)| state), TerminalState::ALL);
    for (state, row) in TERMINAL {
        for (event, wanted) in TerminalEvent::ALL.into_iter().zip(row) {
            let got = state.after(event);
            assert_eq!(got.map_or("-", TerminalState::as_str), wanted, "{state} after {event:?}");
            assert!(got.is_ok() || got == Err(Impossible { state, event }));
        }
    }
}

#[test]
fn b3_every_state_of_the_server_knows_every_event() {
    assert_eq!(SERVER.map(|(state, _)| state), ServerState::ALL);
    for (state, row) in SERVER {
        for (event, wanted) in ChainEvent::ALL.into_iter().zip(row) {
            assert_eq!(state.after(event).map_or("-", ServerState::as_str), wanted, "{state} after {event:?}");
        }
    }
}

#[test]
fn b1_b2_b3_the_tables_in_the_documentation_are_these() {
    let terminal = table(&TerminalState::ALL, &TerminalEvent::ALL, |state, event| state.after(event).ok());
    let server = table(&ServerState::ALL, &ChainEvent::ALL, |state, event| state.after(event).ok());
    for wanted in [terminal, server] {
        assert!(PROMISED.contains(&wanted), "docs/semantics.md lacks this table:\n{wanted}");
    }
}

#[test]
fn b2_b3_the_way_over_the_chain_is_the_same_on_both_sides() {
    for anchored in Anchored::ALL {
        assert_eq!(TerminalState::of(anchored).anchored(), Some(anchored));
        for event in ChainEvent::ALL {
            let next = anchored.after(event).ok();
            assert_eq!(ServerState::of(anchored).after(event).ok(), next.map(ServerState::of), "{anchored} {event:?}");
            assert_eq!(TerminalState::of(anchored).after(event.into()).ok(), next.map(TerminalState::of), "{anchored} {event:?}");
        }
        // Whoever looks only from time to time gets there with one event.
        for now in Anchored::ALL {
            match anchored.event_to(now) {
                Some(event) => assert_eq!(anchored.after(event), Ok(now), "{anchored} to {now}"),
                None => assert!(anchored == now || now == Anchored::Waiting, "{anchored} to {now}"),
            }
        }
    }
}

#[test]
fn b2_nothing_reaches_the_chain_without_the_relays_word() {
    // Every walk of up to six events: on chain implies accepted before, and rejected is the end.
    let mut walks = vec![(TerminalState::Pending, false)];
    for _ in 0..6 {
        walks = walks
            .into_iter()
            .flat_map(|(state, accepted)| {
                TerminalEvent::ALL.map(|event| (state.after(event), accepted || event == TerminalEvent::Accepted))
            })
            .filter_map(|(state, accepted)| Some((state.ok()?, accepted)))
            .collect();
        for (state, accepted) in &walks {
            assert_eq!(state.anchored().is_some(), *accepted, "{state}");
        }
    }
}

#[test]
fn states_are_read_back_from_their_numbers_and_names() {
    for state in TerminalState::ALL {
        assert_eq!(TerminalState::from_code(state.code()), Some(state));
        assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
    }
    assert_eq!(TerminalState::from_code(6), None);
    for state in ServerState::ALL {
        assert_eq!(ServerState::parse(state.as_str()), Some(state));
        assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
    }
    assert_eq!(ServerState::parse("ServerAccepted"), None);
}
