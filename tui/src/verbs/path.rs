//! `path`: the way of one packet and of its answer, hop by hop.

use orchestrator::diagnose::path::{Path, Place, Traced, Trip};
use orchestrator::glob::Pattern;
use orchestrator::report::layer_word;
use orchestrator::run;

use super::dr;
use crate::cli::Path as Arguments;
use crate::cli::diagnosis::{Judge, Probes, What};
use crate::cli::sim::StatusFormat;
use crate::exit::{FOUND, Failure, OK, Outcome, UNJUDGED};
use crate::output;
use crate::progress::Progress;
use crate::signals::Interrupt;

pub(super) async fn run(
    arguments: &Arguments,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let Arguments {
        src,
        dst,
        inventory,
        families,
        how,
        output,
    } = arguments;
    let place = |text: &str| {
        text.parse::<Place>()
            .map_err(|rule| Failure::Usage(format!("`{}`: {rule}", text.escape_default())))
    };
    let ends = (place(src)?, place(dst)?);
    let what = What {
        families: families.clone(),
        ..What::default()
    };
    let judge = Judge::default();
    let probes = Probes::default();
    let mut options = dr::options(dr::of(inventory)?, &what, &probes, how, &judge, progress);
    options.control_plane.clone_from(&inventory.control_plane);
    // Probes tell of these two; whose address it is only all can tell.
    if let (Some(src), Some(dst)) = (ends.0.cluster(), ends.1.cluster()) {
        options.what.sources = vec![Pattern::exactly(src)];
        options.what.destinations = vec![Pattern::exactly(dst)];
    }
    let asked = format!("{} to {}", ends.0, ends.1);
    let traced = dr::noted(options, interrupt, async |options, interrupt| {
        run::trace(options, ends, interrupt.come()).await
    })
    .await?;
    let text = match output.unwrap_or_default() {
        StatusFormat::Json => output::json(&traced)?,
        StatusFormat::Table => text(&asked, &traced),
    };
    output::print(&text)?;
    Ok(match traced.passes() {
        Some(true) => OK,
        Some(false) => FOUND,
        None => UNJUDGED,
    })
}

fn text(asked: &str, traced: &Traced) -> String {
    let mut text = String::new();
    for path in &traced.paths {
        let end = match &traced.dst {
            Some(dst) => format!("{}/{} ({})", dst.cluster, dst.node, layer_word(dst.layer)),
            None => "no node of the inventory".to_owned(),
        };
        let src = &traced.src;
        text += &format!(
            "{asked}, {}: {} of {}/{} ({}) to {} of {end}\n",
            path.family,
            path.src,
            src.cluster,
            src.node,
            layer_word(src.layer),
            path.dst
        );
        if path.as_planned {
            trip(&mut text, "as planned", &path.observed);
        } else {
            trip(&mut text, "planned", &path.planned);
            trip(&mut text, "observed", &path.observed);
        }
        text += &verdict(path);
        text.push('\n');
    }
    for why in &traced.unjudged {
        text += &format!("Not told: {why}\n");
    }
    text
}

/// Each packet's hops, numbered; those of a tunnel's own packet stand further in.
fn trip(text: &mut String, how: &str, trip: &Trip) {
    let walks = [("there", Some(&trip.there)), ("back", trip.back.as_ref())];
    for (name, walk) in walks {
        let Some(walk) = walk else { continue };
        *text += &format!("  {name}, {how}:\n");
        for (number, hop) in (1..).zip(&walk.hops) {
            *text += &format!("  {number:>3}  {hop}\n");
        }
        *text += &format!("       {}\n", walk.end);
    }
}

fn verdict(path: &Path) -> String {
    let word = match path.observed.passes {
        Some(true) => "passes by the tables",
        Some(false) => "does not pass by the tables",
        None => "cannot be told by the tables",
    };
    let packets = match path.probes {
        Some(probes) => format!(
            "{} of {} probes were answered",
            probes.received, probes.sent
        ),
        None => "no probe of this run went between exactly these nodes".to_owned(),
    };
    let plan = match path.as_planned {
        true => "",
        false => "; the way is not the planned one",
    };
    format!("  {word}; {packets}{plan}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named_in_four_ways() {
        for (text, place) in [
            ("east", Place::Cluster("east".to_owned())),
            ("east/n1", Place::Node("east".to_owned(), "n1".to_owned())),
            (
                "east/n1/floater-n1",
                Place::Pod("east".to_owned(), "n1".to_owned(), "floater-n1".to_owned()),
            ),
            (
                "10.1.2.3",
                Place::Address("10.1.2.3".parse().expect("an address")),
            ),
            (
                "fd00::1",
                Place::Address("fd00::1".parse().expect("an address")),
            ),
        ] {
            assert_eq!(text.parse(), Ok(place.clone()), "{text}");
            assert_eq!(place.to_string(), text);
        }
        for wrong in ["", "/", "east/", "a/b/c/d", "//"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
