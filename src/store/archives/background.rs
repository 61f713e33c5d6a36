//! Threads for work on whole archives, for which nobody waits. Compressing and decompressing there yields the processor
//! to publishers and readers, who have other threads.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The niceness of background threads; all other threads have 0. If one thread of each kind wants the same
/// processor, the kernel gives the background thread about a tenth of it.
#[cfg(target_os = "linux")]
const NICENESS: libc::c_int = 10;

/// A runtime that is used for its blocking threads only: nothing asynchronous runs on it.
static THREADS: LazyLock<Runtime> = LazyLock::new(|| {
    let threads = Builder::new_current_thread().thread_name("background").on_thread_start(be_nice).build();
    threads.expect("a runtime without drivers can be made")
});

/// Runs `work` on a background thread, as `tokio::task::spawn_blocking` does on a thread of the main runtime.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    THREADS.spawn_blocking(work)
}

/// Sets the niceness of the current thread. Only Linux has a niceness per thread; elsewhere the whole process would
/// yield.
fn be_nice() {
    #[cfg(target_os = "linux")]
    // SAFETY: `nice` only takes a number. If the kernel refuses the call, the thread runs like any other.
    unsafe {
        libc::nice(NICENESS);
    }
}
