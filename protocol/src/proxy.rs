//! Addresses behind proxies: the PROXY protocol (versions 1 and 2, as published by HAProxy), and the
//! header `X-Forwarded-For`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest line of version 1, line end included.
const LINE_BYTES_MAX: usize = 107;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Most bytes of a version 2 header's addresses and extensions; more than any proxy sends.
const ADDRESSES_BYTES_MAX: usize = 2 * 1024;

/// What the bytes at the start of a connection amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Not a whole PROXY header yet.
    More,
    /// None, or a wrong one.
    Invalid,
    /// A header of so many bytes. No address where the proxy speaks for itself, as in its health
    /// checks.
    Header {
        /// The client's address.
        client: Option<IpAddr>,
        /// Bytes to be passed over.
        bytes: usize,
    },
}

/// Reads a PROXY header from the start of `bytes`.
pub fn read_prefix(bytes: &[u8]) -> Prefix {
    let signature = SIGNATURE.get(..bytes.len().min(SIGNATURE.len())).unwrap_or(SIGNATURE);
    if bytes.starts_with(signature) && !bytes.is_empty() {
        return read_version_2(bytes);
    }
    let start = b"PROXY ";
    if !bytes.starts_with(start.get(..bytes.len().min(start.len())).unwrap_or(start)) {
        return Prefix::Invalid;
    }
    let line = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => read_line(bytes.get(..end).unwrap_or_default()),
        None if bytes.len() >= LINE_BYTES_MAX => Prefix::Invalid,
        None => Prefix::More,
    }
}

fn read_line(line: &[u8]) -> Prefix {
    let Ok(text) = str::from_utf8(line) else { return Prefix::Invalid };
    let mut words = text.split(' ').skip(1);
    let bytes = line.len() + 2;
    let client = match words.next() {
        Some("UNKNOWN") => return Prefix::Header { client: None, bytes },
        Some("TCP4") => words.next().and_then(|a| a.parse().ok()).map(IpAddr::V4),
        Some("TCP6") => words.next().and_then(|a| a.parse().ok()).map(IpAddr::V6),
        _ => None,
    };
    let ports: Vec<Option<u16>> = words.skip(1).map(|port| port.parse().ok()).collect();
    match (client, ports.as_slice()) {
        (Some(client), [Some(_), Some(_)]) => Prefix::Header { client: Some(client), bytes },
        _ => Prefix::Invalid,
    }
}

fn read_version_2(bytes: &[u8]) -> Prefix {
    let Some(&[version, family, high, low]) = bytes.get(12..16).and_then(|b| b.first_chunk())
    else {
        return Prefix::More;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version >> 4 != 2 || version & 0xf > 1 || length > ADDRESSES_BYTES_MAX {
        return Prefix::Invalid;
    }
    let Some(addresses) = bytes.get(16..16 + length) else { return Prefix::More };
    let header = |client| Prefix::Header { client, bytes: 16 + length };
    // The proxy's own connection, or one of a family that has no addresses here.
    if version & 0xf == 0 {
        return header(None);
    }
    match family >> 4 {
        1 if length >= 12 => {
            let source = addresses.first_chunk::<4>().map(|a| IpAddr::V4(Ipv4Addr::from(*a)));
            header(source)
        }
        2 if length >= 36 => {
            let source = addresses.first_chunk::<16>().map(|a| IpAddr::V6(Ipv6Addr::from(*a)));
            header(source)
        }
        1 | 2 => Prefix::Invalid,
        _ => header(None),
    }
}

/// The client's address in values of `X-Forwarded-For`: the last one that is no trusted proxy's. Each
/// proxy appends whom it heard; what stands before the last untrusted one anybody may have made up.
pub fn forwarded_for<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut client = None;
    for value in values.rev() {
        for entry in value.rsplit(|&byte| byte == b',') {
            let text = str::from_utf8(entry).ok()?.trim();
            let Some(address) = parse_address(text) else { return client };
            client = Some(address);
            if !is_trusted(address) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write it: plain, in brackets, with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions_in_all_splits() {
        let mut version_2 = SIGNATURE.to_vec();
        version_2.extend([0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 0, 81]);
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0, 0, 0]);
        let mut six = SIGNATURE.to_vec();
        six.extend([0x21, 0x21, 0, 36]);
        six.extend(Ipv6Addr::LOCALHOST.octets());
        six.extend([0; 20]);
        let cases: [(&[u8], Option<&str>); 6] = [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 80 81\r\n", Some("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 80 81\r\n", Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n", None),
            (&version_2, Some("192.0.2.1")),
            (&local, None),
            (&six, Some("::1")),
        ];
        for (header, client) in cases {
            let client = client.map(|text| text.parse().unwrap());
            let whole = [header, b"GET /"].concat();
            assert_eq!(read_prefix(&whole), Prefix::Header { client, bytes: header.len() });
            for cut in 0..header.len() {
                assert_eq!(read_prefix(&header[..cut]), Prefix::More, "{cut} of {header:?}");
            }
        }
    }

    #[test]
    fn anything_else_is_no_header() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        let cases: [&[u8]; 8] = [
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 x y 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
            b"PROXY TCP9 1.2.3.4 1.2.3.4 1 2\r\n",
            long.as_bytes(),
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ];
        for bytes in cases {
            assert_eq!(read_prefix(bytes), Prefix::Invalid, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_last_address_that_no_proxy_has_is_the_clients() {
        let trusted = |address: IpAddr| address.to_string().starts_with("10.");
        let client = |values: &[&str]| {
            forwarded_for(values.iter().map(|v| v.as_bytes()), trusted).map(|a| a.to_string())
        };
        assert_eq!(client(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(client(&["6.6.6.6, 192.0.2.1, 10.0.0.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(client(&["6.6.6.6", "192.0.2.1 ,10.0.0.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(client(&["10.0.0.2, 10.0.0.1"]).as_deref(), Some("10.0.0.2"));
        assert_eq!(client(&["[2001:db8::1]:443"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(client(&["unknown, 10.0.0.1"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(client(&["unknown"]), None);
    }
}
