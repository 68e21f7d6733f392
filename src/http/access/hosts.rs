//! Under which names the server may be asked. A page of anybody's may point a name of its own to 127.0.0.1 and let a browser on this
//! machine ask there (DNS rebinding); the browser then sends that name as `Host`, and it is not one of ours.

use axum::http::{HeaderMap, Version, header, uri::Authority};

use crate::{
    config::HttpConfig,
    http::problem::{self, Problem},
};

/// Names of `http.hosts`, and what is allowed beside them.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    /// Only this machine can ask.
    is_loopback: bool,
}

impl Hosts {
    pub(super) fn of(http: &HttpConfig) -> Self {
        Self { names: http.hosts.iter().map(|name| plain(name)).collect(), is_loopback: http.is_loopback() }
    }

    /// Refuses a request that was not meant for this server.
    pub(super) fn check(&self, version: Version, headers: &HeaderMap) -> Result<(), Problem> {
        let mut all = headers.get_all(header::HOST).iter();
        let host = match (all.next(), all.next()) {
            (Some(host), None) => host,
            (None, _) if version == Version::HTTP_10 => return Ok(()), // no browser is that old
            _ => return Err(Problem::invalid("there must be one Host header")),
        };
        let parsed = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()).filter(|host| !host.as_str().contains('@'));
        let Some(host) = parsed else { return Err(Problem::invalid("the Host header is not a name or an address")) };
        if self.is_served(&plain(host.host())) {
            return Ok(());
        }
        let detail =
            format!("the Host {:?} is not served here: ask by this machine's loopback address, or add the name to http.hosts", host.host());
        Err(Problem::new(problem::HOST_NOT_SERVED, detail))
    }

    fn is_served(&self, host: &str) -> bool {
        let address = host.parse::<std::net::IpAddr>().ok();
        let is_local = host == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback());
        // Nobody can point an address elsewhere.
        let is_free = !self.is_loopback && (self.names.is_empty() || address.is_some());
        is_local || is_free || self.names.iter().any(|name| name == host)
    }
}

/// In small letters, without the dot at the end of a full name, without the brackets of an address.
fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(listen: &str, names: &[&str], hosts: &[&str]) -> u16 {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let http = HttpConfig { listen: listen.parse().unwrap(), hosts: names, ..HttpConfig::default() };
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        Hosts::of(&http).check(Version::HTTP_11, &headers).map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn names_that_are_served() {
        for (listen, names, host, expected) in [
            ("127.0.0.1:1", &[][..], "127.0.0.1:7717", 200),
            ("127.0.0.1:1", &[], "localhost", 200),
            ("127.0.0.1:1", &[], "LOCALHOST.:80", 200),
            ("127.0.0.1:1", &[], "[::1]:80", 200),
            ("127.0.0.1:1", &[], "evil.example", 421),
            ("127.0.0.1:1", &[], "localhost.evil.example", 421),
            ("127.0.0.1:1", &[], "127.0.0.1.evil.example", 421),
            ("127.0.0.1:1", &[], "10.0.0.1", 421),
            ("[::ffff:127.0.0.1]:1", &[], "evil.example", 421),
            ("127.0.0.1:1", &["House.example"], "house.example:443", 200),
            ("0.0.0.0:1", &[], "any.example", 200),
            ("0.0.0.0:1", &["house.example"], "any.example", 421),
            ("0.0.0.0:1", &["house.example"], "10.0.0.1:7717", 200),
            ("127.0.0.1:1", &[], "user@localhost", 400),
            ("127.0.0.1:1", &[], "", 400),
            ("127.0.0.1:1", &[], "a b", 400),
        ] {
            assert_eq!(status(listen, names, &[host]), expected, "{host} at {listen} with {names:?}");
        }
        assert_eq!(status("127.0.0.1:1", &[], &[]), 400);
        assert_eq!(status("127.0.0.1:1", &[], &["localhost", "localhost"]), 400);
        assert!(Hosts::of(&HttpConfig::default()).check(Version::HTTP_10, &HeaderMap::new()).is_ok());
    }
}
