//! The servers of this process are stopped, and their folders removed, when it exits, since statics are never dropped.
//! A process that is killed leaves its folder, and the next one that runs clears it.

use std::sync::Once;

use super::{moto, postgres};

/// Sees to it that the servers are stopped, and their folders removed, when this process exits.
pub fn register() {
    static ONCE: Once = Once::new();
    // SAFETY: the function does not unwind, and touches nothing that is gone when the process exits.
    ONCE.call_once(|| assert_eq!(unsafe { libc::atexit(clean_up) }, 0));
}

extern "C" fn clean_up() {
    // There is nobody left to tell of a failure.
    let _ = std::panic::catch_unwind(moto::stop);
    let _ = std::panic::catch_unwind(postgres::stop);
}
