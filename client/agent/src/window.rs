//! Times of day in which something may happen: `22:00-06:00`.

use std::str::FromStr;

use crate::zone::Zone;

/// From one minute of the day up to another one, over midnight where the end is not later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: u16,
    to: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed window {0:?}: expected HH:MM-HH:MM, like 22:00-06:00")]
pub struct MalformedWindow(String);

impl FromStr for Window {
    type Err = MalformedWindow;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedWindow(text.to_owned());
        let (from, to) = text.split_once('-').ok_or_else(malformed)?;
        let window = (minute(from.trim()), minute(to.trim()));
        match window {
            (Some(from), Some(to)) if from != to && from < DAY => Ok(Self { from, to }),
            _ => Err(malformed()),
        }
    }
}

const DAY: u16 = 24 * 60;

/// `24:00` is the end of a day.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, digits| match text.len() <= digits && !text.starts_with('+') {
        true => text.parse::<u16>().ok(),
        false => None,
    };
    let (hour, minute) = (number(hour, 2)?, number(minute, 2)?);
    let at = hour * 60 + minute;
    (minute < 60 && at <= DAY).then_some(at)
}

impl Window {
    fn has(self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

/// Several windows on the clock of one zone; without any, there is no restriction.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    pub zone: Zone,
    pub windows: Vec<Window>,
}

impl Windows {
    pub fn are_open(&self, wall_ms: u64) -> bool {
        let minute = self.zone.minute_of_day(wall_ms);
        self.windows.is_empty() || self.windows.iter().any(|window| window.has(minute))
    }

    /// How long they stay open from this moment on: at most `most`, and a day.
    pub fn open_ms(&self, wall_ms: u64, most: u64) -> u64 {
        const MINUTE: u64 = 60_000;
        if self.windows.is_empty() {
            return most;
        }
        let most = most.min(u64::from(DAY) * MINUTE);
        let mut end = wall_ms;
        while end - wall_ms < most && self.are_open(end) {
            end += MINUTE - end % MINUTE;
        }
        (end - wall_ms).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(window: &str, minutes: &[u16]) -> Vec<bool> {
        let window: Window = window.parse().unwrap();
        minutes.iter().map(|minute| window.has(*minute)).collect()
    }

    #[test]
    fn a_window_has_its_first_minute_and_not_its_last() {
        assert_eq!(open("08:00-20:00", &[479, 480, 1199, 1200]), [false, true, true, false]);
        assert_eq!(
            open("22:00-06:00", &[1319, 1320, 0, 359, 360]),
            [false, true, true, true, false]
        );
        assert_eq!(open("18:00-24:00", &[1079, 1439, 0]), [false, true, false]);
    }

    #[test]
    fn a_window_stays_open_until_its_end() {
        let windows = Windows { zone: Zone::utc(), windows: vec!["22:00-06:00".parse().unwrap()] };
        let hour = 3_600_000;
        assert_eq!(windows.open_ms(23 * hour + 1, 24 * hour), 7 * hour - 1);
        assert_eq!(windows.open_ms(23 * hour, hour), hour);
        assert_eq!(windows.open_ms(12 * hour, hour), 0);
        let always = Windows { zone: Zone::utc(), windows: Vec::new() };
        assert_eq!(always.open_ms(5, 1_000 * hour), 1_000 * hour);
    }

    #[test]
    fn malformed_windows_are_refused() {
        for text in [
            "",
            "22:00",
            "22-06",
            "25:00-06:00",
            "22:60-06:00",
            "06:00-06:00",
            "24:00-06:00",
            "22:00-06:00-08:00",
            "+2:00-06:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn windows_follow_the_clock_of_their_zone_through_its_changes() {
        let windows = Windows {
            zone: Zone::named("Europe/Berlin").unwrap(),
            windows: vec!["02:00-03:00".parse().unwrap()],
        };
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
        assert!(windows.are_open(at("2026-03-28T01:30:00Z")));
        // 29 March: the clock goes from 02:00 to 03:00. The window does not exist.
        assert!(!windows.are_open(at("2026-03-29T00:59:00Z")));
        assert!(!windows.are_open(at("2026-03-29T01:00:00Z")));
        // 25 October: the hour from 02:00 comes twice.
        assert!(windows.are_open(at("2026-10-25T00:30:00Z")));
        assert!(windows.are_open(at("2026-10-25T01:30:00Z")));
        assert!(!windows.are_open(at("2026-10-25T02:00:00Z")));
    }
}
