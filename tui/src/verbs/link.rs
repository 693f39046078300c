//! `link plan`: from Cluster and ClusterNode objects to NodeConfigs, without touching anything.

use std::collections::BTreeMap;
use std::path::Path;

use datapath::api::Fleet;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::cli::{LinkPlan, PlanFormat};
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::output;
use crate::plan_diff::{Configs, PlanDiff};

pub(super) fn plan(arguments: &LinkPlan) -> Outcome {
    let Some(file) = &arguments.file else {
        return Err(Failure::Usage(
            "link plan needs the objects of a fleet: -f FLEET".to_owned(),
        ));
    };
    if file == Path::new("-") && arguments.diff.as_deref() == Some(Path::new("-")) {
        return Err(Failure::Usage(
            "only one of -f and --diff can be stdin".to_owned(),
        ));
    }
    let source = Source::read(file)?;
    let new = plan_of(&fleet(&source)?, &source.name);
    let text = match &arguments.diff {
        None => written(&new, arguments.output.unwrap_or_default())?,
        Some(old) => {
            let diff = PlanDiff::between(&old_configs(old)?, &new);
            match arguments.output {
                None => diff.to_string(),
                Some(format) => written(&diff, format)?,
            }
        }
    };
    output::print(&text)?;
    Ok(OK)
}

/// The planner's result; what it objects to goes to stderr.
fn plan_of(fleet: &Fleet, name: &str) -> Configs {
    let plan = datapath::plan::plan(fleet);
    for objection in &plan.objections {
        eprintln!("warning: {name}: {objection}");
    }
    plan.configs
}

fn written<T: serde::Serialize>(value: &T, format: PlanFormat) -> Result<String, Failure> {
    let failed = |error: String| Failure::Failed(format!("writing the plan: {error}"));
    match format {
        PlanFormat::Json => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|error| failed(error.to_string())),
        PlanFormat::Yaml => {
            serde_saphyr::to_string(value).map_err(|error| failed(error.to_string()))
        }
    }
}

/// The lists of a fleet. Real objects carry fields that the planner does not know; the document around them does not.
#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an object with lists of objects"
)]
struct Lists {
    clusters: Option<Vec<Object>>,
    cluster_nodes: Option<Vec<Object>>,
    #[serde(rename = "nodeConfigs")]
    _node_configs: Option<Vec<Object>>,
}

/// What every object needs.
#[derive(Deserialize)]
#[serde(expecting = "an object of Kubernetes")]
struct Object {
    #[serde(rename = "metadata")]
    _metadata: Named,
}

#[derive(Deserialize)]
#[serde(expecting = "metadata with a name")]
struct Named {
    #[serde(rename = "name", deserialize_with = "not_empty")]
    _name: String,
}

fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() {
        return Err(D::Error::custom("metadata.name is empty"));
    }
    Ok(name)
}

fn fleet(source: &Source) -> Result<Fleet, Failure> {
    // A derived struct would take a list for its fields in order.
    source.parse::<BTreeMap<String, IgnoredAny>>()?;
    let lists: Lists = source.parse()?;
    if lists.clusters.is_none() && lists.cluster_nodes.is_none() {
        let rule = "a fleet has the lists `clusters` and `clusterNodes`";
        return Err(Failure::input(&source.name, None, rule));
    }
    source.parse()
}

/// The lists of one node's plan and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "the rows of a node")]
struct Rows {
    #[serde(rename = "devices")]
    _devices: Option<IgnoredAny>,
    #[serde(rename = "routes")]
    _routes: Option<IgnoredAny>,
    #[serde(rename = "iptables")]
    _iptables: Option<IgnoredAny>,
    #[serde(rename = "fdbs")]
    _fdbs: Option<IgnoredAny>,
    #[serde(rename = "arps")]
    _arps: Option<IgnoredAny>,
}

/// An earlier result of `link plan`, or the objects that it came from.
fn old_configs(path: &Path) -> Result<Configs, Failure> {
    let source = Source::read(path)?;
    let keys: BTreeMap<String, IgnoredAny> = source.parse()?;
    if ["clusters", "clusterNodes"]
        .iter()
        .any(|list| keys.contains_key(*list))
    {
        return Ok(plan_of(&fleet(&source)?, &source.name));
    }
    source.parse::<BTreeMap<String, Rows>>()?;
    source.parse()
}
