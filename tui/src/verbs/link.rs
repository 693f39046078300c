//! `link plan`: from Cluster and ClusterNode objects to NodeConfigs, without touching anything.

use std::collections::BTreeMap;
use std::path::Path;

use datapath::api::Fleet;
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

/// The planner's result; what it had to leave out is told on stderr.
fn plan_of(fleet: &Fleet, name: &str) -> Configs {
    let plan = datapath::plan::plan(fleet);
    for problem in &plan.problems {
        eprintln!("warning: {name}: left out: {problem}");
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

/// Which of the planner's lists a document has.
#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    expecting = "an object with lists of objects"
)]
struct Lists {
    clusters: Option<IgnoredAny>,
    cluster_nodes: Option<IgnoredAny>,
}

impl Lists {
    fn is_fleet(&self) -> bool {
        self.clusters.is_some() || self.cluster_nodes.is_some()
    }
}

fn fleet(source: &Source) -> Result<Fleet, Failure> {
    if !source.parse::<Lists>()?.is_fleet() {
        let rule = "a fleet has the lists `clusters` and `clusterNodes`";
        return Err(Failure::input(&source.name, None, rule));
    }
    source.parse()
}

/// An earlier result of `link plan`, or the objects that it came from.
fn old_configs(path: &Path) -> Result<Configs, Failure> {
    let source = Source::read(path)?;
    if source.parse::<Lists>()?.is_fleet() {
        return Ok(plan_of(&source.parse()?, &source.name));
    }
    source.parse::<BTreeMap<String, _>>()
}
