//! The environment of a served floater.
//!
//! | variable | |
//! |---|---|
//! | `FLOATER_CLUSTER_ID` | the uid of the cluster's kube-system namespace |
//! | `FLOATER_NODE` | the node's name |
//! | `FLOATER_LAYER` | `host` or `pod` |
//! | `FLOATER_RUN` | the run that started it |
//! | `FLOATER_RUN_KEY` | the run's key, hexadecimal |
//! | `FLOATER_TTL_SECONDS` | after that it falls silent; absent for never |
//! | `PORT` | the responder's port, 8889 |
//! | `FLOATER_API_PORT` | the API's port, 8890 |
//! | `FLOATER_BIND` | the only address to listen on; absent for all |

use std::ffi::OsString;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::{Config, Layer};
use crate::error::Error;
use crate::wire::{API_PORT, PORT, unhex};

/// The shortest key, bytes: less could be guessed from one answered nonce.
const KEY: usize = 16;

impl Config {
    /// Reads the settings of a served floater through `lookup`.
    ///
    /// # Errors
    /// [`Error::Setting`], naming the variable and never showing the key.
    pub fn from_environment(
        lookup: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, Error> {
        read(lookup)
    }
}

/// The only address to listen on.
pub(super) fn bind(value: Option<OsString>) -> Result<Option<IpAddr>, Error> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    value
        .to_str()
        .and_then(|value| IpAddr::from_str(value).ok())
        .map(Some)
        .ok_or_else(|| wrong("FLOATER_BIND", "has to be an IP address"))
}

fn wrong(variable: &'static str, rule: &str) -> Error {
    Error::Setting {
        variable,
        rule: rule.to_owned(),
    }
}

fn read(lookup: impl Fn(&'static str) -> Option<OsString>) -> Result<Config, Error> {
    let text = |variable: &'static str| match lookup(variable) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => value.into_string().map(Some).map_err(|_| Error::Setting {
            variable,
            rule: "has to be text".to_owned(),
        }),
    };
    let needed = |variable: &'static str| {
        text(variable)?.ok_or(Error::Setting {
            variable,
            rule: "is missing or empty".to_owned(),
        })
    };
    let port = |variable, default| {
        text(variable)?.map_or(Ok(default), |value| {
            u16::from_str(&value)
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong(variable, "has to be a port, 1 to 65535"))
        })
    };
    let key = needed("FLOATER_RUN_KEY")?;
    let run_key = unhex(key.trim())
        .filter(|key| key.len() >= KEY)
        .ok_or_else(|| {
            // Never the value.
            wrong(
                "FLOATER_RUN_KEY",
                "has to be hexadecimal, at least 16 bytes",
            )
        })?;
    let layer = match needed("FLOATER_LAYER")?.as_str() {
        "host" => Layer::Host,
        "pod" => Layer::Pod,
        _ => return Err(wrong("FLOATER_LAYER", "has to be host or pod")),
    };
    let ttl = text("FLOATER_TTL_SECONDS")?
        .map(|value| {
            u64::from_str(&value)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)
                .ok_or_else(|| {
                    wrong(
                        "FLOATER_TTL_SECONDS",
                        "has to be a number of seconds, at least 1",
                    )
                })
        })
        .transpose()?;
    let (port, api_port) = (port("PORT", PORT)?, port("FLOATER_API_PORT", API_PORT)?);
    if port == api_port {
        return Err(wrong("FLOATER_API_PORT", "has to differ from PORT"));
    }
    Ok(Config {
        cluster: needed("FLOATER_CLUSTER_ID")?,
        node: needed("FLOATER_NODE")?,
        layer,
        run: needed("FLOATER_RUN")?,
        run_key,
        port,
        api_port,
        ttl,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("FLOATER_CLUSTER_ID", "uid"),
        ("FLOATER_NODE", "n1"),
        ("FLOATER_LAYER", "pod"),
        ("FLOATER_RUN", "r"),
        ("FLOATER_RUN_KEY", "000102030405060708090a0b0c0d0e0f"),
    ];

    fn read(changes: &[(&'static str, &'static str)]) -> Result<Config, Error> {
        let mut all = HashMap::from(GOOD);
        all.extend(changes.iter().copied());
        Config::from_environment(|name| all.get(name).map(OsString::from))
    }

    #[test]
    fn an_address_to_listen_on_is_an_address() {
        let read =
            |value: &str| bind(Some(OsString::from(value))).map_err(|error| error.to_string());
        assert_eq!(read(""), Ok(None));
        assert_eq!(
            read("::1"),
            Ok(Some(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)))
        );
        assert_eq!(
            read("eth0"),
            Err("FLOATER_BIND: has to be an IP address".to_owned())
        );
    }

    #[test]
    fn the_rest_has_defaults() {
        let settings = read(&[]).expect("good settings");
        assert_eq!((settings.port, settings.api_port), (8889, 8890));
        assert_eq!(settings.ttl, None);
        assert_eq!(settings.run_key.len(), 16);
        let settings =
            read(&[("FLOATER_TTL_SECONDS", "60"), ("PORT", "1")]).expect("good settings");
        assert_eq!(settings.ttl, Some(Duration::from_secs(60)));
        assert_eq!(settings.port, 1);
    }

    #[test]
    fn the_variable_is_named_and_the_key_is_not_shown() {
        for (variable, value) in [
            ("FLOATER_CLUSTER_ID", ""),
            ("FLOATER_NODE", ""),
            ("FLOATER_LAYER", "cloud"),
            ("FLOATER_RUN", ""),
            ("FLOATER_RUN_KEY", "5ec2e7"),
            ("FLOATER_RUN_KEY", "5ec2e7-not-hexadecimal-at-all-00"),
            ("FLOATER_TTL_SECONDS", "0"),
            ("FLOATER_TTL_SECONDS", "1h"),
            ("PORT", "0"),
            ("PORT", "65536"),
            ("FLOATER_API_PORT", "8889"),
        ] {
            let error = read(&[(variable, value)]).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("{variable}: ")), "{error}");
            assert!(!error.contains("5ec2e7"), "{error}");
        }
    }
}
