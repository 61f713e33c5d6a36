//! The port that clients of gRPC connect to, from the start of a process to its very end.
//!
//! Some subscribers that are refused once give up for good a second later. If a subscriber gets no answer, its own
//! system asks again after a second, and later after longer each time. So no client is refused while there is a
//! process: a client that comes before the process serves waits in the system's queue, and a client that comes when the
//! process is about to end finds the next one.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;

pub struct Listener {
    /// The socket, of which the server has another handle, and drops it as soon as it accepts no more connections.
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

    /// Leaves new connections without an answer until the listener is dropped. Open connections stay open.
    ///
    /// The system then ignores packets that may have come through a router, which are all packets but those of a sender
    /// that gives them the longest life there is. A filter would make no such exception, and needs privileges on some
    /// systems.
    #[cfg(target_os = "linux")]
    pub fn stop_answering(&self) -> io::Result<()> {
        // A socket of IPv6 may be a socket of IPv4, too.
        if self.address()?.is_ipv6() {
            self.set_option(libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, 255)?;
        }
        self.set_option(libc::IPPROTO_IP, libc::IP_MINTTL, 255)
    }

    #[cfg(target_os = "linux")]
    fn set_option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let (pointer, length) = ((&raw const value).cast(), size_of_val(&value) as libc::socklen_t);
        // SAFETY: the value lives until the system has copied it.
        let outcome = unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, name, pointer, length) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Does nothing where the system is not Linux: new connections wait in its queue until the process has ended, and
    /// are refused then.
    #[cfg(not(target_os = "linux"))]
    pub fn stop_answering(&self) -> io::Result<()> {
        Ok(())
    }
}

pub async fn bind(variable: &str, address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.with_context(|| format!("{variable} {address} cannot be bound"))
}
