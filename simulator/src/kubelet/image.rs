//! The images that simulated nodes know, and what runs for them: the program that the lab itself is of.

use std::ffi::OsString;
use std::path::PathBuf;

use super::environment;

/// What an image is, by the base name of its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Image {
    /// `clusterlink`: the programs of the datapath.
    Clusterlink,
    /// `clusterlink-floater`.
    Floater,
}

impl Image {
    /// The image that a reference means, whatever its registry and tag.
    pub(crate) fn of(reference: &str) -> Option<Self> {
        let repository = reference.split('@').next().unwrap_or_default();
        let base = repository.rsplit('/').next().unwrap_or_default();
        match base.split(':').next() {
            Some("clusterlink") => Some(Self::Clusterlink),
            Some("clusterlink-floater") => Some(Self::Floater),
            _ => None,
        }
    }

    /// What it is given where a pod has no arguments.
    pub(super) fn arguments(self) -> Vec<String> {
        match self {
            Self::Clusterlink => Vec::new(),
            Self::Floater => vec!["serve".to_owned()],
        }
    }

    /// Whether it reads an environment variable.
    pub(super) fn reads(self, name: &str) -> bool {
        match self {
            Self::Clusterlink => {
                name.starts_with("CLUSTERLINK_")
                    || ["CLUSTER_NAME", "NODE_NAME", "POD_NAME", "POD_NAMESPACE"].contains(&name)
            }
            Self::Floater => {
                (name == "PORT" || name.starts_with("FLOATER_")) && !environment::is_labs(name)
            }
        }
    }
}

/// What images are on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// The executable.
    pub(crate) program: PathBuf,
    /// Its first arguments where it is a floater.
    pub(crate) floater: Vec<OsString>,
    /// Its first arguments where it is a program of the datapath.
    pub(crate) clusterlink: Vec<OsString>,
    /// What every process of the lab has in its environment.
    pub(crate) env: Vec<(String, OsString)>,
    /// Floaters run inside of the lab's own process.
    pub(crate) shared: bool,
}

impl Images {
    /// The first arguments for an image.
    pub(super) fn verb(&self, image: Image) -> &[OsString] {
        match image {
            Image::Clusterlink => &self.clusterlink,
            Image::Floater => &self.floater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_base_name() {
        for (reference, image) in [
            ("clusterlink-floater", Some(Image::Floater)),
            ("clusterlink-floater:v1", Some(Image::Floater)),
            (
                "ghcr.io/kosmos-io/clusterlink-floater:latest",
                Some(Image::Floater),
            ),
            (
                "localhost:5000/x/clusterlink-floater@sha256:00",
                Some(Image::Floater),
            ),
            ("localhost:5000/x/clusterlink:v1", Some(Image::Clusterlink)),
            ("", None),
            ("nginx", None),
            ("clusterlink-floater-x:1", None),
            ("clusterlink-agent:1", None),
            ("clusterlink/x", None),
        ] {
            assert_eq!(Image::of(reference), image, "{reference}");
        }
    }
}
