//! Pages that are made from the definition of the command line: completions and the manual.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use crate::cli::Man;
use crate::exit::{Failure, OK, Outcome};
use crate::{config, output};

pub(super) fn completions(shell: Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut config::command(), "floaterctl", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(OK)
}

pub(super) fn man(arguments: &Man) -> Outcome {
    let command = config::command();
    match &arguments.dir {
        None => output::print(&page(&command, "floaterctl")?)?,
        Some(dir) => write_pages(dir, &command, "floaterctl")?,
    }
    Ok(OK)
}

/// One page per verb, `floaterctl-sim-up.1` and so on.
fn write_pages(dir: &Path, command: &Command, name: &str) -> Result<(), Failure> {
    let file = dir.join(format!("{name}.1"));
    output::write_file(&file, &page(command, name)?)
        .map_err(|error| Failure::output(file.display().to_string(), error))?;
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        .try_for_each(|sub| write_pages(dir, sub, &format!("{name}-{}", sub.get_name())))
}

fn page(command: &Command, name: &str) -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .render(&mut text)
        .map_err(|error| Failure::Failed(format!("the page of {name}: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
