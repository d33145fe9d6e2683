//! A root: layers and an upper as one tree, served to a sandbox in which commands run.
//!
//! Invariants:
//! - The sandbox is forked before any thread is started.
//! - The tree is served until all processes inside have ended, on every path: a process that waits
//!   for a reply cannot be killed.
//! - Files and directories that the sandbox requires in the tree are scratch entries: they are not
//!   in a delta.

pub(crate) mod compression;
pub mod import;
pub mod lend;
pub(crate) mod machine;
pub mod mounted_tree;
pub(crate) mod owners;
pub mod supervise;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use fs_model::delta::Delta;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{Follow, TreeOptions, XattrSupport};
use fs_model::{FileType, FsError, Tree};
use parking_lot::Mutex;

use crate::fuse::{self, CopiedFiles, Faults, ForeignOwners, LostData, Serving, View};
use crate::image::open::{self, Digests, OpenError, OpenedLayers};
use crate::manifest::BaseLayer;
use crate::root::lend::Loans;
use crate::root::mounted_tree::{CreateAs, Meta, MountedTree, MountedTreeError};
use crate::root::supervise::{ReportFn, SupervisedTree};
use crate::sandbox::{
    Bind, Leftovers, MountPointKind, Network, Plan, Privilege, Sandbox, SandboxError, Supervisor,
};
use crate::text::error::describe;
use crate::text::escape::{escape, plain};

/// Options for a root.
#[derive(Clone, Debug)]
pub(crate) struct RootOptions {
    /// The layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Maximum size of the upper, in bytes.
    pub upper_limit: u64,
    /// The extended attributes available inside: those that the output can hold.
    pub xattrs: XattrSupport,
    /// The network inside.
    pub network: Network,
    /// The host's files and directories to show inside.
    pub binds: Vec<Bind>,
    /// A proxy for packages, instead of the host's.
    pub apt_proxy: Option<String>,
    /// Whether to compute the layers' digests, in the background.
    pub digests: bool,
    /// Maximum bytes in each file system in memory of the sandbox; see
    /// [`Plan::memory_files`](crate::sandbox::Plan::memory_files).
    pub memory_files: Option<u64>,
    /// Called with lines for the user while commands run.
    pub report: ReportFn,
}

/// An error of a root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A layer cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tree reports an error.
    #[error(transparent)]
    Tree(#[from] FsError),
    /// The daemon cannot change the tree.
    #[error(transparent)]
    MountedTree(#[from] MountedTreeError),
    /// The sandbox reports an error.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The tree cannot be served.
    #[error("cannot serve the root through FUSE")]
    Serve(#[source] std::io::Error),
}

/// A served root and its sandbox.
#[derive(Debug)]
pub(crate) struct ServedRoot {
    // Fields are dropped in this order: all processes inside end before serving does.
    sandbox: Option<Sandbox>,
    supervisor: Option<Supervisor>,
    serving: Option<Serving>,
    mounted_tree: Arc<MountedTree>,
    privilege: &'static str,
    loans: Arc<Mutex<Loans>>,
    digests: Option<Digests>,
}

/// A root whose sandbox has ended, with its tree.
#[derive(Debug)]
pub(crate) struct FinishedRoot {
    /// The tree.
    pub tree: Arc<Tree>,
    /// The layers with their digests, if those were requested.
    pub layers: Vec<BaseLayer>,
    /// The name of the privilege that the sandbox had.
    pub privilege: &'static str,
    mounted_tree: Arc<MountedTree>,
    loans: Arc<Mutex<Loans>>,
    leftovers: Leftovers,
    /// The errors behind the mount, if it was served.
    faults: Option<Arc<Faults>>,
    /// The copies of files of the host, if it was served.
    copies: Option<Arc<CopiedFiles>>,
}

impl FinishedRoot {
    /// Returns whether a program's request failed because the upper was full.
    pub(crate) fn was_full(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.full())
    }

    /// Returns the files that lack data because the upper was full, if any.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub(crate) fn lost_data(&self) -> Result<Option<LostData>, RootError> {
        match &self.faults {
            Some(faults) if faults.has_lost_data() => Ok(faults.lost_data(&self.tree.delta()?)),
            _ => Ok(None),
        }
    }

    /// Returns a warning about copies of files of the host; see [`owners::copied_owner_warning`].
    pub(crate) fn copied_owner_warning(&self, delta: &Delta) -> Option<String> {
        self.copies.as_ref().and_then(|copies| owners::copied_owner_warning(delta, copies))
    }

    /// Removes lent lines from the files that programs copied them into; see
    /// [`Loans::clean_copies`]. Call it before the tree is sealed.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub(crate) fn clean_copies(
        &self,
        is_input: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, RootError> {
        Ok(self.loans.lock().clean_copies(&self.mounted_tree, is_input)?)
    }

    /// Returns warnings for the user about mounts, processes and loop devices that commands left
    /// behind.
    pub(crate) fn leftover_warnings(&self) -> Vec<String> {
        let mount_points = self.leftovers.mount_points.iter();
        let mut warnings: Vec<String> = mount_points
            .map(|path| {
                format!(
                    "{}: a command left a file system mounted there, and writes below it are not \
                     in the image: unmount it in the step that mounts it",
                    escape(path)
                )
            })
            .collect();
        warnings.extend(self.leftovers.loop_files.iter().map(|path| {
            format!(
                "{}: a command left a loop device on this file, which was detached: data that was \
                 not written yet is not in the image: detach it in the step that attaches it \
                 (losetup -d)",
                escape(path)
            )
        }));
        if !self.leftovers.programs.is_empty() {
            warnings.push(format!(
                "still running at the end, and killed: {}; data that such a process had not written \
                 yet is not in the image: end the process, or wait for it, in the step that starts it",
                plain(&self.leftovers.programs.join(", "))
            ));
        }
        warnings
    }
}

/// Layers and an upper as one tree, before anything is mounted or forked.
#[derive(Debug)]
pub(crate) struct UnstartedRoot {
    mounted_tree: Arc<MountedTree>,
    layers: OpenedLayers,
    options: RootOptions,
}

impl UnstartedRoot {
    /// Opens the layers.
    ///
    /// # Errors
    /// Fails if a layer cannot be opened.
    pub(crate) fn new(options: RootOptions) -> Result<UnstartedRoot, RootError> {
        let layers = open::open(&options.layers, CacheOptions::default())?;
        let tree_options =
            TreeOptions { upper_limit: Some(options.upper_limit), xattrs: options.xattrs };
        let tree = Arc::new(Tree::new(layers.layers.clone(), tree_options)?);
        Ok(UnstartedRoot { mounted_tree: Arc::new(MountedTree::new(tree)), layers, options })
    }

    /// Returns the tree.
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        self.mounted_tree.tree()
    }

    /// Returns the tree for changes by path.
    pub(crate) fn mounted_tree(&self) -> &Arc<MountedTree> {
        &self.mounted_tree
    }

    /// Returns the highest id of an owner in the layers and in what was added to the tree, or a
    /// higher one. Directories of the host as layers are not examined.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub(crate) fn highest_owner(&self) -> Result<u32, RootError> {
        let mut highest = 0;
        for layer in &self.layers.layers {
            highest = highest.max(layer.highest_owner().map_err(FsError::from)?);
        }
        let added = self.tree().delta()?;
        let owners = added.entries.iter().filter_map(|entry| entry.object);
        Ok(owners.map(|object| object.attr.uid.max(object.attr.gid)).fold(highest, u32::max))
    }

    /// Makes a sandbox for the tree and serves it. Call it before starting threads.
    ///
    /// # Errors
    /// Fails if the sandbox cannot be set up, or the tree cannot be served.
    pub(crate) fn start(self, privilege: Privilege) -> Result<ServedRoot, RootError> {
        let UnstartedRoot { mounted_tree, layers, options } = self;
        let privilege_name = privilege.name();
        let view = match privilege {
            // The kernel sees everything as owned by the one id that it maps.
            Privilege::None => View { max_id: u32::MAX, owner: Some((0, 0)), unprivileged: true },
            _ => {
                let max_id = privilege.max_uid().min(privilege.max_gid());
                View { max_id, owner: None, unprivileged: privilege != Privilege::Root }
            }
        };
        let mut plan = Plan {
            network: options.network,
            binds: options.binds,
            memory_files: options.memory_files,
            ..Plan::new(privilege)
        };
        if plan.network == Network::None && plan.privilege.lacks_loopback() {
            options.report.call(
                "warning: the network has no loopback interface, because root lacks CAP_NET_ADMIN",
            );
        }
        lay_mount_points(&mounted_tree, &plan)?;
        let mut loans = Loans::new(&mounted_tree, &plan, options.apt_proxy.as_deref())?;
        let shown = loans.refresh(&mounted_tree)?;
        plan.hostname.clone_from(&shown.hostname);

        let mut starting = Sandbox::fork(plan)?;
        let tree = mounted_tree.tree().clone();
        let credentials = starting.credentials();
        let serving = fuse::serve_for(tree, starting.fuse_fd(), view, credentials)
            .map_err(RootError::Serve)?;
        mounted_tree.set_notifier(serving.notifier().clone());
        let loans = Arc::new(Mutex::new(loans));
        serving.on_callback_lookup({
            let (loans, mounted_tree) = (loans.clone(), mounted_tree.clone());
            move || {
                if let Err(error) = loans.lock().refresh(&mounted_tree) {
                    tracing::debug!(error = describe(&error), "cannot refresh lent files");
                }
            }
        });
        let mut sandbox = starting.enter()?;
        let supervised = SupervisedTree::new(mounted_tree.clone())
            .with_owners(serving.owners().clone())
            .with_copies(serving.copies().clone())
            .with_report(options.report);
        let supervised = Arc::new(supervised);
        let supervisor = Supervisor::start(&mut sandbox, supervised)?;
        sandbox.show(&shown.hostname, &shown.files)?;
        let digests =
            options.digests.then(|| layers.digest()).transpose().map_err(RootError::Serve)?;
        Ok(ServedRoot {
            sandbox: Some(sandbox),
            supervisor: Some(supervisor),
            serving: Some(serving),
            mounted_tree,
            privilege: privilege_name,
            loans,
            digests,
        })
    }
}

impl ServedRoot {
    /// Returns the sandbox.
    ///
    /// # Errors
    /// Fails if the sandbox has ended.
    pub(crate) fn sandbox(&self) -> Result<&Sandbox, SandboxError> {
        self.sandbox.as_ref().ok_or_else(|| SandboxError::Ended("it was shut down".to_owned()))
    }

    /// Returns the tree for changes by path.
    pub(crate) fn mounted_tree(&self) -> &Arc<MountedTree> {
        &self.mounted_tree
    }

    /// Refreshes lent files that an earlier command may have changed, for the next one.
    ///
    /// # Errors
    /// Fails if a layer cannot be read, the upper is full, or the sandbox has ended.
    pub(crate) fn refresh_loans(&self) -> Result<(), RootError> {
        let shown = self.loans.lock().refresh(&self.mounted_tree)?;
        Ok(self.sandbox()?.show(&shown.hostname, &shown.files)?)
    }

    /// Returns variables for commands, with the paths of lent files.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        self.loans.lock().environment()
    }

    /// Adds the variables of [`ServedRoot::environment`] to those of a command.
    pub(crate) fn add_environment(&self, environment: &mut Vec<(OsString, OsString)>) {
        environment.extend(self.environment().into_iter().map(|(n, v)| (n.into(), v.into())));
    }

    /// Removes lent lines from the contents of files that are taken out of the root, each with its
    /// path; see [`Loans::clean_contents`].
    pub(crate) fn clean_contents(
        &self,
        is_input: &dyn Fn(&str) -> bool,
        contents: &mut [(Vec<u8>, Vec<u8>)],
    ) -> Vec<String> {
        self.loans.lock().clean_contents(&self.mounted_tree, is_input, contents)
    }

    /// Returns warnings about lent files for the user, before the first command runs.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.loans.lock().warnings().to_vec()
    }

    /// Returns the errors behind the mount so far.
    pub(crate) fn faults(&self) -> Option<&Arc<Faults>> {
        self.serving.as_ref().map(Serving::faults)
    }

    /// Returns the owners that were shown inside as aliases, if any.
    pub(crate) fn foreign_owners(&self) -> Option<ForeignOwners> {
        self.serving.as_ref().and_then(|serving| serving.owners().foreign())
    }

    /// Ends all processes inside and returns the tree.
    ///
    /// # Errors
    /// Fails if a layer turned out to be damaged while it was used: the tree may then be wrong.
    pub(crate) fn finish(mut self) -> Result<FinishedRoot, RootError> {
        let mut leftovers = Leftovers::default();
        if let Some(sandbox) = self.sandbox.take() {
            leftovers = sandbox.leftovers();
            leftovers.loop_files = sandbox.shutdown();
        }
        drop(self.supervisor.take());
        let faults = self.faults().cloned();
        let copies = self.serving.as_ref().map(|serving| serving.copies().clone());
        if let Some(serving) = self.serving.take() {
            serving.wait().map_err(RootError::Serve)?;
        }
        if let Some(error) = faults.as_ref().and_then(|faults| faults.layer()) {
            return Err(FsError::from(error).into());
        }
        Ok(FinishedRoot {
            tree: self.mounted_tree.tree().clone(),
            layers: self.digests.map_or_else(Vec::new, Digests::finish),
            privilege: self.privilege,
            mounted_tree: self.mounted_tree,
            loans: self.loans,
            leftovers,
            faults,
            copies,
        })
    }
}

/// Creates the sandbox's mount points, where the layers lack them.
///
/// # Errors
/// Fails if the tree rejects a change, or the plan has invalid mount points.
pub fn lay_mount_points(mounted_tree: &MountedTree, plan: &Plan) -> Result<(), RootError> {
    for point in plan.mount_points()? {
        let path = [b"/", point.path.as_os_str().as_bytes()].concat();
        let there = mounted_tree.stat(&path, Follow::Yes)?.map(|(_, attr)| attr.kind);
        match (point.kind, there) {
            (MountPointKind::Scratch, _) => mounted_tree.make_scratch_directory(&path)?,
            (MountPointKind::Directory, Some(FileType::Directory)) => {}
            (MountPointKind::Directory, _) => {
                mounted_tree.make_directories(&path, CreateAs::ScratchEntry)?
            }
            (MountPointKind::File, Some(FileType::Regular)) => {}
            (MountPointKind::File, _) => {
                let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: None };
                mounted_tree.put_file(
                    &path,
                    &mut std::io::empty(),
                    &meta,
                    CreateAs::ScratchEntry,
                )?;
            }
        }
    }
    Ok(())
}

/// Returns the default limit of an upper: half of the machine's memory, in bytes.
pub(crate) fn default_upper_limit() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kb| kb.trim().parse::<u64>().ok());
    total.map_or(1 << 30, |kb| kb * 1024 / 2)
}
