//! The memory that the process has from the system. glibc's allocator is told what to keep of it, and to give the rest
//! back.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// Large memory is taken from the system and given back to it. Left alone, glibc raises the limit above the parts of
    /// an upload, which then break its heap into pieces: it grew with every batch. The memory of members is not large,
    /// and would be given back and cleared again with each of them: some of it is kept.
    pub fn return_large_memory() {
        const LARGE_BYTES: libc::c_int = 1024 * 1024;
        const KEPT_BYTES: libc::c_int = 8 * 1024 * 1024;
        // SAFETY: they set numbers in the allocator, before any other thread runs.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        }
    }

    /// Gives back whole free pages between pages in use: glibc does so by itself at the end of a heap only.
    pub fn return_free_memory() {
        // SAFETY: it has no preconditions, and locks what it looks at.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub fn return_large_memory() {}

    pub fn return_free_memory() {}
}

pub use glibc::{return_free_memory, return_large_memory};
