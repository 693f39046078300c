//! What a lab needs of this machine: found out before anything is made, and named where it is lacking.

use netns_harness::{caps, namespace};
use nix::errno::Errno;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};

use crate::Error;
use crate::topology::Topology;
use crate::upstream;

/// Refuses clusters of upstream's control planes whose programs are not there. Whoever only reads a topology needs none.
pub(crate) fn has_programs(topology: &Topology) -> Result<(), Error> {
    let mut clusters = topology.clusters.iter();
    let Some(cluster) = clusters.find(|cluster| cluster.is_upstream()) else {
        return Ok(());
    };
    match &topology.upstream {
        Some(programs) => upstream::check(programs),
        None => {
            let rule = format!(
                "cluster {} has upstream's control plane, and nothing says where its programs are",
                cluster.name
            );
            Err(Error::argument("--upstream", rule))
        }
    }
}

/// Refuses what this kernel, or this version, cannot do.
pub(crate) fn possible(topology: &Topology) -> Result<(), Error> {
    let missing = |what: String, why: &str| {
        Err(Error::Missing {
            what,
            why: why.to_owned(),
        })
    };
    enough_memory(topology, available_memory())?;
    let mut clusters = topology.clusters.iter();
    if let Some(cluster) = clusters.find(|cluster| cluster.is_upstream() && cluster.is_virtual) {
        return missing(
            format!(
                "cannot run upstream's control plane of {} without a kernel",
                cluster.name
            ),
            "its programs run in the network of a node (make no cluster virtual)",
        );
    }
    let mut clusters = topology.clusters.iter();
    if let Some(cluster) = clusters.find(|cluster| topology.bare && cluster.is_virtual) {
        return missing(
            format!("cannot leave {} unlinked without a kernel", cluster.name),
            "the programs that link it need one (make no cluster virtual)",
        );
    }
    if topology.is_virtual() {
        return Ok(());
    }
    let mut clusters = topology.clusters.iter();
    if let Some(cluster) = clusters.find(|cluster| cluster.is_virtual) {
        return missing(
            format!(
                "cannot simulate {} without a kernel beside clusters that have one",
                cluster.name
            ),
            "no packet passes between the two kinds yet (make all clusters virtual, or none)",
        );
    }
    for cluster in &topology.clusters {
        let underlay = &cluster.underlay;
        if !underlay.delay.is_zero() {
            return missing(
                format!(
                    "cannot delay packets by {:?} on the underlay of {}",
                    underlay.delay, cluster.name
                ),
                "there is no relay that delays packets yet, and no queueing discipline (netem) is used",
            );
        }
        if underlay.loss > 0.0 {
            return missing(
                format!(
                    "cannot lose {}% of packets on the underlay of {}",
                    underlay.loss * 100.0,
                    cluster.name
                ),
                "nothing drops packets at random yet",
            );
        }
    }
    enough_namespaces(topology, namespace::limit_of_namespaces())
}

/// Namespaces that a lab takes for itself: the underlay, and where its opener of sockets waits.
const NAMESPACES: u64 = 2;

/// Refuses a fleet that is larger than the limit of network namespaces. What others of this user hold of it cannot be seen: where
/// that leaves too little, making one of them fails.
fn enough_namespaces(topology: &Topology, limit: Option<u64>) -> Result<(), Error> {
    let pods = u64::from(topology.floater);
    let nodes = nodes_of(topology);
    let needed = NAMESPACES + nodes * (1 + pods);
    match limit {
        Some(limit) if limit < needed => Err(Error::Missing {
            what: format!("cannot make {needed} network namespaces ({nodes} nodes and their pods)"),
            why: format!(
                "the limit user.max_net_namespaces is {limit} (root raises it with sysctl)"
            ),
        }),
        _ => Ok(()),
    }
}

/// What a cluster takes of memory, KiB: its API; its namespaces and links besides; what each of its nodes' floaters takes as a process; and
/// what the rows for another cluster take in both its nodes, seven of some 430 bytes.
const API_KIB: u64 = 320;
const NAMESPACES_KIB: u64 = 1400;
const PROCESS_KIB: u64 = 6 << 10;
const PEER_KIB: u64 = 3;
/// What the four programs of upstream take, measured some seconds after their start.
const UPSTREAM_KIB: u64 = 700 << 10;

/// Refuses a fleet that would not fit into the memory that is free, KiB: better than being killed half-way.
fn enough_memory(topology: &Topology, available: Option<u64>) -> Result<(), Error> {
    let (clusters, nodes) = (topology.clusters.len() as u64, nodes_of(topology));
    let upstream = topology
        .clusters
        .iter()
        .filter(|cluster| cluster.is_upstream())
        .count();
    let mut needed = clusters * API_KIB + upstream as u64 * UPSTREAM_KIB;
    if !topology.is_virtual() {
        needed += clusters * (NAMESPACES_KIB + clusters * PEER_KIB);
        if topology.floater && !topology.shares_floaters() {
            needed += nodes * PROCESS_KIB;
        }
    }
    match available {
        Some(available) if available < needed => Err(Error::Missing {
            what: format!("cannot simulate {clusters} clusters, {nodes} nodes"),
            why: format!(
                "they take some {} MiB of memory, and {} MiB are free (MemAvailable)",
                needed >> 10,
                available >> 10
            ),
        }),
        _ => Ok(()),
    }
}

/// The memory that is free without taking any from others, KiB; none where the kernel does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn nodes_of(topology: &Topology) -> u64 {
    let nodes = topology.clusters.iter().map(|cluster| cluster.nodes.len());
    nodes.sum::<usize>() as u64
}

/// Why this user, who is not root, cannot be root of a namespace either.
pub(super) fn no_user_namespace(error: &netns_harness::Error) -> Error {
    let why = match error.source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => "the limit user.max_user_namespaces is reached".to_owned(),
        _ => "unprivileged user namespaces are disabled (check kernel.unprivileged_userns_clone, user.max_user_namespaces, \
              AppArmor, the container's seccomp profile)"
            .to_owned(),
    };
    Error::Missing {
        what: "cannot make a network namespace".to_owned(),
        why: format!("not root, and {why}: {}", crate::error::chain(error)),
    }
}

/// Everything that no lab can do without.
pub(super) fn capable() -> Result<(), Error> {
    let needed = ["netns", "veth", "bridge", "vxlan", "policy-rules", "nft"];
    for capability in caps::check() {
        if needed.contains(&capability.name) && !capability.available {
            return Err(Error::Missing {
                what: format!("cannot use `{}` of this kernel", capability.name),
                why: capability.reason.unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// Descriptors that a lab takes for itself, and for each node: its namespace, its pod's, and four listeners of the
/// floaters that share the lab's process, or the two processes and what is read of them; and the socket of its kubelet. Rather too many than too few.
const DESCRIPTORS: u64 = 256;
const DESCRIPTORS_PER_NODE: u64 = 9;
/// Descriptors for whoever asks the APIs.
const CLIENTS: u64 = 4096;
/// What a node's floaters open besides while they probe in the lab's own process.
const DESCRIPTORS_PER_PROBING: u64 = 64;

/// Raises the limit as far as the lab may need it and this user may; a lab that would not even come up is refused before
/// anything is made.
pub(super) fn enough_descriptors(topology: &Topology) -> Result<(), Error> {
    let nodes = nodes_of(topology);
    let needed = if topology.is_virtual() {
        DESCRIPTORS
    } else {
        DESCRIPTORS + DESCRIPTORS_PER_NODE * nodes
    };
    let wished = if topology.is_virtual() {
        // Those of clients.
        needed + CLIENTS
    } else if topology.shares_floaters() {
        needed + DESCRIPTORS_PER_PROBING * nodes
    } else {
        needed
    };
    let (_, hard) = getrlimit(Limit::RLIMIT_NOFILE).map_err(Error::failed("read a limit"))?;
    let limit = hard.max(wished);
    // Above the hard one only root may go; up to it everybody.
    if setrlimit(Limit::RLIMIT_NOFILE, limit, limit).is_ok()
        || (needed <= hard && setrlimit(Limit::RLIMIT_NOFILE, hard, hard).is_ok())
    {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("cannot open {needed} descriptors ({nodes} nodes)"),
        why: format!("this user's limit is {hard} (`ulimit -Hn`), and only root may raise it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Families, ModeChoice, generated};

    #[test]
    fn a_fleet_that_does_not_fit_into_memory_is_refused_by_its_size() {
        let mut topology = generated(1000, 2, ModeChoice::Gateway, Families::Ipv4).expect("good");
        enough_memory(&topology, None).expect("nobody knows");
        enough_memory(&topology, Some(5 << 20)).expect("5 GiB are enough");
        let error = enough_memory(&topology, Some(4 << 20)).expect_err("4 GiB are not");
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().contains("MemAvailable"), "{error}");
        topology.make_virtual();
        enough_memory(&topology, Some(1 << 20)).expect("without kernels it is");
    }

    #[test]
    fn a_fleet_beyond_the_limit_of_namespaces_is_refused_by_its_name() {
        let topology = generated(1, 1, ModeChoice::P2p, Families::Ipv4).expect("topology");
        // Underlay, opener, node, pod.
        enough_namespaces(&topology, Some(4)).expect("just enough");
        enough_namespaces(&topology, None).expect("no limit is known");
        let error = enough_namespaces(&topology, Some(3)).expect_err("one too few");
        assert_eq!(error.exit_code(), 69);
        assert!(
            error.to_string().contains("user.max_net_namespaces is 3"),
            "{error}"
        );
    }
}
