//! The port that clients of gRPC come to, from the start of a process to its very end.
//!
//! Some subscribers that are refused once give up for good a second later; one that gets no answer is waited for by its
//! own system, which asks again after a second, longer each time. So nobody is refused while there is a process: who
//! comes before it serves waits in the system's queue, and who comes when it is about to end finds the next one.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;

pub struct Listener {
    /// Another handle of it is with the server, which drops its own as soon as it accepts no more.
    socket: TcpListener,
}

impl Listener {
    pub async fn bind(variable: &str, address: SocketAddr) -> anyhow::Result<Listener> {
        let listener = bind(variable, address).await?;
        Ok(Listener { socket: listener.into_std()? })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn for_server(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.socket.try_clone()?)
    }

    /// From now on nobody who wants to connect is answered, until this is dropped. What is connected stays so.
    #[cfg(target_os = "linux")]
    pub fn stop_answering(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let mut none_passes = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
        let program = libc::sock_fprog { len: 1, filter: &raw mut none_passes };
        // SAFETY: the program is one instruction, which lives until the system has copied it.
        let outcome = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Elsewhere they wait in the system's queue until the process has ended, and are refused then.
    #[cfg(not(target_os = "linux"))]
    pub fn stop_answering(&self) -> io::Result<()> {
        Ok(())
    }
}

pub async fn bind(variable: &str, address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.with_context(|| format!("{variable} {address} cannot be bound"))
}
