//! What is told about events and reports. Both are records: notifications are made of those that were not told yet, and what was told is
//! committed with what is queued. So a crash between a record and its notification leaves nothing out.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wire::digest::to_hex;
use wire::openadr::{self, ObjectType, Operation, Report, ReportRequest};
use wire::{At, RecordKey};

use super::book::Book;
use super::clients::subscriptions::Notice;
use super::clients::{Clients, ClientsFault, client_id};
use super::config::Program;
use super::made::Made;
use super::sight::Sees;

/// Reports that are told at once; the rest waits for the next look.
const REPORTS_AT_ONCE: usize = 500;

/// Tells what is new. Blocks.
pub(crate) fn tell(book: &Book, clients: &Arc<Clients>, program: &Program, sees: &Sees) -> Result<(), ClientsFault> {
    tell_events(book, clients, program, sees)?;
    tell_reports(book, clients, program, sees)
}

/// What is known at the first start is not told. Blocks.
pub(crate) fn begin(book: &Book, clients: &Clients) -> Result<(), ClientsFault> {
    clients.write(|desk| {
        for program in &book.settings().programs {
            if desk.events_told(&program.name)?.is_none() {
                let last = book.changes_after(&program.name, 0).last().map_or(0, |(seq, ..)| *seq);
                desk.tell_events(&program.name, book.epoch(), last)?;
            }
        }
        Ok(())
    })
}

fn tell_events(book: &Book, clients: &Clients, program: &Program, sees: &Sees) -> Result<(), ClientsFault> {
    let told = clients.read(|desk| desk.events_told(&program.name))?;
    // Another epoch is another database, whose records have other numbers.
    let told = told.filter(|(epoch, _)| *epoch == book.epoch()).map_or(0, |(_, seq)| seq);
    let changes = book.changes_after(&program.name, told);
    let Some((last, ..)) = changes.last() else { return Ok(()) };
    clients.write(|desk| {
        for (_, operation, made) in &changes {
            sees.tell(desk, &notice_of(program, *operation, made))?;
        }
        desk.tell_events(&program.name, book.epoch(), *last)
    })
}

fn notice_of(program: &Program, operation: Operation, made: &Made) -> Notice {
    Notice {
        kind: ObjectType::Event,
        operation,
        program: Some(program.name.clone()),
        owner: None,
        targets: made.event.targets.clone().unwrap_or_default(),
        object: serde_json::to_value(&made.event).unwrap_or_default(),
    }
}

fn tell_reports(book: &Book, clients: &Clients, program: &Program, sees: &Sees) -> Result<(), ClientsFault> {
    if !clients.read(|desk| desk.reports_are_wanted(&program.name))? {
        return Ok(());
    }
    let mut room = REPORTS_AT_ONCE;
    for (series, epoch, held) in book.reports_held(program)? {
        let mut told = clients.read(|desk| desk.reports_told(&series, epoch))?;
        let new = held.as_slice().iter().flat_map(|(low, high)| told.missing(*low, *high)).flat_map(|(low, high)| low..=high);
        let new: Vec<u64> = new.take(room).collect();
        if new.is_empty() {
            continue;
        }
        room -= new.len();
        let mut notices = Vec::with_capacity(new.len());
        for seq in new {
            told.insert(seq, seq);
            let key = RecordKey { series: series.clone(), epoch, seq };
            notices.extend(book.report_of(&key)?.map(|heard| report_notice(program, &heard.key, heard.at, heard.report)));
        }
        clients.write(|desk| {
            notices.iter().try_for_each(|notice| sees.tell(desk, notice).map(drop))?;
            desk.tell_reports(&program.name, &series, epoch, &told)
        })?;
    }
    Ok(())
}

fn report_notice(program: &Program, key: &RecordKey, at: At, report: ReportRequest) -> Notice {
    let owner = key.series.sensor().to_owned();
    let object = report_object(key, at, report);
    Notice {
        program: Some(program.name.clone()),
        ..Notice::owned(ObjectType::Report, Operation::Create, owner, Vec::new(), &object)
    }
}

/// A report as it is shown.
pub(crate) fn report_object(key: &RecordKey, at: At, content: ReportRequest) -> Report {
    let digest: [u8; 32] = Sha256::digest(key.to_string()).into();
    let id = to_hex(&digest);
    Report {
        id: format!("report-{}", &id[..32]),
        created_date_time: openadr::time_text(at),
        modification_date_time: openadr::time_text(at),
        client_id: client_id(key.series.sensor()),
        content,
    }
}
