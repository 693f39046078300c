//! `link plan`: from Cluster and ClusterNode objects to NodeConfigs, without touching anything.

use std::collections::BTreeMap;
use std::path::Path;

use datapath::api::Fleet;
use datapath::document;
use serde::Deserialize;
use serde::de::IgnoredAny;

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

/// The objects of a file; what is left out goes to stderr.
fn fleet(source: &Source) -> Result<Fleet, Failure> {
    let objects = document::objects(source)?;
    for warning in &objects.warnings {
        eprintln!("warning: {}: {warning}", source.name);
    }
    Ok(objects.fleet)
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

/// An earlier result of `link plan`, the NodeConfigs of a fleet, or the objects that they came from.
fn old_configs(path: &Path) -> Result<Configs, Failure> {
    let source = Source::read(path)?;
    if document::holds_objects(&source)? {
        let fleet = fleet(&source)?;
        if !fleet.clusters.is_empty() || !fleet.cluster_nodes.is_empty() {
            return Ok(plan_of(&fleet, &source.name));
        }
        let specs = fleet.node_configs.into_iter();
        return Ok(specs
            .map(|config| (config.metadata.name, config.spec))
            .collect());
    }
    source.parse::<BTreeMap<String, Rows>>()?;
    Ok(source.parse()?)
}
