//! The environment of a served floater.
//!
//! | variable | |
//! |---|---|
//! | `FLOATER_CLUSTER_ID` | the uid of the cluster's kube-system namespace |
//! | `FLOATER_NODE` | the node's name |
//! | `FLOATER_LAYER` | `host` or `pod` |
//! | `FLOATER_RUN` | the run that started it |
//! | `FLOATER_RUN_KEY` | the run's key, hexadecimal |
//! | `FLOATER_EXPIRES` | when it falls silent for good, RFC 3339 (default: never) |
//! | `PORT` | the responder's port (default: 8889) |
//! | `FLOATER_API_PORT` | the API's port (default: 8890) |
//! | `FLOATER_BIND` | the only address to listen on (default: all) |
//! | `FLOATER_LOG` | what is logged to standard error, as in `floater=debug` (default: nothing) |
//!
//! Any other variable whose name begins with `FLOATER_` is refused: it is a mistyped one. Those of [`OF_A_LAB`] are for
//! whoever started it and say nothing to a floater.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use jiff::Timestamp;

use super::{Config, Layer};
use crate::error::Error;
use crate::wire::{API_PORT, PORT, unhex};

/// The shortest key, bytes: less could be guessed from one answered nonce.
const KEY: usize = 16;

/// Every variable that a floater reads.
const KNOWN: [&str; 10] = [
    "FLOATER_API_PORT",
    "FLOATER_BIND",
    "FLOATER_CLUSTER_ID",
    "FLOATER_EXPIRES",
    "FLOATER_LAYER",
    "FLOATER_LOG",
    "FLOATER_NODE",
    "FLOATER_RUN",
    "FLOATER_RUN_KEY",
    "PORT",
];

impl Config {
    /// Reads the settings of a served floater from the variables of an environment.
    ///
    /// # Errors
    /// [`Error::Setting`], naming the variable and never showing the key.
    pub fn from_environment<N: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Error> {
        Variables::new(variables)?.read()
    }
}

/// What a simulated fleet knows its processes by.
const OF_A_LAB: [&str; 2] = ["FLOATER_LAB", "FLOATER_LAB_ROOT"];

/// The variables that concern a floater and are not empty.
struct Variables(HashMap<&'static str, String>);

impl Variables {
    fn new<N: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Error> {
        let mut ours = HashMap::new();
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            let name = name.to_string_lossy();
            match KNOWN.into_iter().find(|known| *known == name) {
                Some(known) => {
                    let value = value
                        .into_string()
                        .map_err(|_| wrong(known, "has to be text"))?;
                    if !value.is_empty() {
                        ours.insert(known, value);
                    }
                }
                None if name.starts_with("FLOATER_") && !OF_A_LAB.contains(&&*name) => {
                    return Err(wrong(&name, "is no variable of a floater: mistyped?"));
                }
                None => {}
            }
        }
        Ok(Self(ours))
    }

    fn read(&self) -> Result<Config, Error> {
        let key = self.needed("FLOATER_RUN_KEY")?;
        let run_key = unhex(key.trim())
            .filter(|key| key.len() >= KEY)
            .ok_or_else(|| {
                // Never the value.
                wrong(
                    "FLOATER_RUN_KEY",
                    "has to be hexadecimal, at least 16 bytes",
                )
            })?;
        let layer = match self.needed("FLOATER_LAYER")?.as_str() {
            "host" => Layer::Host,
            "pod" => Layer::Pod,
            _ => return Err(wrong("FLOATER_LAYER", "has to be host or pod")),
        };
        let (port, api_port) = (
            self.port("PORT", PORT)?,
            self.port("FLOATER_API_PORT", API_PORT)?,
        );
        if port == api_port {
            return Err(wrong("FLOATER_API_PORT", "has to differ from PORT"));
        }
        Ok(Config {
            cluster: self.needed("FLOATER_CLUSTER_ID")?,
            node: self.needed("FLOATER_NODE")?,
            layer,
            run: self.needed("FLOATER_RUN")?,
            run_key,
            port,
            api_port,
            bind: self.parsed::<IpAddr>("FLOATER_BIND", "has to be an IP address")?,
            expires: self
                .parsed::<Timestamp>(
                    "FLOATER_EXPIRES",
                    "has to be a time as in 2026-01-31T12:00:00Z",
                )?
                .map(SystemTime::from),
        })
    }

    fn needed(&self, variable: &'static str) -> Result<String, Error> {
        let value = self.0.get(variable).cloned();
        value.ok_or_else(|| wrong(variable, "is missing or empty"))
    }

    fn parsed<T: FromStr>(&self, variable: &'static str, rule: &str) -> Result<Option<T>, Error> {
        let value = self.0.get(variable).map(|value| value.trim().parse());
        value.transpose().map_err(|_| wrong(variable, rule))
    }

    fn port(&self, variable: &'static str, default: u16) -> Result<u16, Error> {
        let rule = "has to be a port, 1 to 65535";
        match self.parsed(variable, rule)? {
            Some(0) => Err(wrong(variable, rule)),
            port => Ok(port.unwrap_or(default)),
        }
    }
}

fn wrong(variable: &str, rule: &str) -> Error {
    Error::Setting {
        variable: variable.to_owned(),
        rule: rule.to_owned(),
    }
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
        Config::from_environment(all)
    }

    #[test]
    fn a_mistyped_variable_is_named() {
        for name in ["FLOATER_TTL_SECONDS", "FLOATER_PORT", "FLOATER_EXPIRE"] {
            let error = read(&[(name, "1")]).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
        assert!(
            read(&[
                ("PATH", "/bin"),
                ("HOSTNAME", "x"),
                ("FLOATER_LAB", "east"),
                ("FLOATER_LOG", "debug")
            ])
            .is_ok()
        );
    }

    #[test]
    fn the_rest_has_defaults() {
        let settings = read(&[]).expect("good settings");
        assert_eq!((settings.port, settings.api_port), (8889, 8890));
        assert_eq!((settings.expires, settings.bind), (None, None));
        assert_eq!(settings.run_key.len(), 16);
        let settings = read(&[
            ("FLOATER_EXPIRES", "1970-01-02T00:00:00Z"),
            ("FLOATER_BIND", "::1"),
            ("PORT", "1"),
        ])
        .expect("good settings");
        let day = std::time::Duration::from_secs(86_400);
        assert_eq!(settings.expires, Some(SystemTime::UNIX_EPOCH + day));
        assert_eq!(
            settings.bind,
            Some(IpAddr::from(std::net::Ipv6Addr::LOCALHOST))
        );
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
            ("FLOATER_RUN_KEY", "+0+1+2+3+4+5+6+7+8+9+a+b+c+d+e+f"),
            ("FLOATER_EXPIRES", "60"),
            ("FLOATER_EXPIRES", "tomorrow"),
            ("FLOATER_BIND", "eth0"),
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
