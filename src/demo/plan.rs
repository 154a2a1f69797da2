//! Who measures what: the 27 load profiles of the data set as 27 meters in three cities.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use wire::{Operation, SensorId, Series};

/// Steps of a day in the data set: quarter hours.
const STEPS_A_DAY: usize = 96;
/// What every meter measures.
pub(super) const STREAM: &str = "power/active";

/// One meter.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    /// The profile's column in the data set.
    pub column: String,
    /// Its name in the town.
    pub sensor: SensorId,
    /// What the relay does with its readings.
    pub operation: Operation,
    /// What it will say, in order.
    pub readings: Vec<String>,
}

impl Meter {
    /// Its series.
    pub(super) fn series(&self) -> Series {
        Series::new(&self.sensor, STREAM).expect("the stream is valid")
    }
}

/// All meters, and the file that they replay.
#[derive(Debug)]
pub(super) struct Plan {
    pub meters: Vec<Meter>,
    pub file: PathBuf,
}

impl Plan {
    /// How many readings there are.
    pub(super) fn readings(&self) -> u64 {
        self.meters.iter().map(|meter| meter.readings.len() as u64).sum()
    }

    /// Reads the first `days` of the data set and writes them to `folder`, which the meters replay.
    pub(super) fn read(source: &Path, days: usize, folder: &Path) -> anyhow::Result<Self> {
        let name = source.display();
        let mut reader = csv::Reader::from_path(source).with_context(|| format!("--readings {name} can't be read"))?;
        let header = reader.headers().with_context(|| format!("{name}: the first line"))?.clone();
        ensure!(
            header.get(0) == Some("time") && header.len() > 1,
            "{name}: the first column must be \"time\", the others profiles"
        );
        let file = folder.join("readings.csv");
        let mut writer = csv::Writer::from_path(&file).with_context(|| file.display().to_string())?;
        writer.write_record(&header)?;
        let mut columns = vec![Vec::new(); header.len()];
        for row in reader.records().take(days * STEPS_A_DAY) {
            let row = row.with_context(|| name.to_string())?;
            writer.write_record(&row)?;
            for (column, value) in columns.iter_mut().zip(&row) {
                column.push(value.to_owned());
            }
        }
        writer.flush()?;
        let meters = header.iter().zip(columns).skip(1).map(|(column, readings)| meter(column, readings));
        Ok(Self { meters: meters.collect::<anyhow::Result<_>>()?, file })
    }
}

/// Households are in city A, trade in city B, farms and the two heat profiles in city C. What the farms measure is kept at the relay until the
/// bill is made; all others are forwarded at once.
fn meter(column: &str, readings: Vec<String>) -> anyhow::Result<Meter> {
    let (area, operation) = match column.as_bytes().first() {
        Some(b'h') => ("cityA", Operation::Forward),
        Some(b'g') => ("cityB", Operation::Forward),
        _ => ("cityC", Operation::Store),
    };
    let sensor = SensorId::new(area, &format!("meter-{column}")).with_context(|| format!("profile {column:?}"))?;
    Ok(Meter { column: column.to_owned(), sensor, operation, readings })
}
