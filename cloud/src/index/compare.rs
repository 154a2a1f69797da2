//! Compares what came with what was announced (C5).

use std::time::Duration;

use archive::{Archive, Rebuilt};
use chassis::Stop;
use wire::Epoch;

use super::{Index, Known, LookFault, without};

/// Chunks looked at in one go.
const PIECE: usize = 32;
/// How long the work rests between two pieces, so that it never takes more than a part of a core.
const REST: Duration = Duration::from_millis(20);
/// How often it looks again when there was nothing to compare.
const IDLE: Duration = Duration::from_secs(1);

/// Compares the records of a chunk with its root, if they are all here and their secret is known. Says whether it could.
pub(crate) fn compare(index: &Index, archive: &Archive, known: &Known) -> Result<bool, LookFault> {
    let received = archive.received(std::slice::from_ref(&known.series))?.pop().unwrap_or_default();
    let is_here = |(epoch, held): &(Epoch, _)| *epoch == known.epoch && without(&known.seqs, held).is_empty();
    if !received.iter().any(is_here) {
        return Ok(false);
    }
    match archive.root_over(&known.series, known.epoch, &known.seqs)? {
        Rebuilt::Root(found) => {
            index.compare(known, found)?;
            Ok(true)
        }
        Rebuilt::Missing | Rebuilt::NoSecret => Ok(false),
    }
}

/// Compares, until told to stop, chunks that their relays state no more, round and round: each is forgotten when its records have come.
pub(crate) async fn compare_left(index: Index, archive: Archive, stop: Stop) {
    let (mut after, mut compared) = (0, 0);
    loop {
        let (own, archive) = (index.clone(), archive.clone());
        let looked = tokio::task::spawn_blocking(move || piece(&own, &archive, after)).await;
        let rest = match looked {
            Ok(Ok((last, more))) => {
                compared += more;
                after = last.unwrap_or(0);
                // A round that found nothing is over.
                if last.is_none() && std::mem::take(&mut compared) == 0 { IDLE } else { REST }
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "chunks of the index can't be compared with the archive");
                IDLE
            }
            Err(error) => {
                tracing::error!(%error, "chunks of the index can't be compared with the archive");
                IDLE
            }
        };
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Gives the last row that was looked at, if there was one, and how many chunks were compared.
fn piece(index: &Index, archive: &Archive, after: i64) -> Result<(Option<i64>, usize), LookFault> {
    let left = index.left_after(after, PIECE)?;
    let mut compared = 0;
    for known in &left {
        compared += usize::from(compare(index, archive, known)?);
    }
    Ok((left.last().map(|known| known.row), compared))
}
