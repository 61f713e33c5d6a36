//! The folders of an embedded Postgres, the account it runs as, and its first data.
//!
//! Promises a data folder that is whole or absent: it is made as `data.partial` and renamed. If the process dies in the
//! middle, `data.partial` is left, and the next start clears it.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::programs::Programs;
use super::{Durability, Error};

/// The only role of the server, and so its superuser.
pub(super) const USER: &str = "coldstream";

/// The port in the name of the socket; nothing listens on it.
pub(super) const PORT: u16 = 5432;

/// The most bytes of a socket's path. Systems allow 104 (macOS) or 108 bytes (Linux), a final zero included.
const SOCKET_PATH_BYTES_MAX: usize = 99;

/// The folders of one server, and the account that it runs as if that is not ours.
#[derive(Debug, Clone)]
pub(super) struct Home {
    folder: PathBuf,
    pub(super) root: PathBuf,
    pub(super) data: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) log: PathBuf,
    account: Option<Account>,
}

impl Home {
    pub(super) fn prepare(folder: &Path) -> Result<Self, Error> {
        let folder = folder.canonicalize().map_err(Error::io("find", folder))?;
        let root = folder.join("postgres");
        let (data, socket, log) = (root.join("data"), root.join("socket"), root.join("server.log"));
        check_socket_path(&socket)?;
        let account = Account::needed()?;
        if let Some(account) = account {
            let mode = fs::metadata(&folder).map_err(Error::io("read", &folder))?.mode() | 0o011;
            fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).map_err(Error::io("open", &folder))?;
            account.check_can_reach(&folder)?;
        }
        let home = Self { folder, root, data, socket, log, account };
        home.make_folder(&home.root, false)?;
        home.make_folder(&home.socket, true)?;
        Ok(home)
    }

    /// Makes a folder for us, which the server may pass through, or a private one for the server.
    fn make_folder(&self, path: &Path, private: bool) -> Result<(), Error> {
        let mode = if private || self.account.is_none() { 0o700 } else { 0o711 };
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Error::io("create", path))?;
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(Error::io("open", path))?;
        match self.account.filter(|_| private) {
            Some(Account { user_id, group_id }) => {
                chown(path, Some(user_id), Some(group_id)).map_err(Error::io("change the owner of", path))
            }
            None => Ok(()),
        }
    }

    /// Makes the data folder, unless it is there already.
    pub(super) fn initialise(&self, programs: &Programs, durability: Durability) -> Result<(), Error> {
        if self.data.exists() {
            return Ok(());
        }
        // Text has the same order under both locales, by code point; plain C knows the case of ASCII letters only.
        let Err(failure) = self.initialise_as("C.UTF-8", programs, durability) else {
            return Ok(());
        };
        tracing::warn!(%failure, "no locale C.UTF-8, using C");
        self.initialise_as("C", programs, durability)
    }

    fn initialise_as(&self, locale: &str, programs: &Programs, durability: Durability) -> Result<(), Error> {
        let partial = self.root.join("data.partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Error::io("clear", &partial))?;
        }
        self.make_folder(&partial, true)?;
        let initdb = programs.folder.join("initdb");
        let output = self
            .command(&initdb)
            .args(["--auth=trust", "--encoding=UTF8", "--username", USER, "--locale", locale, "--pgdata"])
            .arg(&partial)
            .args((durability == Durability::None).then_some("--no-sync"))
            .output()
            .map_err(Error::io("run", &initdb))?;
        if !output.status.success() {
            return Err(Error::Failed { program: "initdb", output: one_line(&output.stderr) });
        }
        fs::rename(&partial, &self.data).map_err(Error::io("rename", &partial))?;
        // Postgres forces the contents of its folder to the disk, and not the names of the folders that lead there.
        let mut leading = [&self.root, &self.folder].into_iter().filter(|_| durability == Durability::Full);
        leading.try_for_each(|path| {
            File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("force to the disk", path))
        })
    }

    /// Makes a command that runs as the server's account, knows nothing of our environment (PGDATA and the like), and
    /// may enter the folder that it starts in.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir(&self.root);
        if let Some(account) = self.account {
            // Becoming another user also drops our supplementary groups: std sees to that.
            command.uid(account.user_id).gid(account.group_id);
        }
        command
    }
}

/// A user of this machine.
#[derive(Debug, Clone, Copy)]
struct Account {
    user_id: u32,
    group_id: u32,
}

impl Account {
    /// Returns the account to run the server as if we are root, since Postgres refuses to run as root.
    fn needed() -> Result<Option<Self>, Error> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Self::named(name).transpose())
            .ok_or(Error::NoAccount)?
            .map(Some)
    }

    /// Returns the account of this name, if the machine has one.
    fn named(name: &str) -> Result<Option<Self>, Error> {
        let user = User::from_name(name).map_err(|error| Error::io("read", Path::new("/etc/passwd"))(error.into()))?;
        Ok(user.map(|user| Self { user_id: user.uid.as_raw(), group_id: user.gid.as_raw() }))
    }

    /// Checks that the account may enter the folder. Groups are left out of consideration: a folder that is open to a
    /// group only counts as closed.
    fn check_can_reach(self, folder: &Path) -> Result<(), Error> {
        for path in folder.ancestors() {
            let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
            if metadata.mode() & 0o001 == 0 && metadata.uid() != self.user_id {
                return Err(Error::Closed { path: path.to_owned() });
            }
        }
        Ok(())
    }
}

fn check_socket_path(folder: &Path) -> Result<(), Error> {
    let path = folder.join(format!(".s.PGSQL.{PORT}"));
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(Error::SocketPath { path, bytes, bytes_max: SOCKET_PATH_BYTES_MAX });
    }
    Ok(())
}

/// Returns the output of a program in one line, for an error.
pub(super) fn one_line(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim().replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_accounts_of_the_machine() {
        let root = Account::named("root").unwrap().unwrap();
        assert_eq!((root.user_id, root.group_id), (0, 0));
        assert!(Account::named("nobody has this name").unwrap().is_none());
    }

    #[test]
    fn refuses_a_folder_too_deep_for_a_socket() {
        let error = check_socket_path(Path::new(&format!("/{}", "deep/".repeat(20)))).unwrap_err();
        assert!(error.to_string().contains("114 bytes long, at most 99 fit"), "{error}");
    }
}
