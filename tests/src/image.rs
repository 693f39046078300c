//! Container images without a container engine: one static executable, an empty root, an archive of the OCI image layout.
//!
//! | file of the archive | what |
//! |---|---|
//! | `oci-layout` | that it is one |
//! | `index.json` | the manifest, and the name that it is to have |
//! | `blobs/sha256/…` | manifest, configuration, and the one layer, which is a tar file |
//!
//! The bytes are the same whenever the executable is: no time, no user, no order of a directory goes into them.
//! Source: the OCI image specification 1.1 (image-layout.md, manifest.md, config.md, layer.md).

use std::io;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Where the executable is in an image.
const PROGRAM: &str = "floaterctl";
/// The user that runs it where nobody says otherwise: the `nonroot` of images without a distribution.
const USER: &str = "65532:65532";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Its base name.
    pub name: &'static str,
    /// The words before any arguments.
    verb: &'static str,
    /// The arguments where none are given.
    arguments: &'static [&'static str],
    /// What it is, in a few words.
    title: &'static str,
}

/// The images that clusters need.
pub const IMAGES: [Image; 2] = [
    Image {
        name: "clusterlink",
        verb: "__clusterlink",
        arguments: &[],
        title: "The datapath between clusters: agent, controller, elector, manager",
    },
    Image {
        name: "clusterlink-floater",
        verb: "__floater",
        arguments: &["serve"],
        title: "What a diagnosis sends probes from and reads tables with",
    },
];

/// A blob and its descriptor.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn json(media_type: &'static str, value: &Value) -> Self {
        Self {
            media_type,
            bytes: value.to_string().into_bytes(),
        }
    }

    fn digest(&self) -> String {
        let hash = digest(&SHA256, &self.bytes);
        hash.as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": format!("sha256:{}", self.digest()),
            "size": self.bytes.len(),
        })
    }
}

impl Image {
    /// Writes the archive of this image, with the executable as its only file.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, executable: &[u8], version: &str, to: impl io::Write) -> io::Result<()> {
        let mut layer = tar::Builder::new(Vec::new());
        add(&mut layer, PROGRAM, 0o755, executable)?;
        let layer = Blob {
            media_type: LAYER,
            bytes: layer.into_inner()?,
        };
        let labels = json!({
            "org.opencontainers.image.title": self.title,
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        });
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": USER,
                "Entrypoint": [format!("/{PROGRAM}"), self.verb],
                "Cmd": self.arguments,
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest())]},
        });
        let config = Blob::json(CONFIG, &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
            "annotations": labels,
        });
        let manifest = Blob::json(MANIFEST, &manifest);
        let mut named = manifest.descriptor();
        named["annotations"] = json!({"org.opencontainers.image.ref.name": version});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [named],
        });
        let mut archive = tar::Builder::new(to);
        add(
            &mut archive,
            "oci-layout",
            0o644,
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        add(
            &mut archive,
            "index.json",
            0o644,
            index.to_string().as_bytes(),
        )?;
        for blob in [manifest, config, layer] {
            let name = format!("blobs/sha256/{}", blob.digest());
            add(&mut archive, &name, 0o644, &blob.bytes)?;
        }
        archive.finish()
    }
}

fn add(
    archive: &mut tar::Builder<impl io::Write>,
    name: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, name, bytes)
}

/// This machine's architecture as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Refuses what an image with an empty root could not run: a program that needs a loader (ELF, `PT_INTERP`), or is none.
///
/// # Errors
/// The rule that it breaks.
pub fn check(executable: &[u8]) -> Result<(), &'static str> {
    const NO_PROGRAM: &str = "it is no ELF executable of 64 bits, little-endian";
    const INTERPRETER: u32 = 3;
    let field = |at: usize, len: usize| {
        let bytes = executable.get(at..at + len)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_usize, |number, byte| number << 8 | usize::from(*byte)),
        )
    };
    if executable.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(NO_PROGRAM);
    }
    let headers = (field(32, 8), field(54, 2), field(56, 2));
    let (Some(start), Some(size), Some(count)) = headers else {
        return Err(NO_PROGRAM);
    };
    for index in 0..count {
        let kind = size
            .checked_mul(index)
            .and_then(|offset| offset.checked_add(start));
        let kind = kind.and_then(|at| at.checked_add(4).and_then(|_| field(at, 4)));
        match kind {
            None => return Err(NO_PROGRAM),
            Some(kind) if kind as u32 == INTERPRETER => {
                return Err("it is linked dynamically, and an empty root has no loader");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Writes the archives of all images into a folder; their paths.
///
/// # Errors
/// The file system's.
pub fn write_all(
    executable: &[u8],
    version: &str,
    folder: &Path,
) -> io::Result<Vec<std::path::PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let each = IMAGES.iter().map(|image| {
        let path = folder.join(format!("{}.tar", image.name));
        let new = tempfile::NamedTempFile::new_in(folder)?;
        image.write(executable, version, io::BufWriter::new(&new))?;
        new.persist(&path)?;
        Ok(path)
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("a tar file");
        let file = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            (name, bytes)
        };
        entries.map(file).collect()
    }

    #[test]
    fn an_image_is_found_from_its_index_by_digests_down_to_the_program() {
        for image in IMAGES {
            let mut archive = Vec::new();
            image
                .write(b"program", "1.2.3", &mut archive)
                .expect("written");
            let mut again = Vec::new();
            image
                .write(b"program", "1.2.3", &mut again)
                .expect("written");
            assert_eq!(archive, again, "the same bytes each time");
            let files = files(&archive);
            let blob = |descriptor: &Value| {
                let digested = descriptor["digest"].as_str().expect("a digest");
                let (_, name) = digested.split_once(':').expect("sha256:…");
                let bytes = &files[&format!("blobs/sha256/{name}")];
                assert_eq!(descriptor["size"], bytes.len());
                let hash = digest(&SHA256, bytes);
                let hash: String = hash
                    .as_ref()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                assert_eq!(hash, name);
                bytes
            };
            let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
            let index = read(&files["index.json"]);
            let manifest = read(blob(&index["manifests"][0]));
            let config = read(blob(&manifest["config"]));
            assert_eq!(config["config"]["Entrypoint"][1], image.verb);
            assert_eq!(config["config"]["User"], USER);
            let layer = blob(&manifest["layers"][0]);
            let root = self::files(layer);
            assert_eq!(
                root.into_iter().collect::<Vec<_>>(),
                [(PROGRAM.to_owned(), b"program".to_vec())]
            );
        }
    }

    #[test]
    fn what_an_empty_root_cannot_run_is_refused() {
        assert!(check(b"#!/bin/sh\n").is_err());
        assert!(check(b"\x7fELF\x02\x01").is_err());
        let own = std::fs::read(std::env::current_exe().expect("this test")).expect("read");
        let refused = check(&own).expect_err("it is linked dynamically");
        assert!(refused.contains("loader"), "{refused}");
        // The same without its headers has nothing that needs a loader.
        let mut bare = own[..64].to_vec();
        bare[56..58].fill(0);
        assert_eq!(check(&bare), Ok(()));
    }
}
