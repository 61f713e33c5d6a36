//! A private PostgreSQL server in a folder of its own, reached by a Unix socket only, gone when its handle is dropped.
//!
//! Promises that only this user (and root) can open the socket, that the handle is returned once the server accepts
//! connections, and that starting again on the same folder serves the same data.
//!
//! If the process dies in the middle of the first start, a half-made `data.partial` remains, which the next start
//! clears. If it dies later, the server shuts down at once (see `keeper`), and the next start waits for it to be
//! gone and recovers from its log.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::home::{Home, PORT, USER};
use super::programs::{self, Programs};
use super::server::Server;
use super::{Durability, Error};

/// A running server. Dropping it stops the server and waits until it is gone.
#[derive(Debug)]
pub struct Postgres {
    home: Home,
    programs: Programs,
    durability: Durability,
    settings: Vec<String>,
    server: Server,
}

impl Postgres {
    /// Starts a server that keeps everything in `folder/postgres`, and returns when it accepts connections.
    ///
    /// `folder` exists and belongs to the caller; for root, it is opened (mode `x11`) to the account that the server
    /// runs as. If no server programs are installed, they are fetched into the folder, which takes some 10 seconds and
    /// 80 MB.
    pub async fn start(folder: &Path, durability: Durability) -> Result<Self, Error> {
        Self::start_with(folder, durability, programs::usual_folders()).await
    }

    /// Starts like `start`, with settings (`name=value`) that win over the usual ones, and with the programs of a
    /// folder, whatever their version.
    pub async fn start_otherwise(
        folder: &Path,
        durability: Durability,
        programs: Option<PathBuf>,
        settings: Vec<String>,
    ) -> Result<Self, Error> {
        let choose = move |root: &Path| match programs {
            Some(folder) => Programs::in_folder(&folder)
                .ok_or_else(|| Error::NoPrograms { why: format!("{} has none that run here", folder.display()) }),
            None => programs::find_or_fetch(&programs::usual_folders(), root),
        };
        Self::start_chosen(folder, durability, settings, choose).await
    }

    /// Starts like `start`, and looks for installed programs in `program_folders` only.
    pub(super) async fn start_with(
        folder: &Path,
        durability: Durability,
        program_folders: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let choose = move |root: &Path| programs::find_or_fetch(&program_folders, root);
        Self::start_chosen(folder, durability, Vec::new(), choose).await
    }

    /// Starts a server with the programs that are chosen once there is a folder that they may be fetched into.
    async fn start_chosen(
        folder: &Path,
        durability: Durability,
        settings: Vec<String>,
        choose: impl FnOnce(&Path) -> Result<Programs, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let folder = folder.to_owned();
        blocking(move || {
            let home = Home::prepare(&folder)?;
            let programs = choose(&home.root)?;
            let (found, version) = (programs.folder.display(), programs.version);
            tracing::info!(programs = %found, version, "starting embedded postgres");
            home.initialise(&programs, durability)?;
            let server = Server::start(&home, &programs, durability, &settings)?;
            Ok(Self { home, programs, durability, settings, server })
        })
        .await
    }

    /// Returns a URL with which sqlx connects to the database of this name.
    pub fn connection(&self, database: &str) -> String {
        let database = percent_encode(database.as_bytes(), NON_ALPHANUMERIC);
        let socket = percent_encode(self.home.socket.as_os_str().as_bytes(), NON_ALPHANUMERIC);
        // The port is spelled out, as PGPORT in the environment would replace it otherwise.
        format!("postgres://{USER}@localhost:{PORT}/{database}?host={socket}")
    }

    /// Returns the folder of the socket, which `psql --host` takes.
    pub fn socket_folder(&self) -> &Path {
        &self.home.socket
    }

    /// Returns the folder of the server programs; most installations have `psql` and `pg_dump` there too.
    pub fn programs(&self) -> &Path {
        &self.programs.folder
    }

    /// Stops the server as a crash would, every connection broken, and starts it again on the same data and socket.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.server.stop(Durability::None);
        let (home, programs, settings) = (self.home.clone(), self.programs.clone(), self.settings.clone());
        let durability = self.durability;
        self.server = blocking(move || Server::start(&home, &programs, durability, &settings)).await?;
        Ok(())
    }

    /// Drops the server away from the runtime's threads, which the wait for its end would hold up.
    pub async fn stop(self) {
        blocking(move || drop(self)).await;
    }
}

/// Runs work that waits for processes away from the runtime's threads. If the caller is dropped, the work goes on, and
/// its result is dropped.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The only other failure is an abort, and nobody holds a handle to abort it with.
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}
