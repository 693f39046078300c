//! Labs from the command line, for work on this crate; people use `floaterctl sim`.

use std::ffi::OsString;
use std::process::ExitCode;

use simulator::Error;
use simulator::control::{self, Caller};
use simulator::topology::{self, Families, ModeChoice};

const USAGE: &str = "\
up FILE [NAME] | up CLUSTERS NODES gateway|p2p|mixed ipv4|ipv6|all [NAME] | status [NAME] | exec PLACE CMD… |
freeze [AT] | thaw [AT] | inject CODE AT | clear | down [NAME] | down-all | hold CLUSTERS (dies with its standard input)";

fn caller() -> Result<Caller, Error> {
    let program = std::env::current_exe().map_err(Error::failed("find this program"))?;
    Ok(Caller {
        program,
        lab_verb: vec!["__lab".into()],
        floater_verb: vec!["__floater".into()],
        clusterlink_verb: vec!["__clusterlink".into()],
    })
}

fn generated(words: &[&str]) -> Result<topology::Topology, Error> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Error::argument(text, "is no number"))
    };
    let mode = match words[2] {
        "p2p" => ModeChoice::P2p,
        "mixed" => ModeChoice::Mixed,
        _ => ModeChoice::Gateway,
    };
    let family = match words[3] {
        "all" => Families::All,
        "ipv6" => Families::Ipv6,
        _ => Families::Ipv4,
    };
    topology::generated(number(words[0])?, number(words[1])?, mode, family)
}

fn run(words: &[&str]) -> Result<(), Error> {
    match words {
        ["up", rest @ ..] if rest.len() >= 4 => {
            let lab = control::up(&generated(rest)?, rest.get(4).copied(), &caller()?, false)?;
            println!("{}", lab.kubeconfig.display());
            Ok(())
        }
        ["up", file, rest @ ..] => {
            let text = std::fs::read_to_string(file).map_err(Error::failed(*file))?;
            let topology = topology::parse(&text, file)?;
            let lab = control::up(&topology, rest.first().copied(), &caller()?, false)?;
            println!("{}", lab.kubeconfig.display());
            Ok(())
        }
        ["hold", clusters] => {
            let topology = generated(&[clusters, "2", "gateway", "ipv4"])?;
            let lab = control::up(&topology, Some("held"), &caller()?, true)?;
            println!("{}", lab.kubeconfig.display());
            // Until whoever started this is gone.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            lab.down()
        }
        ["status", name @ ..] => {
            let status = control::status(name.first().copied())?;
            let text = serde_json::to_string_pretty(&status).map_err(Error::failed("print"))?;
            println!("{text}");
            Ok(())
        }
        ["exec", place, command @ ..] => {
            let argv: Vec<OsString> = command.iter().map(OsString::from).collect();
            match control::exec(None, place, &argv)? {}
        }
        ["freeze", at @ ..] => control::freeze(None, at.first().copied()),
        ["thaw", at @ ..] => control::thaw(None, at.first().copied()),
        ["inject", code, at] => {
            let code = code
                .parse()
                .map_err(|error| Error::argument(code, format!("{error}")))?;
            control::fault_inject(None, code, at)
        }
        ["clear"] => control::fault_clear(None),
        ["down", name @ ..] => control::down(name.first().copied()),
        ["down-all"] => control::down_all().map(|names| println!("{}", names.join(" "))),
        _ => Err(Error::argument("lab", USAGE)),
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let hidden = args.first().and_then(|verb| verb.to_str());
    match hidden {
        Some("__lab") => return control::serve(args.into_iter().skip(1)),
        Some("__floater") => return floater::agent::cli::main(args.into_iter().skip(1)),
        _ => {}
    }
    let words: Vec<String> = args
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
