//! Where an instance can be asked: `http://host:port` or `https://host:port`, and nothing more.
//!
//! Such addresses come from the configuration and from a topic that others may be able to write to, so they are untrusted: what could make
//! this server ask something that is no instance (a path, credentials, the metadata service of a cloud) is refused here. A name is judged
//! again when it is looked up, by [`is_asked`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A DNS name has at most this many bytes.
const NAME_BYTES_MAX: usize = 253;
/// Metadata services of clouds whose addresses are not link-local (Amazon over IPv6, Alibaba).
const METADATA: [IpAddr; 2] =
    [IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))];

/// The address of an instance, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerUrl {
    scheme: &'static str,
    /// An IP address, or a name in lower case.
    host: String,
    port: u16,
}

impl PeerUrl {
    /// Reads `http://host:port` or `https://host:port`; without a port it is the scheme's own.
    ///
    /// # Errors
    /// When, and only when, it is anything else: says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, usual, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => ("http", 80, rest),
            (_, Some(rest)) => ("https", 443, rest),
            _ => return Err("it begins with neither http:// nor https://".into()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(part) = authority.chars().find(|char| "/?#@".contains(*char)) {
            return Err(format!("after the host and port there may be nothing, and no user before them, but there is a {part:?}"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| format!("{port:?} is no port"))?),
            _ => (authority, usual),
        };
        if port == 0 {
            return Err("0 is no port that can be asked".into());
        }
        Ok(Self { scheme, host: checked_host(host)?, port })
    }

    /// The address of a server that listens here.
    ///
    /// # Errors
    /// When, and only when, nobody can be told to ask there, such as at 0.0.0.0: says why.
    pub fn of(address: SocketAddr, is_tls: bool) -> Result<Self, String> {
        Self::parse(&format!("{}://{address}", if is_tls { "https" } else { "http" }))
    }

    /// Whether it is an address of the machine itself, which means another server on another machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The IP address, if that is what its host is.
    fn address(&self) -> Option<IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

impl<'de> Deserialize<'de> for PeerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|why| D::Error::custom(format!("{why}: write scheme, host and port, such as \"http://node-1:7717\"")))
    }
}

impl Serialize for PeerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn checked_host(host: &str) -> Result<String, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
        if address.is_ipv6() != bare.is_some() {
            return Err(format!("{host:?} is no host: an IPv6 address, and nothing else, stands in brackets"));
        }
        is_asked(address)?;
        return Ok(if address.is_ipv6() { format!("[{address}]") } else { address.to_string() });
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = host.strip_suffix('.').unwrap_or(host);
    // A last label of digits would be read as an IPv4 address by some resolvers.
    let is_numeric = labels.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x"));
    if labels.len() > NAME_BYTES_MAX || is_numeric || !labels.split('.').all(is_label) {
        return Err(format!("{host:?} is no host"));
    }
    Ok(host.to_ascii_lowercase())
}

/// Whether an instance may be at this address at all.
///
/// # Errors
/// When, and only when, it is one that no instance has: says why.
pub fn is_asked(address: IpAddr) -> Result<(), String> {
    let address = address.to_canonical();
    let why = match address {
        _ if address.is_unspecified() => "stands for every address",
        _ if address.is_multicast() => "is a multicast address",
        _ if METADATA.contains(&address) => "is the metadata service of a cloud",
        IpAddr::V4(v4) if v4.is_link_local() => "is link-local",
        IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 => "is no address of a host",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "is link-local",
        _ => return Ok(()),
    };
    Err(format!("{address} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_instances_are_taken() {
        for (text, shown) in [
            ("http://127.0.0.1:7717", "http://127.0.0.1:7717"),
            ("http://10.1.2.3:80/", "http://10.1.2.3:80"),
            ("https://Node-1.Example.com", "https://node-1.example.com:443"),
            ("http://node", "http://node:80"),
            ("http://node_1.svc.:7717", "http://node_1.svc.:7717"),
            ("http://[2001:db8::1]:7717", "http://[2001:db8::1]:7717"),
            ("https://[::1]", "https://[::1]:443"),
        ] {
            let url = PeerUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(PeerUrl::parse(shown).unwrap(), url);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "node:7717",
            "ftp://node",
            "HTTP//node",
            "http://",
            "http://:7717",
            "http://user@node",
            "http://user:secret@node:7717",
            "http://node/path",
            "http://node//",
            "http://node?query",
            "http://node#fragment",
            "http://node:0",
            "http://node:70000",
            "http://node:80:80",
            "http://no de",
            "http://node\r\nhost: other",
            "http://node%2fx",
            "http://-node",
            "http://no..de",
            "http://2001:db8::1:7717",
            "http://[node]:7717",
            "http://[127.0.0.1]",
            "http://0.0.0.0:7717",
            "http://[::]:7717",
            "http://169.254.169.254",
            "http://[::ffff:169.254.169.254]",
            "http://[fe80::1]",
            "http://[fd00:ec2::254]",
            "http://100.100.100.200",
            "http://224.0.0.1",
            "http://[ff02::1]",
            "http://255.255.255.255",
            "http://0.1.2.3",
            "http://2852039166", // an IPv4 address, to some
            "http://0xa9fea9fe",
            "http://127.1",
        ] {
            assert!(PeerUrl::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_can_not_tell_where() {
        let of = |address: &str, is_tls| PeerUrl::of(address.parse().unwrap(), is_tls).map(|url| url.to_string());
        assert_eq!(of("127.0.0.1:7717", false).unwrap(), "http://127.0.0.1:7717");
        assert_eq!(of("[::1]:7717", true).unwrap(), "https://[::1]:7717");
        assert_eq!(of("0.0.0.0:7717", false).unwrap_err(), "0.0.0.0 stands for every address");
    }

    #[test]
    fn the_machine_itself_is_known() {
        for (text, is_loopback) in [
            ("http://127.3.2.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://10.0.0.1:1", false),
            ("http://a:1", false),
        ] {
            assert_eq!(PeerUrl::parse(text).unwrap().is_loopback(), is_loopback, "{text}");
        }
    }
}
