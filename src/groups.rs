//! `forebay groups`: who is the proxy of each group, since when, and what the members collected.

use std::fmt::Write;

use anyhow::Context;
use chassis::Exit;
use cloud::groups::view::{GroupView, GroupsView, LimitsView, MemberView, ScoreView};
use reqwest::Method;

use crate::host;
use crate::http::Cloud;

/// Bars of a histogram as it is drawn; several periods share one when there are more.
const BARS_MAX: usize = 32;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many of the last terms of each group are shown.
    #[arg(long, value_name = "N", default_value_t = 10)]
    terms: usize,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cloud: Cloud,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    host::runtime()?.block_on(ask(args))
}

/// Exit code 1 if a group has no proxy.
async fn ask(args: Args) -> anyhow::Result<Exit> {
    let request = args.cloud.request(Method::GET, "/api/v1/groups")?.query(&[("terms", args.terms)]);
    let view: GroupsView = args.cloud.send(request).await?.json().await.context("the cloud's answer can't be read")?;
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string(&view)?),
        false => text(&view)?,
    };
    host::print(&text)?;
    let is_led = |group: &GroupView| group.holder.is_some();
    Ok(if view.groups.iter().all(is_led) { Exit::Ok } else { Exit::Negative })
}

fn text(view: &GroupsView) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if view.groups.is_empty() {
        writeln!(text, "no groups are configured")?;
    }
    for (index, group) in view.groups.iter().enumerate() {
        if index > 0 {
            writeln!(text)?;
        }
        write_group(&mut text, group)?;
    }
    Ok(text)
}

fn write_group(text: &mut String, group: &GroupView) -> std::fmt::Result {
    let name = &group.group;
    match (&group.holder, &group.since) {
        (Some(holder), Some(since)) => {
            writeln!(text, "{name}: proxy {holder} at {}, term {} since {since}", group.address, group.term)?;
        }
        _ => writeln!(text, "{name}: no proxy (term {}); each member talks to the cloud directly", group.term)?,
    }
    writeln!(text, "  ends {}; lease {} ms; round {}", limits(group.until), group.ttl_ms, group.round)?;
    writeln!(text, "\n  {:<20}  {:<30}  {:<6}  {:<6}  {:>14}  last term", "member", "heard", "way", "served", "score")?;
    for member in &group.members {
        write_member(text, group, member)?;
    }
    if !group.terms.is_empty() {
        writeln!(text, "\n  {:>8}  {:<20}  {:>5}  {:<30}  {:<30}  ended", "term", "proxy", "round", "since", "until")?;
    }
    for term in &group.terms {
        let until = term.until.as_deref().unwrap_or("-");
        let ended = term.ended.map_or("-", |reason| reason.as_str());
        let (number, holder, round, since) = (term.term, term.holder.as_str(), term.round, &term.since);
        writeln!(text, "  {number:>8}  {holder:<20}  {round:>5}  {since:<30}  {until:<30}  {ended}")?;
    }
    Ok(())
}

fn write_member(text: &mut String, group: &GroupView, member: &MemberView) -> std::fmt::Result {
    let mark = if group.holder.as_ref() == Some(&member.relay) { '*' } else { ' ' };
    let heard = member.heard.as_deref().unwrap_or("-");
    let way = match (member.live, member.direct) {
        (false, _) => "silent",
        (true, true) => "direct",
        (true, false) => "proxy",
    };
    let served = if member.served { "yes" } else { "no" };
    let score = member.last.as_ref().and_then(|last| last.score);
    let score = score.map_or_else(|| "-".to_owned(), |score| format!("{score:.0}"));
    let bars = member.last.as_ref().map(bars).unwrap_or_default();
    let line = format!("{mark} {:<20}  {heard:<30}  {way:<6}  {served:<6}  {score:>14}  {bars}", member.relay.as_str());
    writeln!(text, "{}", line.trim_end())
}

fn limits(until: LimitsView) -> String {
    let LimitsView { time_ms, bytes, frames } = until;
    let parts: Vec<String> = [(time_ms, "ms"), (bytes, "bytes"), (frames, "frames")]
        .into_iter()
        .filter(|(limit, _)| *limit > 0)
        .map(|(limit, unit)| format!("{limit} {unit}"))
        .collect();
    if parts.is_empty() { "never by itself".to_owned() } else { format!("after {}", parts.join(" or ")) }
}

/// The histogram as one line.
fn bars(score: &ScoreView) -> String {
    let shared = score.bars.len().div_ceil(BARS_MAX).max(1);
    let sums = score.bars.chunks(shared).map(|bars| bars.iter().map(|bar| u128::from(*bar)).sum());
    let sums: Vec<u128> = sums.collect();
    let most = sums.iter().copied().max().unwrap_or(0).max(1);
    let level = |sum: &u128| LEVELS[(*sum * (LEVELS.len() as u128 - 1) / most) as usize];
    sums.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::groups::Reason;
    use cloud::groups::view::TermView;

    fn shown() -> GroupsView {
        let relay = |name: &str| name.parse().unwrap();
        let score = |name: &str, score, bars: &[u64]| ScoreView {
            relay: relay(name),
            score,
            period_ms: 60_000,
            first: 5,
            bars: bars.to_vec(),
        };
        let member = |name: &str, direct, last| MemberView {
            relay: relay(name),
            heard: Some("2026-01-01T00:00:00.000000000Z".into()),
            live: true,
            direct,
            served: direct,
            collected: score(name, None, &[]),
            last,
        };
        let term = |number, holder: &str, ended| TermView {
            term: number,
            holder: relay(holder),
            round: 2,
            since: format!("since-{number}"),
            until: None,
            ended,
        };
        GroupsView {
            groups: vec![GroupView {
                group: relay("north"),
                term: 7,
                holder: Some(relay("relay-2")),
                address: "10.0.0.2:1883".into(),
                since: Some("2026-01-01T00:00:00.000000000Z".into()),
                ttl_ms: 1_500,
                until: LimitsView { time_ms: 3_600_000, bytes: 0, frames: 9 },
                round: 2,
                members: vec![
                    member("relay-1", false, Some(score("relay-1", Some(1_234.4), &[0, 7, 14]))),
                    member("relay-2", true, None),
                ],
                terms: vec![term(7, "relay-2", None), term(6, "relay-1", Some(Reason::Done))],
            }],
        }
    }

    #[test]
    fn a9_lease_scores_and_terms_are_shown() {
        let text = text(&shown()).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0].join(" "), "north: proxy relay-2 at 10.0.0.2:1883, term 7 since 2026-01-01T00:00:00.000000000Z");
        assert_eq!(lines[1].join(" "), "ends after 3600000 ms or 9 frames; lease 1500 ms; round 2");
        assert_eq!(lines[4], ["relay-1", "2026-01-01T00:00:00.000000000Z", "proxy", "no", "1234", "▁▄█"]);
        assert_eq!(lines[5], ["*", "relay-2", "2026-01-01T00:00:00.000000000Z", "direct", "yes", "-"]);
        assert_eq!(lines[8], ["7", "relay-2", "2", "since-7", "-", "-"]);
        assert_eq!(lines[9], ["6", "relay-1", "2", "since-6", "-", "done"]);
        assert_eq!(super::text(&GroupsView { groups: vec![] }).unwrap(), "no groups are configured\n");
    }

    #[test]
    fn a9_a_long_histogram_fits_a_line() {
        let score = ScoreView {
            relay: "a".parse().unwrap(),
            score: None,
            period_ms: 1,
            first: 0,
            bars: (0..4_096).map(|bar| u64::MAX / 4_096 * bar).collect(),
        };
        let line = bars(&score);
        assert_eq!((line.chars().count(), line.chars().next(), line.chars().last()), (BARS_MAX, Some('▁'), Some('█')));
    }
}
