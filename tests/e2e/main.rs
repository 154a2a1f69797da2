//! End to end: real processes of the real binary, real sockets, real files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod a_chain_that_is_away_costs_nothing_but_time;
mod a_group_shares_one_way;
mod a_killed_relay_loses_nothing;
mod a_proxy_fails_and_nothing_is_lost;
mod a_reader_catches_up;
mod a_reading_reaches_its_reader;
mod a_small_relay_makes_room;
mod access_is_asked_for;
mod an_agent_without_funds_is_sponsored;
mod an_audit_names_who_changed_what;
mod an_audit_takes_little_memory;
mod an_insider_is_found_out;
mod answers_keep_their_word;
mod demand_response_is_accountable;
mod estate;
mod group_town;
mod history_finds_everything;
mod keys_are_kept_behind_a_passphrase;
mod meters_choose_their_relay;
mod operators_see_what_is_going_on;
mod the_chain_is_asked_by_tls;
mod the_command_line_keeps_its_promises;
mod the_demonstration_holds;
mod town;
mod what_a_relay_keeps_is_proven;
