//! A kubeconfig that somebody else wrote: it came out of an object of a cluster, not from a file that the operator named.
//!
//! What it holds is data for the server that it names and gives no rights on this machine. It starts no program, opens no
//! file, names no proxy, and reaches this machine's own and its link's addresses only where the control plane, which
//! the operator did name, is reached there, too ([`Reach`]).

use super::check::Origin;
use super::reach::Reach;
use super::{Entry, File, Kubeconfig, document};
use crate::Error;

/// The most bytes of one, decoded: some certificates and a token are a tenth of it.
const MAX_BYTES: usize = 256 << 10;

/// A checked kubeconfig of inline data only.
#[derive(Clone)]
pub(crate) struct RemoteKubeconfig {
    entry: Entry,
}

impl RemoteKubeconfig {
    /// Reads the current context of `text`; `name` stands for the file in errors.
    ///
    /// # Errors
    /// [`Error::Input`] where it is not a kubeconfig, or holds what only a file of the operator's may hold.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            let rule = format!("is larger than {} KiB", MAX_BYTES >> 10);
            return Err(Error::input(name, None, rule));
        }
        let file = Kubeconfig::merged(vec![File {
            name: name.to_owned(),
            origin: Origin::Remote,
            document: document::parse(text, name)?,
        }])?;
        let selected = file.select(file.current()?)?;
        Ok(Self {
            entry: selected.entry,
        })
    }

    /// The server's URL.
    pub(crate) fn server(&self) -> &str {
        self.entry.server()
    }

    /// What proves that another entry reaches the same server, see [`super::Selected::identity`].
    pub(crate) fn identity(&self) -> super::Identity {
        self.entry.identity()
    }

    /// A client for it that connects only to addresses within `reach` and keeps at most `idle` unused connections.
    ///
    /// # Errors
    /// Why there is none, in words without credentials.
    pub(crate) async fn client(&self, reach: Reach, idle: usize) -> Result<kube::Client, String> {
        self.entry.client(reach, idle).await
    }
}
