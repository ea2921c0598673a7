//! Cron expressions on the clock of a time zone.
//!
//! The rules of the expressions, and of clocks that change, are those of the crate `croner`: where
//! the clock goes forward, a time that does not exist runs at the change; where it goes back, a
//! fixed time (`30 2 * * *`) runs once, and one with a step or a star in its hours or minutes runs
//! in both hours.

use std::cmp::Ordering;
use std::str::FromStr;

use croner::errors::CronError;
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::AmbiguousOffset;
use jiff::{SignedDuration, Timestamp};

use crate::zone::{Zone, moment};

/// A cron expression: five fields, from minute to weekday, or `@daily` and the like.
#[derive(Debug, Clone)]
pub struct Cron {
    cron: croner::Cron,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed cron expression {text:?}: {problem}")]
pub struct MalformedCron {
    text: String,
    problem: String,
}

impl FromStr for Cron {
    type Err = MalformedCron;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = |problem: String| MalformedCron { text: text.to_owned(), problem };
        let fields = text.split_whitespace().count();
        if !text.trim_start().starts_with('@') && fields != 5 {
            return Err(malformed(format!("expected 5 fields, got {fields}")));
        }
        let cron = croner::Cron::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let cron = Self { cron };
        // 30 February and the like: an expression that never comes is a mistake.
        match cron.next(FROM, &Zone::utc()) {
            Some(_) => Ok(cron),
            None => Err(malformed("no such time comes".to_owned())),
        }
    }
}

/// Where the search for a first time begins: 2026.
const FROM: u64 = 1_767_225_600_000;

/// Two hours, two days, two months, nine years (from one leap day to the next one but one), and 41
/// years (from one leap day that is a Monday to the next one, over the year 2100): where none of a step
/// has a time, the next has some dozens at most.
const LOOK_BACK_MS: [u64; 5] = {
    const HOUR: u64 = 3_600_000;
    [2 * HOUR, 48 * HOUR, 24 * 62 * HOUR, 24 * 366 * 9 * HOUR, 24 * 366 * 41 * HOUR]
};

impl Cron {
    /// The last time at or before `until`. Searched forward only, so that it agrees with [`Self::next`]
    /// where a clock goes back: from a point behind which few times can lie, then from earlier ones.
    pub fn last(&self, until: u64, zone: &Zone) -> Option<u64> {
        for back in LOOK_BACK_MS {
            let mut last = None;
            let mut at = until.saturating_sub(back);
            while let Some(next) = self.next(at, zone).filter(|next| *next <= until) {
                (last, at) = (Some(next), next);
            }
            if last.is_some() {
                return last;
            }
        }
        None
    }

    /// The first time after `after`.
    pub fn next(&self, after: u64, zone: &Zone) -> Option<u64> {
        let found = self.cron.find_next_occurrence(&Moment::of(after, zone)?, false).ok()?;
        found.wall_ms().filter(|found| *found > after)
    }
}

/// A moment and a zone of jiff for croner, whose own implementation is for another version of jiff.
#[derive(Debug, Clone)]
struct Moment {
    at: Timestamp,
    zone: Zone,
}

impl Moment {
    fn of(wall_ms: u64, zone: &Zone) -> Option<Self> {
        Some(Self { at: moment(wall_ms)?, zone: zone.clone() })
    }

    fn wall_ms(&self) -> Option<u64> {
        u64::try_from(self.at.as_millisecond()).ok()
    }

    fn local(&self) -> DateTime {
        self.zone.rules().to_datetime(self.at)
    }

    fn with(&self, at: Result<Timestamp, jiff::Error>) -> Result<Self, CronError> {
        let at = at.map_err(|_| CronError::InvalidTime)?;
        Ok(Self { at, zone: self.zone.clone() })
    }
}

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let local = self.local();
        let small = |number: i8| u32::from(number.unsigned_abs());
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(
                i32::from(local.year()),
                small(local.month()),
                small(local.day()),
            ),
            CivilTime::from_parts_unchecked(
                small(local.hour()),
                small(local.minute()),
                small(local.second()),
            ),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        let days = self.local().weekday().to_sunday_zero_offset();
        Weekday::from_days_from_sunday(u32::from(days.unsigned_abs()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let small = |number: u32| i8::try_from(number).map_err(|_| CronError::InvalidDate);
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let (month, day) = (small(civil.month())?, small(civil.day())?);
        let (hour, minute) = (small(civil.hour())?, small(civil.minute())?);
        let local = DateTime::new(year, month, day, hour, minute, small(civil.second())?, 0)
            .map_err(|_| CronError::InvalidDate)?;
        let found = self.zone.rules().to_ambiguous_timestamp(local);
        Ok(match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                Resolution::Single(self.with(found.unambiguous())?)
            }
            AmbiguousOffset::Fold { .. } => {
                Resolution::Ambiguous(self.with(found.earlier())?, self.with(found.later())?)
            }
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        let at = self.at.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        Some(Self { at, zone: self.zone.clone() })
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn shown(ms: u64) -> String {
        jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_leap_day_on_a_monday_is_found_decades_later() {
        let cron: Cron = "0 0 29 2 +1".parse().unwrap();
        let last = cron.last(ms("2050-01-01T00:00:00Z"), &Zone::utc()).unwrap();
        assert_eq!(shown(last), "2044-02-29T00:00:00Z");
        let last = cron.last(ms("2072-01-01T00:00:00Z"), &Zone::utc()).unwrap();
        assert_eq!(shown(last), "2044-02-29T00:00:00Z");
    }

    /// All times of an expression in a span, walked forward; the walk back must find the same.
    fn times(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let (cron, zone) = (cron.parse::<Cron>().unwrap(), Zone::named(zone).unwrap());
        let (from, to) = (ms(from), ms(to));
        let mut forward = Vec::new();
        let mut at = from;
        while let Some(next) = cron.next(at, &zone).filter(|next| *next <= to) {
            assert!(next > at);
            forward.push(next);
            at = next;
        }
        let mut back = Vec::new();
        let mut at = to;
        while let Some(last) = cron.last(at, &zone).filter(|last| *last > from) {
            back.push(last);
            at = last - 1;
        }
        back.reverse();
        assert_eq!(forward, back, "forward and back");
        forward.into_iter().map(shown).collect()
    }

    #[test]
    fn a_nightly_time_keeps_to_the_local_clock_through_both_changes() {
        let night = |from, to| times("30 3 * * *", "Europe/Berlin", from, to);
        let spring = night("2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z");
        let wanted = ["2026-03-28T02:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T01:30:00Z"];
        assert_eq!(spring, wanted);
        let autumn = night("2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z");
        let wanted = ["2026-10-24T01:30:00Z", "2026-10-25T02:30:00Z", "2026-10-26T02:30:00Z"];
        assert_eq!(autumn, wanted);
    }

    #[test]
    fn a_time_that_the_clock_skips_runs_at_the_change_and_one_that_comes_twice_runs_once() {
        let night = |from, to| times("30 2 * * *", "Europe/Berlin", from, to);
        let spring = night("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(spring, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = night("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn each_hour_of_a_day_of_25_or_23_hours_comes_once() {
        let hourly = |from, to| times("0 * * * *", "America/New_York", from, to).len();
        assert_eq!(hourly("2026-03-08T04:59:00Z", "2026-03-09T03:59:00Z"), 23);
        assert_eq!(hourly("2026-11-01T03:59:00Z", "2026-11-02T04:59:00Z"), 25);
    }

    #[test]
    fn weekdays_months_and_leap_days_are_as_cron_has_them() {
        let found = times("0 4 * * MON-FRI", "UTC", "2026-11-27T00:00:00Z", "2026-12-01T23:00:00Z");
        let wanted = ["2026-11-27T04:00:00Z", "2026-11-30T04:00:00Z", "2026-12-01T04:00:00Z"];
        assert_eq!(found, wanted);
        let leap = times("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2033-01-01T00:00:00Z");
        assert_eq!(leap, ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
        let daily = times("@daily", "UTC", "2026-12-30T12:00:00Z", "2027-01-01T12:00:00Z");
        assert_eq!(daily, ["2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"]);
    }

    #[test]
    fn malformed_expressions_say_why() {
        for text in
            ["", "* * * *", "61 * * * *", "0 0 * * * *", "0 0 30 2 *", "@never", "x * * * *"]
        {
            let error = text.parse::<Cron>().unwrap_err();
            assert!(error.to_string().contains("malformed cron expression"), "{error}");
        }
    }
}
