//! `sim`: simulated fleets.

mod linking;
pub(super) mod scenario;
mod table;

use std::path::Path;

use datapath::code::Code;
use simulator::control::Injection;
use simulator::topology::Topology;
use simulator::{control, topology};

use crate::cli::sim::{Capture, Exec, Fault, Sim, Status, StatusFormat, Up, Validate};
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::progress::Progress;
use crate::signals::Interrupt;
use crate::{lab, output};

/// The name of a fleet that was given none.
const NAME: &str = "lab";

pub(super) fn run(sim: &Sim, progress: Progress) -> Outcome {
    match sim {
        Sim::Status(arguments) => status(arguments)?,
        Sim::Kubeconfig(named) => {
            let path = control::kubeconfig(named.name.as_deref())?;
            output::print(&format!("{}\n", path.display()))?;
        }
        Sim::Exec(arguments) => return exec(arguments),
        Sim::Capture(arguments) => return capture(arguments),
        Sim::Validate(arguments) => validate(arguments)?,
        Sim::Fault(Fault::List(arguments)) => output::print(&match arguments.output {
            Some(StatusFormat::Json) => output::json(&described())?,
            _ => faults(arguments.all),
        })?,
        Sim::Fault(Fault::Inject(arguments)) => {
            let code = injectable(&arguments.code)?;
            at(control::fault_inject(
                arguments.name.as_deref(),
                code,
                &arguments.at,
            ))?;
        }
        Sim::Fault(Fault::Clear(named)) => control::fault_clear(named.name.as_deref())?,
        Sim::Freeze(place) => at(control::freeze(place.name.as_deref(), place.at.as_deref()))?,
        Sim::Thaw(place) => at(control::thaw(place.name.as_deref(), place.at.as_deref()))?,
        // These have a runtime, which the others must not have; see the caller.
        Sim::Run(_) | Sim::Up(_) => {}
        Sim::Schema => output::print(&output::json(&topology::schema())?)?,
        Sim::Down(arguments) if arguments.all => {
            for name in control::down_all()? {
                progress.say(format_args!("removed {name}"));
            }
        }
        Sim::Down(arguments) => control::down(arguments.name.as_deref())?,
    }
    Ok(OK)
}

/// Prints the path of the kubeconfig.
pub(super) async fn up(arguments: &Up, progress: Progress, interrupt: &Interrupt) -> Outcome {
    let shape = &arguments.shape;
    let mut topology = match &arguments.topology {
        Some(file) => {
            let source = Source::read_at_most(file, topology::MAX_BYTES as u64)?;
            topology::parse(&source.text, &source.name)?
        }
        None if shape.clusters.is_none() => {
            return Err(Failure::Usage(
                "sim up needs a topology file, or --clusters".to_owned(),
            ));
        }
        None => lab::generated(shape, 0)?,
    };
    if arguments.is_virtual {
        topology.make_virtual();
    }
    topology.bare = arguments.bare;
    run_upstream(&mut topology, arguments.upstream.as_deref())?;
    let wanted = (!topology.bare && topology.has_upstream()).then(|| topology.clone());
    let name = arguments.name.clone().or_else(|| topology.name.clone());
    let name = name.unwrap_or_else(|| NAME.to_owned());
    let lab = lab::build(topology, name, false, interrupt, progress).await?;
    if let Some(wanted) = wanted
        && let Err(failure) = linking::link(&wanted, &lab.kubeconfig, interrupt, progress).await
    {
        // A fleet that is not what was asked for is none.
        lab::remove(lab.name.clone()).await?;
        return Err(failure);
    }
    output::print(&format!("{}\n", lab.kubeconfig.display()))?;
    Ok(OK)
}

/// Takes control planes from a folder of upstream's programs, where one is named.
fn run_upstream(topology: &mut Topology, programs: Option<&Path>) -> Result<(), Failure> {
    if let Some(programs) = programs {
        let programs = std::path::absolute(programs);
        topology.run_upstream(
            programs.map_err(|error| Failure::input("--upstream", None, error.to_string()))?,
        );
    }
    Ok(())
}

/// A wrong place is blamed on the option that names it here.
fn at<T>(done: Result<T, simulator::Error>) -> Result<T, Failure> {
    done.map_err(|error| match error {
        simulator::Error::Input { file, rule, .. } if file == "PLACE" => {
            Failure::input("--at", None, rule)
        }
        other => other.into(),
    })
}

/// One fleet; several as a list, and none as an empty one where data is asked for.
fn status(arguments: &Status) -> Result<(), Failure> {
    let name = arguments.name.as_deref();
    match (arguments.output.unwrap_or_default(), name) {
        (StatusFormat::Json, None) if control::names().len() != 1 => {
            let each =
                control::names()
                    .into_iter()
                    .map(|name| match control::status(Some(&name)) {
                        Ok(status) => serde_json::to_value(status).unwrap_or_default(),
                        Err(simulator::Error::Input { rule, .. }) => {
                            serde_json::json!({"name": name, "trouble": rule})
                        }
                        Err(error) => {
                            serde_json::json!({"name": name, "trouble": error.to_string()})
                        }
                    });
            output::print(&output::json(&each.collect::<Vec<_>>())?)
        }
        (StatusFormat::Json, _) => output::print(&output::json(&control::status(name)?)?),
        (StatusFormat::Table, None) if control::names().len() > 1 => {
            control::names().iter().try_for_each(|name| {
                match control::status(Some(name)) {
                    Ok(status) => output::print(&table::of(&status)),
                    // One that comes up, goes down or was killed hides nobody else.
                    Err(error) => output::print(&format!("{name}: {error}\n")),
                }
            })
        }
        (StatusFormat::Table, _) => output::print(&table::of(&control::status(name)?)),
    }
}

/// The program's streams and its exit code are its own.
fn exec(arguments: &Exec) -> Outcome {
    // This process becomes the program, so there is nothing to return but a failure.
    match control::exec(arguments.name.as_deref(), &arguments.place, &arguments.argv)? {}
}

/// The floater of this program captures: it has to be in the place's network namespace, and becoming it there is the way in.
fn capture(arguments: &Capture) -> Outcome {
    let caller = lab::caller()?;
    let mut argv = vec![caller.program.into_os_string()];
    argv.extend(caller.floater_verb);
    argv.extend([
        "capture".into(),
        "--write".into(),
        arguments.write.clone().into(),
    ]);
    if let Some(count) = arguments.count {
        argv.extend(["--count".into(), count.to_string().into()]);
    }
    if let Some(link) = &arguments.interface {
        argv.extend(["--interface".into(), link.into()]);
    }
    match control::exec(arguments.name.as_deref(), &arguments.place, &argv)? {}
}

/// Reads topologies, and says what they are.
fn validate(arguments: &Validate) -> Result<(), Failure> {
    for file in &arguments.files {
        let source = Source::read_at_most(file, topology::MAX_BYTES as u64)?;
        let topology = topology::parse(&source.text, &source.name)?;
        control::possible(&topology)?;
        let nodes: usize = topology.clusters.iter().map(|one| one.nodes.len()).sum();
        let counted = |count: usize, one: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {one}s"),
        };
        output::print(&format!(
            "{}: {}, {}, {}, {}\n",
            source.name,
            counted(topology.clusters.len(), "cluster"),
            counted(nodes, "node"),
            counted(topology.faults.len(), "fault"),
            counted(topology.expect.len(), "expectation"),
        ))?;
    }
    Ok(())
}

/// The codes that can be injected, one a line; or all, with the reason why one cannot be.
fn faults(all: bool) -> String {
    if !all {
        let words: Vec<&str> = control::fault_list().into_iter().map(Code::word).collect();
        return words.join("\n") + "\n";
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["CODE", "INJECTABLE", "WHY NOT"]);
    for &code in Code::ALL {
        table.add_row(match control::injection(code) {
            Injection::Possible => [code.word(), "yes", ""],
            Injection::Impossible(why) => [code.word(), "no", why],
        });
    }
    table.trim_fmt() + "\n"
}

/// A code as programs read it.
#[derive(Debug, serde::Serialize)]
struct Described {
    code: Code,
    title: &'static str,
    injectable: bool,
    /// Why not, where not.
    why_not: Option<&'static str>,
    /// The forms of `--at`; empty where it cannot be injected.
    places: &'static [&'static str],
}

fn described() -> Vec<Described> {
    const NODES: &[&str] = &["CLUSTER", "CLUSTER/NODE"];
    const PATHS: &[&str] = &[
        "CLUSTER",
        "CLUSTER/NODE",
        "CLUSTER,PEER",
        "CLUSTER/NODE,PEER",
    ];
    let all = Code::ALL.iter();
    all.map(|&code| {
        let why_not = match control::injection(code) {
            Injection::Possible => None,
            Injection::Impossible(why) => Some(why),
        };
        Described {
            code,
            title: orchestrator::causes::find(code).title,
            injectable: why_not.is_none(),
            why_not,
            places: match why_not {
                Some(_) => &[],
                None if simulator::codes::is_about_a_peer(code) => PATHS,
                None => NODES,
            },
        }
    })
    .collect()
}

/// A code that can be injected.
pub(super) fn injectable(word: &str) -> Result<Code, Failure> {
    match word.parse().map(|code| (code, control::injection(code))) {
        Ok((code, Injection::Possible)) => Ok(code),
        Ok((code, Injection::Impossible(why))) => {
            Err(Failure::Usage(format!("{code} cannot be injected: {why}")))
        }
        Err(_) => {
            let words: Vec<&str> = control::fault_list().into_iter().map(Code::word).collect();
            Err(Failure::Usage(format!(
                "`{word}` is no cause code; those that can be injected: {}",
                words.join(", ")
            )))
        }
    }
}
