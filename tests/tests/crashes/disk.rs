//! File systems of a test's own, which can lose power, become read-only or full.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A file system that is seen by this thread and what it starts from now on, and goes with them.
pub(crate) struct Disk {
    image: Option<PathBuf>,
    folder: PathBuf,
}

/// Takes this thread out of the mounts of the others.
fn leave_other_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("mounts of its own; hint: run the tests as root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("they are private");
}

fn run(program: &str, arguments: &[&OsStr]) -> bool {
    let status = Command::new(program).args(arguments).status();
    status.unwrap_or_else(|error| panic!("{program}: {error}")).success()
}

impl Disk {
    /// An empty ext4 of so many bytes at `folder`, which is made.
    pub(crate) fn ext4(folder: &Path, bytes: u64) -> Self {
        leave_other_mounts();
        let image = folder.with_extension("image");
        std::fs::create_dir_all(folder).expect("a folder");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(bytes).expect("it is sparse");
        assert!(run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()]));
        let disk = Self { image: Some(image), folder: folder.to_owned() };
        disk.mount();
        disk
    }

    /// An empty tmpfs of so many bytes at `folder`, which is made.
    pub(crate) fn memory(folder: &Path, bytes: u64) -> Self {
        leave_other_mounts();
        std::fs::create_dir_all(folder).expect("a folder");
        let size = format!("size={bytes}");
        mount(Some("none"), folder, Some("tmpfs"), MsFlags::empty(), Some(&*size)).expect("a tmpfs");
        Self { image: None, folder: folder.to_owned() }
    }

    fn mount(&self) {
        let image = self.image.as_ref().expect("it has an image");
        assert!(run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), self.folder.as_ref()]));
    }

    /// What is not on the disk by now will never be: `FS_IOC_SHUTDOWN` of Linux's `fs/ext4/ioctl.c` without flushing the log (2).
    pub(crate) fn cut_power(&self) {
        let cut = "import fcntl, os, struct, sys\n\
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        assert!(run("python3", &["-c".as_ref(), cut.as_ref(), self.folder.as_ref()]));
    }

    /// Read-only from now on, open files or not, as after an error of the disk: the mount option `abort` of ext4.
    pub(crate) fn become_read_only(&self) {
        assert!(run("mount", &["-o".as_ref(), "remount,abort".as_ref(), self.folder.as_ref()]));
    }

    /// Comes up as after a start of the machine: the log is replayed. Nobody may have a file open.
    pub(crate) fn start_again(&self) {
        muster_tests::programs::eventually("nobody has a file open", || {
            run("umount", &["-q".as_ref(), self.folder.as_ref()])
        });
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-q".as_ref(), "-l".as_ref(), self.folder.as_ref()]);
    }
}
