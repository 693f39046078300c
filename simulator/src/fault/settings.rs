//! Settings with another value.

use datapath::diff::Change;
use datapath::state::{Row, Sysctl};

use super::{Victim, refused};
use crate::Error;

/// The switch of all links.
pub(super) fn forwarding_off(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let family = victim.family();
    set(victim, &format!("net.{family}.conf.all.forwarding"), 0)
}

/// On the tunnel within the cluster where there is one: pods of other nodes send to their gateway over it and are answered over the
/// underlay link, which a strict check refuses.
pub(super) fn strict_source_check(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let links = &victim.state.links;
    let mut tunnels = ["vx-local", "vx-bridge"].into_iter();
    match tunnels.find(|name| links.get(*name).is_some()) {
        Some(link) => set(victim, &format!("net.ipv4.conf.{link}.rp_filter"), 1),
        None => refused(format!(
            "{} has no IPv4 tunnel, and IPv6 has no reverse-path check",
            victim.place()
        )),
    }
}

/// On the tunnel that carries IPv6.
pub(super) fn ipv6_off(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let links = &victim.state.links;
    let mut tunnels = ["vx-bridge-6", "vx-local-6"].into_iter();
    let tunnel = tunnels.find(|name| links.get(*name).is_some());
    match tunnel {
        Some(link) => set(victim, &format!("net.ipv6.conf.{link}.disable_ipv6"), 1),
        None => refused(format!("{} has no IPv6 tunnel", victim.place())),
    }
}

fn set(victim: &Victim<'_>, name: &str, value: i64) -> Result<Vec<Change>, Error> {
    let from = victim.state.sysctls.get(name);
    let Some(from) = from.filter(|from| from.value != value) else {
        let place = victim.place();
        return refused(format!(
            "{name} of {place} is {value} already: clear the earlier fault first"
        ));
    };
    let to = Sysctl {
        value,
        ..from.clone()
    };
    Ok(vec![Change::Replace {
        from: Row::Sysctl(from.clone()),
        to: Row::Sysctl(to),
    }])
}
