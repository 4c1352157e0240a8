//! Memory that a step no longer needs.

/// Keeps freed memory for the next step, where the C library is glibc; elsewhere nothing is done.
///
/// glibc gives large blocks back to the system as they are freed, and the next step gets them anew, zeroed and page by page:
/// 500 MiB a step with (IA)³ on a model of 135M parameters. The peak of the process grows little or not at all, but it is held
/// on to. Memory that other threads than the first allocate is kept less well: glibc gives them heaps of 64 MiB. It is a
/// setting of the whole process: [`Finetune::run`](crate::train::Finetune::run) and [`bench`](crate::bench::run) call this,
/// and nothing undoes it. A program with an allocator of its own is not affected.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Above the tensors of a step but the largest.
        const LARGE: libc::c_int = 1 << 30;
        /// The most that older versions take.
        const MOST: libc::c_int = 32 << 20;
        #[allow(unsafe_code)]
        // SAFETY: these calls change numbers of the allocator, which guards them.
        unsafe {
            // Blocks from the heap, not from mappings of their own, which end with them; and a heap that does not shrink.
            let _ =
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) == 1 || libc::mallopt(libc::M_MMAP_THRESHOLD, MOST) == 1;
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        }
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Pages that this thread was given, or `None` where the system does not say.
    fn faults() -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
        // The name of the program, in parentheses, may have spaces; minor faults are the eighth field after it.
        stat.rsplit(')').next()?.split_whitespace().nth(7)?.parse().ok()
    }

    #[test]
    fn a_second_step_gets_the_pages_of_the_first() {
        keep_freed_memory();
        let step = || {
            let blocks: Vec<Vec<u8>> = (0..5).map(|i| vec![i + 1; 8 << 20]).collect();
            assert!(blocks.iter().all(|block| block[block.len() / 2] > 0));
        };
        step();
        let Some(before) = faults() else { return };
        step();
        let after = faults().unwrap_or(u64::MAX);
        assert!(after - before < 1000, "{} of 10,240 pages were given back and faulted in again", after - before);
    }
}
