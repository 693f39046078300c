//! What the program reads, and what is wrong with it: file, line, rule.

use std::path::Path;

use serde::Deserialize;

use crate::api::{Fleet, NodeConfig, NodeConfigSpec};
use crate::document::{self, Source};
use crate::error::Error;
use crate::printable::Printable;
use crate::state::NodeState;

/// The objects of a fleet; what is left out goes to stderr.
pub(super) fn fleet(file: &Path) -> Result<Fleet, Error> {
    objects(&Source::read(file)?)
}

/// A state as `show` prints it.
pub(super) fn state(file: &Path) -> Result<NodeState, Error> {
    Source::read(file)?.parse()
}

/// The rows of one NodeConfig: of the only one of a file's objects, or of the one with a name, or of a spec alone.
pub(super) fn spec(file: &Path, name: Option<&str>) -> Result<NodeConfigSpec, Error> {
    let source = Source::read(file)?;
    let documents = source.documents()?;
    let bare = match documents.as_slice() {
        [document] if !document::holds_objects(&source)? => document.as_object(),
        _ => None,
    };
    let Some(bare) = bare else {
        let objects = objects(&source)?;
        return chosen(objects.node_configs, name).map_err(|rule| refusal(file, rule));
    };
    if bare.contains_key("spec") {
        return Ok(source.parse::<Object>()?.spec);
    }
    let lists = NodeConfigSpec::LISTS;
    if let Some(other) = bare.keys().find(|key| !lists.contains(&key.as_str())) {
        let rule = format!(
            "`{}` is no list of a NodeConfig; there are {}",
            Printable::new(other).as_str(),
            lists.join(", ")
        );
        return Err(refusal(file, rule));
    }
    source.parse()
}

/// A NodeConfig that does not say what it is.
#[derive(Deserialize)]
struct Object {
    spec: NodeConfigSpec,
}

fn objects(source: &Source) -> Result<Fleet, Error> {
    let objects = document::objects(source)?;
    for warning in &objects.warnings {
        super::note(format_args!("warning: {}: {warning}", source.name));
    }
    Ok(objects.fleet)
}

fn chosen(configs: Vec<NodeConfig>, name: Option<&str>) -> Result<NodeConfigSpec, String> {
    let is_named = |config: &NodeConfig| name.is_none_or(|name| config.metadata.name == name);
    let mut fitting = configs.iter().filter(|config| is_named(config));
    match (fitting.next(), fitting.next(), name) {
        (Some(only), None, _) => Ok(only.spec.clone()),
        (None, _, None) => Err("it has no NodeConfig".to_owned()),
        (None, _, Some(name)) => Err(format!("it has no NodeConfig `{name}`")),
        (Some(_), Some(_), None) => Err(format!(
            "it has {} NodeConfigs: choose one with --name",
            configs.len()
        )),
        (Some(_), Some(_), Some(name)) => Err(format!("it has several NodeConfigs `{name}`")),
    }
}

pub(super) fn refusal(file: &Path, rule: impl Into<String>) -> Error {
    Error::Input {
        file: file.display().to_string(),
        line: None,
        rule: rule.into(),
    }
}
