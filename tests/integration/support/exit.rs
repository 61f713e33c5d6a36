//! Statics are never dropped: what the servers of this process leave is removed when it exits. A process that is
//! killed leaves its folder, which the next one that runs clears.

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
