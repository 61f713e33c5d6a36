//! The cost of work: time on the clock, and time of the processors.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// The cost of a process that has ended.
pub struct Usage {
    pub seconds: f64,
    /// The processor time of the process and of the children that it has waited for.
    pub cpu_seconds: f64,
    pub peak_kib: i64,
}

/// Waits for the end of a process, which has to succeed.
pub async fn wait(child: Child, started: Instant) -> Usage {
    let waited = tokio::task::spawn_blocking(move || {
        let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
        // SAFETY: the process is our child, waited for only here, and both pointers are to locals that outlive the
        // call.
        let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
        assert_eq!(waited, child.id() as libc::pid_t);
        // SAFETY: wait4 has filled in the usage.
        (ExitStatus::from_raw(status), unsafe { usage.assume_init() })
    });
    let (status, usage) = waited.await.expect("the child can be waited for");
    assert!(status.success(), "a process that is measured failed: {status}");
    Usage { seconds: started.elapsed().as_secs_f64(), cpu_seconds: processor_time(&usage), peak_kib: usage.ru_maxrss }
}

/// Processor time of this process so far, without its children's.
pub fn own_cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("it cannot fail for the process itself");
    processor_time(usage.as_ref())
}

fn processor_time(usage: &libc::rusage) -> f64 {
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Processor time of a process, its threads and all its children, dead or alive, so far.
pub fn cpu_seconds(process: u32) -> f64 {
    let children = children(process).into_iter().map(|child| ticks(child, false)).sum::<f64>();
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("Linux says so");
    (ticks(process, true) + children) / ticks_per_second as f64
}

fn children(process: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// The user and system time of a process, in ticks; with that of the children that it has waited for, or without.
fn ticks(process: u32, with_children: bool) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name of the process is in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let times = fields.iter().skip(11).take(if with_children { 4 } else { 2 });
    times.filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}

/// The machine on which the figures were taken.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |name: &str| cpus.lines().filter(|line| line.starts_with(name)).collect::<Vec<&str>>();
    let model = of("model name").first().and_then(|line| line.split(": ").nth(1)).unwrap_or("an unknown processor");
    format!("{} cores of {model}", of("processor").len())
}
