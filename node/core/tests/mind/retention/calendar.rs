//! Calendars that go wrong: leap days, summer time both ways, week 53, a commit a minute, equal times.

use cairn_types::retention::Rules;

use super::{Record, at_times, in_zone, kept, reasons};

/// Milliseconds of a moment such as `2024-02-29T23:59:00Z`.
fn ms(text: &str) -> u64 {
    let at: jiff::Timestamp = text.parse().unwrap();
    at.as_millisecond() as u64
}

fn at(times: &[&str]) -> Vec<Record> {
    at_times(times.iter().map(|text| ms(text)))
}

fn hourly(count: u32) -> Rules {
    Rules { hourly: Some(count), ..Rules::default() }
}

fn daily(count: u32) -> Rules {
    Rules { daily: Some(count), ..Rules::default() }
}

fn weekly(count: u32) -> Rules {
    Rules { weekly: Some(count), ..Rules::default() }
}

fn monthly(count: u32) -> Rules {
    Rules { monthly: Some(count), ..Rules::default() }
}

fn yearly(count: u32) -> Rules {
    Rules { yearly: Some(count), ..Rules::default() }
}

/// Each row: a zone, rules, commits in order, and the places of those that are kept.
#[test]
fn hard_calendars() {
    type Row = (&'static str, Rules, &'static [&'static str], &'static [u64]);
    let rows: [Row; 14] = [
        // A leap day is a day of February.
        (
            "UTC",
            daily(9),
            &[
                "2024-02-28T12:00:00Z",
                "2024-02-29T00:00:00Z",
                "2024-02-29T23:59:59Z",
                "2024-03-01T00:00:00Z",
            ],
            &[0, 2, 3],
        ),
        (
            "UTC",
            monthly(9),
            &["2024-02-28T12:00:00Z", "2024-02-29T23:59:59Z", "2024-03-01T00:00:00Z"],
            &[1, 2],
        ),
        // 2100 has no leap day.
        ("UTC", daily(9), &["2100-02-28T23:59:59Z", "2100-03-01T00:00:00Z"], &[0, 1]),
        // Summer time begins: two o'clock is not shown, and no hour is missed.
        (
            "Europe/Berlin",
            hourly(9),
            &[
                "2026-03-29T00:30:00Z",
                "2026-03-29T00:59:59Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T02:00:00Z",
            ],
            &[1, 2, 3],
        ),
        // It ends: the clock shows two o'clock twice, and that is one hour.
        (
            "Europe/Berlin",
            hourly(9),
            &[
                "2026-10-24T23:30:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:30:00Z",
            ],
            &[0, 2, 3],
        ),
        // The day of 25 hours and the day of 23 hours are one day each.
        (
            "Europe/Berlin",
            daily(9),
            &["2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"],
            &[1, 2],
        ),
        (
            "America/New_York",
            daily(9),
            &["2026-03-08T05:00:00Z", "2026-03-09T03:59:59Z", "2026-03-09T04:00:00Z"],
            &[1, 2],
        ),
        // The new year's first days belong to week 53 of the old one, and the last of another to week 1.
        (
            "UTC",
            weekly(9),
            &[
                "2026-12-28T00:00:00Z",
                "2026-12-31T12:00:00Z",
                "2027-01-03T23:59:59Z",
                "2027-01-04T00:00:00Z",
            ],
            &[2, 3],
        ),
        (
            "UTC",
            weekly(9),
            &["2024-12-29T23:59:59Z", "2024-12-30T00:00:00Z", "2025-01-01T00:00:00Z"],
            &[0, 2],
        ),
        // Midnight is the zone's own.
        ("Asia/Kathmandu", daily(9), &["2026-01-01T18:14:59Z", "2026-01-01T18:15:00Z"], &[0, 1]),
        ("UTC", daily(9), &["2026-01-01T18:14:59Z", "2026-01-01T18:15:00Z"], &[1]),
        // Apia left out the 30th of December 2011.
        ("Pacific/Apia", daily(9), &["2011-12-30T09:59:59Z", "2011-12-30T10:00:00Z"], &[0, 1]),
        ("America/New_York", yearly(2), &["2026-01-01T04:59:59Z", "2026-01-01T05:00:00Z"], &[0, 1]),
        // Days without a commit do not use up the rule.
        (
            "UTC",
            daily(2),
            &["2025-01-01T00:00:00Z", "2025-06-01T00:00:00Z", "2026-06-01T00:00:00Z"],
            &[1, 2],
        ),
    ];
    for (number, (zone, rules, times, expected)) in rows.into_iter().enumerate() {
        let found = kept(&in_zone(zone, rules), &at(times), u64::MAX);
        assert_eq!(found, expected, "row {number}: {zone}, {times:?}");
    }
}

#[test]
fn a_checkpoint_a_minute_for_a_year_comes_down_to_its_buckets() {
    const MINUTE_MS: u64 = 60_000;
    let first = ms("2024-01-01T00:00:00Z");
    let minutes = 366 * 24 * 60;
    let records = at_times((0..minutes).map(|minute| first + minute * MINUTE_MS));
    let rules = Rules {
        last: Some(10),
        hourly: Some(24),
        daily: Some(7),
        weekly: Some(60),
        monthly: Some(60),
        yearly: Some(9),
        ..Rules::default()
    };
    let found = kept(&in_zone("UTC", rules.clone()), &records, u64::MAX);
    // The newest minute is the newest of its hour, day, week, month and year; the 31st of December
    // 2024 is a Tuesday of week 1, which has begun: the Sundays before it end 52 weeks.
    let day = |text: &str| (ms(text) - first) / MINUTE_MS;
    assert!(
        found.contains(&day("2024-12-29T23:59:00Z"))
            && found.contains(&day("2024-02-29T23:59:00Z"))
    );
    assert_eq!(*found.last().unwrap(), minutes - 1);
    // Last: 10. Hours: 23 more. Days: 6 more. Weeks: the newest is known, and so is the Sunday of
    // the days; 51 more. Months: 11 more, of which June's and March's end on a Sunday.
    assert_eq!(found.len(), 10 + 23 + 6 + 51 + 11 - 2);
    let found = reasons(&in_zone("UTC", rules), &records, u64::MAX);
    let count = |rule: &str| found.iter().flatten().filter(|it| it.rule() == rule).count();
    let counts = ["last", "hourly", "daily", "weekly", "monthly", "yearly"].map(count);
    assert_eq!(counts, [10, 24, 7, 53, 12, 1]);
}

#[test]
fn equal_times_are_told_apart_by_the_commit_order() {
    // A clock that was set back: the label stays where it was until the clock has caught up.
    let records = at_times([5_000, 5_000, 5_000, 5_000]);
    assert_eq!(kept(&in_zone("UTC", daily(3)), &records, u64::MAX), [3]);
    let within = Rules { within_ms: Some(1), ..Rules::default() };
    assert_eq!(kept(&in_zone("UTC", within), &records, u64::MAX), [0, 1, 2, 3]);
}

#[test]
fn a_commit_from_the_future_empties_no_window() {
    const DAY_MS: u64 = 86_400_000;
    let now_ms = ms("2026-11-30T00:00:00Z");
    let mut times: Vec<u64> = (0..10).map(|day| now_ms - (10 - day) * DAY_MS).collect();
    times.push(now_ms + 400 * DAY_MS);
    let within = Rules { within_ms: Some(3 * DAY_MS), ..Rules::default() };
    let found = kept(&in_zone("UTC", within), &at_times(times), now_ms);
    assert_eq!(found, [7, 8, 9, 10]);
}
