//! The four shapes of iptables' words that a NodeConfig holds.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::Iptables;
use crate::state::Nat;

/// A translation from iptables' words; the error says what was not understood.
///
/// # Errors
/// Any table but `nat`, any chain or word beyond the shapes `-s P [-o L] -j MASQUERADE`, `-d P -i L -j NETMAP --to P` and
/// `-s P -o L -j SNAT --to-source A`, in any order of their options.
pub(crate) fn parse(row: &Iptables) -> Result<Nat, String> {
    if row.table != "nat" {
        return Err(format!("`{}` is not the table nat", row.table));
    }
    let mut words = Words::default();
    let mut rest = row.rule.split_whitespace();
    while let Some(option) = rest.next() {
        let place = match option {
            "-s" | "--source" => &mut words.src,
            "-d" | "--destination" => &mut words.dst,
            "-i" | "--in-interface" => &mut words.input,
            "-o" | "--out-interface" => &mut words.out,
            "-j" | "--jump" => &mut words.target,
            "--to" | "--to-source" => &mut words.to,
            other => return Err(format!("`{other}` is not understood")),
        };
        let value = rest
            .next()
            .ok_or_else(|| format!("`{option}` has no value"))?;
        if place.replace(value).is_some() {
            return Err(format!("`{option}` stands twice"));
        }
    }
    let not_understood = || format!("a {} rule of this shape is not understood", row.chain);
    match (row.chain.as_str(), words) {
        (
            "POSTROUTING",
            Words {
                src: Some(src),
                out,
                target: Some("MASQUERADE"),
                dst: None,
                input: None,
                to: None,
            },
        ) => Ok(Nat::Masquerade {
            src: prefix(src)?,
            out: out.map(link).transpose()?,
        }),
        (
            "POSTROUTING",
            Words {
                src: Some(src),
                out: Some(out),
                target: Some("SNAT"),
                to: Some(to),
                dst: None,
                input: None,
            },
        ) => {
            let to: IpAddr = to
                .parse()
                .map_err(|_| format!("`{to}` is not an address"))?;
            let src = prefix(src)?;
            if to.is_ipv4() != src.addr().is_ipv4() {
                return Err(format!("{to} is not of the family of {src}"));
            }
            Ok(Nat::Snat {
                src,
                out: link(out)?,
                to,
            })
        }
        (
            "PREROUTING",
            Words {
                dst: Some(dst),
                input: Some(input),
                target: Some("NETMAP"),
                to: Some(to),
                src: None,
                out: None,
            },
        ) => {
            let (dst, to) = (prefix(dst)?, prefix(to)?);
            if to.addr().is_ipv4() != dst.addr().is_ipv4() {
                return Err(format!("{to} is not of the family of {dst}"));
            }
            Ok(Nat::Netmap {
                dst,
                input: link(input)?,
                to,
            })
        }
        _ => Err(not_understood()),
    }
}

#[derive(Default)]
struct Words<'a> {
    src: Option<&'a str>,
    dst: Option<&'a str>,
    input: Option<&'a str>,
    out: Option<&'a str>,
    target: Option<&'a str>,
    to: Option<&'a str>,
}

/// A name that a link can have (`dev_valid_name`, `IFNAMSIZ`); iptables' `+` for any ending is not understood.
fn link(text: &str) -> Result<String, String> {
    if text.len() < 16 && !text.contains(['/', ':', '+']) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the name of a link"))
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| format!("`{text}` is not a prefix"))
}
