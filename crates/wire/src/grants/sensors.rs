//! The registry of sensors: which tags each one has. Grants and questions name sensors by tags.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{SensorId, check_segment};

/// Tags that one sensor may have.
pub const TAGS_MAX: usize = 32;

/// A file of sensors: `[sensors]`, and below it one line a sensor, `"cityA/meter-0017" = ["residential", "h0"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorsFile {
    /// Tags of each sensor, `area/sensor`.
    #[serde(default)]
    pub sensors: BTreeMap<String, Vec<String>>,
}

/// What is wrong with a sensor of the file, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sensor {sensor:?}: {problem}")]
pub struct SensorFault {
    /// The sensor as it was written.
    pub sensor: String,
    /// What is wrong, and the fix.
    pub problem: String,
}

/// Everything that is wrong with a file of sensors, one fault a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorFaults(pub Vec<SensorFault>);

impl std::error::Error for SensorFaults {}

impl fmt::Display for SensorFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Sensors and their tags, ready to be asked. The default knows none.
#[derive(Debug, Clone, Default)]
pub struct Sensors {
    /// Places in `names`, sorted, by `area/sensor`.
    tags: HashMap<SensorId, Box<[u32]>>,
    /// Tags in order of their text.
    names: Vec<Box<str>>,
    /// Sensors of each tag, sorted; the place is that in `names`.
    tagged: Vec<Vec<SensorId>>,
}

impl Sensors {
    /// Checks sensors as they were written. A tag is 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    ///
    /// # Errors
    /// Every fault of every sensor.
    pub fn new(file: &SensorsFile) -> Result<Self, SensorFaults> {
        let mut faults = Vec::new();
        let all: BTreeSet<&str> = file.sensors.values().flatten().map(String::as_str).collect();
        let names: Vec<Box<str>> = all.into_iter().map(Into::into).collect();
        let mut sensors = Self { tags: HashMap::with_capacity(file.sensors.len()), tagged: vec![Vec::new(); names.len()], names };
        for (written, tags) in &file.sensors {
            let mut fault = |problem| faults.push(SensorFault { sensor: written.clone(), problem });
            let sensor: SensorId = match written.parse() {
                Ok(sensor) => sensor,
                Err(problem) => {
                    fault(format!("{problem}; write area/sensor"));
                    continue;
                }
            };
            if tags.len() > TAGS_MAX {
                fault(format!("has {} tags; {TAGS_MAX} are allowed", tags.len()));
            }
            for tag in tags {
                if check_segment(tag).is_err() {
                    fault(format!("{tag:?} is not a tag; write 1 to 64 of A-Z a-z 0-9 _ . -"));
                }
            }
            let places: BTreeSet<u32> = tags.iter().filter_map(|tag| sensors.place(tag)).collect();
            for place in &places {
                sensors.tagged[*place as usize].push(sensor.clone());
            }
            sensors.tags.insert(sensor, places.into_iter().collect());
        }
        for list in &mut sensors.tagged {
            list.sort();
        }
        if faults.is_empty() { Ok(sensors) } else { Err(SensorFaults(faults)) }
    }

    fn place(&self, tag: &str) -> Option<u32> {
        let place = self.names.binary_search_by(|name| (**name).cmp(tag)).ok()?;
        u32::try_from(place).ok()
    }

    /// How many sensors are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether no sensor is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Every tag that some sensor has, in order of its text.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// The tags of a sensor (`area/sensor`), in order of their text; none when it is not known.
    pub fn tags_of(&self, sensor: &str) -> impl Iterator<Item = &str> {
        self.tags.get(sensor).into_iter().flatten().map(|place| &*self.names[*place as usize])
    }

    /// Whether a sensor (`area/sensor`) has all of `tags`. One that is not known has none.
    #[must_use]
    pub fn has_all(&self, sensor: &str, tags: &[Box<str>]) -> bool {
        let Some(places) = self.tags.get(sensor) else { return tags.is_empty() };
        tags.iter().all(|tag| self.place(tag).is_some_and(|place| places.contains(&place)))
    }

    /// The sensors that have all of `tags`, in order of their names; with `area`, only those in it. Without tags: all.
    #[must_use]
    pub fn tagged(&self, tags: &[&str], area: Option<&str>) -> Vec<SensorId> {
        let within = |sensor: &&SensorId| area.is_none_or(|area| sensor.area() == area);
        let places: Option<Vec<u32>> = tags.iter().map(|tag| self.place(tag)).collect();
        let Some(places) = places else { return Vec::new() };
        let Some(rarest) = places.iter().min_by_key(|place| self.tagged[**place as usize].len()) else {
            let mut all: Vec<SensorId> = self.tags.keys().filter(within).cloned().collect();
            all.sort();
            return all;
        };
        let has_all = |sensor: &&SensorId| places.iter().all(|place| self.tags[*sensor].contains(place));
        self.tagged[*rarest as usize].iter().filter(within).filter(has_all).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &[(&str, &[&str])]) -> SensorsFile {
        let sensors =
            lines.iter().map(|(sensor, tags)| ((*sensor).to_owned(), tags.iter().map(|tag| (*tag).to_owned()).collect()));
        SensorsFile { sensors: sensors.collect() }
    }

    #[test]
    fn a11_sensors_are_found_by_all_their_tags_and_by_area() {
        let sensors = Sensors::new(&file(&[
            ("cityB/m1", &["residential"]),
            ("cityA/m10", &["residential", "h0"]),
            ("cityA/m2", &["h0", "residential", "h0"]),
            ("cityA/shop", &["commercial"]),
            ("cityA/bare", &[]),
        ]))
        .unwrap();
        let found = |tags: &[&str], area| sensors.tagged(tags, area).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found(&["residential"], None), ["cityA/m10", "cityA/m2", "cityB/m1"]);
        assert_eq!(found(&["residential", "h0"], Some("cityA")), ["cityA/m10", "cityA/m2"]);
        assert_eq!(found(&["residential"], Some("city")), [""; 0]);
        assert_eq!(found(&["residential", "nothing"], None), [""; 0]);
        assert_eq!(found(&[], Some("cityA")), ["cityA/bare", "cityA/m10", "cityA/m2", "cityA/shop"]);
        assert_eq!(sensors.tags_of("cityA/m2").collect::<Vec<_>>(), ["h0", "residential"]);
        assert_eq!(sensors.tags_of("cityA/m3").count(), 0);
        assert!(sensors.has_all("cityA/m2", &["h0".into()]) && !sensors.has_all("cityA/m", &["h0".into()]));
    }

    #[test]
    fn a11_each_fault_of_a_sensor_is_named() {
        let faults = Sensors::new(&file(&[("cityA", &[]), ("cityA/m+", &["x"]), ("cityA/m", &["a/b", "", "ok"])])).unwrap_err();
        let text = faults.to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        for part in ["\"cityA\"", "write area/sensor", "\"cityA/m+\"", "\"a/b\" is not a tag", "\"\" is not a tag"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
        assert!(Sensors::new(&file(&[("a/b", &["t"; TAGS_MAX + 1])])).is_err());
    }
}
