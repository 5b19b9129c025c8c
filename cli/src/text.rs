//! Text for people: escapes for what strangers wrote, durations, sizes.

use std::fmt::Write;
use std::time::Duration;

/// Text of several lines that a test wrote, made safe for a terminal: newlines and tabs stay, colour sequences go, every other control
/// character (C0, DEL, C1) and every character that changes the direction of text is shown as an escape.
pub fn escape_block(text: &str) -> String {
    escape(text, true)
}

/// The same for text that has to stay on one line, such as a case's name: newlines and tabs are escaped too.
pub fn escape_line(text: &str) -> String {
    escape(text, false)
}

fn escape(text: &str, keep_layout: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = colour_sequence(rest) {
            rest = &rest[length..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\n' | '\t' if keep_layout => clean.push(character),
            '\r' if keep_layout && rest.starts_with('\n') => {}
            _ if is_hostile(character) => {
                let _infallible = write!(clean, "{}", character.escape_default());
            }
            _ => clean.push(character),
        }
    }
    clean
}

/// The length of a sequence at the start of `text` that only sets colours: `ESC [ digits ; … m` (ECMA-48, section 8.3.117, SGR).
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|character: char| !character.is_ascii_digit() && character != ';' && character != ':')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// A duration as people say it: `0.004 s`, `1.23 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let millis = duration.as_millis();
    match seconds {
        0 => format!("0.{millis:03} s"),
        1..60 => format!("{}.{:02} s", seconds, millis % 1000 / 10),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A time that is only guessed, in whole seconds.
pub fn estimate(duration: Duration) -> String {
    let seconds = duration.as_millis().div_ceil(1000).max(1) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        _ => self::duration(Duration::from_secs(seconds)),
    }
}

/// How long ago something was, as [`duration`] in whole seconds.
pub fn whole_seconds(millis: u64) -> String {
    match millis / 1000 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => duration(Duration::from_secs(seconds)),
    }
}

/// Milliseconds as [`duration`].
pub fn millis(millis: u64) -> String {
    duration(Duration::from_millis(millis))
}

/// Microseconds as [`duration`].
pub fn micros(micros: u64) -> String {
    duration(Duration::from_micros(micros))
}

/// A size in bytes with a binary unit: `512 B`, `1.5 KiB`, `20.0 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A part of a whole in whole percent; a whole of zero is shown as `-`.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    format!("{} %", (u128::from(part) * 100 + u128::from(whole) / 2) / u128::from(whole))
}

/// `count` with the noun in the right number: `1 case`, `2 cases`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A point in time as `2023-11-14 22:13`, in UTC. Days are turned into a date as Howard Hinnant's `civil_from_days` does.
pub fn date(unix_ms: i64) -> String {
    let minutes = unix_ms.div_euclid(60_000);
    let (days, minute) = (minutes.div_euclid(1440), minutes.rem_euclid(1440));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minute / 60, minute % 60)
}

/// Reads a duration as a person types it: `30s`, `2m`, `500ms`, `1h30m`, `7d`, or a bare number of seconds.
///
/// # Errors
///
/// One sentence for an empty text, an unknown unit, or more than a year.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("an empty text is no duration; write 30s, 2m or 1h30m".into());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 =
            rest[..digits].parse().map_err(|_| format!("`{text}` is no duration; write 30s, 2m or 1h30m"))?;
        rest = &rest[digits..];
        let letters = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" | "" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            unit => return Err(format!("`{unit}` is no unit of time; write ms, s, m, h or d")),
        };
        rest = &rest[letters..];
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(unit_ms)));
    }
    if total.is_zero() || total > LONGEST {
        return Err(format!("`{text}` is not between a millisecond and a year"));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_test_writes_steers_the_terminal() {
        let hostile = "a\u{1b}[31mred\u{1b}[0m\u{1b}]0;title\u{7}\u{1b}[2J\tb\r\nc\rd\u{9b}1m\u{202e}e\u{7f}\0";
        insta::assert_snapshot!(escape_block(hostile), @r"
        ared\u{1b}]0;title\u{7}\u{1b}[2J	b
        c\rd\u{9b}1m\u{202e}e\u{7f}\u{0}
        ");
        assert_eq!(escape_line("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(escape_block("\u{1b}["), "\\u{1b}[");
        assert_eq!(escape_block("naïve 日本"), "naïve 日本");
    }

    #[test]
    fn durations_are_read_as_typed() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in
            ["", "s", "-1s", "1w", "366d", "0", "99999999999999999999s", "18446744073709551615h", "1.5s", "1s x"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_guess_is_not_told_to_the_hundredth() {
        let told = [1, 1000, 1001, 39_250, 61_000].map(|millis| estimate(Duration::from_millis(millis)));
        assert_eq!([0, 999, 59_999, 61_000].map(whole_seconds), ["0 s", "0 s", "59 s", "1 min 01 s"]);
        assert_eq!(told, ["1 s", "1 s", "2 s", "40 s", "1 min 01 s"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(1_700_000_000_000), "2023-11-14 22:13");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00");
        assert_eq!(date(-1), "1969-12-31 23:59");
        assert!(!date(i64::MIN).is_empty() && !date(i64::MAX).is_empty());
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(millis(4), "0.004 s");
        assert_eq!(millis(1239), "1.23 s");
        assert_eq!(millis(125_000), "2 min 05 s");
        assert_eq!(millis(3_720_000), "1 h 02 min");
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
        assert_eq!(percent(1, 3), "33 %");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(counted(1, "case", "cases"), "1 case");
    }
}
