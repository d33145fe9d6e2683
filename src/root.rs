//! A root: layers and an upper as one tree, served to a sandbox in which commands run.
//!
//! Invariants:
//! - The sandbox is forked before any thread is started.
//! - The tree is served until everything inside has ended, on every way out: a process that waits
//!   for its answer cannot be ended.
//! - What the sandbox needs in the tree is laid as scratch entries: none of it is in a delta.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{Follow, TreeOptions, XattrSupport};
use fs_model::{FileType, FsError, Tree};
use parking_lot::Mutex;

use crate::fuse::{self, Faults, ForeignOwners, Serving, View};
use crate::layers::{self, Digests, Layers, OpenError};
use crate::lend::Loans;
use crate::live::{Lay, Live, LiveError, Meta};
use crate::sandbox::{
    Bind, Leftovers, MountPointKind, Network, Plan, Privilege, Sandbox, SandboxError, Supervisor,
};
use crate::seal::BaseLayer;
use crate::seal::path::{escape, plain};
use crate::supervise::{Report, SupervisedTree};

/// What a root is made of, and how it behaves.
#[derive(Clone, Debug)]
pub struct RootOptions {
    /// The layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// How many bytes the upper may take.
    pub upper_limit: u64,
    /// Which extended attributes exist inside: those that the output can carry.
    pub xattrs: XattrSupport,
    /// The network inside.
    pub network: Network,
    /// What is shown from the host.
    pub binds: Vec<Bind>,
    /// A proxy to fetch packages through, instead of the host's.
    pub apt_proxy: Option<String>,
    /// Whether the layers' digests will be asked for: they are computed meanwhile.
    pub digests: bool,
    /// Takes lines for the user while commands run.
    pub report: Report,
}

/// A root could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A layer.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tree.
    #[error(transparent)]
    Tree(#[from] FsError),
    /// Laying something into the tree.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Serving it.
    #[error("cannot serve the root through FUSE: {0}")]
    Serve(#[source] std::io::Error),
}

/// A root that is being served, and the sandbox in it.
#[derive(Debug)]
pub struct Root {
    // In this order they are dropped: everything inside ends before the serving does.
    sandbox: Option<Sandbox>,
    supervisor: Option<Supervisor>,
    serving: Option<Serving>,
    live: Arc<Live>,
    loans: Arc<Mutex<Loans>>,
    digests: Option<Digests>,
}

/// A root whose sandbox has ended: what is left is the tree.
#[derive(Debug)]
pub struct Finished {
    /// The tree.
    pub tree: Arc<Tree>,
    /// The layers with their digests, if they were asked for.
    pub layers: Vec<BaseLayer>,
    live: Arc<Live>,
    loans: Arc<Mutex<Loans>>,
    leftovers: Leftovers,
}

impl Finished {
    /// Takes lent lines out of the files that programs copied them into; see
    /// [`Loans::clean_copies`]. Call it before the tree is sealed. Returns warnings for the user:
    /// about such copies, and about mounts and processes that commands left behind.
    ///
    /// # Errors
    /// A layer that cannot be read.
    pub fn clean_copies(&self) -> Result<Vec<String>, RootError> {
        let mut warnings = self.loans.lock().clean_copies(&self.live)?;
        warnings.extend(self.leftovers.mount_points.iter().map(|path| {
            format!(
                "{}: a command left a file system mounted there, and what was written below it is \
                 not in the image: unmount it in the step that mounts it",
                escape(path)
            )
        }));
        if !self.leftovers.programs.is_empty() {
            warnings.push(format!(
                "still running at the end, and killed: {}; a file that such a process had not \
                 written yet is not in the image: end it, or wait for it, in the step that starts it",
                plain(&self.leftovers.programs.join(", "))
            ));
        }
        Ok(warnings)
    }
}

/// Layers and an upper as one tree, before anything is mounted or forked.
#[derive(Debug)]
pub struct Composed {
    live: Arc<Live>,
    layers: Layers,
    options: RootOptions,
}

impl Composed {
    /// Opens the layers.
    ///
    /// # Errors
    /// A layer that cannot be opened.
    pub fn new(options: RootOptions) -> Result<Composed, RootError> {
        let layers = layers::open(&options.layers, CacheOptions::default())?;
        let tree_options =
            TreeOptions { upper_limit: Some(options.upper_limit), xattrs: options.xattrs };
        let tree = Arc::new(Tree::new(layers.layers.clone(), tree_options)?);
        Ok(Composed { live: Arc::new(Live::new(tree)), layers, options })
    }

    /// The tree.
    pub fn tree(&self) -> &Arc<Tree> {
        self.live.tree()
    }

    /// The tree, for changes by path.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Makes a sandbox of the tree, and serves it. Call it before starting threads.
    ///
    /// # Errors
    /// What the system does not let us do.
    pub fn start(self, privilege: Privilege) -> Result<Root, RootError> {
        let Composed { live, layers, options } = self;
        let max_id = privilege.max_uid().min(privilege.max_gid());
        let view = View { max_id, owner: None, unprivileged: privilege != Privilege::Root };
        let mut plan =
            Plan { network: options.network, binds: options.binds, ..Plan::new(privilege) };
        lay_mount_points(&live, &plan)?;
        let mut loans = Loans::new(&live, &plan, options.apt_proxy.as_deref())?;
        let shown = loans.refresh(&live)?;
        plan.hostname.clone_from(&shown.hostname);

        let mut starting = Sandbox::fork(plan)?;
        let serving =
            fuse::serve(live.tree().clone(), starting.fuse_fd(), view).map_err(RootError::Serve)?;
        live.mounted(serving.notifier().clone());
        let loans = Arc::new(Mutex::new(loans));
        serving.on_bell({
            let (loans, live) = (loans.clone(), live.clone());
            move || {
                if let Err(error) = loans.lock().refresh(&live) {
                    tracing::debug!(%error, "files were not lent again");
                }
            }
        });
        let mut sandbox = starting.enter()?;
        let supervised = SupervisedTree::new(live.clone())
            .with_owners(serving.owners().clone())
            .with_report(options.report);
        let supervised = Arc::new(supervised);
        let supervisor = Supervisor::start(&mut sandbox, supervised)?;
        sandbox.show(&shown.hostname, &shown.files)?;
        let digests =
            options.digests.then(|| layers.digest()).transpose().map_err(RootError::Serve)?;
        Ok(Root {
            sandbox: Some(sandbox),
            supervisor: Some(supervisor),
            serving: Some(serving),
            live,
            loans,
            digests,
        })
    }
}

impl Root {
    /// The sandbox.
    ///
    /// # Errors
    /// When it has been ended.
    pub fn sandbox(&self) -> Result<&Sandbox, SandboxError> {
        self.sandbox.as_ref().ok_or_else(|| SandboxError::Ended("it was ended".to_owned()))
    }

    /// The tree, for changes from outside.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Lends again what an earlier command may have changed, for the next one.
    ///
    /// # Errors
    /// A layer that cannot be read, an upper without room, and a sandbox that has ended.
    pub fn refresh_loans(&self) -> Result<(), RootError> {
        let shown = self.loans.lock().refresh(&self.live)?;
        Ok(self.sandbox()?.show(&shown.hostname, &shown.files)?)
    }

    /// Variables for commands, with the paths of lent files.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.loans.lock().environment().to_vec()
    }

    /// Warnings about lent files for the user, before the first command runs.
    pub fn warnings(&self) -> Vec<String> {
        self.loans.lock().warnings().to_vec()
    }

    /// What went wrong behind the mount so far.
    pub fn faults(&self) -> Option<&Arc<Faults>> {
        self.serving.as_ref().map(Serving::faults)
    }

    /// The owners that were shown inside as aliases, if there were any.
    pub fn foreign_owners(&self) -> Option<ForeignOwners> {
        self.serving.as_ref().and_then(|serving| serving.owners().foreign())
    }

    /// Ends everything inside, and leaves the tree.
    ///
    /// # Errors
    /// A layer that turned out to be damaged while it was used: what was made of it is not to be
    /// trusted.
    pub fn finish(mut self) -> Result<Finished, RootError> {
        let mut leftovers = Leftovers::default();
        if let Some(sandbox) = self.sandbox.take() {
            leftovers = sandbox.leftovers();
            sandbox.shutdown();
        }
        drop(self.supervisor.take());
        if let Some(serving) = self.serving.take() {
            let faults = serving.faults().clone();
            serving.wait().map_err(RootError::Serve)?;
            if let Some(error) = faults.layer() {
                return Err(FsError::from(error).into());
            }
        }
        Ok(Finished {
            tree: self.live.tree().clone(),
            layers: self.digests.map_or_else(Vec::new, Digests::finish),
            live: self.live,
            loans: self.loans,
            leftovers,
        })
    }
}

/// Makes the places where the sandbox mounts something, where the layers have none.
///
/// # Errors
/// What the tree refuses, and a plan whose places cannot be made.
pub fn lay_mount_points(live: &Live, plan: &Plan) -> Result<(), RootError> {
    for point in plan.mount_points()? {
        let path = [b"/", point.path.as_os_str().as_bytes()].concat();
        let there = live.stat(&path, Follow::Yes)?.map(|(_, attr)| attr.kind);
        match (point.kind, there) {
            (MountPointKind::Directory, Some(FileType::Directory)) => {}
            (MountPointKind::Directory, _) => live.make_directories(&path, Lay::Scratch)?,
            (MountPointKind::File, Some(FileType::Regular)) => {}
            (MountPointKind::File, _) => {
                let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: None };
                live.put_file(&path, &mut std::io::empty(), &meta, Lay::Scratch)?;
            }
        }
    }
    Ok(())
}

/// Half of the machine's memory, in bytes: what an upper may take by default.
pub fn default_upper_limit() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kb| kb.trim().parse::<u64>().ok());
    total.map_or(1 << 30, |kb| kb * 1024 / 2)
}
