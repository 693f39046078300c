//! The packet filters of a namespace: read, and for those who put rules of their own there written and removed.

use super::message::Batch;
use super::nft::filters;
use super::{LinuxKernel, is_forbidden, is_unsupported};
use crate::error::Error;
use crate::filter::{Decider, Filters, Policy, TableFamily};

impl LinuxKernel {
    /// The packet filters, with how many rules are beyond what is told ([`MOST_RULES`]); in words why they cannot be read.
    ///
    /// # Errors
    /// Why not: reading them takes `CAP_NET_ADMIN`.
    ///
    /// [`MOST_RULES`]: crate::filter::MOST_RULES
    pub fn filters(&mut self) -> Result<(Filters, usize), String> {
        let Some(socket) = &mut self.netfilter else {
            return Err("this kernel has no nfnetlink".to_owned());
        };
        filters::observe(socket).map_err(|error| {
            if is_unsupported(&error) || is_forbidden(&error) {
                "reading packet filters takes CAP_NET_ADMIN and nf_tables".to_owned()
            } else {
                error.to_string()
            }
        })
    }

    /// Makes chains and appends their rules, all or nothing.
    ///
    /// # Errors
    /// What cannot be written, or what the kernel said.
    pub fn add_filters(&mut self, wanted: &Filters) -> Result<(), Error> {
        let batch = filters::encode::made(wanted).map_err(|why| Error::Missing {
            what: "packet filters".to_owned(),
            why,
        })?;
        self.transact("make", batch)
    }

    /// Removes a table with its chains and rules.
    ///
    /// # Errors
    /// What the kernel said; none where there is no such table.
    pub fn remove_filter_table(&mut self, family: TableFamily, table: &str) -> Result<(), Error> {
        match self.transact("remove", filters::encode::table_removed(family, table)) {
            Err(error) if error.is_already_gone() => Ok(()),
            done => done,
        }
    }

    /// Does what [`Decider::removal`] says: deletes a rule, or has a chain's policy accept.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_filter(&mut self, by: &Decider) -> Result<(), Error> {
        let place = (by.table.as_str(), by.chain.as_str());
        let batch = match by.handle {
            Some(handle) => filters::encode::rule_removed(by.family, place, handle),
            None => filters::encode::policy_changed(by.family, place, Policy::Accept),
        };
        self.transact("remove", batch)
    }

    fn transact(&mut self, verb: &'static str, mut batch: Batch) -> Result<(), Error> {
        let Some(socket) = &mut self.netfilter else {
            return Err(Error::Missing {
                what: "packet filters".to_owned(),
                why: "this kernel has no nfnetlink".to_owned(),
            });
        };
        socket
            .transact(&mut batch)
            .map_err(|(errno, _)| Error::kernel(verb, "packet filters", errno))
    }
}
