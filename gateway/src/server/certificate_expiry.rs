//! As much of DER (X.690) and X.509 (RFC 5280) as it takes to find out when a certificate expires: rustls checks our
//! certificate's key, not its dates.

use time::{Date, Month, OffsetDateTime, Time};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// When a certificate expires; `None` if it is no certificate.
///
/// `Certificate { tbsCertificate { [0] version, serialNumber, signature, issuer, validity { notBefore, notAfter }, …`
pub fn not_after(certificate: &[u8]) -> Option<OffsetDateTime> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (body, _) = element(certificate, SEQUENCE)?;
    let rest = element(body, VERSION).map_or(body, |(_, rest)| rest);
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_signature, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let not_before = any(validity)?;
    let not_after = any(not_before.rest)?;
    instant(not_after.tag, not_after.content)
}

/// An element, and what follows it.
struct Element<'d> {
    tag: u8,
    content: &'d [u8],
    rest: &'d [u8],
}

/// The content of the element at the start, if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any(bytes).filter(|found| found.tag == tag).map(|found| (found.content, found.rest))
}

/// The element at the start.
fn any(bytes: &[u8]) -> Option<Element<'_>> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // So many bytes of length follow; a certificate has less than 16 MiB.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(Element { tag, content, rest })
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
fn instant(tag: u8, text: &[u8]) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        // Below 50 it is this century.
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(2)?).ok()?;
    let time = Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(not_after: OffsetDateTime) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = not_after;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        for expires in [date_time_ymd(2049, 12, 31), date_time_ymd(2050, 1, 1), date_time_ymd(2031, 7, 9)] {
            assert_eq!(not_after(&certificate(expires)), Some(expires));
        }
        let last_century = date_time_ymd(1950, 1, 2).replace_time(Time::from_hms(3, 4, 5).unwrap());
        assert_eq!(instant(UTC_TIME, b"500102030405Z"), Some(last_century));
        assert_eq!(instant(UTC_TIME, b"501302030405Z"), None);
        assert_eq!(instant(UTC_TIME, b"5013"), None);
    }

    #[test]
    fn half_a_certificate_is_none() {
        let whole = certificate(date_time_ymd(2031, 7, 9));
        assert!((0..whole.len()).all(|length| not_after(&whole[..length]).is_none()));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes: Vec<u8>, tag: u8, text: Vec<u8>) {
            let _ = (not_after(&bytes), instant(tag, &text));
        }

        #[test]
        fn a_changed_byte_makes_it_wrong_at_most(at in 0usize..1000, byte: u8) {
            let mut certificate = certificate(date_time_ymd(2031, 7, 9));
            let at = at % certificate.len();
            certificate[at] = byte;
            let _ = not_after(&certificate);
        }
    }
}
