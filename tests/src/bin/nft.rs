//! The words of nft(8) that fixes are made of, for tests on machines without that program.
//!
//! ```text
//!   nft delete rule FAMILY TABLE CHAIN handle NUMBER
//!   nft chain FAMILY TABLE CHAIN '{ policy accept ; }'
//!   nft add JSON                                          datapath's own form of chains
//! ```

use std::process::ExitCode;

use datapath::filter::{Asks, Decider, Filters, Hook, TableFamily};
use datapath::kernel::LinuxKernel;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<(), String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut kernel = LinuxKernel::open().map_err(|error| error.to_string())?;
    let done = match words[..] {
        ["delete", "rule", family, table, chain, "handle", handle] => {
            let handle = handle.parse().map_err(|_| "the handle is no number")?;
            kernel.remove_filter(&decider(family, (table, chain), Some(handle))?)
        }
        ["chain", family, table, chain, "{ policy accept ; }"] => {
            kernel.remove_filter(&decider(family, (table, chain), None)?)
        }
        ["add", json] => {
            let filters: Filters = serde_json::from_str(json).map_err(|error| error.to_string())?;
            kernel.add_filters(&filters)
        }
        _ => {
            return Err(format!(
                "not one of the few things that this can: {words:?}"
            ));
        }
    };
    done.map_err(|error| error.to_string())
}

fn decider(
    family: &str,
    (table, chain): (&str, &str),
    handle: Option<u64>,
) -> Result<Decider, String> {
    let mut families = TableFamily::ALL.into_iter();
    let found = families.find(|(_, known)| known.word() == family);
    Ok(Decider {
        family: found.ok_or("there is no such family")?.1,
        table: table.to_owned(),
        chain: chain.to_owned(),
        handle,
        // Where it is met and what it asks does not matter to its removal.
        hook: Hook::Forward,
        text: String::new(),
        asks: Asks::default(),
    })
}
