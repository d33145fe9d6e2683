//! The compared mounts of one stack of layers.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Other;
use super::stack::{Stack, date};
use crate::support::processes::eventually;
use crate::support::stage::{Finished, Stage, Who, finish};
use crate::support::tools;

/// Options with which overlayfs conforms best. With `metacopy`, opening a renamed file changes its
/// modification time.
const OVERLAYFS: &str = "redirect_dir=on,index=on,xino=on,metacopy=off";

/// A stack of layers in the folder `case` of a stage, and its mounts, which are removed on drop.
pub(super) struct Scene<'a> {
    stage: &'a Stage,
    stack: Stack,
}

impl<'a> Scene<'a> {
    pub(super) fn new(stage: &'a Stage, write: impl FnOnce(&Path) -> Stack) -> Scene<'a> {
        let folder = stage.path("case");
        for name in ["ours", "merged", "memory"] {
            std::fs::create_dir_all(stage.path(name)).unwrap();
        }
        let stack = write(&folder);
        Scene { stage, stack }
    }

    /// Returns the folder for written files.
    pub(super) fn folder(&self) -> PathBuf {
        self.stage.path("case")
    }

    fn ours(&self) -> PathBuf {
        self.stage.path("ours")
    }

    fn attempt(&self, words: &[&Path]) -> Finished {
        finish(self.stage.overcoat(Who::Root).current_dir(self.folder()).args(words))
    }

    /// Mounts the layers, and `more` as the highest one, with overcoat.
    pub(super) fn mount(&self, more: Option<&Path>) -> PathBuf {
        let ours = self.ours();
        let layers = self.stack.ours.iter().map(|path| &**path).chain(more);
        let words = [Path::new("mount"), Path::new("--rw")].into_iter().chain(layers);
        self.attempt(&words.chain([&*ours]).collect::<Vec<_>>()).ok();
        ours
    }

    pub(super) fn unmount(&self) {
        let words = [Path::new("umount"), &self.ours()];
        // Another test may be between fork and exec, with a file of the mount still open.
        eventually("the mount is unused", || self.attempt(&words).code == 0);
    }

    /// Seals the mount.
    pub(super) fn seal(&self, archive: &Path) {
        let (seal, output) = (Path::new("seal"), Path::new("-o"));
        self.attempt(&[seal, &self.ours(), output, archive, Path::new("--no-manifest")]).ok();
    }

    fn memory(&self, at: &Path) {
        mount(Some("m"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    }

    /// Mounts the layers with overlayfs; the upper is `upper`, or an empty folder in memory.
    pub(super) fn overlayfs(&self, upper: Option<&Path>) -> Kernel {
        let merged = self.stage.path("merged");
        let mut kernel = Kernel { mounts: vec![merged.clone()] };
        let (upper, work) = if let Some(upper) = upper {
            (upper.to_owned(), self.folder().join("work"))
        } else {
            let memory = self.stage.path("memory");
            self.memory(&memory);
            kernel.mounts.push(memory.clone());
            std::fs::create_dir(memory.join("upper")).unwrap();
            date(&memory.join("upper"));
            (memory.join("upper"), memory.join("work"))
        };
        std::fs::create_dir(&work).unwrap();
        let lower: Vec<_> = self.stack.kernel.iter().rev().map(|l| l.to_str().unwrap()).collect();
        let (lower, upper, work) = (lower.join(":"), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work},{OVERLAYFS}");
        mount(Some("o"), &merged, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
        kernel
    }

    /// Mounts a tmpfs with a copy of the layers' overlayfs mount.
    fn tmpfs(&self) -> Kernel {
        let union = self.overlayfs(None);
        let copy = self.stage.path("copy");
        std::fs::create_dir_all(&copy).unwrap();
        let kernel = Kernel { mounts: vec![copy.clone()] };
        self.memory(&copy);
        tools::sh(union.root(), &format!("cp -a . '{}'", copy.display()));
        kernel
    }

    /// Mounts the file system to compare with.
    pub(super) fn other(&self, other: Other) -> Kernel {
        match other {
            Other::Overlayfs => self.overlayfs(None),
            Other::Tmpfs => self.tmpfs(),
        }
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // After a failure the mount still exists.
        let _ = umount2(&self.ours(), MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(self.folder());
    }
}

/// Mounts by the kernel; the first one is compared.
pub(super) struct Kernel {
    mounts: Vec<PathBuf>,
}

impl Kernel {
    pub(super) fn root(&self) -> &Path {
        &self.mounts[0]
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for path in &self.mounts {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}
