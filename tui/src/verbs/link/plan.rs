//! `link plan`: from Cluster and ClusterNode objects to NodeConfigs, without touching anything.

use std::collections::BTreeMap;
use std::path::Path;

use datapath::api::Fleet;
use datapath::document;
use datapath::plan::Planner;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::link::{LinkPlan, PlanFormat};
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::output;
use crate::plan_diff::{Configs, PlanDiff};

pub(in crate::verbs) fn plan(arguments: &LinkPlan) -> Outcome {
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
    match &arguments.diff {
        None => print(&new.configs(), arguments.output.unwrap_or_default())?,
        Some(old) => {
            let diff = PlanDiff::between(&old_configs(old)?, &Configs::Planned(Box::new(new)));
            match arguments.output {
                None => output::print(&diff.to_string())?,
                Some(format) => print(&diff, format)?,
            }
        }
    }
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

/// The planner of a fleet; what it objects to goes to stderr.
fn plan_of(fleet: &Fleet, name: &str) -> Planner {
    let planner = Planner::of(fleet);
    for objection in planner.objections() {
        eprintln!("warning: {name}: {objection}");
    }
    planner
}

/// Prints a value as it is made, since the NodeConfigs of a large fleet do not fit into memory.
fn print<T: serde::Serialize>(value: &T, format: PlanFormat) -> Result<(), Failure> {
    let failed = |error: String| format!("writing the plan: {error}");
    output::print_pieces(|mut out| match format {
        PlanFormat::Json => serde_json::to_writer_pretty(&mut out, value)
            .map_err(|error| failed(error.to_string()))
            .and_then(|()| writeln!(out).map_err(|error| failed(error.to_string()))),
        PlanFormat::Yaml => {
            serde_saphyr::to_io_writer(&mut out, value).map_err(|error| failed(error.to_string()))
        }
    })
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
            let planner = plan_of(&fleet, &source.name);
            return Ok(Configs::Planned(Box::new(planner)));
        }
        let specs = fleet.node_configs.into_iter();
        return Ok(Configs::Read(
            specs
                .map(|config| (config.metadata.name, config.spec))
                .collect(),
        ));
    }
    source.parse::<BTreeMap<String, Rows>>()?;
    Ok(Configs::Read(source.parse()?))
}
