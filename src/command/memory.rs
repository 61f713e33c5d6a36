//! The memory that the process has from the system. glibc's allocator is told how much of it to keep, and to give the
//! rest back.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// Makes the allocator take large memory from the system, and give it back to the system. Left alone, glibc raises
    /// the limit of large memory above the parts of an upload, which then break its heap into pieces: the heap grew
    /// with every batch. The memory of a member is not large, and would be given back and cleared again with each
    /// member, so that some of it is kept.
    pub fn return_large_memory() {
        const LARGE_BYTES: libc::c_int = 1024 * 1024;
        const KEPT_BYTES: libc::c_int = 8 * 1024 * 1024;
        // SAFETY: the calls set numbers in the allocator, before any other thread runs.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        }
    }

    /// Gives back whole free pages between pages in use. glibc by itself does so at the end of a heap only.
    pub fn return_free_memory() {
        // SAFETY: the call has no preconditions, and locks the memory that it looks at.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub fn return_large_memory() {}

    pub fn return_free_memory() {}
}

pub use glibc::{return_free_memory, return_large_memory};
