//! Which web origins an entry of `cors.origins` stands for. Pure; the gateway asks it for every request with an `Origin`.

/// Whether `entry` lets `origin` in, an origin as browsers send it: `*` is every origin, `https://*.shop.example` is every
/// host that has exactly one label before `shop.example`, and anything else is itself.
pub fn allows(entry: &str, origin: &str) -> bool {
    if entry == "*" || entry == origin {
        return true;
    }
    let Some((scheme, host)) = entry.split_once("://*.") else { return false };
    let label = origin
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .and_then(|rest| rest.strip_suffix(host))
        .and_then(|rest| rest.strip_suffix('.'));
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    label.is_some_and(|label| !label.is_empty() && label.bytes().all(sound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_label_of_the_same_scheme_and_port() {
        let entry = "https://*.shop.example:8443";
        assert!(allows(entry, "https://a.shop.example:8443") && allows(entry, "https://a-b_1.shop.example:8443"));
        for other in [
            "https://shop.example:8443",
            "https://.shop.example:8443",
            "https://a.b.shop.example:8443",
            "https://a.shop.example",
            "http://a.shop.example:8443",
            "https://ashop.example:8443",
            "https://evil.example/.shop.example:8443",
            "https://evil@a.shop.example:8443",
            "https://a.shop.example:8443.evil.example",
            "https://*.shop.example:844",
            "null",
            "",
        ] {
            assert!(!allows(entry, other), "{other}");
        }
    }

    #[test]
    fn everything_else_is_itself() {
        assert!(allows("*", "null") && allows("https://shop.example", "https://shop.example"));
        assert!(!allows("https://shop.example", "https://a.shop.example"));
        assert!(!allows("https://shop.example", "https://shop.example:8443"));
    }
}
