//! System calls by name: those that a mail gateway makes.

use nix::libc;

macro_rules! named {
    ($($(#[$condition:meta])? $name:ident $number:ident),* $(,)?) => {
        /// `None` for one that is not in the list.
        pub fn name(number: i64) -> Option<&'static str> {
            match number {
                $($(#[$condition])? libc::$number => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

named! {
    accept4 SYS_accept4,
    bind SYS_bind,
    brk SYS_brk,
    clock_nanosleep SYS_clock_nanosleep,
    clone3 SYS_clone3,
    close SYS_close,
    connect SYS_connect,
    epoll_ctl SYS_epoll_ctl,
    epoll_pwait SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")] epoll_wait SYS_epoll_wait,
    exit SYS_exit,
    fallocate SYS_fallocate,
    fcntl SYS_fcntl,
    fdatasync SYS_fdatasync,
    fstat SYS_fstat,
    fsync SYS_fsync,
    ftruncate SYS_ftruncate,
    futex SYS_futex,
    getpeername SYS_getpeername,
    getrandom SYS_getrandom,
    getsockname SYS_getsockname,
    getsockopt SYS_getsockopt,
    ioctl SYS_ioctl,
    lseek SYS_lseek,
    madvise SYS_madvise,
    mmap SYS_mmap,
    mprotect SYS_mprotect,
    mremap SYS_mremap,
    msync SYS_msync,
    munmap SYS_munmap,
    openat SYS_openat,
    pread64 SYS_pread64,
    preadv SYS_preadv,
    pwrite64 SYS_pwrite64,
    pwritev SYS_pwritev,
    pwritev2 SYS_pwritev2,
    read SYS_read,
    recvfrom SYS_recvfrom,
    recvmsg SYS_recvmsg,
    renameat2 SYS_renameat2,
    rseq SYS_rseq,
    rt_sigprocmask SYS_rt_sigprocmask,
    sched_getaffinity SYS_sched_getaffinity,
    sched_yield SYS_sched_yield,
    sendfile SYS_sendfile,
    sendmsg SYS_sendmsg,
    sendto SYS_sendto,
    setsockopt SYS_setsockopt,
    set_robust_list SYS_set_robust_list,
    shutdown SYS_shutdown,
    sigaltstack SYS_sigaltstack,
    socket SYS_socket,
    splice SYS_splice,
    statfs SYS_statfs,
    statx SYS_statx,
    sync_file_range SYS_sync_file_range,
    syncfs SYS_syncfs,
    timerfd_settime SYS_timerfd_settime,
    unlinkat SYS_unlinkat,
    #[cfg(target_arch = "x86_64")] unlink SYS_unlink,
    write SYS_write,
    writev SYS_writev,
}
