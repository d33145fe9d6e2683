//! Values of keys with addresses and with a fixed set of words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kinds of network devices (`netdev_kind_table` in systemd 257).
pub(super) const NETDEV_KINDS: [&str; 38] = [
    "bareudp",
    "batadv",
    "bond",
    "bridge",
    "dummy",
    "erspan",
    "fou",
    "geneve",
    "gre",
    "gretap",
    "ifb",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "ipoib",
    "ipvlan",
    "ipvtap",
    "l2tp",
    "macsec",
    "macvlan",
    "macvtap",
    "netdevsim",
    "nlmon",
    "sit",
    "tap",
    "tun",
    "vcan",
    "veth",
    "vlan",
    "vrf",
    "vti",
    "vti6",
    "vxcan",
    "vxlan",
    "wireguard",
    "wlan",
    "xfrm",
];
/// Words for true and false (`parse_boolean` in systemd).
const BOOLEANS: [&str; 12] =
    ["1", "yes", "y", "true", "t", "on", "0", "no", "n", "false", "f", "off"];

/// Returns the part of a value that systemd cannot parse. Most keys are not checked.
pub(super) fn invalid<'a>(section: &str, key: &str, value: &'a str) -> Option<&'a str> {
    if value.is_empty() {
        return None;
    }
    let fails = match (section, key) {
        ("Network" | "Address", "Address") | ("Address", "Peer") => !is_prefix(value),
        ("Network" | "Route", "Gateway") => {
            !["_dhcp", "_dhcp4", "_ipv6ra"].contains(&value) && value.parse::<IpAddr>().is_err()
        }
        ("Route", "Destination" | "Source") => !is_prefix(value),
        ("Network", "DNS") => return value.split_whitespace().find(|word| !is_server(word)),
        ("Network", "DHCP") => {
            let words = ["ipv4", "ipv6", "both", "none", "v4", "v6"];
            !words.contains(&value) && !is_boolean(value)
        }
        _ => false,
    };
    fails.then_some(value)
}

fn is_boolean(word: &str) -> bool {
    BOOLEANS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Returns whether a word is an address, with or without a prefix length.
fn is_prefix(word: &str) -> bool {
    let (address, length) = match word.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (word, None),
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= most))
}

/// Returns whether a word is a DNS server: an address, and optionally its port, interface and name:
/// `1.2.3.4:53%eth0#name`, `[1::2]:53%eth0#name`, `1::2%eth0`.
fn is_server(word: &str) -> bool {
    let word = word.split('#').next().unwrap_or_default();
    let word = word.split('%').next().unwrap_or_default();
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|p| p > 0))
    };
    if let Some((address, rest)) = word.strip_prefix('[').and_then(|word| word.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok() && is_port(rest);
    }
    word.parse::<Ipv6Addr>().is_ok()
        || word
            .find(':')
            .map_or((word, ""), |at| word.split_at(at))
            .0
            .parse::<Ipv4Addr>()
            .is_ok_and(|_| is_port(word.find(':').map_or("", |at| &word[at..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_manual() {
        let valid = |key, value| invalid("Network", key, value).is_none();
        for (key, value) in [
            ("Address", "192.0.2.1/24"),
            ("Address", "0.0.0.0/28"),
            ("Address", "2001:db8::1/64"),
            ("Address", "192.0.2.1"),
            ("Gateway", "_dhcp4"),
            ("Gateway", "fe80::1"),
            ("DNS", "192.0.2.1:9953%eth0#example.org [2001:db8::1]:53 2001:db8::1%eth0#a"),
            ("DHCP", "ipv4"),
            ("DHCP", "Yes"),
            ("Domains", "example.org"),
        ] {
            assert!(valid(key, value), "{key}={value}");
        }
        for (key, value) in [
            ("Address", "192.0.2.1/33"),
            ("Address", "192.0.2.1/"),
            ("Address", "192.0.2.1 192.0.2.2"),
            ("Address", "192.0.2"),
            ("Gateway", "192.0.2.1/24"),
            ("Gateway", "dhcp"),
            ("DNS", "192.0.2.1, 192.0.2.2"),
            ("DNS", "dns.example.org"),
            ("DHCP", "dhcp4"),
        ] {
            assert!(!valid(key, value), "{key}={value}");
        }
    }
}
