//! Work on whole archives, for which nobody waits: compressing and decompressing yields the processor to publishers and
//! readers, whose threads are others.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Against 0 of everybody else. The kernel gives a thread of each about a tenth and nine tenths of a processor that both
/// want.
#[cfg(target_os = "linux")]
const NICENESS: libc::c_int = 10;

/// Its threads are all that is wanted of it: nothing asynchronous runs here.
static THREADS: LazyLock<Runtime> = LazyLock::new(|| {
    let threads = Builder::new_current_thread().thread_name("background").on_thread_start(be_nice).build();
    threads.expect("a runtime without drivers can be made")
});

/// Like `tokio::task::spawn_blocking`.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    THREADS.spawn_blocking(work)
}

/// Linux counts it by thread; elsewhere it would be the whole process that yields.
fn be_nice() {
    #[cfg(target_os = "linux")]
    // SAFETY: it only takes a number. If it is refused, the thread runs like any other.
    unsafe {
        libc::nice(NICENESS);
    }
}
