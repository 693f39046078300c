//! `cargo run -p tests --bin image`: the images that clusters need, as OCI archives, without a container engine.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;
use tests::image;

/// Build floaterctl as one static executable and write the images clusterlink and clusterlink-floater as OCI archives.
#[derive(Parser)]
struct Arguments {
    /// Where to write clusterlink.tar and clusterlink-floater.tar
    #[arg(short, long, value_name = "DIR", default_value = "target/images")]
    output: PathBuf,
    /// A static executable that is there already
    #[arg(long, value_name = "FILE")]
    executable: Option<PathBuf>,
    /// The images' tag
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match images(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(70)
        }
    }
}

fn images(arguments: &Arguments) -> Result<(), String> {
    let path = match &arguments.executable {
        Some(path) => path.clone(),
        None => built()?,
    };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let executable = std::fs::read(&path).map_err(|error| named(&error))?;
    image::check(&executable).map_err(|rule| named(&rule))?;
    let written = image::write_all(&executable, &arguments.version, &arguments.output);
    let written = written.map_err(|error| format!("{}: {error}", arguments.output.display()))?;
    for path in written {
        println!("{}", path.display());
    }
    Ok(())
}

/// Builds floaterctl for this machine, static; its path.
fn built() -> Result<PathBuf, String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--workspace",
            "--bin",
            "floaterctl",
            "--target",
            &target,
        ])
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        // Half of the executable, which nobody debugs in a cluster.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err("floaterctl could not be built".to_owned());
    }
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(folder.join(target).join("release/floaterctl"))
}
