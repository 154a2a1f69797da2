//! Whole runs against a small broker in this process, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

mod broker;

use std::time::{Duration, Instant};

use broker::{Broker, Manners};
use clap::Parser;
use load::{Error, Report, TrafficReport};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: load::Args,
}

fn run(broker: &Broker, line: &str) -> Result<Report, Error> {
    let address = broker.address.to_string();
    let words = ["load", "--address", &address].into_iter().chain(line.split_whitespace());
    load::run(Line::try_parse_from(words).unwrap().args)
}

fn traffic(broker: &Broker, line: &str) -> TrafficReport {
    match run(broker, line) {
        Ok(Report::Traffic(report)) => *report,
        other => panic!("no traffic: {other:?}"),
    }
}

#[test]
fn every_message_is_sent_once_and_acknowledged() {
    let broker = Broker::start(Manners::default());
    let report = traffic(&broker, "--messages 5003 --connections 7 --window 20");
    assert_eq!((report.sent, report.acknowledged, report.unacknowledged), (5_003, 5_003, 0));
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(broker.publishes(), 5_003);
    assert!(broker.in_flight_most() <= 20, "{} in flight", broker.in_flight_most());
    assert!(report.messages_per_second > 0.0);
    assert_eq!(report.puback_us.unwrap().samples, 5_003);
    let payloads = broker.payloads();
    assert!(payloads.iter().all(|payload| payload.len() == 100));
    let distinct: std::collections::HashSet<&[u8]> = payloads.iter().map(|payload| &payload[8..20]).collect();
    assert_eq!(distinct.len(), 5_003);
}

#[test]
fn connections_are_spread_over_several_brokers() {
    let brokers = [Broker::start(Manners::default()), Broker::start(Manners::default())];
    let others = format!("--address {} --messages 1000 --connections 5", brokers[1].address);
    let report = traffic(&brokers[0], &others);
    assert_eq!((report.sent, report.acknowledged), (1_000, 1_000));
    // Connections 0, 2 and 4 are the first broker's.
    assert_eq!([brokers[0].publishes(), brokers[1].publishes()], [600, 400]);
}

#[test]
fn version_3_and_qos_0_work_too() {
    let broker = Broker::start(Manners::default());
    let report = traffic(&broker, "--messages 500 --v3 --connections 2");
    assert_eq!((report.acknowledged, report.protocol), (500, "3.1.1"));
    let report = traffic(&broker, "--messages 500 --qos 0 --connections 2 --subscribers 1");
    assert_eq!((report.sent, report.acknowledged), (500, 0));
    let delivery = report.delivery.unwrap();
    assert_eq!((delivery.received, delivery.lost, delivery.duplicate), (500, 0, 0));
}

#[test]
fn a_smaller_receive_maximum_is_respected_and_reported() {
    let broker = Broker::start(Manners { receive_maximum: Some(5), ..Manners::default() });
    let report = traffic(&broker, "--messages 300 --connections 1 --window 200");
    assert_eq!((report.window, report.acknowledged), (5, 300));
    assert!(broker.in_flight_most() <= 5, "{} in flight", broker.in_flight_most());
}

#[test]
fn subscribers_tell_lost_from_repeated() {
    let manners = Manners { withhold: [3, 4, 90].into(), repeat: [7].into(), ..Manners::default() };
    let report = traffic(&Broker::start(manners), "--messages 100 --connections 1 --subscribers 2 --drain 0.2");
    let delivery = report.delivery.unwrap();
    assert!(delivery.numbered);
    assert_eq!((delivery.received, delivery.lost, delivery.duplicate, delivery.reordered), (196, 6, 2, 0));
    assert_eq!(delivery.end_to_end_us.unwrap().samples, 196);
}

#[test]
fn a_bounded_lead_holds_the_publisher_back() {
    let broker = Broker::start(Manners::default());
    let report = traffic(&broker, "--messages 2000 --connections 4 --window 100 --subscribers 1 --lead 8");
    assert_eq!(report.acknowledged, 2_000);
    assert_eq!(report.delivery.unwrap().lost, 0);
    assert!(broker.in_flight_most() <= 8, "{} in flight", broker.in_flight_most());
}

#[test]
fn frames_carry_records() {
    let broker = Broker::start(Manners::default());
    let report = traffic(&broker, "--messages 40 --connections 2 --frames 25 --size 30");
    assert_eq!(report.acknowledged, 40);
    assert!((report.records_per_second / report.messages_per_second - 25.0).abs() < 1e-6);
    let mut records = 0;
    for payload in broker.payloads() {
        records += wire::FrameView::parse(&payload).unwrap().record_count;
    }
    assert_eq!(records, 1_000);
}

#[test]
fn refusals_are_named_and_counted() {
    let broker = Broker::start(Manners { puback: 0x97, ..Manners::default() });
    let report = traffic(&broker, "--messages 50 --connections 2");
    assert_eq!((report.acknowledged, report.refused, report.unacknowledged), (0, 50, 0));
    assert_eq!(report.errors["publish refused: quota exceeded (0x97)"], 50);

    let broker = Broker::start(Manners { connack: 0x87, ..Manners::default() });
    let message = run(&broker, "--messages 1").unwrap_err().to_string();
    assert!(message.contains("not authorized (0x87)"), "{message}");
}

#[test]
fn a_closed_connection_ends_the_run_and_is_counted() {
    let broker = Broker::start(Manners { close_at: Some(100), ..Manners::default() });
    let report = traffic(&broker, "--messages 1000 --connections 1 --window 10");
    assert_eq!(report.errors.values().sum::<u64>(), 1, "{:?}", report.errors);
    assert!(report.acknowledged <= 100);
    assert!(report.unacknowledged > 0);
}

#[test]
fn a_broker_that_stops_acknowledging_costs_no_more_than_the_drain() {
    let broker = Broker::start(Manners { silent_from: Some(50), ..Manners::default() });
    let began = Instant::now();
    let report = traffic(&broker, "--seconds 0.3 --warmup 0 --drain 0.2 --connections 1 --window 10");
    assert_eq!((report.acknowledged, report.unacknowledged), (50, 10));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_stall_shows_in_the_latencies_of_all_that_were_due_meanwhile() {
    let pause = Duration::from_millis(300);
    let broker = Broker::start(Manners { stall: Some((100, pause)), ..Manners::default() });
    let report = traffic(&broker, "--messages 1000 --rate 1000 --connections 1 --window 1");
    let found = report.puback_us.unwrap();
    assert_eq!(found.samples, 1_000);
    // A closed loop would have seen one slow answer in a thousand; 300 questions were due while the broker slept.
    assert!(found.max >= 300_000.0, "{found:?}");
    assert!(found.p90 >= 100_000.0, "{found:?}");
    assert!(report.seconds >= 0.99 && report.seconds < 5.0, "{} s", report.seconds);
}

#[test]
fn the_timetable_is_kept() {
    let broker = Broker::start(Manners::default());
    let report = traffic(&broker, "--rate 2000 --seconds 1 --warmup 0.1 --connections 4");
    assert!((1_800.0..=2_050.0).contains(&report.messages_per_second), "{} a second", report.messages_per_second);
}

#[test]
fn idle_connections_are_held_and_weighed() {
    let broker = Broker::start(Manners::default());
    let line = format!("--idle 50 --seconds 0.05 --pid {}", std::process::id());
    let Report::Idle(report) = run(&broker, &line).unwrap() else { panic!("not idle") };
    assert_eq!((report.connected, report.still_connected), (50, 50));
    assert!(report.resident_bytes_before.unwrap() > 0);
    assert!(report.resident_bytes_per_connection.is_some());
}

#[test]
fn reports_are_printed_both_ways() {
    let broker = Broker::start(Manners::default());
    let report = run(&broker, "--messages 20 --connections 1 --subscribers 1").unwrap();
    let text = report.to_string();
    assert!(text.contains("messages/s") && text.contains("PUBACK") && text.contains("end to end"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["type"], "traffic");
    assert_eq!(json["acknowledged"], 20);
    assert_eq!(json["delivery"]["lost"], 0);
}
