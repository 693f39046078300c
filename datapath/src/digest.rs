//! Tables that are compared without being sent: sums of the hashes of their rows.
//!
//! ```text
//!   row ──► canonical bytes ──► keyed hash of its key ──► bucket: the first bits
//!                          └──► keyed hash of all of it ──► added to the bucket's sum, modulo 2¹²⁸
//! ```
//!
//! A sum does not depend on the order of its rows, and a row more or less is one addition: what a bundle contributes to a digest is
//! computed once, and the digest that is expected of a node is a sum of sums ([`Expected`]). Only rows that the datapath owns count, and
//! of them what [`diff`](crate::diff::diff()) compares: two states have one digest if and only if their owned rows are the same, but for
//! a chance of about 2⁻¹²⁸.
//!
//! **Bucket.** A row's bucket is a matter of its key, so that a row which changed stays in its bucket, and planned and observed row meet
//! there. The digest says how many buckets it has, 2^bits. [`bits_for`] chooses that about a difference costs as much as the sums do.
//! Of the first digest that is sent a few hundred bytes are enough: [`Digest::folded`] adds neighbouring buckets up.
//!
//! **Hash.** SipHash-2-4 with 64 and 128 bits of output under a 128-bit key that the comparing side draws anew for each comparison; before
//! the canonical bytes stand [`VERSION`], one byte, and what is hashed, one byte: 0 a key, 1 a row. Of 128 bits the first eight bytes of
//! output are the low half, lowest byte first. A sum of hashes is safe as long as
//! nobody who chooses rows knows the key. Whoever has the key may make rows whose sums collide, and needs no sums to lie about its tables.
//!
//! **Own gateway.** An internal node's routes lead through its own cluster's gateway. A digest names that gateway, and a next hop that is it is
//! written as "my gateway" rather than by its address: so the routes of all internal nodes are the same to a digest, and are hashed once
//! for a whole fleet. Which address is meant is the digest's own word, so nothing that differs becomes equal.
//!
//! **Stability.** The canonical bytes (documented at [`canonical()`]'s module) never change under one version. Two programs that do not
//! agree on version, scope, gateways and number of buckets are told so by [`Mismatch`] and compare nothing.
//!
//! ```
//! use datapath::digest::{Differences, Digester, Expected, Key, Scope};
//! use datapath::plan::Planner;
//! use datapath::state::{NodeState, Row};
//!
//! let fleet = serde_json::from_str(r#"{
//!   "clusters": [
//!     {"metadata": {"name": "east"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}},
//!     {"metadata": {"name": "west"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}}],
//!   "clusterNodes": [
//!     {"metadata": {"name": "east-n1"}, "spec": {"clusterName": "east", "nodeName": "n1", "ip": "100.64.0.1",
//!      "interfaceName": "eth0", "podCIDRs": ["10.20.0.0/24"]}},
//!     {"metadata": {"name": "west-n1"}, "spec": {"clusterName": "west", "nodeName": "n1", "ip": "100.64.1.1",
//!      "interfaceName": "eth0", "podCIDRs": ["10.21.0.0/24"]}}]
//! }"#)?;
//! let planner = std::sync::Arc::new(Planner::of(&fleet));
//! let key = Key([7; 16]);
//!
//! // The run: what should be there.
//! let mut expected = Expected::new(&planner, Digester::new(key, Scope::Tables, 2));
//! let digest = expected.of("east-n1").expect("it takes part");
//!
//! // The floater: what is there. It lacks the route.
//! let mut observed = NodeState::default();
//! for row in planner.rows("east-n1").expect("it takes part") {
//!     observed.put(row.into());
//! }
//! assert_eq!(Digester::new(key, Scope::Tables, 2).of(&observed), digest);
//! let gone = observed.routes.iter().next().expect("the route").clone();
//! observed.routes.retain(|_| false);
//! let answer: Differences = Digester::new(key, Scope::Tables, 2).differences(&observed, &digest)?;
//! assert_eq!(answer.buckets.len(), 1);
//!
//! // The run again: the node's rows are the plan with the differences laid over.
//! let rows: Vec<Row> = expected.laid_over("east-n1", &answer).expect("it takes part").collect();
//! assert_eq!(rows.len(), 3);
//! assert!(!rows.contains(&Row::Route(gone)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod canonical;
mod differences;
mod expected;

use std::hash::Hasher as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128 as _, SipHasher24 as SipHasher24With128};

use crate::state::{NodeState, Row};
use crate::{diff, plan};
pub use canonical::canonical;
use canonical::{Borrowed, Bytes};
pub use differences::Differences;
pub use expected::Expected;

/// The version of canonical bytes and hash.
pub const VERSION: u8 = 2;

/// The largest number of bits, 65,536 buckets of 16 bytes.
pub const MOST_BITS: u8 = 16;

/// The key of a comparison: 128 bits that nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub [u8; 16]);

/// Never the key itself.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Which rows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Neighbours, FDB, routes and translations: what a plan alone knows. The rest of a node is small and is sent as it is.
    Tables,
    /// Also the tunnels' links, addresses and rules: all that the datapath owns.
    Whole,
}

/// The number of bits with which the sums of a table of so many rows cost about as much as the rows of one bucket.
#[must_use]
pub fn bits_for(rows: usize) -> u8 {
    // A row is some 64 bytes, a sum 16: 16 · 2^bits = 64 · rows / 2^bits.
    let buckets = rows.saturating_mul(4).isqrt().max(1);
    let bits = buckets.next_power_of_two().trailing_zeros();
    u8::try_from(bits).unwrap_or(MOST_BITS).min(MOST_BITS)
}

/// What was compared cannot be: the other side speaks of other rows, or counts them otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the digests cannot be compared: {what} differs ({left} and {right})")]
pub struct Mismatch {
    /// The first of scope, bits and gateways that differs.
    pub what: &'static str,
    /// This side's.
    pub left: String,
    /// The other's.
    pub right: String,
}

/// The sums of a table's rows, one for each bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Digest {
    scope: Scope,
    bits: u8,
    gateways: Gateways,
    sums: Vec<u128>,
}

/// The addresses of a node's own gateway in its cluster's overlay; none of a gateway, which has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gateways {
    /// The IPv4 one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
}

impl Gateways {
    /// Whether an address is the node's own gateway.
    fn has(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.ipv4 == Some(ip),
            IpAddr::V6(ip) => self.ipv6 == Some(ip),
        }
    }

    fn insert(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.ipv4 = Some(ip),
            IpAddr::V6(ip) => self.ipv6 = Some(ip),
        }
    }
}

impl Digest {
    /// Of no row.
    ///
    /// At most [`MOST_BITS`] count.
    #[must_use]
    pub fn empty(scope: Scope, bits: u8) -> Self {
        let bits = bits.min(MOST_BITS);
        Self {
            scope,
            bits,
            gateways: Gateways::default(),
            sums: vec![0; 1 << bits],
        }
    }

    /// Which rows count.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// There are 2^bits buckets.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Which next hops are written as the node's own gateway.
    #[must_use]
    pub fn gateways(&self) -> Gateways {
        self.gateways
    }

    /// One sum for each bucket.
    #[must_use]
    pub fn sums(&self) -> &[u128] {
        &self.sums
    }

    /// The same with fewer buckets, neighbouring ones added up; as it is where `bits` is not less.
    #[must_use]
    pub fn folded(&self, bits: u8) -> Self {
        let bits = bits.min(self.bits);
        let together = 1_usize << (self.bits - bits);
        let sum = |sums: &[u128]| sums.iter().fold(0_u128, |all, sum| all.wrapping_add(*sum));
        Self {
            scope: self.scope,
            bits,
            gateways: self.gateways,
            sums: self.sums.chunks(together).map(sum).collect(),
        }
    }

    /// The buckets whose sums differ, ascending.
    ///
    /// # Errors
    /// When the digests are of different kinds.
    pub fn differing(&self, other: &Self) -> Result<Vec<u32>, Mismatch> {
        let mismatch = |what, left: String, right: String| Mismatch { what, left, right };
        if self.scope != other.scope {
            let word = |scope| format!("{scope:?}").to_lowercase();
            return Err(mismatch("scope", word(self.scope), word(other.scope)));
        }
        if self.bits != other.bits {
            let (left, right) = (self.bits.to_string(), other.bits.to_string());
            return Err(mismatch("number of bits", left, right));
        }
        if self.gateways != other.gateways {
            let words = |digest: &Self| format!("{:?}", digest.gateways);
            return Err(mismatch("gateway", words(self), words(other)));
        }
        let pairs = (0..).zip(self.sums.iter().zip(&other.sums));
        Ok(pairs
            .filter(|(_, (left, right))| left != right)
            .map(|(bucket, _)| bucket)
            .collect())
    }

    fn add(&mut self, hash: Hash) {
        if let Some(sum) = self.sums.get_mut(hash.bucket(self.bits) as usize) {
            *sum = sum.wrapping_add(hash.row);
        }
    }

    fn subtract(&mut self, hash: Hash) {
        if let Some(sum) = self.sums.get_mut(hash.bucket(self.bits) as usize) {
            *sum = sum.wrapping_sub(hash.row);
        }
    }

    /// Adds the sums of a digest of the same kind.
    fn add_all(&mut self, other: &Self) {
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            *sum = sum.wrapping_add(*other);
        }
    }
}

/// A digest as it is written: the sums as one text of 32 hexadecimal digits each.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u8,
    scope: Scope,
    bits: u8,
    #[serde(default)]
    gateways: Gateways,
    sums: String,
}

impl From<Digest> for Written {
    fn from(digest: Digest) -> Self {
        Self {
            version: VERSION,
            scope: digest.scope,
            bits: digest.bits,
            gateways: digest.gateways,
            sums: digest
                .sums
                .iter()
                .map(|sum| format!("{sum:032x}"))
                .collect(),
        }
    }
}

impl TryFrom<Written> for Digest {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written {
            version,
            scope,
            bits,
            gateways,
            sums,
        } = written;
        if version != VERSION {
            return Err(format!("version {version} of digests is not understood"));
        }
        if bits > MOST_BITS {
            return Err(format!("a digest has at most {MOST_BITS} bits, not {bits}"));
        }
        let expected = 32_usize << bits;
        if sums.len() != expected || !sums.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the sums are not {expected} hexadecimal digits"));
        }
        let number = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).map_err(|error| error.to_string())?;
            u128::from_str_radix(text, 16).map_err(|error| error.to_string())
        };
        let sums = sums.as_bytes().chunks(32).map(number);
        Ok(Self {
            scope,
            bits,
            gateways,
            sums: sums.collect::<Result<_, _>>()?,
        })
    }
}

/// The hashes of a row.
#[derive(Debug, Clone, Copy)]
struct Hash {
    key: u64,
    row: u128,
}

impl Hash {
    fn bucket(self, bits: u8) -> u32 {
        // At most MOST_BITS are left of the 64, and of none the shift is by the whole width.
        let first = self.key.checked_shr(64 - u32::from(bits)).unwrap_or(0);
        u32::try_from(first).unwrap_or_default()
    }
}

/// How rows are hashed and summed up in one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digester {
    key: Key,
    scope: Scope,
    bits: u8,
    gateways: Gateways,
}

impl Digester {
    /// The number of bits that say how many buckets there are, 2^bits.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Of 2^bits buckets; at most [`MOST_BITS`] count.
    #[must_use]
    pub fn new(key: Key, scope: Scope, bits: u8) -> Self {
        Self {
            key,
            scope,
            bits: bits.min(MOST_BITS),
            gateways: Gateways::default(),
        }
    }

    /// Which next hops are written as the node's own gateway.
    #[must_use]
    pub fn gateways(&self) -> Gateways {
        self.gateways
    }

    /// The same for a node with these gateways of its own.
    #[must_use]
    pub fn with_gateways(self, gateways: Gateways) -> Self {
        Self { gateways, ..self }
    }

    /// The one that makes digests like another side's.
    #[must_use]
    pub fn like(key: Key, digest: &Digest) -> Self {
        Self::new(key, digest.scope, digest.bits).with_gateways(digest.gateways)
    }

    /// The digest of no row.
    #[must_use]
    pub fn empty(&self) -> Digest {
        Digest {
            gateways: self.gateways,
            ..Digest::empty(self.scope, self.bits)
        }
    }

    /// The digest of a node's owned rows. O(rows).
    #[must_use]
    pub fn of(&self, state: &NodeState) -> Digest {
        let mut digest = self.empty();
        let mut bytes = Bytes::of(self.gateways);
        for row in self.counting(state) {
            bytes.write(row);
            digest.add(self.hash(&bytes));
        }
        digest
    }

    /// Takes every row that counts out of a state: what is left the digest says nothing of.
    pub fn take_counted(&self, state: &mut NodeState) {
        state
            .neighbours
            .retain(|row| !diff::is_owned_neighbour(row));
        state.fdb.retain(|row| !diff::is_owned_fdb(row));
        state.routes.retain(|row| !diff::is_owned_route(row));
        state.nat.retain(|_| false);
        if self.scope == Scope::Whole {
            state.links.retain(|row| !diff::is_tunnel(&row.name));
            state.addresses.retain(|row| !diff::is_owned_address(row));
            state.rules.retain(|row| !diff::is_owned_rule(row));
        }
    }

    /// Adds a row that counts, and gives back one that does not.
    pub fn count(&self, digest: &mut Digest, row: Row) -> Option<Row> {
        match self.hash_of(&row) {
            Some(hash) => {
                digest.add(hash);
                None
            }
            None => Some(row),
        }
    }

    /// Adds a row that a node has got; one that does not count is no change.
    pub fn add(&self, digest: &mut Digest, row: &Row) {
        if let Some(hash) = self.hash_of(row) {
            digest.add(hash);
        }
    }

    /// Takes out a row that a node has lost; one that does not count is no change.
    pub fn subtract(&self, digest: &mut Digest, row: &Row) {
        if let Some(hash) = self.hash_of(row) {
            digest.subtract(hash);
        }
    }

    /// The bucket of a row; none where it does not count.
    #[must_use]
    pub fn bucket(&self, row: &Row) -> Option<u32> {
        Some(self.hash_of(row)?.bucket(self.bits))
    }

    /// The bucket of a planned row.
    #[must_use]
    pub fn bucket_of(&self, row: plan::Row) -> u32 {
        let mut bytes = Bytes::default();
        bytes.write_planned(row);
        self.bucket_in(&bytes)
    }

    /// The bucket of the row whose bytes these are; its key alone decides.
    fn bucket_in(&self, bytes: &Bytes) -> u32 {
        let hash = Hash {
            key: self.hash_key(bytes),
            row: 0,
        };
        hash.bucket(self.bits)
    }

    fn counting<'s>(&self, state: &'s NodeState) -> impl Iterator<Item = Borrowed<'s>> {
        let is_whole = self.scope == Scope::Whole;
        let local = is_whole.then(|| Borrowed::local(state));
        Borrowed::tables(state).chain(local.into_iter().flatten())
    }

    fn hash_of(&self, row: &Row) -> Option<Hash> {
        let row = Borrowed::of(row)?;
        if self.scope == Scope::Tables && row.is_local() {
            return None;
        }
        let mut bytes = Bytes::of(self.gateways);
        bytes.write(row);
        Some(self.hash(&bytes))
    }

    fn hash_planned(&self, row: plan::Row, bytes: &mut Bytes) -> Hash {
        bytes.gateways = self.gateways;
        bytes.write_planned(row);
        self.hash(bytes)
    }

    fn hash(&self, bytes: &Bytes) -> Hash {
        let mut hasher = SipHasher24With128::new_with_key(&self.key.0);
        hasher.write(&[VERSION, 1]);
        hasher.write(bytes.row());
        Hash {
            key: self.hash_key(bytes),
            row: hasher.finish128().as_u128(),
        }
    }

    fn hash_key(&self, bytes: &Bytes) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key.0);
        hasher.write(&[VERSION, 0]);
        hasher.write(bytes.key());
        hasher.finish()
    }
}
