//! Checkpoint addresses as people write them. The catalogue knows times as milliseconds only; here
//! they may be a date, a moment or an age.

use std::time::{SystemTime, UNIX_EPOCH};

use cairn_types::ids::{Address, Selector};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::exit::Failure;

/// The text of `cairn help selectors`.
pub const SELECTORS: &str = "\
The address of a checkpoint is NAMESPACE@SELECTOR, such as llama/pretrain@1000.

NAMESPACE is a path of letters, digits, '.', '_' and '-'. SELECTOR is one of
    1000                        the checkpoint of this step
    latest                      the newest commit that is not in quarantine,
                                whatever its step
    latest~2                    the second one before it
    best                        the best one by the metric of the namespace's
                                policy (`cairn policy set NAMESPACE --best
                                loss:min`)
    best:loss:min               the one with the smallest loss; best:acc:max the
                                largest acc
    best:loss                   the same, if the policy's --best is of this
                                metric
    production                  what this ref points to (`cairn ref`)
    time:2h                     the newest commit two hours ago (s, m, h, days,
                                weeks)
    time:2026-11-28T18:00+01:00 the newest commit at that time; without an
                                offset it is UTC
    time:2026-11-28             the newest commit at the start of that day, in
                                UTC
    time:1795888800000          the newest commit at that time, in milliseconds
                                since 1970

`latest`, `best` and times pass over what is in quarantine. Of equally good
checkpoints `best` is the newest; one without the metric takes no part (`cairn
annotate` adds a metric later).

`put` accepts a step only.
";

/// Reads an address; ages count from this machine's clock.
pub fn parse(text: &str) -> Result<Address, Failure> {
    parse_at(text, now_ms())
}

/// Reads a moment as it stands behind `time:`; ages count from this machine's clock. Milliseconds since
/// the Unix epoch.
pub fn moment_ms(text: &str) -> Result<u64, Failure> {
    time_ms(text, now_ms()).ok_or_else(|| malformed_time(text))
}

fn malformed_time(text: &str) -> Failure {
    let wanted = "expected an age, a date, a date and time, or milliseconds";
    Failure::usage(format!("malformed time {text:?}: {wanted}"))
        .with_hint("`cairn help selectors` lists the selectors")
}

/// This machine's wall clock, milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "a time is what this machine's user means by it")]
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn parse_at(text: &str, now_ms: u64) -> Result<Address, Failure> {
    let malformed = |error: &dyn std::fmt::Display| {
        Failure::usage(error).with_hint("`cairn help selectors` lists the selectors")
    };
    let Some((namespace, time)) = text.split_once("@time:") else {
        return text.parse().map_err(|error| malformed(&error));
    };
    let namespace = namespace.parse().map_err(|error| malformed(&error))?;
    let wall_ms = time_ms(time, now_ms).ok_or_else(|| malformed_time(time))?;
    Ok(Address { namespace, selector: Selector::CommittedBy(wall_ms) })
}

/// Reads a time as it stands behind `time:`; ages count from `now_ms`. Milliseconds since the Unix
/// epoch.
pub fn time_ms(text: &str, now_ms: u64) -> Option<u64> {
    if let Ok(ms) = text.parse() {
        return Some(ms);
    }
    if let Ok(age) = humantime::parse_duration(text) {
        return now_ms.checked_sub(u64::try_from(age.as_millis()).ok()?);
    }
    let in_utc = |time: DateTime| TimeZone::UTC.to_timestamp(time).ok();
    let moment = text.parse::<Timestamp>().ok();
    // A date with a time of day reads as a date, too: it comes last.
    let moment = moment.or_else(|| text.parse::<DateTime>().ok().and_then(in_utc));
    let moment = moment.or_else(|| in_utc(text.parse::<Date>().ok()?.at(0, 0, 0, 0)));
    u64::try_from(moment?.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    const NOW_MS: u64 = 1_795_888_800_000; // 2026-11-28T18:00:00Z

    fn ms(text: &str) -> Option<u64> {
        let address = parse_at(&format!("run/a@time:{text}"), NOW_MS).ok()?;
        match address.selector {
            Selector::CommittedBy(ms) => Some(ms),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_time_is_milliseconds_an_age_a_date_or_a_moment() {
        const HOUR_MS: u64 = 3_600_000;
        for (text, wanted) in [
            ("1795888800000", NOW_MS),
            ("0s", NOW_MS),
            ("2h", NOW_MS - 2 * HOUR_MS),
            ("1day 1h", NOW_MS - 25 * HOUR_MS),
            ("2026-11-28", NOW_MS - 18 * HOUR_MS),
            ("2026-11-28T18:00", NOW_MS),
            ("2026-11-28T18:00:00Z", NOW_MS),
            ("2026-11-28T18:00:00+01:00", NOW_MS - HOUR_MS),
            ("2026-11-28T19:00+01:00", NOW_MS),
            ("2026-11-28 18:00:00", NOW_MS),
        ] {
            assert_eq!(ms(text), Some(wanted), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "99999999weeks", "1960-01-01", "-5"] {
            assert_eq!(ms(text), None, "{text}");
        }
    }

    #[test]
    fn what_follows_the_at_is_named_when_it_is_wrong() {
        for (text, exit) in [
            ("run", Exit::Usage),
            ("run@1x", Exit::Usage),
            ("run@best:", Exit::Usage),
            ("run@time:soon", Exit::Usage),
        ] {
            let failure = parse_at(text, NOW_MS).unwrap_err();
            assert_eq!(failure.exit, exit, "{text}");
            assert!(failure.hint.unwrap().contains("help selectors"), "{text}");
        }
        assert_eq!(parse_at("run@7", NOW_MS).unwrap().to_string(), "run@7");
    }
}
