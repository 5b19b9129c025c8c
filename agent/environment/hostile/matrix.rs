//! Every call with bad arguments: what the filter refuses is told from what has reached the kernel by the error.

use crate::attack::Attack;

macro_rules! calls {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}

pub(crate) fn perform(action: &str, attack: &mut Attack) -> bool {
    match action {
        "refused" => {
            let calls = calls!(
                SYS_acct SYS_add_key SYS_bpf SYS_chroot SYS_clock_settime SYS_delete_module SYS_fanotify_init SYS_finit_module
                SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_init_module SYS_kcmp SYS_kexec_file_load SYS_kexec_load
                SYS_keyctl SYS_lookup_dcookie SYS_migrate_pages SYS_mount SYS_mount_setattr SYS_move_mount SYS_move_pages
                SYS_nfsservctl SYS_open_by_handle_at SYS_open_tree SYS_perf_event_open SYS_personality SYS_pidfd_getfd
                SYS_pivot_root SYS_process_madvise SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_quotactl
                SYS_quotactl_fd SYS_reboot SYS_request_key SYS_setdomainname SYS_sethostname SYS_setns SYS_settimeofday
                SYS_socket SYS_swapoff SYS_swapon SYS_syslog SYS_umount2 SYS_unshare SYS_userfaultfd SYS_vhangup
            );
            for (name, number) in calls {
                // A personality of all bits asks for the present one.
                let bad = if number == libc::SYS_personality { 0x40_0000 } else { -1 };
                attack.call(name, number, [bad; 6], &[libc::EPERM]);
            }
            for (name, number) in calls!(SYS_clone3 SYS_io_uring_enter SYS_io_uring_register SYS_io_uring_setup) {
                attack.call(name, number, [-1; 6], &[libc::ENOSYS]);
            }
            for (name, number) in calls!(SYS_get_mempolicy SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node) {
                attack.call(name, number, [-1; 6], &[libc::ENOSYS]);
            }
            // statmount, listmount, lsm_get_self_attr and file_setattr; then none that there is.
            for number in [457, 458, 459, 469, 470, 500, 1000, 0x4000_0000, 0x7fff_ffff] {
                attack.call("a call that is not on the list", number, [-1; 6], &[libc::ENOSYS]);
            }
        }
        "allowed" => {
            for (name, number) in allowed() {
                // With all bits set these would ask for a set-user-id mode, and for an operation that there is none of.
                let others = [libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_futex, libc::SYS_openat];
                let bad = if others.contains(&number) { 0_i64 } else { -1 };
                // SAFETY: no descriptor is -1, and no memory is there.
                let result = unsafe { libc::syscall(number, -1_i64, bad, bad, bad, bad, bad) };
                let error = std::io::Error::last_os_error().raw_os_error();
                let is_refused = result < 0 && matches!(error, Some(libc::EPERM | libc::ENOSYS));
                attack.never(&format!("{name}: {error:?}"), is_refused);
            }
        }
        _ => return false,
    }
    true
}

/// 150 calls that tests make, but for those that would end or stop this program.
fn allowed() -> [(&'static str, libc::c_long); 150] {
    calls!(
        SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_chdir SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep
        SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
        SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate
        SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock
        SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_get_robust_list
        SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername
        SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit
        SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr
        SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy SYS_io_getevents
        SYS_io_setup SYS_io_submit SYS_ioctl SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_lgetxattr SYS_linkat
        SYS_listen SYS_listxattr SYS_lseek SYS_madvise SYS_membarrier SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mlock
        SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mremap
        SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munmap SYS_name_to_handle_at SYS_nanosleep
        SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_ppoll SYS_prctl SYS_pread64
        SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_read SYS_readahead SYS_readlinkat
        SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_renameat2 SYS_rt_sigaction SYS_rt_sigpending
        SYS_rt_sigprocmask SYS_sched_getaffinity SYS_sched_getparam SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget
        SYS_sendfile SYS_sendmsg SYS_sendto SYS_shmctl SYS_shmget SYS_splice SYS_statx SYS_symlinkat SYS_truncate SYS_unlinkat SYS_write
    )
}
